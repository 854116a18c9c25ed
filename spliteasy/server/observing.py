"""What a server notices of its own work, told to its metrics and to its log."""

from __future__ import annotations

from collections.abc import Mapping

from spliteasy.server.events import EventLog
from spliteasy.server.metrics import Metrics

__all__ = ["Observer"]


class Observer:
    """Told of events by those who bring them about, on whatever thread they are."""

    def __init__(self, log: EventLog | None = None) -> None:
        self.metrics, self._log = Metrics(), log or EventLog()

    def opened(self, session: str, nbytes: int, seconds: float, again: bool = False) -> None:
        """A device opened a session with so many bytes of tensors, or asked ``again`` for one that it opened."""
        self.metrics.add("spliteasy_calls_again_total" if again else "spliteasy_sessions_opened_total")
        self._log.write("opened", session, bytes=nbytes, seconds=seconds, again=again or None)

    def closed(self, session: str) -> None:
        """A device closed its session."""
        self._log.write("closed", session)

    def arrived(self, message: str, nbytes: int) -> None:
        """A message came, whatever will become of it."""
        self.metrics.add("spliteasy_message_bytes_total", nbytes, message=message, direction="received")

    def left(self, message: str, nbytes: int) -> None:
        """A message is answered."""
        self.metrics.add("spliteasy_message_bytes_total", nbytes, message=message, direction="sent")

    def answered(
        self, session: str, step: int | None, phase: str, received: int, sent: int, seconds: float, again: bool
    ) -> None:
        """A call of a step (None: an evaluation) was answered, for the first time or ``again``."""
        self._log.write(
            "step" if step is not None else "evaluated",
            session,
            step=step,
            phase=phase,
            bytes=received,
            sent=sent,
            seconds=seconds,
            again=again or None,
        )

    def worked(self, steps: int, again: int, seconds: Mapping[str, float]) -> None:
        """So many updates were made and so many calls answered as before, and so long was spent on each phase."""
        self.metrics.add("spliteasy_steps_total", steps)
        self.metrics.add("spliteasy_calls_again_total", again)
        for phase, spent in seconds.items():
            self.metrics.add("spliteasy_phase_seconds_total", spent, phase=phase)

    def refused(
        self, error: str, status: int, session: str | None = None, step: int | None = None, phase: str | None = None
    ) -> None:
        """A call was answered with an error, given by its class."""
        self.metrics.add("spliteasy_errors_total", error=error)
        self._log.write("refused", session, step=step, phase=phase, error=error, status=status)

    def saved(self, session: str, step: int, nbytes: int, seconds: float, error: str | None = None) -> None:
        """A state was written, or could not be."""
        if error is None:
            self.metrics.add("spliteasy_states_written_total")
            self.metrics.add("spliteasy_states_bytes_total", nbytes)
        else:
            self.metrics.add("spliteasy_states_refused_total")
        self.metrics.add("spliteasy_states_seconds_total", seconds)
        self._log.write("saved", session, step=step, bytes=nbytes, seconds=seconds, error=error)

    def stopping(self, in_hand: int) -> None:
        """The server takes no new work; so many calls are in hand."""
        self._log.write("stopping", calls=in_hand)
