"""Split a network at one or two cuts into segments A, B and C that share its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spliteasy.boundary import Boundary
from spliteasy.errors import CutError, SplitError
from spliteasy.program import Mode, Program, input_dtype
from spliteasy.propagation import storage_of
from spliteasy.refusals import refuse_aliases, refuse_input_at_boundary, refuse_what_cannot_be_exact
from spliteasy.segment import Segment, segment_graph

__all__ = ["Route", "Split", "check_cuts", "split"]


@dataclass(frozen=True)
class Route:
    """Which slots travel in one mode, as slot numbers of the first and of the second boundary.

    ``up``: slots that B reads or changes, sent as `activations` (their gradients come back as `input_gradients`).
    ``down``: slots of the second boundary that B made or changed, sent as `outputs`.
    ``kept``: slot of the second boundary → slot of the first, for tensors that the device already has.
    ``shared``: those of ``kept`` that B reads too. C's gradient for them goes to B, which adds its own: any other order
    of summing differs in the last bit.
    """

    up: tuple[int, ...]
    down: tuple[int, ...]
    kept: dict[int, int]

    @property
    def shared(self) -> tuple[int, ...]:
        """Slots of the second boundary that both B and C read and that the device keeps."""
        return tuple(slot for slot, first in self.kept.items() if first in self.up)

    @property
    def back(self) -> tuple[int, ...]:
        """Slots of the second boundary whose gradients go to B, in the order of the `output_gradients` message."""
        return (*self.down, *self.shared)


class Split:
    """A network in segments. ``a``, ``b``, ``c`` share the parameters of ``model``; what was not split off is None.

    Calling it runs the segments one after the other. `train`, `eval` and `to` reach the model and the segments;
    `state_dict` is the whole model's, under the original keys, whatever was trained where. ``device_macs`` are the
    multiply-accumulates of one sample's forward pass in A and C (all of them where nothing is split off).
    """

    def __init__(self, program: Program, cuts: tuple[str, ...]) -> None:
        self.model = program.model
        self.cuts = cuts
        self.input_shape = program.input_shape
        self._build(program)

    def _build(self, program: Program) -> None:
        cuts, other = self.cuts, program.batch + 1
        self.input_dtype = program.dtype
        self.device_macs = _device_macs(program, cuts)
        self.output = program.train.propagation.values[program.train.output]
        self._batch = program.batch
        spans = _spans(program, cuts)
        boundaries = {
            training: [_boundary(program, training, cut, other) for cut in cuts] for training in (True, False)
        }
        letters = "ABC"[: len(cuts) + 1]
        segments = [_segment(program, letter, index, spans, boundaries) for index, letter in enumerate(letters)]
        self.a: Segment = segments[0]
        self.b: Segment | None = segments[1] if len(segments) > 1 else None
        self.c: Segment | None = segments[2] if len(segments) > 2 else None
        self.routes: dict[bool, Route] = {}
        if cuts:
            for training in (True, False):
                mode = program.mode(training)
                self.routes[training] = _route(mode, spans[training], boundaries[training])
                refuse_aliases(mode, spans[training], boundaries[training])
        refuse_what_cannot_be_exact(program, spans)
        if len(cuts) == 2:
            refuse_input_at_boundary(program, cuts)
        self._follow_modes(program.reads_modes)

    def _follow_modes(self, frozen: bool) -> None:
        """Take over the model's mode, and remember that of the modules whose forward is frozen in the operations."""
        own = dict(self.model.named_modules())
        inside = [module for segment in self.segments for module in segment.modules()]
        for module in set(inside) - set(own.values()):
            module.training = self.model.training
        self._watched = {name: own[name] for name in own if name and own[name] not in set(inside)} if frozen else {}
        self._evaluating = self._in_eval()

    def _in_eval(self) -> set[str]:
        return {name for name, module in self._watched.items() if self.model.training and not module.training}

    def check_modes(self) -> None:
        """Raise `SplitError` if modules were frozen or thawed since the split that ask for their mode in their forward.

        Layers are asked when they run; what a forward hands on, as in ``F.dropout(x, training=self.training)``, is part
        of the operations.
        """
        changed = self._in_eval() ^ self._evaluating
        if self.model.training and changed:
            raise SplitError(
                f"Expected {', '.join(map(repr, sorted(changed)))} in the mode of the split, found train and eval "
                "exchanged, which its operations do not follow. Set the modes of inner modules first, then split."
            )

    @property
    def segments(self) -> list[Segment]:
        """The segments that exist, in order."""
        return [segment for segment in (self.a, self.b, self.c) if segment is not None]

    @property
    def classes(self) -> int | None:
        """The size of the output's last dimension, when the output is one tensor of shape (batch, classes)."""
        output = self.output
        return int(output.shape[1]) if isinstance(output, torch.Tensor) and output.ndim == 2 else None

    def __call__(self, x: torch.Tensor) -> Any:
        """The network's output, computed segment by segment."""
        self.check_modes()
        for segment in self.segments:
            x = segment(x)
        return x

    def train(self, mode: bool = True) -> Split:
        """Put the model and every segment in train mode (or eval mode)."""
        self.model.train(mode)
        for segment in self.segments:
            segment.train(mode)
        return self

    def eval(self) -> Split:
        """Put the model and every segment in eval mode."""
        return self.train(False)

    def to(self, *args: Any, **kwargs: Any) -> Split:
        """Move or convert the model: the arguments of `torch.nn.Module.to`. Inputs are of the new dtype from then on.

        The segments are made again, so do it before a trainer takes them.
        """
        follows = self.input_dtype == input_dtype(self.model)
        self.model.to(*args, **kwargs)
        self._build(Program(self.model, self.input_shape, self._batch, None if follows else self.input_dtype))
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """The whole model's parameters."""
        return self.model.parameters()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The whole model's state, under the original keys."""
        return dict(self.model.state_dict())

    def __repr__(self) -> str:
        kind = {0: "no split", 1: "single split", 2: "double split"}[len(self.cuts)]
        where = f" at {', '.join(self.cuts)}" if self.cuts else ""
        lines = [f"{type(self.model).__name__}, {kind}{where}", *(f"  {segment!r}" for segment in self.segments)]
        return "\n".join(lines)


def split(
    model: nn.Module,
    at: str | Sequence[str] = (),
    input_shape: Sequence[int] = (3, 224, 224),
    *,
    dtype: torch.dtype | None = None,
) -> Split:
    """Split ``model`` at one cut (A on the device, B on the server) or two (A and C on the device, B on the server).

    ``at`` names the cuts in execution order (`find_cuts` lists them; a module's name means its last operation); ``()``
    is no split. ``input_shape`` is without the batch, which may be of any size later. The segments equal the model to
    the bit; what could not is refused with `SplitError`. Raises `CutError` for unknown cuts and wrong order.
    """
    if not isinstance(at, Iterable):
        raise CutError(f"Expected the name of a cut, or of two, or () for no split; found {at!r}.")
    names = (at,) if isinstance(at, str) else tuple(at)
    if len(names) > 2:
        raise CutError(f"Expected no cut, one or two, found {len(names)}: {', '.join(map(repr, names))}.")
    program = Program(model, input_shape, batch=2, dtype=dtype)
    found = tuple(program.find(name) for name in names)
    if len(found) == 2 and program.train.position[found[0]] >= program.train.position[found[1]]:
        raise CutError(
            f"Expected two different cuts in execution order, found {found[0]!r} before {found[1]!r}; "
            f"{'they are the same' if found[0] == found[1] else 'swap them'}."
        )
    return Split(program, found)


def check_cuts(program: Program, cuts: tuple[str, ...], *, boundaries_only: bool = False) -> None:
    """Raise `SplitError` where `Split` would for these cuts, in execution order, without making any segment.

    ``boundaries_only`` leaves out what is known already: that another cut of the same network is taken, and that its
    operations keep their state apart (`spliteasy.refusals.keeps_state_apart`).
    """
    spans = _spans(program, cuts)
    for training in (True, False):
        boundaries = [_boundary(program, training, cut, program.batch + 1) for cut in cuts]
        refuse_aliases(program.mode(training), spans[training], boundaries)
    if not boundaries_only:
        refuse_what_cannot_be_exact(program, spans)
    if len(cuts) == 2:
        refuse_input_at_boundary(program, cuts)


def _spans(program: Program, cuts: tuple[str, ...]) -> dict[bool, list[tuple[int, int]]]:
    """For each mode, the positions (after, up to) of each segment: the first starts before the input, at −1, and the
    last ends with the output, behind the last operation."""
    spans = {}
    for training in (True, False):
        mode = program.mode(training)
        ends = [mode.position[cut] for cut in cuts] + [len(mode.nodes)]
        spans[training] = list(zip([-1, *ends[:-1]], ends, strict=True))
    return spans


def _device_macs(program: Program, cuts: tuple[str, ...]) -> int:
    """Multiply-accumulates a sample of the first and the third segment."""
    macs = program.train.propagation.macs
    on_device = [span for index, span in enumerate(_spans(program, cuts)[True]) if index != 1]
    nodes = [node for lo, hi in on_device for node in program.train.nodes[lo + 1 : hi + 1]]
    return sum(macs.get(node, 0) for node in nodes) // program.batch


def _boundary(program: Program, training: bool, cut: str, other: int) -> Boundary:
    mode = program.mode(training)
    nodes = mode.alive(mode.position[cut])
    names = [mode.names[mode.nodes.index(node)] for node in nodes]
    return Boundary(nodes, names, mode.propagation.values, program.batch, program.values_at(training, other), other)


def _segment(
    program: Program,
    letter: str,
    index: int,
    spans: dict[bool, list[tuple[int, int]]],
    boundaries: dict[bool, list[Boundary]],
) -> Segment:
    graphs, entry, exit, changed = {}, {}, {}, {}
    attributes: dict[str, Any] = {}
    for training in (True, False):
        mode, (lo, hi) = program.mode(training), spans[training][index]
        graphs[training] = segment_graph(mode, lo, hi)
        entry[training] = boundaries[training][index - 1] if index else None
        exit[training] = boundaries[training][index] if index < len(boundaries[training]) else None
        before = entry[training]
        mutated = mode.mutated(lo, hi)
        changed[training] = frozenset(
            slot for slot, storage in enumerate(before.storages if before else []) if storage in mutated
        )
        for node in graphs[training].nodes:
            if node.op in ("call_module", "get_attr"):
                attributes[str(node.target)] = program.attribute(mode, str(node.target))
    lo, hi = spans[True][index]
    names = program.train.names[max(lo, 0) + 1 : hi + 1]
    span = (names[0] if names else "", names[-1] if names else "", len(names))
    return Segment(letter, graphs, attributes, entry, exit, changed, span)


def _route(mode: Mode, spans: list[tuple[int, int]], boundaries: list[Boundary]) -> Route:
    lo, hi = spans[1]
    read, mutated = mode.read(lo, hi), mode.mutated(lo, hi)
    first = boundaries[0]
    up = tuple(slot for slot, tensor in enumerate(first.tensors) if id(tensor) in read or storage_of(tensor) in mutated)
    down, kept = [], {}
    for slot, tensor in enumerate(boundaries[1].tensors if len(boundaries) == 2 else []):
        before = first.slot_of(tensor)
        if before is None or storage_of(tensor) in mutated:
            down.append(slot)
        else:
            kept[slot] = before
    return Route(up, tuple(down), kept)
