"""Where the cuts go: by name, where they usually are, where they were in another network, in an order that works."""

from __future__ import annotations

from collections.abc import Sequence

from spliteasy.cuts import Cut, Cuts
from spliteasy.errors import CutError
from spliteasy.explorer.network import Network

__all__ = ["named", "nearest", "ordered", "usual"]


def named(cuts: Cuts, at: str | Sequence[str]) -> tuple[bool, int, int]:
    """One cut or two by name: whether two, and their numbers. Raises `CutError`."""
    names = (at,) if isinstance(at, str) else tuple(at)
    if len(names) not in (1, 2):
        raise CutError(f"Expected the names of one cut or two, found {len(names)}: {', '.join(map(repr, names))}.")
    numbers = [cuts[name].index for name in names]
    if len(names) == 1:
        return False, numbers[0], len(cuts) - 1
    if numbers[0] >= numbers[1]:
        raise CutError(
            f"Expected two different cuts in execution order, found {names[0]!r} (number {numbers[0]}) and "
            f"{names[1]!r} (number {numbers[1]}); {'they are the same' if numbers[0] == numbers[1] else 'swap them'}."
        )
    return True, numbers[0], numbers[1]


def usual(network: Network) -> tuple[int, int]:
    """The paper's places: after the first pooling, and before the last operation with parameters."""
    cuts = network.cuts
    pools = [cut.index for cut in cuts if "pool" in cut.operation.lower() and cut.macs_after]
    first = max(pools[0] if pools else len(cuts) // 4, min(network.first_private, len(cuts) - 1))
    last = max((cut.index for cut in cuts if cut.params_after), default=len(cuts) - 1)
    return first, max(last, min(first + 1, len(cuts) - 1))


def nearest(cut: Cut, network: Network) -> int:
    """The cut of the same name, else of the same kind at the same share of the computation, else the nearest there."""
    if cut.name in network.cuts.names:
        return network.cuts[cut.name].index

    def done(some: Cut) -> float:
        return some.macs_before / max(some.macs_before + some.macs_after, 1)

    def distance(some: Cut) -> tuple[float, bool, int]:
        return round(abs(done(some) - done(cut)), 2), some.operation != cut.operation, some.index

    return min(network.cuts, key=distance).index


def ordered(network: Network, first: int, last: int, strict: bool) -> tuple[int, int]:
    """Two cuts that a double split can have; moved there, or refused if ``strict``."""
    lowest, highest = network.first_private, len(network.cuts) - 1
    if lowest >= highest:
        raise CutError(
            "A double split needs two cuts that keep the input on the device, with an operation between them; this "
            "network has none. Use a single split."
        )
    if strict and first < lowest:
        raise CutError(
            f"At cut {first} the input itself is still alive, and in a double split inputs stay on the device. "
            f"Cut at {lowest} ({network.cuts[lowest].name}) or later, or use a single split."
        )
    if strict and last <= first:
        raise CutError(f"Expected the second cut behind the first, so that B has an operation; found {first}, {last}.")
    first = min(max(first, lowest), highest - 1)
    return first, min(max(last, first + 1), highest)
