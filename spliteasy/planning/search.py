"""The least step time over all cuts, pairs of cuts, chains and modes: `plan`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import nn

from spliteasy.device import Device
from spliteasy.errors import PlanError, SplitError, suggest
from spliteasy.link import LINKS, Link
from spliteasy.planning.calibration import AnyChain, calibrated
from spliteasy.planning.chains import ChainCost
from spliteasy.planning.computer import Computer, Wire, computer_of, named_device, speed_of
from spliteasy.planning.constraints import Constraints, Limit, limits, require_possible
from spliteasy.planning.costs import Prices, parts_of, step_seconds
from spliteasy.planning.result import Choice, Curve, Plan
from spliteasy.planning.space import MODES, Candidates, Numbers, candidates, device_macs
from spliteasy.profiling import Profile, Seconds, profile
from spliteasy.splitting import check_cuts

__all__ = ["link_of", "plan"]

_LISTED = 64
"""Candidates of each mode that are looked at for runners-up and in place of cuts that are refused."""


def plan(
    model: nn.Module | str | Profile,
    *,
    link: Link | str | None,
    device: float | str | Device | Computer = 1.0,
    server: float | Computer = 1.0,
    batch: int = 32,
    input_shape: Sequence[int] | None = None,
    chains: Iterable[AnyChain] = ("raw",),
    modes: Sequence[str] = MODES,
    constraints: Constraints | None = None,
    wire: Wire | None = None,
    runners_up: int = 5,
    progress: bool = True,
) -> Plan:
    """Find where to cut, what to send and how: the choice whose training step takes the least time.

    Every cut, every pair of cuts for a double split, every chain and every mode is compared, none is skipped; what
    `split` refuses is left out. Times are those of `spliteasy.planning.costs`: the profile's, by speeds; chains as
    calibrated (`spliteasy.planning.calibration`); the link's bandwidth and round trips. The paper (Palanisamy et al.,
    HotMobile '21, section 3) found its cuts by hand and says that this could be automatic.

    Arguments:
        model: a network or its name, which is then profiled (or found in the cache), or its `Profile`.
        link: a link, its name in `LINKS`, or None for one that costs nothing.
        device: a `Device` or its name in `DEVICES`, whose memory the plan keeps to; a speed relative to this machine;
            or a `Computer`.
        server: its speed relative to this machine, or a `Computer`.
        batch: samples in a batch; a profile has its own.
        input_shape: of one sample; by default the network's own.
        chains: what to choose from: notation, chains, `Codecs`, or a `ChainCost` that is known already.
        modes: of single, double and none.
        constraints: limits of depth and bytes, and whether labels stay on the device.
        wire: what calls cost besides the link.
        runners_up: how many to list.
        progress: show progress bars.

    Raises:
        PlanError: for constraints that cannot be met, by name and by how much; for a link, mode or device that is none.
        ProfileError: for a profile of another machine, torch or number of threads.
    """
    known = model if isinstance(model, Profile) else profile(model, input_shape, batch, progress=progress)
    known.require_current()
    asked, limit, line = _modes(modes), constraints or Constraints(), link_of(link)
    hardware = named_device(device)
    computer = computer_of(device if hardware is None else hardware, known)
    prices = Prices.of(line, computer.speed, speed_of(server), wire or Wire())
    costs = calibrated(known, chains, progress)
    spaces = candidates(known, asked)
    wanted = limits(known, computer, limit)
    found = [_Best(space, costs, prices, wanted) for space in spaces]
    ranking = _Ranking(known, costs, prices)
    best = ranking.best_of(found, 1 + max(runners_up, 0))
    if not best:
        require_possible(spaces, costs, wanted)
        raise PlanError(
            "Expected a place where the network can be cut, found none in these modes that `split` takes. Allow other "
            "modes, such as modes=('single', 'double', 'none')."
        )
    by_mode = [choice for one in found for choice in ranking.best_of([one], 1)]
    return Plan(
        network=known.network,
        batch=known.batch,
        link=line,
        device=computer.speed,
        server=prices.server,
        best=best[0],
        runners_up=tuple(best[1:]),
        by_mode=tuple(sorted(by_mode, key=lambda choice: choice.seconds)),
        by_chain=ranking.by_chain(found),
        error=next(cost.error for cost in costs if cost.name == best[0].chain),
        cuts=tuple(known.cuts.names),
        curves=tuple(Curve(one.space.mode, one.by_first(len(known.cuts))) for one in found),
        considered=sum(len(space.first) * (len(costs) if space.coded else 1) for space in spaces),
        hardware=hardware,
        private=known.first_private,
    )


class _Best:
    """The least seconds of every candidate of one mode over the chains, and which chain that is. Infinite where a
    limit excludes a candidate."""

    def __init__(self, space: Candidates, costs: Sequence[ChainCost], prices: Prices, wanted: Sequence[Limit]) -> None:
        self.space = space
        self.seconds: Seconds = np.full(len(space.first), np.inf)
        self.chain: Numbers = np.zeros(len(space.first), dtype=np.int64)
        self.places: list[tuple[int, float]] = []
        excluded = np.zeros(len(space.first), dtype=bool)
        for limit in wanted:
            if not limit.by_chain:
                excluded |= limit.excess(space, costs[0]) > 0
        for number, cost in enumerate(costs if space.coded else costs[:1]):
            seconds = step_seconds(space, cost, prices)
            seconds[excluded] = np.inf
            for limit in wanted:
                if limit.by_chain:
                    seconds[limit.excess(space, cost) > 0] = np.inf
            if len(seconds):
                place = int(seconds.argmin())
                self.places.append((place, float(seconds[place])))
            better = seconds < self.seconds
            self.seconds[better] = seconds[better]
            self.chain[better] = number

    def ranked(self, count: int) -> list[tuple[float, int]]:
        """Seconds and place of the least candidates, least first; equal ones by place."""
        count = min(count, len(self.seconds))
        if not count:
            return []
        places = np.argpartition(self.seconds, count - 1)[:count]
        return sorted((float(self.seconds[p]), int(p)) for p in places if np.isfinite(self.seconds[p]))

    def by_first(self, cuts: int) -> Seconds:
        """The least seconds for each first cut."""
        least: Seconds = np.full(cuts, np.inf)
        np.minimum.at(least, self.space.first, self.seconds)
        return least


class _Ranking:
    """Candidates as choices, without those that `split` refuses."""

    def __init__(self, known: Profile, costs: Sequence[ChainCost], prices: Prices) -> None:
        self._known, self._costs, self._prices = known, costs, prices
        self._allowed: dict[tuple[str, ...], bool] = {}
        self._whole_checked = False

    def best_of(self, found: Sequence[_Best], count: int) -> list[Choice]:
        """The least ``count`` choices of some modes, each pair of cuts once."""
        listed, every = _LISTED, max((len(one.seconds) for one in found), default=0)
        while True:
            ranked = sorted((s, order, p) for order, one in enumerate(found) for s, p in one.ranked(listed))
            chosen: list[Choice] = []
            for seconds, order, place in ranked:
                one = found[order]
                if len(chosen) < count and self._splits(one.space, place):
                    chosen.append(self._choice(one.space, place, int(one.chain[place]), seconds))
            if chosen or listed >= every:
                return chosen
            listed *= 8  # all of them are refused: look further

    def by_chain(self, found: Sequence[_Best]) -> tuple[Choice, ...]:
        """The best choice with each chain, least first, where `split` takes it."""
        choices = []
        for number in range(len(self._costs)):
            split = [(one.places[number][1], one.space, one.places[number][0]) for one in found
                     if one.space.coded and one.places]  # fmt: skip
            for seconds, space, place in sorted(split, key=lambda item: item[0]):
                if np.isfinite(seconds) and self._splits(space, place):
                    choices.append(self._choice(space, place, number, seconds))
                    break
        return tuple(sorted(choices, key=lambda choice: choice.seconds))

    def _names(self, space: Candidates, place: int) -> tuple[int, ...]:
        numbers = (int(space.first[place]), int(space.last[place]))
        return numbers[: space.calls]

    def _splits(self, space: Candidates, place: int) -> bool:
        names = tuple(self._known.cuts[number].name for number in self._names(space, place))
        if names not in self._allowed:
            try:
                if names:
                    check_cuts(self._known.program, names, boundaries_only=self._whole_checked)
                    self._whole_checked = self._known.state_apart
                self._allowed[names] = True
            except SplitError:
                self._allowed[names] = False
        return self._allowed[names]

    def _choice(self, space: Candidates, place: int, chain: int, seconds: float) -> Choice:
        numbers, cost = self._names(space, place), self._costs[chain]
        parts, nbytes = parts_of(space, place, cost, self._prices)
        names = tuple(self._known.cuts[number].name for number in numbers)
        macs = device_macs(self._known, numbers)
        return Choice(space.mode, names, numbers, cost.name, cost.codecs, seconds, parts, nbytes, macs)


def _modes(modes: Sequence[str]) -> Sequence[str]:
    asked = (modes,) if isinstance(modes, str) else tuple(modes)
    unknown = [mode for mode in asked if mode not in MODES]
    if unknown or not asked:
        raise PlanError(f"Expected modes of {', '.join(MODES)}; found {modes!r}. Name one or more of them.")
    return asked


def link_of(link: Link | str | None) -> Link | None:
    """A link given as such, by its name in `LINKS`, or None for none. Raises `PlanError` for anything else."""
    if isinstance(link, str):
        if link not in LINKS:
            raise PlanError(f"Expected a link of {', '.join(LINKS)}, found {link!r}.{suggest(link, LINKS)}")
        return LINKS[link]
    if link is not None and not isinstance(link, Link):
        raise PlanError(f"Expected a link as se.Link(...), its name or None; found {type(link).__name__}.")
    return link
