"""A link at the socket: bytes leave and arrive at its bandwidth, half a round trip late each way.

A token bucket says when the next bytes may pass (as Linux's ``tc tbf`` does): tokens come in at the bandwidth, a byte
takes one. Requests are sent through one and answers received through another, so that the server sees a request grow as
slowly as over the link; the device holds what it may not have yet in the kernel's buffers.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable

from spliteasy.link import Link

__all__ = ["Crossing", "Lane", "TokenBucket"]

_PACKET = 1460
"""The payload of a packet on Ethernet: no piece is smaller."""

_PIECE_SECONDS = 0.002
_DEPTH_SECONDS = 0.05
_LARGEST = 1 << 18
_SPUN = 0.0002
"""Seconds before the end of a wait from which on the clock is watched."""


def sleep_precisely(seconds: float) -> None:
    """Sleep, and watch the clock for the last `_SPUN` seconds: a system wakes a sleeper some 0.1 ms late, which is much
    of a call on a fast link."""
    end = time.perf_counter() + seconds
    if seconds > _SPUN:
        time.sleep(seconds - _SPUN)
    while time.perf_counter() < end:
        pass


def _piece(bytes_a_second: float) -> int:
    """How many bytes are sent at a time."""
    return int(min(max(bytes_a_second * _PIECE_SECONDS, _PACKET), _LARGEST))


class TokenBucket:
    """Lets bytes pass at ``mbps`` megabits a second; empty at ``since``, which is now unless given.

    It may go into debt, and waits until that is paid: n bytes from an empty bucket take n·8/(mbps·10⁶) seconds, however
    they are divided. What a late wake-up loses is made up for by at most the bucket's depth, 50 ms of the bandwidth:
    a real link goes on sending from the kernel's buffers meanwhile.

    ``clock``, ``sleep`` and ``since`` are in seconds.
    """

    def __init__(
        self,
        mbps: float,
        since: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = sleep_precisely,
    ) -> None:
        self.bytes_a_second = mbps * 1e6 / 8
        self.piece = _piece(self.bytes_a_second)
        self.depth = max(self.bytes_a_second * _DEPTH_SECONDS, 2.0 * self.piece)
        self._clock, self._sleep = clock, sleep
        self._tokens, self._since = 0.0, clock() if since is None else since

    def take(self, count: int) -> None:
        """Wait until ``count`` bytes may have passed."""
        if self.bytes_a_second == math.inf:
            return
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._since) * self.bytes_a_second, self.depth) - count
        self._since = now
        if self._tokens < 0:
            self._sleep(-self._tokens / self.bytes_a_second)


class Crossing:
    """One call over ``link``: a request up and its answer down. Without a link nothing waits.

    ``round_trip`` is in seconds; a message is late by half of it.
    """

    def __init__(self, link: Link | None, round_trip: float = 0.0) -> None:
        self._link, self._round_trip = link, round_trip
        self._up: TokenBucket | None = None
        self._down: TokenBucket | None = None

    def seconds(self, sent: int, received: int) -> float:
        """What the link takes for these bytes, round trip included; 0 without a link."""
        return 0.0 if self._link is None else self._link.seconds(sent, received, calls=0) + self._round_trip

    def told(self, count: int) -> None:
        """Wait as long as a notice of ``count`` bytes from the server takes, which nobody asked for."""
        if self._link is not None:
            sleep_precisely(self._round_trip / 2 + self._link.seconds(0, count, calls=0))

    def send(self, connected: socket.socket, piece: bytes | memoryview) -> None:
        """Send a piece of the request; its last byte leaves when the link would have carried it."""
        if self._link is None:
            connected.sendall(piece)
            return
        if self._up is None:  # the first bytes of the request
            self._up = TokenBucket(self._link.up_mbps, self._late())
        for start in range(0, len(piece), self._up.piece):
            part = piece[start : start + self._up.piece]
            self._up.take(len(part))
            connected.sendall(part)

    def receive(self, connected: socket.socket, size: int) -> bytes:
        """Up to ``size`` bytes, empty at the end, as `socket.recv`."""
        piece = connected.recv(self._most(size))
        self._arrived(len(piece))
        return piece

    def receive_into(self, connected: socket.socket, place: memoryview) -> int:
        """The number of bytes received into ``place``, 0 at the end, as `socket.recv_into`."""
        count = connected.recv_into(place[: self._most(len(place))])
        self._arrived(count)
        return count

    def _most(self, size: int) -> int:
        if self._link is None:
            return size
        return min(size, self._down.piece if self._down is not None else _PACKET)

    def _arrived(self, count: int) -> None:
        if self._link is None or not count:
            return
        if self._down is None:  # the first bytes of the answer: they were half a round trip on their way
            self._down = TokenBucket(self._link.down_mbps, self._late())
        self._down.take(count)

    def _late(self) -> float:
        """Wait for half a round trip; when that was over, without what the system took to wake up."""
        over = time.perf_counter() + self._round_trip / 2
        sleep_precisely(self._round_trip / 2)
        return over


class Lane:
    """One direction of a link that carries one message after the other without a pause: what is put on it when it is
    free passes at ``mbps``, and arrives when it has passed and travelled on."""

    def __init__(self, mbps: float) -> None:
        self._bytes_a_second, self._free = mbps * 1e6 / 8, 0.0
        self.piece = _piece(self._bytes_a_second)

    def arrival(self, count: int, put: float, travelling: float) -> float:
        """When ``count`` bytes have arrived that were put on it at ``put`` and travel for so many seconds."""
        self._free = max(self._free, put) + count / self._bytes_a_second
        return self._free + travelling
