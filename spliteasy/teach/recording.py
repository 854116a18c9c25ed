"""Watch a trainer and its server talk: a proxy in between that changes nothing and notes everything.

with se.LocalServer() as server, se.teach.Recorder(server.url) as recorder:
    with se.Trainer(split, server=recorder.url) as trainer:
        trainer.step(x, y)
recorder.to_pandas()
recorder.chart()
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from spliteasy.errors import ConnectionLost, ProtocolError, ServerError
from spliteasy.teach.following import Follower, Passing
from spliteasy.teach.framing import HEADER_BYTES, FrameNote, note_of

if TYPE_CHECKING:
    import pandas

    from spliteasy.pictures import Picture

__all__ = ["Call", "Recorder"]

_PIECE = 1 << 16
_STOPPING = 5.0


@dataclass(frozen=True)
class Call:
    """A request and its answer, as they passed by: bytes on the socket, seconds since the recorder was started.

    ``request`` and ``answer`` are the headers of the frames they carried, None where the body is something else.
    ``request_data`` and ``answer_data`` are the bodies themselves if the recorder was told to keep them, else empty.
    """

    connection: int
    method: str
    path: str
    status: int
    request_head: int
    request_body: int
    answer_head: int
    answer_body: int
    request_began: float
    request_ended: float
    answer_began: float
    answer_ended: float
    request: FrameNote | None = None
    answer: FrameNote | None = None
    request_data: bytes = field(default=b"", repr=False)
    answer_data: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        """What the call is for: ``step 0 forward``, ``open``, ``weights``; the method and path of any other."""
        found = re.fullmatch(r"/v1/sessions(?:/[^/]+)?(?:/(.+))?", urlsplit(self.path).path)
        if found is None:
            return f"{self.method} {self.path}"
        if found[1] is None:
            return {"POST": "open", "DELETE": "close"}.get(self.method, self.method)
        return re.sub(r"steps/(\d+)/", r"step \1 ", found[1])

    @property
    def up(self) -> int:
        """Bytes from device to server."""
        return self.request_head + self.request_body

    @property
    def down(self) -> int:
        """Bytes from server to device."""
        return self.answer_head + self.answer_body


class Recorder:
    """A proxy on a free loopback port between a `Trainer` and the server at ``url``, for as long as the ``with`` block.

    Give the trainer ``recorder.url``. Every byte is passed on unchanged; ``recorder.calls`` has each call once its
    answer has passed. ``keep=True`` keeps the bodies too. Tokens are counted with the heads they are in, and not kept.
    Times are those at the proxy, which itself takes some tenths of a millisecond a call.

    Raises `ServerError` for an address that is none, `ConnectionLost` if no server is there, and at the end of the
    block `ProtocolError` if something passed that could not be followed.
    """

    def __init__(self, url: str, *, keep: bool = False) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 80
        except (ValueError, AttributeError, TypeError):
            host, port, parts = None, 0, urlsplit("")
        if not host or parts.scheme != "http":
            raise ServerError(
                f"Expected a server's address such as http://127.0.0.1:8765, found {url!r:.300}. "
                "Give the url of a LocalServer that was started."
            )
        self.calls: list[Call] = []
        self.url = ""
        self._target, self._prefix, self._server_url = (host, port), parts.path.rstrip("/"), url
        self._kept = 1 << 62 if keep else HEADER_BYTES
        self._keep = keep
        self._listener: socket.socket | None = None
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._lost: list[ProtocolError] = []
        self._started = 0.0

    def __enter__(self) -> Recorder:
        if self._listener is not None:
            raise ServerError(f"This recorder runs already, at {self.url}. Make another one.")
        self._connected().close()
        self._started = time.perf_counter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}{self._prefix}"
        self._run(self._accept, self._listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with self._lock:
            open_ones = [listener, *self._sockets]
        for one in open_ones:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in list(self._threads):
            thread.join(_STOPPING)
        self._threads.clear()
        if self._lost and error is None:
            raise self._lost[0]

    def to_pandas(self) -> pandas.DataFrame:
        """One row a call: what it is for, the messages it carried, bytes of heads and bodies, and its four times."""
        import pandas

        columns = ["request_head", "request_body", "answer_head", "answer_body"]
        times = ["request_began", "request_ended", "answer_began", "answer_ended"]
        rows = [
            {"call": call.name, "method": call.method, "status": call.status}
            | {"request": _message(call.request), "answer": _message(call.answer)}
            | {column: getattr(call, column) for column in columns + times}
            for call in self.calls
        ]
        return pandas.DataFrame(
            rows, columns=["call", "method", "status", "request", "answer", *columns, *times]
        ).set_index("call")

    def chart(self, calls: Sequence[Call] | None = None, title: str | None = None) -> Picture:
        """A sequence chart of some of the calls, the first twelve if not said: two life lines, time downwards."""
        from spliteasy.teach.chart import chart_of, moments_of

        chosen = list(self.calls[:12] if calls is None else calls)
        before = max((call for call in self.calls if chosen and call.answer_ended <= chosen[0].request_began),
                     key=lambda call: call.answer_ended, default=None)  # fmt: skip
        return chart_of(moments_of(chosen, before), title or f"{len(chosen)} calls, recorded on the socket")

    def _connected(self) -> socket.socket:
        try:
            server = socket.create_connection(self._target, _STOPPING)
        except OSError as error:
            raise ConnectionLost(
                f"Expected a server at {self._server_url}, found none ({error}). Start one with se.LocalServer() first."
            ) from error
        server.settimeout(None)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server

    def _run(self, work: object, *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was closed: the block has ended
            number = 0
            while True:
                device, _ = listener.accept()
                self._run(self._relay, device, number)
                number += 1

    def _relay(self, device: socket.socket, number: int) -> None:
        with device, contextlib.suppress(OSError, ConnectionLost), self._connected() as server:
            device.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {device, server}
                ended = self._listener is None
            if not ended:
                notes = _Notes(self, number)
                back = self._run(self._pump, server, device, notes.answer)
                self._pump(device, server, notes.request)
                back.join()
            with self._lock:
                self._sockets -= {device, server}

    def _pump(self, source: socket.socket, target: socket.socket, note: object) -> None:
        """Pass on what comes, noted first: who has received an answer finds its call in the list."""
        follow = note
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                if follow is not None:
                    try:
                        follow(data, time.perf_counter() - self._started)  # type: ignore[operator]
                    except ProtocolError as lost:
                        follow = None
                        with self._lock:
                            self._lost.append(lost)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class _Notes:
    """Pairs the requests of one connection with their answers, which come in the same order."""

    def __init__(self, recorder: Recorder, connection: int) -> None:
        self._recorder, self._connection = recorder, connection
        self._requests, self._answers = Follower(recorder._kept), Follower(recorder._kept)
        self._waiting: deque[Passing] = deque()

    def request(self, data: bytes, now: float) -> None:
        begun, _ = self._requests.feed(data, now)
        self._waiting.extend(begun)

    def answer(self, data: bytes, now: float) -> None:
        first = self._waiting[0].line if self._waiting else ""
        _, ended = self._answers.feed(data, now, bodiless=first.startswith("HEAD "))
        for answer in ended:
            if not self._waiting:
                raise ProtocolError(f"Expected an answer after a request, found {answer.line!r:.80} after none.")
            call = self._call(self._waiting.popleft(), answer)
            with self._recorder._lock:
                self._recorder.calls.append(call)

    def _call(self, request: Passing, answer: Passing) -> Call:
        method, path, _ = request.line.split(" ", 2)
        keep = self._recorder._keep
        return Call(
            self._connection, method, path, int(answer.line.split(" ")[1]),
            request.head, request.body, answer.head, answer.body,
            request.began, request.ended, answer.began, answer.ended,
            note_of(request.data), note_of(answer.data),
            bytes(request.data) if keep else b"", bytes(answer.data) if keep else b"",
        )  # fmt: skip


def _message(note: FrameNote | None) -> str:
    if note is None:
        return ""
    return note.message or "weights"
