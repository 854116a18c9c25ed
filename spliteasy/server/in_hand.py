"""The calls that a server has in hand: counted, so that it can finish them and refuse others when it is to stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from spliteasy.errors import BusyError

__all__ = ["CallsInHand"]


class CallsInHand:
    """Threads say when they begin a call and when it is answered; another refuses new ones and waits for the last."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._hurried = False
        self.stopping = False

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def new(self) -> Iterator[None]:
        """A call is in hand within the block. Raises `BusyError` when no new ones are taken."""
        with self._block(True):
            yield

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The same around an answer that is sent, also one that refuses."""
        with self._block(False):
            yield

    @contextmanager
    def _block(self, new: bool) -> Iterator[None]:
        with self._changed:
            if new and self.stopping:
                raise BusyError(
                    "Expected a server that takes calls, found one that is stopping: it finishes those that it has, "
                    "writes the states of its sessions and ends. Call again when it was started anew."
                )
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def refuse(self) -> None:
        """Take no new calls."""
        with self._changed:
            self.stopping = True

    def wait(self) -> bool:
        """Until no call is in hand; False if it was told to `hurry`."""
        with self._changed:
            self._changed.wait_for(lambda: self._hurried or not self._count)
            return not self._hurried

    def hurry(self) -> None:
        """End all waiting."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
