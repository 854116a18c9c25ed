"""What really crosses a network's cuts, a part of it: tensors and their gradients at cuts of every kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spliteasy.data import digits, photos
from spliteasy.profiling import Profile
from spliteasy.program import Program
from spliteasy.propagation import storage_of, tensors_in
from spliteasy.restoring import untouched
from spliteasy.seeding import StepRandom
from spliteasy.splitting import Split
from spliteasy.timing import run_operations

__all__ = ["Sample", "kinds_of", "samples_of"]

_CUTS = 96
"""Cuts that are looked at, at most."""
_PART, _LARGE = 1 << 18, 1 << 21
"""Bytes of a tensor that are kept, in whole samples: at any cut, and where codecs are timed, which is where
the most is alive."""
_MACS = 6e9
"""Multiply-accumulates of the forward pass that the samples come from, at most, if two samples take no more."""


@dataclass(frozen=True)
class Sample:
    """The floating tensors alive at a cut and their gradients (None: it has none), the first samples of each; and what
    kind of cut it is (`kinds_of`)."""

    cut: int
    kind: frozenset[str]
    tensors: Sequence[torch.Tensor]
    gradients: Sequence[torch.Tensor | None]


def kinds_of(program: Program, names: Sequence[str]) -> list[frozenset[str]]:
    """For each cut by name, what operations made the tensors alive there and will read them: what zeros and spread of a
    tensor and of its gradient depend on first."""
    mode = program.train
    order = {node: position for position, node in enumerate(mode.nodes)}

    def kind(node: fx.Node, place: int) -> str:
        readers = {_kind(program, user) for user in node.users if order.get(user, len(order)) > place}
        return f"{_kind(program, node)} > {' '.join(sorted(readers))}"

    places = [mode.position[name] for name in names]
    return [frozenset(kind(node, place) for node in mode.alive(place)) for place in places]


def samples_of(profile: Profile, kinds: Sequence[frozenset[str]]) -> list[Sample]:
    """What crosses in the first step on photographs, digits or random numbers (whichever fits the input), at some cuts
    of every kind, in order: all cuts of a small network, evenly spread ones of a large one. ``kinds`` are those
    of all its cuts (`kinds_of`)."""
    program = profile.program
    chosen = _spread(kinds)
    batch = max(2, min(profile.batch, int(_MACS / max(profile.cuts[-1].macs_before, 1))))
    small = program if batch == program.batch else Program(program.model, program.input_shape, batch, program.dtype)
    whole = Split(small, ())
    x = _inputs(program, batch)
    y = torch.arange(batch) % (whole.classes or 1)
    most = max(chosen, key=lambda index: profile.cuts[index].nbytes)
    parts = {index: _LARGE if index == most else _PART for index in chosen}
    watcher = _Watcher(small, {small.train.position[profile.cuts[index].name]: index for index in chosen}, parts)
    with untouched(whole), torch.enable_grad():
        whole.train()
        StepRandom(0, 0)
        run_operations(whole.a, x, y, _loss(whole), watcher.look)
    return [Sample(index, kinds[index], *watcher.found(index)) for index in chosen]


class _Watcher:
    """Keeps parts of what is alive at some positions, and of its gradients when they come.

    A gradient is that of what follows the cut: a tensor that is used on both sides of it goes on as an alias.
    """

    def __init__(self, program: Program, cuts: dict[int, int], parts: dict[int, int]) -> None:
        mode = program.train
        order = {node: position for position, node in enumerate(mode.nodes)}
        self._alive = {position: [order[node] for node in mode.alive(position)] for position in cuts}
        self._changed = {position: mode.mutated(position, len(mode.nodes)) for position in cuts}
        self._meta = [mode.propagation.values[node] for node in mode.nodes]
        self._cuts, self._parts = cuts, parts
        self._found: dict[int, tuple[list[torch.Tensor], list[torch.Tensor | None]]] = {}

    def look(self, position: int, value: Callable[[int], Any], put: Callable[[int, Any], None]) -> None:
        """After the operation at ``position``: a `spliteasy.timing.Look`."""
        if position not in self._cuts:
            return
        aliases: dict[int, torch.Tensor] = {}
        alive: dict[int, torch.Tensor] = {}
        for place in self._alive[position]:
            whole = value(place)
            if isinstance(whole, torch.Tensor) and whole.requires_grad and not self._changes(place, position):
                if id(whole) not in aliases:
                    aliases[id(whole)] = whole.view_as(whole)
                put(place, aliases[id(whole)])
            alive |= {id(tensor): tensor for tensor in tensors_in(value(place)) if tensor.is_floating_point()}
        cut = self._cuts[position]
        most = self._parts[cut]
        gradients: list[torch.Tensor | None] = [None] * len(alive)
        for slot, tensor in enumerate(alive.values()):
            if tensor.requires_grad:
                tensor.register_hook(_keep(gradients, slot, most))  # type: ignore[no-untyped-call]
        self._found[cut] = [_part(tensor, most) for tensor in alive.values()], gradients

    def _changes(self, place: int, position: int) -> bool:
        """Whether a later operation changes the tensor in place, which an alias would not survive."""
        return any(storage_of(tensor) in self._changed[position] for tensor in tensors_in(self._meta[place]))

    def found(self, cut: int) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
        """Tensors and gradients at a cut."""
        return self._found[cut]


def _keep(gradients: list[torch.Tensor | None], slot: int, most: int) -> Any:
    def hook(gradient: torch.Tensor) -> None:
        gradients[slot] = _part(gradient, most)

    return hook


def _part(tensor: torch.Tensor, most: int) -> torch.Tensor:
    """The first samples, at least one and as many as fit."""
    part = tensor.detach()
    if part.ndim:
        part = part[: max(most // max(part.nbytes // max(len(part), 1), 1), 1)]
    return part.clone()


def _spread(kinds: Sequence[frozenset[str]]) -> list[int]:
    """Cuts by number, in order: of every kind the first, the last and some between, `_CUTS` in all or a few more."""
    groups: dict[frozenset[str], list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        groups[kind].append(index)
    each = max(_CUTS // max(len(groups), 1), 2)
    chosen: set[int] = set()
    for members in groups.values():
        if len(kinds) <= _CUTS or len(members) <= each:
            chosen.update(members)
        else:
            chosen.update(members[round(place * (len(members) - 1) / (each - 1))] for place in range(each))
    return sorted(chosen)


def _kind(program: Program, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(program.model.get_submodule(str(node.target))).__name__
    return node.op if node.op in ("placeholder", "output") else getattr(node.target, "__name__", str(node.target))


def _loss(whole: Split) -> Any:
    if whole.classes:
        return torch.nn.functional.cross_entropy
    return lambda output, _: torch.stack(
        [tensor.square().mean() for tensor in tensors_in(output) if tensor.is_floating_point()]
    ).sum()


def _inputs(program: Program, batch: int) -> torch.Tensor:
    """Photographs or digits where they fit, else random numbers."""
    shape = program.input_shape
    if not program.dtype.is_floating_point:
        return torch.zeros((batch, *shape), dtype=program.dtype)
    if len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2]:
        return photos(batch, shape[1]).to(program.dtype)
    if shape == (1, 8, 8):
        images, _ = digits()
        return torch.stack([images[index][0] for index in range(batch)]).to(program.dtype)
    return torch.rand((batch, *shape), dtype=program.dtype)
