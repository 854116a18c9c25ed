"""Which tensors each message of a training step carries: of one cut or two, and of all pairs at once in bytes.

A tensor that B neither reads nor changes stays on the device, so the bytes of two cuts are no sum of what each cut
holds: `traffic_between` looks at one pair, `all_traffic` at every pair, and the two agree to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from spliteasy.cuts import Cuts, CutTensor
from spliteasy.errors import CutError
from spliteasy.program import Mode, Program
from spliteasy.propagation import storage_of, tensors_in

__all__ = ["AllTraffic", "Sizes", "Traffic", "all_traffic", "first_private"]

Counts = npt.NDArray[np.float64]
"""Whole numbers, exact in float64 up to 2^53 bytes."""


class Traffic:
    """The tensors that cross the cuts of a traced network in train mode."""

    def __init__(self, program: Program, cuts: Cuts) -> None:
        self.cuts, self.mode = cuts, program.train
        self.with_gradient = _with_gradient(program.train, program.model)
        self._order = {node: position for position, node in enumerate(self.mode.nodes)}

    def between(self, first: int, last: int | None = None) -> dict[str, tuple[CutTensor, ...]]:
        """The tensors of each message of one step, for one cut (A|B) or two (A|B|C), given by number.

        A tensor that B neither reads nor changes stays on the device, and only floating tensors that depend on a
        parameter have a gradient to send back. Raises `CutError` for two cuts out of order.
        """
        lo = self.mode.position[self.cuts[first].name]
        before = self._alive(lo)
        if last is None:
            return {"activations": _listed(before), "input_gradients": self._gradients(before)}
        if last <= first:
            raise CutError(f"Expected the second cut behind the first, found cut {last} after cut {first}.")
        hi = self.mode.position[self.cuts[last].name]
        nodes = self.mode.nodes[lo + 1 : hi + 1]
        values, changes = self.mode.propagation.values, self.mode.propagation.mutates
        changed = {storage for node in nodes for storage in changes[node]}
        read = {id(tensor) for node in nodes for used in node.all_input_nodes for tensor in tensors_in(values[used])}
        up = {key: item for key, item in before.items() if key in read or storage_of(item[1]) in changed}
        after = self._alive(hi)
        kept = {key for key, item in after.items() if key in before and storage_of(item[1]) not in changed}
        back = {key: item for key, item in after.items() if key not in kept or key in up}
        return {
            "activations": _listed(up),
            "outputs": _listed({key: item for key, item in after.items() if key not in kept}),
            "output_gradients": self._gradients(back),
            "input_gradients": self._gradients(up),
        }

    def _alive(self, position: int) -> dict[int, tuple[str, torch.Tensor]]:
        """The distinct tensors alive at a position, by identity, each with its name."""
        found: dict[int, tuple[str, torch.Tensor]] = {}
        for node in self.mode.alive(position):
            for tensor in tensors_in(self.mode.propagation.values[node]):
                found.setdefault(id(tensor), (self.mode.names[self._order[node]], tensor))
        return found

    def _gradients(self, tensors: dict[int, tuple[str, torch.Tensor]]) -> tuple[CutTensor, ...]:
        return _listed({key: item for key, item in tensors.items() if key in self.with_gradient})


@dataclass(frozen=True)
class Sizes:
    """What a message carries, by cut, or by first and last cut: bytes of floating tensors (which pass codecs), of the
    others (which do not), and the number of tensors."""

    coded: Counts
    plain: Counts
    tensors: Counts

    @property
    def nbytes(self) -> Counts:
        """All raw bytes."""
        return self.coded + self.plain


@dataclass(frozen=True)
class AllTraffic:
    """The raw bytes of every message for every cut (``single``, arrays of K) and for every pair of cuts (``double``,
    K × K, first cut by row; only first < last means anything), by message name."""

    single: dict[str, Sizes]
    double: dict[str, Sizes]


def all_traffic(traffic: Traffic) -> AllTraffic:
    """`Traffic.between` for every cut and every pair, in bytes.

    For each tensor alive at a first cut only two places matter: where it is next read, and where its storage is next
    changed. It is sent up if a last cut lies behind either, and kept from C's messages as long as the last cut lies
    before the change. Work grows with cuts × cuts × tensors alive at one cut.
    """
    table = _Table(traffic)
    count = table.count
    columns = np.arange(count)
    names = ("activations", "outputs", "output_gradients", "input_gradients")
    found = {name: np.zeros((3, count, count)) for name in names}
    whole = table.alive.T.astype(np.float64) @ table.weights
    for first in range(count):
        held = np.flatnonzero(table.alive[:, first])
        weights, alive = table.weights[held], table.alive[held]
        changed = table.next_change[held, first][:, None]
        touched = np.minimum(table.next_read[held, first][:, None], changed)
        up = (columns >= touched).T.astype(np.float64) @ weights
        kept = (alive & (columns < changed)).T.astype(np.float64) @ weights
        passed_by = (alive & (columns < touched)).T.astype(np.float64) @ weights
        found["activations"][:, first] = up[:, :3].T
        found["input_gradients"][:, first] = up[:, 3:].T
        found["outputs"][:, first] = (whole - kept)[:, :3].T
        found["output_gradients"][:, first] = (whole - passed_by)[:, 3:].T
    single = {"activations": Sizes(*whole[:, :3].T), "input_gradients": Sizes(*whole[:, 3:].T)}
    return AllTraffic(single, {name: Sizes(*arrays) for name, arrays in found.items()})


def first_private(program: Program, cuts: Cuts) -> int:
    """The number of the first cut at which neither the input nor a view of it is alive, in either mode: where a double
    split may start. The number of cuts if there is none."""
    return next((cut.index for cut in cuts if not _holds_input(program, cut.name)), len(cuts))


class _Table:
    """The distinct tensors of a network as arrays: weights (T × 6), alive at a cut (T × K), and for each cut the next
    cut behind which the tensor has been read, or changed, again (T × K, K for never)."""

    def __init__(self, traffic: Traffic) -> None:
        mode, values = traffic.mode, traffic.mode.propagation.values
        places = np.array([mode.position[cut.name] for cut in traffic.cuts])
        self.count = len(places)
        number: dict[int, int] = {}
        tensors: list[torch.Tensor] = []
        spans: list[tuple[int, int, int]] = []
        for position, (node, last) in enumerate(zip(mode.nodes, mode.dies(), strict=True)):
            start, end = np.searchsorted(places, (position, last))
            for tensor in tensors_in(values[node]):
                if id(tensor) not in number:
                    number[id(tensor)] = len(tensors)
                    tensors.append(tensor)
                spans.append((number[id(tensor)], int(start), int(end)))
        self.alive = np.zeros((len(tensors), self.count), dtype=bool)
        for index, start, end in spans:
            self.alive[index, start:end] = True
        self.weights = np.array([_weights(tensor, traffic) for tensor in tensors], dtype=np.float64).reshape(-1, 6)
        reads: dict[int, list[int]] = {}
        changes: dict[int, list[int]] = {}
        for position, node in enumerate(mode.nodes):
            for used in node.all_input_nodes:
                for tensor in tensors_in(values[used]):
                    reads.setdefault(id(tensor), []).append(position)
            for storage in mode.propagation.mutates.get(node, ()):
                changes.setdefault(storage, []).append(position)
        self.next_read = self._next([reads.get(id(tensor), []) for tensor in tensors], places)
        self.next_change = self._next([changes.get(storage_of(tensor), []) for tensor in tensors], places)

    def _next(self, events: Sequence[Sequence[int]], places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """For each tensor and each cut, the first cut that lies behind the first event after that cut."""
        found = np.full((len(events), self.count), self.count, dtype=np.int64)
        for index, positions in enumerate(events):
            if positions:
                behind = np.append(np.searchsorted(places, positions), self.count)
                found[index] = behind[np.searchsorted(positions, places, side="right")]
        return found


def _weights(tensor: torch.Tensor, traffic: Traffic) -> tuple[int, ...]:
    """Floating bytes, other bytes, one tensor; and the same of its gradient."""
    nbytes = tensor.numel() * tensor.element_size()
    floating = tensor.is_floating_point()
    gradient = id(tensor) in traffic.with_gradient
    return (nbytes * floating, nbytes * (not floating), 1, nbytes * gradient, 0, int(gradient))


def _listed(tensors: dict[int, tuple[str, torch.Tensor]]) -> tuple[CutTensor, ...]:
    return tuple(CutTensor(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.values())


def _holds_input(program: Program, cut: str) -> bool:
    """Whether the input, or a view of it, is alive at the cut in either mode."""
    for mode in (program.train, program.eval):
        values = mode.propagation.values
        source = storage_of(values[mode.nodes[0]])
        alive = mode.alive(mode.position[cut])
        if any(storage_of(tensor) == source for node in alive for tensor in tensors_in(values[node])):
            return True
    return False


def _with_gradient(mode: Mode, model: nn.Module) -> set[int]:
    """The identities of the floating tensors that some parameter with a gradient leads to."""
    modules = dict(model.named_modules())
    reached: set[fx.Node] = set()
    for node in mode.output.graph.nodes:
        parameters: list[object] = []
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            parameters = [getattr(modules.get(owner), name, None)]
        elif node.op == "call_module":
            parameters = list(modules[str(node.target)].parameters())
        trained = any(isinstance(value, nn.Parameter) and value.requires_grad for value in parameters)
        if trained or any(used in reached for used in node.all_input_nodes):
            reached.add(node)
    values = mode.propagation.values
    tensors = [tensor for node in mode.nodes if node in reached for tensor in tensors_in(values[node])]
    return {id(tensor) for tensor in tensors if tensor.is_floating_point()}
