"""The one thread of a process on which all torch work runs.

Each thread that computes would get an OpenMP pool of its own, and the pools disturb each other: a step of a network
takes twice as long. A queue and a lock hand the work over; an executor's futures cost three times as much.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["ComputeThread"]

T = TypeVar("T")


class ComputeThread:
    """Runs one piece of work at a time, with ``threads`` of OpenMP's (None: as torch chooses). The thread ends with
    this object."""

    def __init__(self, threads: int | None = None) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], _Outcome] | None] = queue.SimpleQueue()
        threading.Thread(target=_run, args=(self._work, threads), name="compute", daemon=True).start()
        weakref.finalize(self, self._work.put, None).atexit = False

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


class _Outcome:
    """What became of a piece of work, once ``done`` can be acquired."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()


def _run(calls: queue.SimpleQueue[tuple[Callable[[], Any], _Outcome] | None], threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    while (item := calls.get()) is not None:
        work, outcome = item
        try:
            outcome.value = work()
        except BaseException as error:
            outcome.error = error
        outcome.done.release()
        del item, work, outcome  # a frame's memory is not kept until the next call
