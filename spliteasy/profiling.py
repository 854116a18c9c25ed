"""The seconds of every operation of a network on this machine: what a plan is made of."""

from __future__ import annotations

import contextlib
import copy
import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from spliteasy.cuts import Cuts, list_cuts
from spliteasy.errors import DataError, ProfileError
from spliteasy.models import input_size_of, load_model
from spliteasy.optimization import Loss, check_optimizer, make_loss
from spliteasy.profiles import cache_path, circumstances, here, load_timings, require_same, save_timings
from spliteasy.program import Program
from spliteasy.propagation import tensors_in
from spliteasy.refusals import keeps_state_apart
from spliteasy.seeding import preserved
from spliteasy.splitting import Split
from spliteasy.timing import LOSS, time_operations
from spliteasy.traffic import AllTraffic, Traffic, all_traffic, first_private
from spliteasy.trainer import Trainer

if TYPE_CHECKING:
    import pandas

__all__ = ["Profile", "profile"]

Seconds = npt.NDArray[np.float64]
_FIELDS = ("forward", "backward", "draws", "update", "other", "unscaled")


@dataclass(frozen=True)
class Profile:
    """Seconds of every operation of a training step on this machine.

    ``operations`` are in execution order, the loss last; ``forward``, ``backward`` and ``update`` are their seconds for
    a whole batch, ``draws`` whether they draw random numbers. Their sums are those of a whole unsplit step of `Trainer`
    (medians): forward and backward were scaled to it, and ``unscaled`` is what they had summed up to, by the whole (1
    where nothing was lost or added by looking). The update is shared out by parameters; ``other`` is what a step takes
    besides (checks, copies of buffers). ``made`` says on which machine, torch and threads, for which network.
    """

    network: str
    program: Program
    cuts: Cuts
    operations: tuple[str, ...]
    forward: Seconds
    backward: Seconds
    update: Seconds
    draws: npt.NDArray[np.bool_]
    other: float
    unscaled: float
    made: Mapping[str, Any]
    kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What others found out about this network and keep with it, such as the cost of chains."""

    @cached_property
    def traffic(self) -> AllTraffic:
        """The raw bytes of every message, for every cut and every pair of cuts."""
        return all_traffic(Traffic(self.program, self.cuts))

    @cached_property
    def first_private(self) -> int:
        """The first cut that keeps the input on the device, where a double split may start."""
        return first_private(self.program, self.cuts)

    @cached_property
    def state_apart(self) -> bool:
        """Whether no cut can share a parameter or buffer between device and server."""
        return keeps_state_apart(self.program)

    @property
    def batch(self) -> int:
        """Samples in a batch."""
        return self.program.batch

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.program.input_shape

    @property
    def seconds(self) -> float:
        """A whole unsplit step."""
        return float(self.forward.sum() + self.backward.sum() + self.update.sum()) + self.other

    def prepare(self) -> None:
        """Work out ahead what every plan asks for: bytes of all pairs of cuts, and shapes at another batch size."""
        _ = self.traffic, self.first_private, self.state_apart
        for training in (True, False):
            self.program.values_at(training, self.batch + 1)

    def at_batch(self, batch: int) -> Profile:
        """What this profile says of another number of samples: forward and backward in proportion, update and the rest
        as they are. An estimate: what an operation takes besides its samples is multiplied too."""
        if batch == self.batch:
            return self
        program = Program(self.program.model, self.input_shape, batch, self.program.dtype)
        share = batch / self.batch
        other = replace(
            self,
            program=program,
            cuts=list_cuts(program),
            forward=self.forward * share,
            backward=self.backward * share,
            made={**self.made, "batch": batch},
            kept={},
        )
        other.prepare()
        return other

    def before(self, times: Seconds) -> Seconds:
        """For each cut, the sum of ``times`` (one an operation) over the operations before it."""
        places = [self.program.train.position[cut.name] for cut in self.cuts]
        running: Seconds = np.concatenate(([0.0], np.cumsum(times)))[places]
        return running

    def require_current(self) -> None:
        """Raise `ProfileError` if this machine, torch or its number of threads is another than the profile's."""
        require_same(self.made, here(), "a profile")

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, for ``se.profile(model, ..., saved=path)``."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS}
        lists = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in values.items()}
        save_timings(Path(path), self.made, lists)
        return Path(path)

    def to_pandas(self) -> pandas.DataFrame:
        """One row an operation: name, and seconds of its forward, backward and update."""
        import pandas

        columns = {"forward": self.forward, "backward": self.backward, "update": self.update}
        return pandas.DataFrame({"operation": self.operations, **columns, "draws": self.draws})

    def __repr__(self) -> str:
        lines = [self._title(), "  the slowest operations, forward + backward:"]
        total = self.forward + self.backward
        for index in np.argsort(total)[::-1][:8]:
            share = 100 * total[index] / max(self.seconds, 1e-12)
            lines.append(f"  {1e3 * total[index]:9.2f} ms  {share:4.1f} %  {self.operations[index]}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def _title(self) -> str:
        sums = [1e3 * float(times.sum()) for times in (self.forward, self.backward, self.update)]
        return (
            f"Profile of {self.network}, {self.batch} × {'·'.join(map(str, self.input_shape))}, "
            f"{self.made['threads']} threads: a step takes {1e3 * self.seconds:.1f} ms (forward {sums[0]:.1f}, "
            f"backward {sums[1]:.1f}, update {sums[2]:.1f}, other {1e3 * self.other:.1f})"
        )


def profile(
    model: nn.Module | str,
    input_shape: Sequence[int] | None = None,
    batch: int = 32,
    *,
    optimizer: Mapping[str, Any] | None = None,
    loss: str | Loss = "cross_entropy",
    labels: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    repeats: int = 5,
    cache: bool = True,
    saved: str | Path | None = None,
    progress: bool | Callable[[float], object] = True,
) -> Profile:
    """Time every operation of ``model`` in training on this machine, or take what was timed before.

    A copy of the network is trained for some steps on random numbers, once as a whole (by `Trainer`) and once operation
    by operation (`spliteasy.timing`), in turn; medians of ``repeats`` each, after one to warm up. The network itself,
    its gradients, buffers, modes and torch's random state stay as they are. It takes memory for a second network.

    Arguments:
        model: a name that `load_model` takes, or a module on the CPU.
        input_shape: of one sample; by default the network's own.
        batch: samples in a batch.
        optimizer: as `Trainer` takes it; by default SGD.
        loss: as `Trainer` takes it. The default needs outputs of shape (batch, classes), unless ``labels`` fit others.
        labels: for a loss that needs others than class numbers.
        dtype: of the inputs; by default that of the parameters.
        repeats: timed passes.
        cache: keep the result in the user's cache folder (SPLITEASY_CACHE names another) and find it there. It is kept
            by network, shapes, optimizer, loss, torch, threads and machine. A callable loss is never kept.
        saved: a file that `Profile.save` wrote, instead of timing.
        progress: show a progress bar; or a function that is told the fraction done after each pass, and what it raises
            stops the profiling.

    Raises:
        ProfileError: for a saved profile of another network, shape, machine, torch or number of threads; for a network
            that is not on the CPU; for repeats below 1.
        DataError: where the loss does not fit the output; and what `find_cuts` and `split` raise.
    """
    if type(repeats) is not int or repeats < 1:
        raise ProfileError(f"Expected repeats of 1 or more, found {repeats!r}.")
    named = model if isinstance(model, str) else None
    with preserved():
        network = load_model(model) if isinstance(model, str) else model
    _require_cpu(network)
    shape = tuple(input_size_of(named or network)) if input_shape is None else tuple(input_shape)
    settings = check_optimizer(optimizer or {"name": "SGD", "lr": 0.01})
    program = Program(network, shape, batch, dtype)
    made = circumstances(program, settings, loss if isinstance(loss, str) else repr(loss))
    path = cache_path(made)
    if saved is not None:
        found, timings = load_timings(Path(saved))
        require_same(found, made, "a profile")
    else:
        kept = cache and isinstance(loss, str) and labels is None
        timings = _cached(path) if kept else {}
        if not timings:
            timings = _timed(program, settings, loss, labels, repeats, progress)
            if kept:
                with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to fail
                    save_timings(path, made, timings)
    result = _profile(named or type(network).__name__, program, made, timings)
    result.prepare()
    return result


def _profile(name: str, program: Program, made: Mapping[str, Any], timings: Mapping[str, Any]) -> Profile:
    operations = (*program.train.names[1:], LOSS)
    try:
        arrays: dict[str, Any] = {key: np.array(timings[key], dtype=float) for key in ("forward", "backward", "update")}
        draws = np.array(timings["draws"], dtype=bool)
        other, unscaled = float(timings["other"]), float(timings["unscaled"])
    except (KeyError, TypeError, ValueError) as error:
        raise ProfileError("Expected a profile with all its timings, found some missing. Profile again.") from error
    good = all(array.shape == (len(operations),) and bool((array >= 0).all()) for array in (*arrays.values(), draws))
    if not good or not math.isfinite(other):
        raise ProfileError("Expected a time for each operation, found others. Profile again.")
    return Profile(
        name, program, list_cuts(program), operations, **arrays, draws=draws, other=other, unscaled=unscaled, made=made
    )


def _cached(path: Path) -> dict[str, Any]:
    """The timings kept at ``path``; nothing if there are none, or damaged ones."""
    try:
        return load_timings(path)[1]
    except ProfileError:
        return {}


def _timed(
    program: Program,
    optimizer: Mapping[str, Any],
    loss: str | Loss,
    labels: torch.Tensor | None,
    repeats: int,
    progress: bool | Callable[[float], object],
) -> dict[str, Any]:
    from tqdm.auto import tqdm

    own = copy.deepcopy(program.model)
    if not own.training:
        own.train()
    with preserved(), torch.enable_grad(), tqdm(total=repeats + 1, desc="profile", unit="pass",
                                                disable=progress is not True) as bar:  # fmt: skip
        whole = Split(Program(own, program.input_shape, program.batch, program.dtype), ())
        shape = (program.batch, *program.input_shape)
        x = torch.rand(shape, dtype=program.dtype) if program.dtype.is_floating_point else _zeros(program, shape)
        y = _labels(whole, program) if labels is None else labels
        # So slow that the weights stay where they are: random labels are nothing to learn.
        trainer = Trainer(whole, optimizer=optimizer, loss=loss)
        trainer.learning_rate = 1e-9

        def between() -> None:
            trainer.step(x, y)
            bar.update()
            if callable(progress):
                progress(len(trainer.log) / (repeats + 1))

        times = time_operations(whole.a, x, y, make_loss(loss), repeats, between)
        whole_step = {
            phase: float(np.median([record.seconds[phase] for record in trainer.log.records[1:]]))
            for phase in ("a_forward", "a_backward", "update", "total")
        }
    forward, backward = np.array(times.forward), np.array(times.backward)
    summed = float(forward.sum() + backward.sum())
    measured = whole_step["a_forward"] + whole_step["a_backward"]
    parameters = _parameters(program)
    return {
        "forward": (forward * whole_step["a_forward"] / forward.sum()).tolist(),
        "backward": (backward * whole_step["a_backward"] / max(backward.sum(), 1e-12)).tolist(),
        "update": (whole_step["update"] * parameters).tolist(),
        "draws": list(times.draws),
        "other": max(whole_step["total"] - measured - whole_step["update"], 0.0),
        "unscaled": summed / measured,
    }


def _parameters(program: Program) -> Seconds:
    """For each operation and the loss, its share of the parameters; shared ones count where they are used first."""
    mode, seen = program.train, set[int]()
    counts = [0.0] * len(mode.nodes)
    for index, node in enumerate(mode.nodes[1:]):
        used: list[Any] = []
        if node.op == "call_module":
            used.extend(program.model.get_submodule(str(node.target)).parameters())
        for operand in node.all_input_nodes:
            if operand.op == "get_attr":
                used.append(program.attribute(mode, str(operand.target)))
        for value in used:
            if isinstance(value, nn.Parameter) and value.requires_grad and id(value) not in seen:
                seen.add(id(value))
                counts[index] += value.numel()
    shares: Seconds = np.array(counts) / max(sum(counts), 1.0)
    return shares


def _labels(whole: Split, program: Program) -> torch.Tensor:
    """Class numbers for the default loss."""
    if whole.classes is None:
        found = [tuple(tensor.shape) for tensor in tensors_in(whole.output)]
        raise DataError(
            f"Expected an output of shape (batch, classes) to make up labels for, found {found}. Pass loss and labels "
            "that fit it: se.profile(model, ..., loss=lambda output, labels: ..., labels=tensor)."
        )
    return torch.randint(0, whole.classes, (program.batch,))


def _zeros(program: Program, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(shape, dtype=program.dtype)


def _require_cpu(model: nn.Module) -> None:
    tensors = [*model.parameters(), *model.buffers()]
    elsewhere = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), None)
    if elsewhere is not None:
        raise ProfileError(
            f"Expected a network on the CPU, where its operations are timed; found one on {elsewhere}. Move it with "
            "model.to('cpu'), and give the other device's speed to the plan."
        )
