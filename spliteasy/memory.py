"""The memory that training takes, segment by segment, before anything is trained.

At the end of a segment's forward there are its parameters and buffers, the tensors that autograd saved for its
backward, and what the cut holds; by the end of the backward the gradients; from the first update on the optimizer's
state. What autograd saves is found by running the traced operations on the meta device with gradients on and hooks on
what is saved (``torch.autograd.graph.saved_tensors_hooks``): in-place results, views and tensors that two operations
save count once, as the storages that they are, and no data is held.

Left out: a kernel's own scratch memory, gradients of activations (which replace activations as the backward goes),
codecs and frames, the interpreter. The CPU's fused attention saves less than the plain one that is followed here, so
transformers are overestimated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import fx, nn

from spliteasy.device import Device
from spliteasy.errors import CutError, TrainingError
from spliteasy.optimization import check_optimizer
from spliteasy.program import Program
from spliteasy.propagation import tensors_in
from spliteasy.saved_tensors import Saved, saved_storages

if TYPE_CHECKING:
    import pandas

__all__ = ["MemoryProfile", "SegmentMemory", "TrainingMemory", "optimizer_bytes", "training_memory"]


@dataclass(frozen=True)
class SegmentMemory:
    """Bytes that one segment takes while it trains.

    ``parameters`` and ``buffers`` of its layers, ``gradients`` of the parameters that are trained, ``optimizer`` state
    of these, ``activations`` that autograd saves for a batch (the segment's input among them where an operation saves
    it), and ``boundary``: what enters and leaves at the cuts and is not among the saved.
    """

    segment: str
    parameters: int
    buffers: int
    gradients: int
    optimizer: int
    activations: int
    boundary: int

    @property
    def total(self) -> int:
        """The peak: all of these at once."""
        kept = self.parameters + self.buffers + self.gradients + self.optimizer
        return kept + self.activations + self.boundary


class TrainingMemory(Sequence[SegmentMemory]):
    """The segments of a split in order, by position or by letter; prints as a table in megabytes (10⁶ bytes)."""

    def __init__(self, segments: Sequence[SegmentMemory], title: str) -> None:
        self._segments, self.title = list(segments), title

    def __len__(self) -> int:
        return len(self._segments)

    @overload
    def __getitem__(self, key: int | str) -> SegmentMemory: ...
    @overload
    def __getitem__(self, key: slice) -> list[SegmentMemory]: ...
    def __getitem__(self, key: int | str | slice) -> SegmentMemory | list[SegmentMemory]:
        if not isinstance(key, str):
            return self._segments[key]
        found = {segment.segment: segment for segment in self._segments}
        if key not in found:
            raise CutError(f"Expected one of the segments {', '.join(found)}, found {key!r}.")
        return found[key]

    @property
    def on_device(self) -> int:
        """Bytes of the segments that run on the device: A, and C if there is one."""
        return sum(segment.total for segment in self._segments if segment.segment != "B")

    def fits(self, device: Device) -> bool:
        """Whether the device's segments fit into the memory that an app gets there."""
        return self.on_device <= device.available_bytes

    def to_pandas(self) -> pandas.DataFrame:
        """One row a segment, in bytes."""
        import pandas

        names = ("parameters", "buffers", "gradients", "optimizer", "activations", "boundary", "total")
        rows = [{name: getattr(segment, name) for name in names} for segment in self._segments]
        return pandas.DataFrame(rows, index=pandas.Index([s.segment for s in self._segments], name="segment"))

    def __repr__(self) -> str:
        table = (self.to_pandas() / 1e6).to_string(float_format=lambda value: f"{value:,.2f}")
        return f"{self.title}: megabytes while training\n{table}"


class MemoryProfile:
    """The memory of every segment that a network can be cut into, from one pass over its operations.

    Positions are those of the traced operations: 0 is the input, k follows the k-th operation.

    Arguments:
        program: the traced network, at the batch that is asked about.
        optimizer: as `spliteasy.Trainer` takes it; None for plain SGD.
    """

    def __init__(self, program: Program, optimizer: Mapping[str, Any] | None = None) -> None:
        self.program = program
        self.optimizer = check_optimizer(optimizer or {"name": "SGD", "lr": 0.01})
        self._saved: Saved = saved_storages(program)
        self._new = [sum(self._layer_bytes(tensors)) for tensors in _first_users(program)]

    def segment(self, letter: str, lo: int, hi: int) -> SegmentMemory:
        """The memory of the operations after position ``lo`` up to ``hi``: from the input on if ``lo`` is −1, and to
        the output if ``hi`` is the number of nodes."""
        mode = self.program.train
        span = slice(lo + 1, hi + 1)
        layers = {id(tensor): tensor for node in mode.nodes[span] for tensor in _tensors_of(self.program, node)}
        saved = self._saved.between(span.start, span.stop)
        boundary = self._saved.boundary(mode, lo, hi)
        extra = sum(size for storage, size in boundary.items() if storage not in saved)
        return SegmentMemory(letter, *self._layer_bytes(layers.values()), sum(saved.values()), extra)

    def before(self) -> list[int]:
        """For each position, the bytes that segment A takes if the network is cut there."""
        kept = list(accumulate(self._new))
        return self._totals(range(len(kept)), kept, lambda position: (-1, position), inclusive=True)

    def after(self) -> list[int]:
        """For each position, the bytes that segment C takes if it starts there. A parameter that is used on both sides
        of a cut counts before it only."""
        kept = list(accumulate(self._new))
        left, end = [kept[-1] - bytes_before for bytes_before in kept], len(kept)
        return self._totals(range(end)[::-1], left, lambda position: (position, end), inclusive=False)[::-1]

    def _totals(
        self, positions: Sequence[int], kept: Sequence[int], ends: Callable[[int], tuple[int, int]], *, inclusive: bool
    ) -> list[int]:
        """Bytes of a segment that grows by one operation from position to position; ``inclusive`` if that at the
        position itself belongs to it."""
        totals: list[int] = []
        saved: dict[int, int] = {}
        held = 0
        for position in positions:
            new = {k: size for k, size in self._saved.by_position[position].items() if k not in saved}
            if inclusive:
                saved |= new
                held += sum(new.values())
            boundary = self._saved.boundary(self.program.train, *ends(position))
            totals.append(kept[position] + held + sum(size for k, size in boundary.items() if k not in saved))
            if not inclusive:
                saved |= new
                held += sum(new.values())
        return totals

    def _layer_bytes(self, tensors: Iterable[torch.Tensor]) -> tuple[int, int, int, int]:
        """Bytes of the parameters, buffers, gradients and optimizer state among ``tensors``."""
        tensors = list(tensors)
        trained = [t for t in tensors if isinstance(t, nn.Parameter) and t.requires_grad]
        return (
            sum(_bytes(tensor) for tensor in tensors if isinstance(tensor, nn.Parameter)),
            sum(_bytes(tensor) for tensor in tensors if not isinstance(tensor, nn.Parameter)),
            sum(_bytes(tensor) for tensor in trained),
            optimizer_bytes(trained, self.optimizer),
        )


def training_memory(
    model: nn.Module,
    at: str | Sequence[str] = (),
    input_shape: Sequence[int] = (3, 224, 224),
    batch: int = 1,
    optimizer: Mapping[str, Any] | None = None,
) -> TrainingMemory:
    """The peak memory of training ``model`` on a batch, unsplit or cut, predicted for each segment.

    Arguments:
        model: the network, in the mode and with the frozen layers that it will be trained with.
        at: the cuts, as `spliteasy.split` takes them.
        input_shape: of one sample, without the batch.
        batch: samples a step.
        optimizer: as `spliteasy.Trainer` takes it; None for plain SGD.

    Raises `TraceError` and `CutError` as `spliteasy.split` does, `TrainingError` for an optimizer that does not exist.
    """
    program = Program(model, input_shape, batch)
    names = [program.find(name) for name in ((at,) if isinstance(at, str) else tuple(at))]
    ends = [program.train.position[name] for name in names]
    if len(names) > 2 or ends != sorted(set(ends)):
        raise CutError(f"Expected no cut, one or two, in execution order; found {', '.join(map(repr, names))}.")
    profile = MemoryProfile(program, optimizer)
    spans = zip([-1, *ends], [*ends, len(program.train.nodes)], strict=True)
    segments = [profile.segment(letter, lo, hi) for letter, (lo, hi) in zip("ABC", spans, strict=False)]
    where = f" cut at {', '.join(names)}" if names else ""
    return TrainingMemory(segments, f"{type(model).__name__}{where}, batch {batch}, {profile.optimizer['name']}")


def optimizer_bytes(parameters: Iterable[torch.Tensor], optimizer: Mapping[str, Any]) -> int:
    """The state that an optimizer keeps for these parameters after its first step: nothing for SGD, as much as the
    parameters with momentum, twice as much for Adam. Found by a step on the meta device.

    Raises `TrainingError` for an optimizer that needs values to step.
    """
    own = [nn.Parameter(torch.empty_like(parameter, device="meta")) for parameter in parameters]
    if not own:
        return 0
    arguments = {name: value for name, value in optimizer.items() if name != "name"}
    update = getattr(torch.optim, optimizer["name"])(own, **arguments)
    for parameter in own:
        parameter.grad = torch.empty_like(parameter)
    try:
        update.step()
    except (RuntimeError, NotImplementedError) as error:
        raise TrainingError(
            f"Expected an optimizer whose state follows from shapes, found that {optimizer['name']} needs values "
            f"({str(error).splitlines()[0]}). Predict with SGD or Adam, whichever keeps as much."
        ) from error
    return sum(_bytes(tensor) for state in update.state.values() for tensor in tensors_in(dict(state)))


def _first_users(program: Program) -> list[list[torch.Tensor]]:
    """For each position, the parameters and buffers that are used there first."""
    seen: set[int] = set()
    found: list[list[torch.Tensor]] = []
    for node in program.train.nodes:
        found.append([tensor for tensor in _tensors_of(program, node) if id(tensor) not in seen])
        seen |= {id(tensor) for tensor in found[-1]}
    return found


def _tensors_of(program: Program, node: fx.Node) -> list[torch.Tensor]:
    """The parameters and buffers that an operation uses."""
    found: dict[int, torch.Tensor] = {}
    if node.op == "call_module":
        layer = program.model.get_submodule(str(node.target))
        found |= {id(tensor): tensor for tensor in [*layer.parameters(), *layer.buffers()]}
    for operand in node.all_input_nodes:
        if operand.op == "get_attr":
            value = program.attribute(program.train, str(operand.target))
            found |= {id(value): value} if isinstance(value, torch.Tensor) else {}
    return list(found.values())


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.dtype.itemsize
