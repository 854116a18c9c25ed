"""What a plan must keep to, and which of it cannot be met."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spliteasy.errors import PlanError
from spliteasy.planning.chains import ChainCost
from spliteasy.planning.computer import Computer
from spliteasy.planning.costs import sent_bytes
from spliteasy.planning.space import Candidates
from spliteasy.profiling import Profile

__all__ = ["Constraints", "Limit", "limits", "require_possible"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Constraints:
    """Limits of a plan; the device's memory is the device's own.

    Arguments:
        min_operations: operations that A has at least.
        min_macs: multiply-accumulates of one sample's forward pass that A has at least.
        max_bytes: bytes that a step sends and receives at most, all messages together.
        labels_on_device: labels do not leave the device, so a single split is out.

    Raises:
        PlanError: for a limit below zero.
    """

    min_operations: int = 0
    min_macs: int = 0
    max_bytes: float = math.inf
    labels_on_device: bool = False

    def __post_init__(self) -> None:
        for name in ("min_operations", "min_macs", "max_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise PlanError(f"Expected {name} as a number of zero or more, found {value!r}. Leave it out for none.")


@dataclass(frozen=True)
class Limit:
    """One limit on the candidates of a mode: ``excess`` says by how much each one misses it, zero or less where it is
    met; ``shown`` turns an excess into words. Where ``by_chain``, it is the excess with a certain chain."""

    name: str
    excess: Callable[[Candidates, ChainCost], Floats]
    shown: Callable[[float], str]
    by_chain: bool = False


def limits(profile: Profile, device: Computer, wanted: Constraints) -> list[Limit]:
    """The limits that exclude anything at all."""
    found: list[Limit] = []
    count = len(profile.cuts)
    macs = np.array([cut.macs_before for cut in profile.cuts], dtype=float)
    places = np.array([profile.program.train.position[cut.name] for cut in profile.cuts], dtype=float)
    if wanted.labels_on_device:
        found.append(Limit("labels_on_device", _labels, lambda _: "a single split sends the labels to the server"))
    if wanted.min_operations:
        least = float(wanted.min_operations)
        found.append(Limit(
            f"min_operations={wanted.min_operations}", lambda some, _: least - places[some.first],
            lambda by: f"the deepest A has {least - by:,.0f} operations, {by:,.0f} too few",
        ))  # fmt: skip
    if wanted.min_macs:
        deep = float(wanted.min_macs)
        found.append(Limit(
            f"min_macs={wanted.min_macs}", lambda some, _: deep - macs[some.first],
            lambda by: f"the deepest A has {deep - by:,.0f} multiply-accumulates a sample, {by:,.0f} too few",
        ))  # fmt: skip
    if device.segment_memory is not None and device.memory_bytes < math.inf:
        memory, of_cuts = device.memory_bytes, range(count)
        a = np.array([device.segment_memory(0, index) for index in of_cuts], dtype=float)
        c = np.array([device.segment_memory(index, count - 1) for index in of_cuts], dtype=float)
        found.append(Limit(
            f"device memory of {memory:,.0f} bytes", lambda some, _: _memory(some, a, c) - memory,
            lambda by: f"the least that any cut takes is {memory + by:,.0f} bytes, {by:,.0f} too many",
        ))  # fmt: skip
    if wanted.max_bytes < math.inf:
        most = wanted.max_bytes
        found.append(Limit(
            f"max_bytes={most:,.0f}", lambda some, chain: sent_bytes(some, chain) - most,
            lambda by: f"the least that any cut and chain sends is {most + by:,.0f} bytes a step, {by:,.0f} too many",
            by_chain=True,
        ))  # fmt: skip
    return found


def require_possible(spaces: Sequence[Candidates], chains: Sequence[ChainCost], wanted: Sequence[Limit]) -> None:
    """Raise `PlanError` naming the limit that nothing can meet, by itself or after those before it, and by how much."""
    for limit in wanted:
        _require([limit], spaces, chains)
    for count in range(2, len(wanted) + 1):
        _require(wanted[:count], spaces, chains)


def _require(some: Sequence[Limit], spaces: Sequence[Candidates], chains: Sequence[ChainCost]) -> None:
    """The last of ``some`` can be met by candidates that meet the others."""
    *others, last = some
    smallest = math.inf
    several = chains if any(limit.by_chain for limit in some) else chains[:1]
    for space in spaces:
        for chain in several:
            excess = last.excess(space, chain)
            for other in others:
                excess = np.where(other.excess(space, chain) > 0, math.inf, excess)
            smallest = min(smallest, float(excess.min(initial=math.inf)))
    if smallest > 0:
        together = f", together with {' and '.join(other.name for other in others)}," if others else ""
        raise PlanError(
            f"Expected a plan that keeps to {last.name}; nothing{together} does: {last.shown(smallest)}. Loosen it, "
            "or allow other modes or chains."
        )


def _labels(some: Candidates, _: ChainCost) -> Floats:
    return np.full(len(some.first), 1.0 if some.mode == "single" else 0.0)


def _memory(some: Candidates, a: Floats, c: Floats) -> Floats:
    """A's peak bytes and, added to it, C's: both hold their parameters and what they saved until the step is over."""
    return a[some.first] + c[some.last] if some.mode == "double" else a[some.first]
