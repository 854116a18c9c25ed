"""Calls that do not wait for the answers to those before them, on one connection (RFC 9112, section 9.3.2).

The server answers in order. A thread writes, another reads, so that device, link and server work at once; the training
loop takes the answers one by one. When the connection is lost, all calls without an answer are made again under their
numbers, in order.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from spliteasy.calling import FLEETING, Caller, Patience, strange, unwrapped
from spliteasy.errors import SplitEasyError
from spliteasy.http1 import Answer
from spliteasy.link import Link
from spliteasy.shaping import Lane

__all__ = ["Pipe", "PipedCall"]

T = TypeVar("T")

_SLICE = 1 << 18


@dataclass
class PipedCall:
    """A call on its way: ``round_trip`` are the seconds that an emulated link takes for nothing; ``sent`` and
    ``received`` count its bytes, those of attempts that failed too."""

    number: int
    path: str
    pieces: Sequence[bytes | memoryview]
    round_trip: float = 0.0
    put: float = 0.0
    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class _Arrived:
    answer: Answer
    when: float


class Pipe:
    """The calls of a step that are under way. With a ``link``, bytes arrive when they would have crossed it."""

    def __init__(self, caller: Caller, timeout: float, link: Link | None) -> None:
        self._caller, self._timeout, self._link = caller, timeout, link
        self._waiting: deque[PipedCall] = deque()
        self._held: _Arrived | None = None
        self._run: _Run | None = None
        self._patience: Patience | None = None

    @property
    def is_free(self) -> bool:
        """Whether what is put now is next, or next but one: what waits here would be in the way of an answer to an
        answer."""
        return self._run is None or self._run.unsent <= 1

    @property
    def first(self) -> int:
        """The number of the first call that has no answer."""
        return self._waiting[0].number

    def put(self, call: PipedCall) -> None:
        """Make a call, and do not wait."""
        self._waiting.append(call)
        if self._run is None:
            self._begin()
        else:
            self._run.put(call)

    def take(self, wait: bool) -> tuple[PipedCall, Answer] | None:
        """The answer to the first call that has none yet; None if it is not there and none is to be waited for, or
        if a call has just been sent.

        Raises the server's error where it refuses the call, which is then still the first: to take it again is to make
        it and those after it once more, and `give_up` forgets them.
        """
        if self._run is None:
            self._begin()
        while True:
            try:
                arrived = self._arrived(wait)
                if arrived is None:
                    return None
                call, self._held = self._waiting[0], None
                answer = self._caller.checked(call.number, call.path, arrived.answer)
            except FLEETING as error:
                self._patience = self._patience or self._caller.patience()
                self._end(hard=True)
                if not self._patience.pause(error):
                    self.give_up()
                    raise unwrapped(error) from None
                self._begin()
                continue
            except SplitEasyError:
                self._end(hard=True)  # what comes after it was refused too, or is meaningless
                raise
            self._waiting.popleft()
            self._patience = None
            if not self._waiting:
                self._end(hard=False)
            return call, answer

    def give_up(self) -> None:
        """Forget all calls."""
        if self._waiting:
            self._end(hard=True)
            self._waiting.clear()
        self._patience = None

    def _arrived(self, wait: bool) -> _Arrived | None:
        assert self._run is not None
        if self._held is None:
            found = None
            while found is None:
                try:
                    found = self._run.arrived.get(block=wait)
                except queue.Empty:
                    return None
                if found is None and wait:
                    return None
            if isinstance(found, BaseException):
                raise found
            self._held = found
        early = self._held.when - time.perf_counter()
        if early > 0 and not wait:
            return None
        time.sleep(max(early, 0.0))
        return self._held

    def _begin(self) -> None:
        self._run = _Run(self._caller, self._timeout, self._link)
        for call in self._waiting:
            self._run.put(call)

    def _end(self, *, hard: bool) -> None:
        self._held = None
        if self._run is not None:
            self._run.end(hard)
            self._run = None


class _Run:
    """One connection's work: a thread that writes and one that reads, until all is answered or something fails."""

    def __init__(self, caller: Caller, timeout: float, link: Link | None) -> None:
        self._caller, self._timeout, self._link = caller, timeout, link
        self._connection = caller.connection
        self.arrived: queue.SimpleQueue[_Arrived | BaseException | None] = queue.SimpleQueue()
        """Answers in order, and None whenever a call was sent."""
        self._put = self._done = 0  # each is counted by one thread alone
        self._to_send: queue.SimpleQueue[PipedCall | None] = queue.SimpleQueue()
        self._sent: queue.SimpleQueue[PipedCall | None] = queue.SimpleQueue()
        self._duplex: _Duplex | None = None
        self._ended = False
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in (self._write, self._read)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def unsent(self) -> int:
        """Calls that are not sent yet, or not all of them."""
        return self._put - self._done

    def put(self, call: PipedCall) -> None:
        call.put = time.perf_counter()
        self._put += 1
        self._to_send.put(call)

    def end(self, hard: bool) -> None:
        """Both threads end: at once if ``hard``, and the connection with them."""
        self._to_send.put(None)
        self._ended = hard
        if hard and self._duplex is not None:
            self._duplex.shut()
        for thread in self._threads:
            thread.join()
        if self._duplex is not None:
            with contextlib.suppress(OSError):  # a server may have asked to close it
                self._duplex.socket.settimeout(self._timeout)
        if hard:
            self._connection.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            with strange():
                work()
        except OSError as error:
            self._failed(self._connection.lost("a call of a step", error))
        except BaseException as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.arrived.put(error)
        if self._duplex is not None:
            self._duplex.shut()
        self._sent.put(None)

    def _write(self) -> None:
        connected = self._connection.connected()
        self._duplex = _Duplex(connected, self._timeout)
        if self._ended:
            raise ConnectionAbortedError("the step was given up")
        lane = Lane(self._link.up_mbps) if self._link is not None else None
        size = _SLICE if lane is None else lane.piece
        while (call := self._to_send.get()) is not None:
            headers = self._caller.headed(call.number, call.pieces)
            for piece in self._connection.request("PUT", call.path, call.pieces, headers):
                for start in range(0, len(piece), size):
                    part = piece[start : start + size]
                    if lane is not None:
                        arrival = lane.arrival(len(part), call.put, call.round_trip / 2)
                        time.sleep(max(0.0, arrival - time.perf_counter()))
                    self._duplex.send(part)
                    self._connection.sent += len(part)
                    call.sent += len(part)
            self._sent.put(call)
            self._done += 1
            self.arrived.put(None)
        self._sent.put(None)

    def _read(self) -> None:
        lane = Lane(self._link.down_mbps) if self._link is not None else None
        while (call := self._sent.get()) is not None:
            duplex = self._duplex
            assert duplex is not None
            duplex.begun = None
            before = self._connection.received
            try:
                answer = self._connection.answer(duplex.socket, duplex)
            finally:
                call.received += self._connection.received - before
            began = duplex.begun or time.perf_counter()
            when = lane.arrival(call.received, began, call.round_trip / 2) if lane is not None else began
            self.arrived.put(_Arrived(answer, when))


class _Duplex:
    """A socket that two threads use, one to send and one to receive. It never blocks within a call of the system, and
    a TLS connection, whose two directions share a state, is used by one of them at a time."""

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        self.socket, self._timeout = connected, timeout
        self._lock = threading.Lock()
        self.begun: float | None = None
        connected.setblocking(False)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # what the system has taken is then nearly on its way
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _SLICE)

    def send(self, piece: bytes | memoryview) -> None:
        """All of it."""
        rest = memoryview(piece)
        while rest:
            rest = rest[self._tried(lambda rest=rest: self.socket.send(rest), writing=True) :]  # type: ignore[misc]

    def receive(self, connected: socket.socket, size: int) -> bytes:
        piece = self._tried(lambda: connected.recv(size))
        self.begun = self.begun or time.perf_counter()
        return piece

    def receive_into(self, connected: socket.socket, place: memoryview) -> int:
        return self._tried(lambda: connected.recv_into(place))

    def shut(self) -> None:
        """Wake up whoever waits."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _tried(self, work: Callable[[], T], writing: bool = False) -> T:
        while True:
            try:
                with self._lock:
                    return work()
            except BlockingIOError:
                wait_to_write = writing
            except ssl.SSLWantReadError:
                wait_to_write = False
            except ssl.SSLWantWriteError:
                wait_to_write = True
            readable, writable = ([], [self.socket]) if wait_to_write else ([self.socket], [])
            if not any(select.select(readable, writable, [], self._timeout)):
                raise TimeoutError(f"no answer within {self._timeout:g} s")
