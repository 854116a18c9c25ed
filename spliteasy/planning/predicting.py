"""The seconds of one step at cuts of one's own choice, as a plan counts them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spliteasy.device import Device
from spliteasy.errors import PlanError
from spliteasy.link import Link
from spliteasy.planning.calibration import AnyChain, calibrated
from spliteasy.planning.computer import Computer, Wire, computer_of, speed_of
from spliteasy.planning.costs import Prices, parts_of
from spliteasy.planning.result import Choice
from spliteasy.planning.search import link_of
from spliteasy.planning.space import candidates, device_macs
from spliteasy.profiling import Profile

__all__ = ["predict_step"]

_MODES = ("none", "single", "double")


def predict_step(
    profile: Profile,
    at: str | Sequence[str],
    *,
    link: Link | str | None,
    device: float | str | Device | Computer = 1.0,
    server: float | Computer = 1.0,
    chain: AnyChain = "raw",
    wire: Wire | None = None,
) -> Choice:
    """What a training step takes at these cuts with this chain: its seconds by part, and its bytes by message.

    The same prediction that `plan` compares; limits are not looked at, memory neither.

    Arguments:
        profile: of the network, made on this machine.
        at: names of cuts, one for a single split, two for a double split; none for no split.
        link, device, server, wire: as for `plan`.
        chain: of all messages, or `Codecs`.

    Raises:
        CutError: for a cut that does not exist.
        PlanError: for more than two cuts, or two that are no double split (out of order, or the input would leave the
            device); and what `plan` raises for its arguments.
        ProfileError: for a profile of another machine, torch or number of threads.
    """
    profile.require_current()
    names = (at,) if isinstance(at, str) else tuple(at)
    if len(names) > 2:
        raise PlanError(f"Expected the names of one cut or two, found {len(names)}: {', '.join(map(repr, names))}.")
    numbers = tuple(profile.cuts[name].index for name in names)
    (space,) = candidates(profile, [_MODES[len(names)]])
    found = np.flatnonzero((space.first == numbers[0]) & (space.last == numbers[-1])) if len(names) == 2 else numbers
    if not len(found) and names:
        raise PlanError(
            f"Expected two cuts of a double split, the second behind the first and the first at "
            f"{profile.cuts[min(profile.first_private, len(profile.cuts) - 1)].name!r} or later, where the input is no "
            f"longer sent; found {names[0]!r} and {names[1]!r}."
        )
    place = int(found[0]) if names else 0
    (cost,) = calibrated(profile, [chain], progress=False)
    prices = Prices.of(link_of(link), computer_of(device, profile).speed, speed_of(server), wire or Wire())
    parts, nbytes = parts_of(space, place, cost, prices)
    macs = device_macs(profile, numbers)
    return Choice(space.mode, names, numbers, cost.name, cost.codecs, sum(parts.values()), parts, nbytes, macs)
