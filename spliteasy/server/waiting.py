"""Threads that wait for their peers, and who has to give one back when others need it: the slowest.

A request has a thread from its first byte to the last of its answer. Whoever sends half a request, or reads half an
answer, would keep that thread for as long as a timeout allows, and a few such peers would keep them all. So the bytes
of every connection are counted, and while others wait for a thread those that stall are cut, the slowest first. A
device that is cut makes its call again; one whose link is only slow is left alone, however many wait.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from cheroot.makefile import StreamReader, StreamWriter

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["Peer", "Reader", "Relief", "Writer"]

_GRACE, _LEAST_GRACE = 1.0, 0.3
"""Seconds that a request has at least; less, down to the second number, the more connections wait for a thread."""

_STALLED = 10_000
"""Bytes a second below which a peer that sends is said to stall: a link of less than 80 kbit/s would be taken for one
that does, where threads are short."""

_ROOM_GRACE = 2.0
"""Seconds that a request has at least where there is no room for another body."""

_SILENCE = 20.0
"""Seconds without a byte after which a peer that takes is said to stall. The system takes megabytes for it at once, and
no more until it has sent them."""

_MEMORY = 1.0
"""Seconds after which bytes count for 1/e of what they did."""

_PAUSE = 0.05


class Peer:
    """What is known of a connection's other end: since when its request is under way, how many bytes a second it moves,
    and whether a thread waits now for what it is sending, or for its taking what is sent to it."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.is_sending = self.is_taking = False
        self.begin()

    def begin(self) -> None:
        """Another request."""
        self.begun = self._counted = time.monotonic()
        self._rate = 0.0

    def moved(self, count: int) -> None:
        """So many bytes more."""
        now = time.monotonic()
        self._rate = self.rate(now) + count / _MEMORY
        self._counted = now

    def rate(self, now: float) -> float:
        """Bytes a second: an exponentially weighted mean, in which what was a while ago counts for little."""
        return self._rate * math.exp((self._counted - now) / _MEMORY)

    def stalls(self, now: float, grace: float) -> bool:
        """Whether a thread waits for it in vain; it has ``grace`` seconds to show that it sends."""
        if self.is_taking:
            return now - self._counted > _SILENCE
        age = now - self.begun
        if not self.is_sending or age <= grace:
            return False
        return self.rate(now) < _STALLED * -math.expm1(-age / _MEMORY)  # the mean counts from nothing

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        """Something is sent to it within the block."""
        self.is_taking = True
        try:
            yield
        finally:
            self.is_taking = False

    def cut(self) -> None:
        """End the connection, whoever waits for it. Also below TLS, whose own farewell would wait."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Counted(socket.SocketIO):
    """A socket's bytes, counted for its peer."""

    def __init__(self, connected: socket.socket, mode: Literal["rb", "wb"], peer: Peer) -> None:
        super().__init__(connected, mode)
        self._peer = peer

    def readinto(self, place: WriteableBuffer) -> int | None:
        self._peer.is_sending = True
        try:
            count = super().readinto(place)
        finally:
            self._peer.is_sending = False
        self._peer.moved(count or 0)
        return count

    def write(self, data: ReadableBuffer) -> int | None:
        with self._peer.taking():
            count = super().write(data)
        self._peer.moved(count or 0)
        return count


class Reader(StreamReader):
    """Cheroot's file over a socket, for reading, whose bytes are counted."""

    def __init__(self, connected: socket.socket, size: int, peer: Peer) -> None:
        super(StreamReader, self).__init__(_Counted(connected, "rb", peer), size)
        self.bytes_read = 0


class Writer(StreamWriter):
    """The same for writing."""

    def __init__(self, connected: socket.socket, size: int, peer: Peer) -> None:
        super(StreamWriter, self).__init__(_Counted(connected, "wb", peer), size)
        self.bytes_written = 0


class Relief:
    """Cuts peers that stall while ``queued`` connections wait for a thread, and where no room is left (`is_full`)."""

    def __init__(self, queued: Callable[[], int]) -> None:
        self._queued, self._needed, self._ended = queued, threading.Event(), False
        self._peers: set[Peer] = set()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def serving(self, peer: Peer) -> Iterator[None]:
        """A thread has the peer's connection within the block."""
        self._peers.add(peer)
        try:
            yield
        finally:
            self._peers.discard(peer)

    def begin(self) -> None:
        """Connections wait for a thread, or may."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="relief", daemon=True)
            self._thread.start()
        self._needed.set()

    def is_full(self) -> None:
        """There is no room for a body: cut those that hold room and make nothing of it."""
        now = time.monotonic()
        for peer in list(self._peers):
            if peer.is_sending and peer.stalls(now, _ROOM_GRACE):
                peer.cut()

    def end(self) -> None:
        """Nobody needs a thread any more."""
        self._ended = True
        self._needed.set()

    def _run(self) -> None:
        while True:
            self._needed.wait()
            self._needed.clear()
            while not self._ended and (queued := self._queued()):
                self._cut_slowest(queued)
                time.sleep(_PAUSE)
            if self._ended:
                return

    def _cut_slowest(self, queued: int) -> None:
        """Make room for so many that wait."""
        now, grace = time.monotonic(), max(_LEAST_GRACE, _GRACE / queued)
        stalling = [peer for peer in list(self._peers) if peer.stalls(now, grace)]
        for peer in sorted(stalling, key=lambda peer: peer.rate(now))[:queued]:
            peer.cut()
