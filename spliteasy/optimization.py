"""Optimizers and losses by name, and the one update that both sides of a split make."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from spliteasy.codecs.finite import all_finite
from spliteasy.errors import DataError, NonFiniteError, TrainingError, suggest

__all__ = [
    "Loss",
    "Updater",
    "check_learning_rate",
    "check_optimizer",
    "correct_predictions",
    "global_clip",
    "make_loss",
    "scalar_loss",
    "shared",
]

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""Takes the network's output and the labels, returns a scalar."""

# Optimizers whose update of one parameter depends on the others, or that evaluate the network again.
_WHOLE_MODEL = {"LBFGS": "it evaluates the network several times a step", "SparseAdam": "it needs sparse gradients"}

_LOSSES = sorted(
    name
    for name in dir(F)
    if not name.startswith("_") and ("loss" in name or "cross_entropy" in name or name == "kl_div")
)


def make_loss(loss: str | Loss) -> Loss:
    """A function of `torch.nn.functional` by name, or the callable itself. Raises `TrainingError` for another name.

    A named loss that refuses a batch raises `DataError` with both shapes; what a callable raises is its own.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in _LOSSES:
        raise TrainingError(
            f"Expected loss as one of torch.nn.functional's ({', '.join(_LOSSES)}) or a callable, found {loss!r}."
            f"{suggest(str(loss), _LOSSES)}"
        )
    function: Loss = getattr(F, loss)

    @functools.wraps(function)
    def named(output: Any, labels: torch.Tensor) -> torch.Tensor:
        try:
            return function(output, labels)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise DataError(
                f"Expected an output and labels that the loss {loss!r} takes, found {_described(output)} and "
                f"{_described(labels)}: {type(error).__name__}: {error}"
            ) from error

    return named


def scalar_loss(loss: Any) -> torch.Tensor:
    """A loss as it is. Raises `TrainingError` unless it is one number in a tensor, `NonFiniteError` if not finite."""
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise TrainingError(
            f"Expected the loss as a tensor with one number, found {_described(loss)}. Take the mean over the batch."
        )
    if not bool(torch.isfinite(loss)):
        raise NonFiniteError(
            f"Expected a finite loss, found {float(loss.detach())}. The step was given up and no parameter changed; "
            "lower the learning rate, or look at the inputs and labels."
        )
    return loss


def shared(loss: torch.Tensor, share: float) -> torch.Tensor:
    """What a micro-batch with this ``share`` of a batch's samples adds to the batch's mean loss."""
    return loss if share == 1.0 else loss * share


def check_learning_rate(value: Any) -> float:
    """The learning rate as a float. Raises `TrainingError` unless it is a finite number of zero or more."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= sys.float_info.max:
        raise TrainingError(f"Expected a learning rate, a finite number of 0 or more; found {value!r}.")
    return float(value)


def check_optimizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``{"name": ..., **arguments}`` that is known to build. Raises `TrainingError` if it would not."""
    if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
        raise TrainingError(f'Expected optimizer as {{"name": "SGD", "lr": 0.01}}, found {config!r}.')
    if "lr" in config:
        check_learning_rate(config["lr"])
    try:
        json.dumps(dict(config), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TrainingError(
            f"Expected finite numbers, strings and lists as arguments of the optimizer, found {dict(config)!r} "
            f"({error}). Convert tensors and arrays to numbers."
        ) from error
    Updater({"": nn.Parameter(torch.zeros(1, 1))}, config)
    return dict(config)


class Updater:
    """A `torch.optim` optimizer over named parameters, with the learning rate and the clip factor set for each update.

    Built from ``{"name": "SGD", "lr": 0.01, ...}``. With no parameters it does nothing. The update of each parameter
    depends on that parameter alone, so that two updaters over two halves equal one over the whole.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: Mapping[str, Any]) -> None:
        arguments = dict(config)
        name = arguments.pop("name")
        optimizer = _optimizer_class(name)
        self.parameters = dict(parameters)
        self.optimizer: torch.optim.Optimizer | None = None
        if not self.parameters:
            return
        try:
            self.optimizer = optimizer(self.parameters.values(), **arguments)
        except (TypeError, ValueError) as error:
            accepted = [p for p in inspect.signature(optimizer).parameters if p != "params"]
            raise TrainingError(
                f"torch.optim.{name} refuses {arguments}: {error}. Its arguments are {', '.join(accepted)}."
            ) from error

    def check_gradients(self) -> None:
        """Raise `NonFiniteError` if a gradient holds NaN or infinity."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None and not all_finite(parameter.grad):
                raise NonFiniteError(
                    f"Expected finite gradients, found NaN or infinity in that of '{name}'. The step was given up "
                    "and no parameter changed; lower the learning rate, or look at the inputs."
                )

    def norms(self) -> dict[str, torch.Tensor]:
        """The L2 norm of each parameter's gradient, by name: what clipping by the global norm needs from both sides."""
        return {
            name: torch.linalg.vector_norm(parameter.grad)
            for name, parameter in self.parameters.items()
            if parameter.grad is not None
        }

    def apply(self, learning_rate: float | None = None, clip: torch.Tensor | None = None) -> None:
        """One update with ``learning_rate``, the gradients multiplied by ``clip`` first and forgotten afterwards.

        Raises `TrainingError` for a learning rate that is none; nothing has changed then.
        """
        rate = None if learning_rate is None else check_learning_rate(learning_rate)
        if self.optimizer is None:
            return
        for group in self.optimizer.param_groups:
            if rate is not None:
                group["lr"] = rate
        if clip is not None:
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(clip)
        self.optimizer.step()
        self.drop()

    def drop(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state of each parameter, by name."""
        if self.optimizer is None:
            return {}
        state = self.optimizer.state
        return {name: dict(state[parameter]) for name, parameter in self.parameters.items() if parameter in state}

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from what `state` gave. Raises `TrainingError` for a parameter that is not there."""
        unknown = sorted(set(state) - set(self.parameters))
        if unknown:
            raise TrainingError(f"Expected an optimizer's state of these parameters, found {', '.join(unknown[:5])}.")
        if self.optimizer is not None:
            for name, entries in state.items():
                copies = {
                    key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in entries.items()
                }
                self.optimizer.state[self.parameters[name]] = copies

    def settings(self) -> dict[str, Any] | None:
        """The optimizer's settings as in its `state_dict`, without parameters; None if it has none to update."""
        if self.optimizer is None:
            return None
        return {key: value for key, value in self.optimizer.param_groups[0].items() if key != "params"}


def global_clip(norms: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
    """The factor of `torch.nn.utils.clip_grad_norm_` for gradients of these norms, in the unsplit model's order."""
    total = torch.linalg.vector_norm(torch.stack(list(norms)))
    return torch.clamp(max_norm / (total + 1e-6), max=1.0)


def correct_predictions(output: Any, labels: torch.Tensor) -> int | None:
    """How many of the largest logits are the label's, for outputs (batch, classes) and integer labels (batch,)."""
    classes = isinstance(output, torch.Tensor) and output.ndim == 2 and labels.ndim == 1
    if not classes or labels.is_floating_point():
        return None
    return int((output.argmax(1) == labels).sum())


def _described(value: Any) -> str:
    """A value in an error message: the shape and dtype of a tensor, the type of anything else."""
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__


def _optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    known = [
        key
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and key != "Optimizer"
    ]
    if name not in known:
        raise TrainingError(
            f"Expected an optimizer of torch.optim ({', '.join(sorted(known))}), found {name!r}.{suggest(name, known)}"
        )
    if name in _WHOLE_MODEL:
        raise TrainingError(
            f"torch.optim.{name} cannot be split between device and server: {_WHOLE_MODEL[name]}. Use SGD or Adam."
        )
    cls: type[torch.optim.Optimizer] = getattr(torch.optim, name)
    return cls
