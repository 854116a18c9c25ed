"""Train a split network and a plain one side by side, and find everything in which they differ."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import spliteasy as se
from spliteasy.splitting import Split

Batch = tuple[Tensor, Tensor]


def batches(count: int, shape: Sequence[int], size: int = 3, classes: int = 3, **kind: Any) -> list[Batch]:
    """Random batches; ``dtype=torch.long`` gives tokens."""
    generator = torch.Generator().manual_seed(11)
    made = []
    for _ in range(count):
        x = torch.randn((size, *shape), generator=generator)
        if kind.get("dtype") == torch.long:
            x = torch.randint(20, (size, *shape), generator=generator)
        made.append((x.to(kind.get("dtype", x.dtype)), torch.randint(classes, (size,), generator=generator)))
    return made


def twin(model: nn.Module) -> nn.Module:
    """A copy, also of a network whose weights are computed by hooks, which cannot be copied as it is."""
    try:
        return copy.deepcopy(model)
    except RuntimeError:
        other = type(model)()
        other.load_state_dict(model.state_dict())
        for module, own in zip(other.modules(), model.modules(), strict=True):
            module.training = own.training
        return other


def differences(
    split: Split,
    steps: Sequence[Batch],
    *,
    server: str | None = None,
    optimizer: dict[str, Any] | None = None,
    loss: str | Callable[..., Tensor] = "cross_entropy",
    clip_norm: float | None = None,
    rates: Sequence[float] = (),
    seed: int = 5,
    prepare: Callable[[nn.Module], object] = lambda model: None,
) -> list[str]:
    """What differs, to the bit, between a split network and the plain one after the same steps.

    Losses, parameters, buffers, the optimizer's state and settings, evaluations in between, and the global generator.
    ``rates`` are the learning rates of the steps, ``prepare`` is done to the plain model where `Trainer` forgets.
    """
    optimizer = optimizer or {"name": "SGD", "lr": 0.05, "momentum": 0.9}
    model = twin(split.model)
    prepare(model)
    arguments = dict(optimizer)
    update = getattr(torch.optim, arguments.pop("name"))(model.parameters(), **arguments)
    criterion = getattr(F, loss) if isinstance(loss, str) else loss
    found = []
    before = torch.get_rng_state()
    with se.Trainer(split, server=server, optimizer=optimizer, loss=loss, clip_norm=clip_norm, seed=seed) as trainer:
        for number, (x, y) in enumerate(steps):
            if rates:
                trainer.learning_rate = update.param_groups[0]["lr"] = rates[number]
            theirs = plain_step(model, update, criterion, x, y, se.step_seed(seed, number), clip_norm)
            ours = trainer.step(x, y).loss
            if ours != theirs:
                found.append(f"loss {number}: {ours} for {theirs}")
            if number == len(steps) // 2:
                found += _evaluated(trainer, model, criterion, x, y)
        state = trainer.state_dict()
    if not torch.equal(torch.get_rng_state(), before):
        found.append("global generator")
    return found + compared(state, {"model": model.state_dict(), "optimizer": update.state_dict()})


def plain_step(
    model: nn.Module, update: Any, criterion: Any, x: Tensor, y: Tensor, seed: int, clip_norm: float | None = None
) -> float:
    """One step of the plain network; its loss."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loss = criterion(model(x), y)
        loss.backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        update.step()
        update.zero_grad()
    return float(loss.detach())


def _evaluated(trainer: se.Trainer, model: nn.Module, criterion: Any, x: Tensor, y: Tensor) -> list[str]:
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        theirs = float(criterion(model.eval()(x), y))
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    ours = trainer.evaluate([(x, y)]).loss
    same = ours == theirs or (math.isnan(ours) and math.isnan(theirs))  # deep networks overflow at first
    return [] if same else [f"evaluation: {ours} for {theirs}"]


def compared(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What differs between two states of model and optimizer."""
    found = [f"keys: {sorted(set(ours['model']) ^ set(theirs['model']))}"] * (
        set(ours["model"]) != set(theirs["model"])
    )
    found += [name for name, tensor in theirs["model"].items() if not torch.equal(tensor, ours["model"][name])]
    state, expected = ours["optimizer"]["state"], theirs["optimizer"]["state"]
    if state.keys() != expected.keys():
        found.append(f"optimizer: state of {sorted(state)} for {sorted(expected)}")
    for index in state.keys() & expected.keys():
        if state[index].keys() != expected[index].keys():
            found.append(f"optimizer: {index} has {sorted(state[index])} for {sorted(expected[index])}")
            continue
        for key, value in expected[index].items():
            same = torch.equal(value, state[index][key]) if isinstance(value, Tensor) else value == state[index][key]
            found += [] if same else [f"optimizer: {key} of {index}"]
    if ours["optimizer"]["param_groups"] != theirs["optimizer"]["param_groups"]:
        found.append("optimizer: settings")
    return found
