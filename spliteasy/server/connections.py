"""How the server treats a connection: a step's calls follow each other closely, so each costs as few hops as can be."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.wsgi import Gateway_10, Server

from spliteasy.heads import EVENT_TYPE, answer_head
from spliteasy.server.waiting import Peer, Reader, Relief, Writer
from spliteasy.wire import empty_buffer

__all__ = ["StepCall", "StepConnection", "StepServer"]

_LINGER = 0.05
_JOINED = 1 << 16
_SLICE = 1 << 20
_SILENCE, _PATIENCE = 2.0, 60.0
_LINGERING = 1 << 20
_CALL = rb"(?:Call: (?P<call>[!-~]{1,18} [!-~]{1,22})\r\n)?"
_STEP = re.compile(
    rb"PUT /v1/sessions/(?P<session>[A-Za-z0-9_\-]+)/steps/(?P<step>[0-9]{1,18})/"
    rb"(?P<phase>(?:forward|backward)(?:/[1-9][0-9]?)?) HTTP/1\.1\r\nHost: [!-~]+\r\n"
    rb"Content-Length: (?P<length>[0-9]{1,11})\r\n"
    rb"Authorization: Bearer (?P<token>[!-~]+)\r\n" + _CALL + rb"(?P<later>Prefer: respond-async\r\n)?\r\n"
)
_ANSWER = re.compile(
    rb"GET /v1/sessions/(?P<session>[A-Za-z0-9_\-]+)/calls/(?P<number>[0-9]{1,18}) "
    rb"HTTP/1\.1\r\nHost: [!-~]+\r\nContent-Length: 0\r\n"
    rb"Authorization: Bearer (?P<token>[!-~]+)\r\n" + _CALL + rb"\r\n"
)


class _Headers(dict[bytes, bytes]):
    """The headers of a request; those that say where it ends or whose it is come once."""

    _ONCE = frozenset({b"Content-Length", b"Transfer-Encoding", b"Host", b"Authorization", b"Call"})

    def __setitem__(self, name: bytes, value: bytes) -> None:
        if name in self and name in self._ONCE:
            raise ValueError(f"Expected one {name.decode()} header, found two.")
        super().__setitem__(name, value)


class _Request(HTTPRequest):
    """Sends the head of an answer with the first piece of its body: one packet for a small answer, not two.

    Where a request ends must be beyond doubt: it states one length and is not sent in chunks. What is refused before
    it comes to the application is a problem (RFC 9457) too, and a body that was not read is thrown away in pieces after
    the answer, so that the answer arrives.
    """

    _head = b""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.inheaders = _Headers()

    def read_request_headers(self) -> bool:
        if not super().read_request_headers():  # type: ignore[no-untyped-call]
            return False
        length = self.inheaders.get(b"Content-Length")
        if b"Transfer-Encoding" in self.inheaders:
            self.simple_response("411 Length Required", "Expected a stated length, found a Transfer-Encoding.")
        elif length is not None and not re.fullmatch(rb"[0-9]{1,19}", length):
            self.simple_response("400 Bad Request", f"Expected a Content-Length, found {length[:40]!r}.")
        else:
            return True
        return False

    def respond(self) -> None:
        super().respond()
        remaining = getattr(self.rfile, "remaining", 0)
        if remaining > 0 and not _discarded(self.conn, remaining):
            self.close_connection = True

    def simple_response(self, status: str, msg: str = "") -> None:
        """The answer to what is no request: a problem, after which the connection is closed."""
        code = int(status[:3])
        if code in (501, 505):  # the request is at fault
            code, status = 400, "400 Bad Request"
        detail = f"Expected a request of HTTP/1.1 as spliteasy sends them, found another: {msg or status[4:]}"
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.conn.socket.sendall(_refusal(status, "ServerError" if code >= 500 else "ProtocolError", detail))
            self.conn.socket.shutdown(socket.SHUT_WR)
            _discarded(self.conn, _LINGERING)

    def send_headers(self) -> None:
        if (b"Content-Type", EVENT_TYPE.encode()) in self.outheaders:  # it has no end, so no length and no chunks
            status: Any = self.status  # bytes, whatever the stubs say
            lines = [b"HTTP/1.1 " + status, *(name + b": " + value for name, value in self.outheaders)]
            self.conn.wfile.write(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
            self.close_connection = True
            return
        unread, self.rfile = self.rfile, None  # the parser would read the rest of a body at once, before the answer
        try:
            self._send_headers()
        finally:
            self.rfile = unread

    def _send_headers(self) -> None:
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


def _refusal(status: str, name: str, detail: str) -> bytes:
    """A problem as the whole answer, after which the connection is closed."""
    problem = {"type": f"urn:spliteasy:error:{name}", "title": name, "status": int(status[:3]), "detail": detail}
    body = json.dumps(problem).encode()
    return answer_head(status, "application/problem+json", len(body), {"Connection": "close"}) + body


class StepCall(Protocol):
    """What answers a call of a step: status line and headers, then the body in pieces."""

    def answering(self) -> AbstractContextManager[None]:
        """A block within which the call is answered: a server that is to stop waits for its end."""

    def __call__(
        self,
        session: str,
        token: str,
        step: int,
        phase: str,
        stated: str | None,
        later: bool,
        length: int,
        read: Callable[[], memoryview],
    ) -> tuple[bytes, Sequence[bytes | memoryview]]:
        """Run ``phase`` of ``step``, a call as its header ``stated`` it; errors are answers too. ``later``: its answer
        will be fetched, and this one says that it was accepted. ``read`` gives the body of ``length`` bytes, and is not
        called where these are refused. It raises `ConnectionError` or `TimeoutError` if they do not come."""

    def answer(
        self, session: str, token: str, number: int, stated: str | None
    ) -> tuple[bytes, Sequence[bytes | memoryview]]:
        """The answer to call ``number``, which was accepted before."""


class StepConnection(HTTPConnection):
    """Waits a moment for the next request on the same thread, before it goes back among the idle connections.

    A waiting thread costs nothing, and the next call of a step is spared being found, queued and handed out again. A
    step's call that looks exactly as our own client writes it goes to the server's ``step_call`` at once, its body in
    one buffer: a general parser and WSGI cost 0.2 ms, twice a step. Everything else is left to them.
    """

    RequestHandlerClass = _Request
    rbufsize = 1 << 17

    take_over: Callable[[socket.socket], object] | None = None
    """Who has the connection from the end of this request on: a stream of events, which takes no thread."""

    def __init__(self, server: StepServer, connected: socket.socket, makefile: object = None) -> None:
        self.peer = peer = Peer(connected)

        def file(over: socket.socket, mode: str, size: int) -> Reader | Writer:
            return Reader(over, size, peer) if "r" in mode else Writer(over, size, peer)

        super().__init__(server, connected, file)

    def communicate(self) -> bool:
        """Answer the requests that follow closely; whether to keep the connection. One that says nothing takes no
        thread for longer."""
        with self.server.relief.serving(self.peer):
            return self._communicate()

    def _communicate(self) -> bool:
        while self.server.ready and self._asked():
            self.peer.begin()
            kept = self._step()
            if kept is None:
                kept = super().communicate()  # type: ignore[no-untyped-call]
            if self.take_over is not None:
                self.linger = True  # what cheroot closes now is not the socket
                self.take_over(self.socket)
                return False
            if not kept:
                return False
        return True

    def _asked(self) -> bool:
        """Whether there is something to read. What a library has read ahead, of the socket or of a TLS record, lies in
        memory, where the system's `select` does not see it."""
        read_ahead = self.rfile.has_data() or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending())
        return bool(read_ahead or select.select([self.socket], [], [], _LINGER)[0])

    def _step(self) -> bool | None:
        """Answer a step's call: whether to keep the connection; None if it is another request, of which nothing was
        read."""
        call: StepCall = self.server.step_call
        read = False

        def body() -> memoryview:
            nonlocal read
            read = True
            return self._body(length)

        try:
            seen = self.rfile.peek()
            head = _STEP.match(seen)
            if head is None:
                return self._fetch(call, seen)
            if head.end() > (self.server.max_request_header_size or len(seen)):
                return None
            self.rfile.read(head.end())
            length = int(head["length"])
            session, token, phase = (head[name].decode() for name in ("session", "token", "phase"))
            stated = head["call"].decode() if head["call"] is not None else None
            later = head["later"] is not None
            with call.answering():
                self._send(*call(session, token, int(head["step"]), phase, stated, later, length, body))
        except OSError as error:  # the client is gone, or fell silent in mid-body
            if isinstance(error, ssl.SSLError) and error.reason == "HTTP_REQUEST":
                _refuse_without_tls(self.socket)
            return False
        return read or _discarded(self, length)

    def _fetch(self, call: StepCall, seen: bytes) -> bool | None:
        """Answer a request for an answer, likewise."""
        head = _ANSWER.match(seen)
        if head is None:
            return None
        self.rfile.read(head.end())
        stated = head["call"].decode() if head["call"] is not None else None
        self._send(*call.answer(head["session"].decode(), head["token"].decode(), int(head["number"]), stated))
        return True

    def _send(self, top: bytes, pieces: Sequence[bytes | memoryview]) -> None:
        with self.peer.taking():
            if sum(map(len, pieces)) <= _JOINED:
                self.socket.sendall(b"".join([top, *pieces]))
                return
            for piece in [top, *pieces]:
                view = memoryview(piece)
                while len(view):  # each piece that the system takes is counted, and has a timeout of its own
                    sent = self.socket.send(view[:_SLICE])
                    self.peer.moved(sent)
                    view = view[sent:]

    def _body(self, length: int) -> memoryview:
        buffer, filled = empty_buffer(length), 0
        while filled < length:
            count = self.rfile.readinto1(buffer[filled:])  # `readinto` overruns where the next request follows
            if not count:
                raise ConnectionResetError(f"the connection was closed after {filled} of {length} bytes")
            filled += count
        return buffer


def _discarded(connection: HTTPConnection, length: int) -> bool:
    """Throw away what comes, up to ``length`` bytes; whether so many came. A sender that falls silent is not waited
    for, nor one that does not come to an end."""
    end, before = time.monotonic() + _PATIENCE, connection.socket.gettimeout()
    try:
        connection.socket.settimeout(_SILENCE)
        while length > 0 and time.monotonic() < end:
            piece = connection.rfile.read1(min(length, _JOINED))
            if not piece:
                return False
            length -= len(piece)
        connection.socket.settimeout(before)
    except OSError:
        return False
    return length <= 0


def _refuse_without_tls(connected: socket.socket) -> None:
    """Answer a request that came without TLS in the same way; what else it says is thrown away."""
    detail = "Expected a connection over TLS, found a request without it. Begin the server's address with https://."
    end = time.monotonic() + _PATIENCE
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connected.fileno())) as plain:
        plain.settimeout(_SILENCE)
        plain.sendall(_refusal("400 Bad Request", "ProtocolError", detail))
        plain.shutdown(socket.SHUT_WR)
        while time.monotonic() < end and plain.recv(_JOINED):
            pass


class _Gateway(Gateway_10):
    """Lets the application have the connection when it has answered."""

    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]
        environ: dict[str, Any] = super().get_environ()  # type: ignore[no-untyped-call]
        connection = self.req.conn

        def hand_over(to: Callable[[socket.socket], object]) -> None:
            connection.take_over = to

        environ["spliteasy.hand_over"] = hand_over
        return environ


class StepServer(Server):
    """Cheroot's WSGI server, with connections that hand a step's calls to ``step_call``."""

    ConnectionClass = StepConnection
    nodelay = True
    keep_alive_conn_limit = 1024
    """Beyond cheroot's 10 it would end a device's connection with every answer; an idle one costs a descriptor."""
    step_call: StepCall

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.gateway = _Gateway
        self.relief = Relief(lambda: self.requests.qsize)

    def process_conn(self, conn: HTTPConnection) -> None:
        """Give a connection to a thread, as soon as one is free."""
        super().process_conn(conn)
        if self.requests.qsize >= self.requests.idle:
            self.relief.begin()

    def stop(self) -> None:
        """Serve no more."""
        self.relief.end()
        super().stop()
