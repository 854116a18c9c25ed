"""The one thread of a process on which all torch work runs.

Each thread that computes would get an OpenMP pool of its own, and the pools disturb each other: a step of a network
takes twice as long. A queue and a lock hand the work over; an executor's futures cost three times as much.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["ComputeThread"]

T = TypeVar("T")


class ComputeThread:
    """Runs one piece of work at a time, with ``threads`` of OpenMP's (None: as torch chooses)."""

    def __init__(self, threads: int | None = None) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], _Outcome]] = queue.SimpleQueue()
        self._threads = threads
        threading.Thread(target=self._run, name="compute", daemon=True).start()

    def __call__(self, work: Callable[[], T]) -> T:
        """Do ``work`` on the thread and return what it returns, or raise what it raises."""
        outcome = _Outcome()
        self._work.put((work, outcome))
        outcome.done.acquire()
        if outcome.error is not None:
            try:
                raise outcome.error
            finally:
                outcome.error = None  # a traceback that holds its own error would be freed late
        result: T = outcome.value
        return result

    def later(self, work: Callable[[], None]) -> None:
        """Do ``work``, which raises nothing, on the thread, and do not wait for it."""
        self._work.put((work, _Outcome()))

    def _run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while True:
            work, outcome = self._work.get()
            try:
                outcome.value = work()
            except BaseException as error:
                outcome.error = error
            outcome.done.release()
            del work, outcome  # a frame's memory is not kept until the next call


class _Outcome:
    """What became of a piece of work, once ``done`` can be acquired."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()
