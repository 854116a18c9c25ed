"""The calls of steps that a server may have to be told again: those since the last state on its disk."""

from __future__ import annotations

import re
from dataclasses import dataclass

from spliteasy.wire import Frame

__all__ = ["SentSteps"]


@dataclass(frozen=True)
class _Sent:
    step: int
    phase: str
    number: int
    body: bytes


class SentSteps:
    """Copies of the frames of steps, in order; a step that was given up leaves none when it is repeated."""

    def __init__(self) -> None:
        self._calls: list[_Sent] = []

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return sum(len(call.body) for call in self._calls)

    def add(self, step: int, phase: str, number: int, frame: Frame) -> None:
        """Remember a call that is about to be made. A forward replaces all that is known of its step and later ones."""
        if phase == "forward":
            self._calls = [call for call in self._calls if call.step < step]
        self._calls.append(_Sent(step, phase, number, bytes(frame)))

    def saved(self, step: str) -> None:
        """Forget the steps up to one that is on the server's disk, as its header says."""
        if re.fullmatch(r"[0-9]{1,18}", step):
            self._calls = [call for call in self._calls if call.step > int(step)]

    def since(self, step: int | None, before: float) -> list[_Sent]:
        """The calls from the forward of ``step`` on, of numbers below ``before``; none where that forward is not
        known."""
        calls = [call for call in self._calls if step is not None and call.step >= step and call.number < before]
        return calls if calls and (calls[0].step, calls[0].phase) == (step, "forward") else []
