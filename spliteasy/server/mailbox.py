"""Answers that are fetched: a session's newest is kept until the device asks, and a notice says that it is there.

Notices are server-sent events (WHATWG HTML, section 9.2) on a connection that the device opened and holds. The thread
that has the answer writes the notice itself, without waiting: an event is a few dozen bytes, and a connection that does
not take them at once is closed, to be opened again by its device. So a stream of events takes no thread at all.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from spliteasy.errors import BusyError, ServerError, SplitEasyError
from spliteasy.heads import Call
from spliteasy.wire import Frame

__all__ = ["KEEP_ALIVE_SECONDS", "EventStream", "Mailbox"]

KEEP_ALIVE_SECONDS = 15.0
"""How often a comment goes over a stream that has nothing to say, so that nothing in between takes it for dead."""

_MOST_BEGUN = 4


class EventStream:
    """A connection over which a session's events go."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket, self._lock = connected, threading.Lock()
        connected.setblocking(False)
        _Pulse.add(self)

    def send(self, data: bytes) -> None:
        """Send it, or close the stream if it cannot be sent at once and whole."""
        with self._lock:
            try:
                whole = self._socket.send(data) == len(data)
            except OSError:
                whole = False
        if not whole:
            self.close()

    def close(self) -> None:
        """The device will see the end of the stream. Twice does no harm."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class _Pulse:
    """Comments for all streams of a process, from one thread that begins with the first stream."""

    _streams: ClassVar[weakref.WeakSet[EventStream]] = weakref.WeakSet()
    _lock = threading.Lock()
    _thread: threading.Thread | None = None

    @classmethod
    def add(cls, stream: EventStream) -> None:
        with cls._lock:
            cls._streams.add(stream)
            if cls._thread is None:
                cls._thread = threading.Thread(target=cls._beat, name="keep-alive", daemon=True)
                cls._thread.start()

    @classmethod
    def _beat(cls) -> None:
        while True:
            time.sleep(KEEP_ALIVE_SECONDS)
            with cls._lock:
                streams = list(cls._streams)
            for stream in streams:
                stream.send(b": keep-alive\n\n")
            del streams


@dataclass(frozen=True)
class _Letter:
    """A call that was accepted, and what became of it: None while it is computed."""

    call: Call
    answer: Frame | SplitEasyError | None = None

    @property
    def event(self) -> bytes:
        name = type(self.answer).__name__ if isinstance(self.answer, SplitEasyError) else "answer"
        return f"id: {self.call.number}\nevent: {'answer' if name == 'answer' else 'error'}\ndata: {name}\n\n".encode()


class Mailbox:
    """The newest accepted call of a session, and the stream that is told of its answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._letter: _Letter | None = None
        self._stream: EventStream | None = None
        self._begun = 0

    def begin(self, call: Call, later: Callable[[Callable[[], None]], None], work: Callable[[], Frame]) -> None:
        """Have ``work`` done by ``later``, and its answer kept; not a second time while it is under way.

        Raises `BusyError` if too much of this session's is under way already."""
        with self._lock:
            letter = self._letter
            if letter is not None and letter.call == call and letter.answer is None:
                return
            if self._begun >= _MOST_BEGUN:
                raise BusyError(
                    f"Expected one call of a session at a time, found {self._begun} under way. Wait for their answers."
                )
            self._begun += 1
            if letter is None or call.number >= letter.call.number:  # an older one is late: nobody waits for it
                self._letter = _Letter(call)

        def deliver() -> None:
            answer: Frame | SplitEasyError
            try:
                answer = work()
            except SplitEasyError as error:
                answer = error.with_traceback(None)
            except Exception as error:
                answer = ServerError(f"The server failed: {type(error).__name__}: {error}")
            self._put(call, answer)

        later(deliver)

    def take(self, number: int) -> Frame | bool:
        """The answer to a call, any number of times; True while it is computed, False if nothing is known of it.
        Raises the error that it was answered."""
        with self._lock:
            letter = self._letter
        if letter is None or letter.call.number != number:
            return False
        if isinstance(letter.answer, SplitEasyError):
            raise letter.answer.with_traceback(None)
        return True if letter.answer is None else letter.answer

    def open(self, stream: EventStream, seen: int) -> None:
        """Tell ``stream`` of answers, in the place of the one before, and at once of one after number ``seen``."""
        with self._lock:
            before, self._stream = self._stream, stream
            if self._letter is not None and self._letter.answer is not None and self._letter.call.number > seen:
                stream.send(self._letter.event)
        if before is not None:
            before.close()

    def close(self) -> None:
        """The session left the memory: end the stream, forget the answer."""
        with self._lock:
            stream, self._stream, self._letter = self._stream, None, None
        if stream is not None:
            stream.close()

    def _put(self, call: Call, answer: Frame | SplitEasyError) -> None:
        with self._lock:
            self._begun -= 1
            if self._letter is None or self._letter.call != call:
                return
            self._letter = _Letter(call, answer)
            if self._stream is not None:
                self._stream.send(self._letter.event)
