"""How the server treats a connection: a step's calls follow each other closely, so each costs as few hops as can be."""

from __future__ import annotations

import io
import re
import select
from collections.abc import Sequence
from typing import Protocol

from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.wsgi import Server

from spliteasy.wire import empty_buffer

__all__ = ["StepCall", "StepConnection", "StepServer"]

_LINGER = 0.05
_JOINED = 1 << 16
_SLICE = 1 << 20
_STEP = re.compile(
    rb"PUT /v1/sessions/(?P<session>[A-Za-z0-9_\-]+)/steps/(?P<step>[0-9]{1,18})/(?P<phase>forward|backward) "
    rb"HTTP/1\.1\r\nHost: [!-~]+\r\nContent-Length: (?P<length>[0-9]{1,11})\r\n"
    rb"Authorization: Bearer (?P<token>[!-~]+)\r\n(?:Call: (?P<call>[!-~]{1,18} [!-~]{1,22})\r\n)?\r\n"
)


class _Request(HTTPRequest):
    """Sends the head of an answer with the first piece of its body: one packet for a small answer, not two."""

    _head = b""

    def send_headers(self) -> None:
        names = {name.lower(): value for name, value in self.outheaders}
        if self.method == b"HEAD" or not 0 < int(names.get(b"content-length", 0)) <= _JOINED:
            super().send_headers()
            return
        connection, held = self.conn.wfile, io.BytesIO()
        self.conn.wfile = held
        try:
            super().send_headers()
        finally:
            self.conn.wfile = connection
        self._head = held.getvalue()

    def write(self, chunk: bytes) -> None:
        if self._head:
            chunk, self._head = self._head + chunk, b""
        super().write(chunk)


class StepCall(Protocol):
    """What answers a call of a step: status line and headers, then the body in pieces."""

    max_body: int

    def __call__(
        self, session: str, token: str, step: int, phase: str, stated: str | None, body: memoryview
    ) -> tuple[bytes, Sequence[bytes | memoryview]]:
        """Run ``phase`` of ``step``, a call as its header ``stated`` it; errors are answers too."""


class StepConnection(HTTPConnection):
    """Waits a moment for the next request on the same thread, before it goes back among the idle connections.

    A waiting thread costs nothing, and the next call of a step is spared being found, queued and handed out again. A
    step's call that looks exactly as our own client writes it goes to the server's ``step_call`` at once, its body in
    one buffer: a general parser and WSGI cost 0.2 ms, twice a step. Everything else is left to them.
    """

    RequestHandlerClass = _Request
    rbufsize = 1 << 17

    def communicate(self) -> bool:
        """Answer the requests that follow closely; whether to keep the connection. One that says nothing takes no
        thread for longer."""
        while select.select([self.socket], [], [], _LINGER)[0]:
            kept = self._step()
            if kept is None:
                kept = super().communicate()  # type: ignore[no-untyped-call]
            if not kept:
                return False
        return True

    def _step(self) -> bool | None:
        """Answer a step's call: whether to keep the connection; None if it is another request, of which nothing was
        read."""
        call: StepCall = self.server.step_call
        try:
            head = _STEP.match(self.rfile.peek())
            if head is None or int(head["length"]) > call.max_body:
                return None
            self.rfile.read(head.end())
            body, filled = empty_buffer(int(head["length"])), 0
            while filled < len(body):
                count = self.rfile.readinto(body[filled:])
                if not count:
                    return False
                filled += count
            session, token, phase = (head[name].decode() for name in ("session", "token", "phase"))
            stated = head["call"].decode() if head["call"] is not None else None
            top, pieces = call(session, token, int(head["step"]), phase, stated, body)
            if sum(map(len, pieces)) <= _JOINED:
                self.socket.sendall(b"".join([top, *pieces]))
            else:
                for piece in [top, *pieces]:
                    for start in range(0, len(piece), _SLICE):  # a timeout is for one sendall, and a link may be slow
                        self.socket.sendall(piece[start : start + _SLICE])
        except OSError:  # the client is gone, or fell silent in mid-body
            return False
        return True


class StepServer(Server):
    """Cheroot's WSGI server, with connections that hand a step's calls to ``step_call``."""

    ConnectionClass = StepConnection
    nodelay = True
    step_call: StepCall
