"""Sockets for tests: a proxy that keeps every byte, servers that answer with something else, calls without a client."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator


class Listener:
    """A socket on a free loopback port; every connection is given to ``talk`` on a thread of its own."""

    def __init__(self, talk: Callable[[socket.socket], None]) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._talk, self._open = talk, set[socket.socket]()
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                self._open.add(connection)
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._talk(connection)
        self._open.discard(connection)

    def cut(self) -> None:
        """Cut every connection that is open."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut, and listen no longer."""
        self.cut()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Proxy(Listener):
    """Between device and server: keeps every byte, can hold back what the server answers, and can cut the line.

    ``before_up`` and ``before_down`` are called with what is passed on before it is, `change_up` and `change_down` may
    replace it; where ``trickling`` is set, the next piece goes on a few bytes at a time.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._target = (host, int(port))
        self.up, self.down = bytearray(), bytearray()
        self.holding = threading.Event()
        self.before_up: Callable[[bytes], object] = lambda data: None
        self.before_down: Callable[[bytes], object] = lambda data: None
        self.change_up: Callable[[bytes], bytes] = lambda data: data
        self.change_down: Callable[[bytes], bytes] = lambda data: data
        self.trickling = threading.Event()
        super().__init__(self._relay)

    def _relay(self, device: socket.socket) -> None:
        with socket.create_connection(self._target) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            device.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._pump, args=(server, device, self.down, False), daemon=True)
            back.start()
            self._pump(device, server, self.up, True)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket, kept: bytearray, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                kept += data
                (self.before_up if up else self.before_down)(data)
                if up or not self.holding.is_set():
                    self._send(target, self.change_up(data) if up else self.change_down(data))
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _send(self, target: socket.socket, data: bytes) -> None:
        """All at once, or a few bytes at a time, once."""
        if not self.trickling.is_set():
            target.sendall(data)
            return
        self.trickling.clear()
        piece = max(1, len(data) // 50)
        for start in range(0, len(data), piece):
            target.sendall(data[start : start + piece])
            time.sleep(0.01)


class Once:
    """Something that happens once to the next request that begins with ``request``, on its way ``up``, or to its
    answer."""

    def __init__(self, proxy: Proxy, kind: str, up: bool, request: bytes = b"") -> None:
        self._proxy, self._kind, self._up, self._request = proxy, kind, up, request
        self._due = self.done = False
        proxy.change_up, proxy.change_down = self._going_up, self._going_down

    def _going_up(self, data: bytes) -> bytes:
        self._due = self._due or data.startswith(self._request)
        return self._happen(data) if self._up and self._due and not self.done else data

    def _going_down(self, data: bytes) -> bytes:
        due = not self._up and self._due and data.startswith(b"HTTP/")
        return self._happen(data) if due and not self.done else data

    def _happen(self, data: bytes) -> bytes:
        self.done = True
        if self._kind == "damaged":
            return data[:-1] + bytes([data[-1] ^ 1])
        if self._kind == "damaged at its head":
            return bytes([data[0] ^ 1]) + data[1:]
        if self._kind == "silent":
            threading.Timer(1.5, self._proxy.cut).start()
            return b""
        threading.Timer(0.1, self._proxy.cut).start()
        return data[: len(data) // 2] if self._kind == "truncated" else b""


def answering(response: bytes) -> Callable[[socket.socket], None]:
    """Talk that reads one request, as far as it comes at once, and answers ``response``."""

    def talk(connection: socket.socket) -> None:
        connection.recv(1 << 20)
        connection.sendall(response)

    return talk


def http_response(
    body: bytes, status: str = "200 OK", kind: str = "application/json", length: int | None = None
) -> bytes:
    """A response with a stated length, which may lie."""
    stated = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {stated}\r\n\r\n".encode() + body


def sessions(url: str) -> int:
    """How many sessions a server holds."""
    import requests

    return int(requests.get(f"{url}/v1/health", timeout=30).json()["sessions"])


@contextlib.contextmanager
def no_session_left(url: str) -> Iterator[None]:
    """Afterwards the server holds as many sessions as before."""
    before = sessions(url)
    yield
    assert sessions(url) == before


def raw_call(url: str, data: bytes) -> bytes:
    """Send bytes to a server, end the sending half, and read what comes back until it closes or is silent for long."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        answer = bytearray()
        with contextlib.suppress(OSError):
            while piece := connection.recv(1 << 16):
                answer += piece
        return bytes(answer)
