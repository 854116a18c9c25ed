"""One job at a time on a thread of its own, that can be cancelled. No widgets."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable

__all__ = ["Worker", "home"]


class Worker:
    """Runs jobs one after the other. A job is a function to run and one that asks it to stop.

    A job that was cancelled may still finish the operation it is in; the next one waits for that on its own thread.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._cancel: Callable[[], None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job runs that was not cancelled."""
        return self._cancel is not None and self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None], cancel: Callable[[], None]) -> None:
        """Run ``job``; ``cancel`` asks it to stop. The caller sees to it that the worker is not busy."""
        before, self._cancel = self._thread, cancel

        def run() -> None:
            if before is not None:
                before.join()
            job()

        self._thread = threading.Thread(target=run, daemon=True, name="spliteasy-explorer")
        self._thread.start()

    def cancel(self) -> bool:
        """Ask the running job to stop; whether there was one."""
        running, cancel, self._cancel = self.busy, self._cancel, None
        if running and cancel is not None:
            cancel()
        return running

    def join(self, timeout: float | None = None) -> None:
        """Wait for the job that runs, if any."""
        if self._thread is not None:
            self._thread.join(timeout)


def home() -> Callable[[Callable[[], None]], None]:
    """A function by which another thread has something run here: on the event loop that runs now, as part of what is
    being answered, so that a kernel takes it for a callback of the same shell. Without an event loop there is no front
    end, and any thread will do."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return lambda call: call()
    context = contextvars.copy_context()

    def run(call: Callable[[], None]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call, context=context)

    return run
