"""Every call of a session takes effect once, however often it arrives.

The device numbers its calls. One that arrives again, because its answer was lost, is answered as before without being
computed; one that is older than the newest is late, nobody waits for it, and it is refused. A number that was skipped
is a call that the device gave up before it arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from spliteasy.errors import OrderError, SplitEasyError
from spliteasy.wire import Frame

__all__ = ["Ledger"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Answered:
    number: int | None
    digest: str
    answer: Frame | SplitEasyError

    def again(self) -> Frame:
        if isinstance(self.answer, SplitEasyError):
            raise self.answer
        return self.answer


class Ledger:
    """The newest number of a session's calls, and what the calls of the step in hand were answered.

    A call without a number is known by its step and phase alone.
    """

    def __init__(self) -> None:
        self.again = 0
        """How many calls came again and were answered as before."""
        self._newest = 0
        self._begun: int | None = None
        self._step = -1
        self._answered: dict[str, _Answered] = {}

    def once(self, number: int | None, digest: str, step: int, phase: str, work: Callable[[], Frame]) -> Frame:
        """What ``work`` returned or raised for this call, the first time. Raises `OrderError` for another body under
        the same call, and for a late one."""
        answered = self._answered.get(phase) if step == self._step else None
        if answered is not None and number in (None, answered.number):
            if digest != answered.digest:
                raise OrderError(
                    f"Expected the {phase} of step {step} as it came before under the same call, found another body. "
                    "Send the same bytes again, or give the step up and send it as a new call.",
                    step,
                    phase,
                )
            self.again += 1
            return answered.again()

        def answer() -> _Answered:
            if phase == "forward":
                self.forget()
            try:
                return _Answered(number, digest, work())
            except OrderError:
                raise
            except SplitEasyError as error:
                if number is None:  # without one, a step that is begun anew and a call made again look alike
                    self.forget()
                    raise
                return _Answered(number, digest, error.with_traceback(None))

        # The calls of one step may be under way together: one may arrive again after later ones were answered.
        began = self._begun if step == self._step and phase != "forward" else None
        found = self._unless_late(number, answer, self._newest if began is None else began)
        self._step, self._answered[phase] = step, found
        if phase == "forward":
            self._begun = number
        return found.again()

    def harmless(self, number: int | None, work: Callable[[], T]) -> T:
        """What ``work`` returns for a call that may be computed again without harm. Raises `OrderError` for a late
        one."""
        return self._unless_late(number, work, self._newest)

    def _unless_late(self, number: int | None, work: Callable[[], T], least: int) -> T:
        before = self._newest
        if number is not None and (number < least or self._is_answered(number)):
            raise OrderError(f"Expected a call after number {least}, found number {number}: it was given up meanwhile.")
        self._newest = max(before, number or 0)
        try:
            return work()
        except OrderError:
            self._newest = before  # refused as it stands: once the device has caught up it may come again
            raise

    def forget(self) -> None:
        """Drop the answers: their step is finished or was given up."""
        self._answered, self._begun = {}, None

    def _is_answered(self, number: int) -> bool:
        return any(answered.number == number for answered in self._answered.values())
