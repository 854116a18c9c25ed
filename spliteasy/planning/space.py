"""Every way to cut a network, with what does not depend on the chain: seconds of computing, raw bytes, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spliteasy.profiling import Profile, Seconds
from spliteasy.seeding import STATE_BYTES
from spliteasy.wire import MESSAGES, UPWARD

__all__ = ["DEVICE_SENDS", "MODES", "Candidates", "Numbers", "candidates", "device_macs"]

MODES = ("single", "double", "none")
"""A|B with the labels on the server, A|B|C with inputs and labels on the device, and all on the device."""

DEVICE_SENDS = {message: message in UPWARD for message in MESSAGES}
"""Each message, and whether it goes from the device to the server."""

_LABEL_BYTES = 8
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """The cuts that one mode allows, one place of each array a candidate.

    ``first`` and ``last`` are numbers of cuts (for no split, and where there is no second cut, that of the last cut);
    ``a``, ``b``, ``c`` the seconds of each segment on this machine; ``coded`` and ``plain`` the raw bytes that each
    message carries, of floating tensors and besides.
    """

    mode: str
    first: Numbers
    last: Numbers
    a: Seconds
    b: Seconds
    c: Seconds
    coded: dict[str, Seconds]
    plain: dict[str, Seconds]

    @property
    def calls(self) -> int:
        """Round trips of one step."""
        return {"single": 1, "double": 2, "none": 0}[self.mode]

    def cuts_of(self, message: str) -> Numbers:
        """The cut that a message crosses, of every candidate: the first, or the second for what B and C exchange."""
        return self.first if message in ("activations", "input_gradients") else self.last


def candidates(profile: Profile, modes: Sequence[str]) -> list[Candidates]:
    """The candidates of each mode, in the order of `MODES`; none of a mode that the network does not allow."""
    made = {"single": _single, "double": _double, "none": _none}
    return [made[mode](profile) for mode in MODES if mode in modes]


def device_macs(profile: Profile, numbers: Sequence[int]) -> int:
    """The multiply-accumulates of A (and C) in one sample's forward pass, cut at ``numbers``; of all for no cut."""
    first = profile.cuts[numbers[0] if numbers else len(profile.cuts) - 1]
    a = first.macs_before + (0 if numbers else first.macs_after)
    return a + (profile.cuts[numbers[1]].macs_after if len(numbers) == 2 else 0)


def _times(profile: Profile) -> tuple[Seconds, float]:
    """Seconds before each cut, and of everything; `Profile.other` is added to what the device computes."""
    times = profile.forward + profile.backward + profile.update
    return profile.before(times), float(times.sum())


def _single(profile: Profile) -> Candidates:
    before, total = _times(profile)
    count = np.arange(len(profile.cuts))
    sizes = profile.traffic.single
    drawn = profile.before(profile.draws.astype(float)) > 0
    up = sizes["activations"]
    return Candidates(
        "single",
        count,
        np.full_like(count, len(count) - 1),
        before + profile.other,
        total - before,
        np.zeros_like(before),
        {"activations": up.coded, "input_gradients": sizes["input_gradients"].coded},
        {
            "activations": up.plain + _LABEL_BYTES * profile.batch + STATE_BYTES * drawn,
            "input_gradients": sizes["input_gradients"].plain,
        },
    )


def _double(profile: Profile) -> Candidates:
    before, total = _times(profile)
    count = len(profile.cuts)
    first, last = np.triu_indices(count, 1)
    start = int(np.searchsorted(first, profile.first_private))
    first, last = first[start:], last[start:]
    drawn = profile.before(profile.draws.astype(float)) > 0
    sizes = profile.traffic.double
    places = first * count + last
    plain = {name: size.plain.ravel()[places] for name, size in sizes.items()}
    plain["activations"] = plain["activations"] + STATE_BYTES * drawn[first]
    plain["outputs"] = plain["outputs"] + STATE_BYTES * drawn[last]
    return Candidates(
        "double",
        first,
        last,
        before[first] + profile.other,
        before[last] - before[first],
        total - before[last],
        {name: size.coded.ravel()[places] for name, size in sizes.items()},
        plain,
    )


def _none(profile: Profile) -> Candidates:
    end = np.array([len(profile.cuts) - 1])
    nothing = np.zeros(1)
    return Candidates("none", end, end, np.array([profile.seconds]), nothing, nothing, {}, {})
