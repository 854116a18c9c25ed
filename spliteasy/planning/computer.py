"""What a plan has to know of a device and of the calls between two processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from spliteasy.device import DEVICES, Device
from spliteasy.errors import PlanError, suggest
from spliteasy.memory import MemoryProfile
from spliteasy.profiling import Profile

__all__ = ["Computer", "MemoryBetween", "Wire", "computer_of", "named_device", "speed_of"]

MemoryBetween = Callable[[int, int], float]
"""Takes two cuts by number, returns the bytes that training the segment between them takes at its peak; the last cut
of a network stands for its end."""


class HasSpeed(Protocol):
    """Anything with a speed, such as a device."""

    @property
    def speed(self) -> float:
        """Relative to this machine."""


@dataclass(frozen=True)
class Computer:
    """A device (or server) for a plan.

    Arguments:
        speed: relative to this machine, on which the profile was made: 0.1 takes ten times as long.
        memory_bytes: what training may take of its memory; infinity for no limit.
        segment_memory: the peak bytes of training a segment between two cuts. Without it memory is not looked at.

    Raises:
        PlanError: for a speed or memory that is not above zero.
    """

    speed: float = 1.0
    memory_bytes: float = math.inf
    segment_memory: MemoryBetween | None = None

    def __post_init__(self) -> None:
        speed_of(self)
        if not _is_number(self.memory_bytes) or not self.memory_bytes > 0:
            raise PlanError(
                f"Expected a device with memory, a number of bytes above zero; found {self.memory_bytes!r}. Give the "
                "bytes that an app may take there, or leave it out for no limit."
            )


@dataclass(frozen=True)
class Wire:
    """What a call costs between two processes beside the link: Python, HTTP, sockets and copies of bytes.

    ``call_seconds`` comes once a call, ``byte_seconds`` for each byte of a frame. The defaults were measured by
    ``benchmarks/plan.py`` between two processes over loopback, on a 2-core x86-64 machine (five runs gave 1.3 to 2.1 ms
    and up to 0.5 ns); it measures yours.
    """

    call_seconds: float = 1.5e-3
    byte_seconds: float = 0.3e-9


def named_device(device: float | str | HasSpeed) -> Device | None:
    """The `Device` that was given, itself or by its name in `DEVICES`; None for a speed or a `Computer`.

    Raises `PlanError` for a name that is none.
    """
    if isinstance(device, str):
        if device not in DEVICES:
            raise PlanError(
                f"Expected a device, one of {', '.join(DEVICES)}, or a speed; found {device!r}."
                f"{suggest(device, DEVICES)}"
            )
        return DEVICES[device]
    return device if isinstance(device, Device) else None


def computer_of(device: float | str | HasSpeed, profile: Profile) -> Computer:
    """What a plan needs of a device: given as a speed, a `Device` or its name in `DEVICES`, or ready made.

    A `Device` has memory: what an app gets of it, against the predicted peak of segments trained with plain SGD
    (`spliteasy.memory`). Raises `PlanError` for a name or a speed that is none.
    """
    if isinstance(device, Computer):
        return device
    known = named_device(device)
    if known is None:
        return Computer(speed_of(device))  # type: ignore[arg-type]
    memory = MemoryProfile(profile.program)
    before, after = memory.before(), memory.after()
    places = [profile.program.train.position[cut.name] for cut in profile.cuts]

    def segment_memory(lo: int, hi: int) -> float:
        return before[places[hi]] if lo == 0 else after[places[lo]]

    return Computer(known.speed, known.available_bytes, segment_memory)


def speed_of(device: float | HasSpeed) -> float:
    """A speed given as a number or by something that has one. Raises `PlanError` unless it is above zero."""
    speed: Any = device if isinstance(device, int | float) else getattr(device, "speed", None)
    if not _is_number(speed) or not 0 < speed < math.inf:
        raise PlanError(
            f"Expected a device with a speed above zero, relative to this machine; found {speed!r}. Give 1.0 for this "
            "machine, 0.1 for one ten times slower."
        )
    return float(speed)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
