"""One job at a time on a thread of its own, that can be cancelled. No widgets."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Worker"]


class Worker:
    """Runs jobs one after the other. A job is a function to run and one that asks it to stop."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._cancel: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None], cancel: Callable[[], None]) -> None:
        """Run ``job``; ``cancel`` asks it to stop. The caller sees to it that none is running."""
        self._cancel = cancel
        self._thread = threading.Thread(target=job, daemon=True, name="spliteasy-explorer")
        self._thread.start()

    def cancel(self) -> bool:
        """Ask the running job to stop; whether there was one."""
        running = self.busy
        if running:
            self._cancel()
        return running

    def join(self, timeout: float | None = None) -> None:
        """Wait for the job that runs, if any."""
        if self._thread is not None:
            self._thread.join(timeout)
