"""From the device to the session: in the same process, or over HTTP on one connection that is kept open.

Both give the same answers; only HTTP has a socket, on which every byte is counted. Bodies are sent in pieces without
joining them and received into one buffer of the right size, which is why the standard library's client is used.
"""

from __future__ import annotations

import http.client
import io
import json
import select
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch

from spliteasy import errors
from spliteasy.codecs import container
from spliteasy.errors import ConnectionLost, ProtocolError, ServerError, SplitEasyError
from spliteasy.link import Link
from spliteasy.server.session import Commit, Session
from spliteasy.weights import load_tensors, save_tensors, unflatten_state
from spliteasy.wire import Frame, empty_buffer

__all__ = ["HTTP", "InProcess", "Reply", "Transport"]

_JOINED = 1 << 16
_MAX_BODY = 1 << 34


@dataclass(frozen=True)
class Reply:
    """A frame that came back, the bytes that went over the socket each way, and the seconds spent on the link."""

    frame: Frame
    sent: int = 0
    received: int = 0
    link: float = 0.0


class Transport(Protocol):
    """What the trainer needs of a server."""

    def forward(self, step: int, frame: Frame) -> Reply:
        """Activations of a step."""

    def backward(self, step: int, frame: Frame) -> Reply:
        """Output gradients of a step."""

    def evaluate(self, frame: Frame) -> Reply:
        """Activations in eval mode."""

    def commit(self, commit: Commit) -> None:
        """The last finished step, when no other call will carry it."""

    def weights(self) -> dict[str, torch.Tensor]:
        """B's parameters and buffers by name."""

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        """B's optimizer state by parameter."""

    def close(self) -> None:
        """End the session."""


class InProcess:
    """The session in this process: frames are handed over as they are, no socket, no copy."""

    def __init__(self, session: Session, link: Link | None = None) -> None:
        self.session, self._link = session, link

    def forward(self, step: int, frame: Frame) -> Reply:
        return self._reply(frame, self.session.forward(step, frame))

    def backward(self, step: int, frame: Frame) -> Reply:
        return self._reply(frame, self.session.backward(step, frame))

    def evaluate(self, frame: Frame) -> Reply:
        return self._reply(frame, self.session.evaluate(frame))

    def commit(self, commit: Commit) -> None:
        self.session.settle(commit)

    def weights(self) -> dict[str, torch.Tensor]:
        return self.session.weights()

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        return self.session.updater.state()

    def close(self) -> None:
        """Nothing to end: the session shares the model."""

    def _reply(self, request: Frame, answer: Frame) -> Reply:
        return Reply(answer, link=_cross(self._link, request.nbytes, answer.nbytes))


class HTTP:
    """A session on a server. Opening it sends the configuration and B's weights.

    Raises `ConnectionLost` when no server answers, `ProtocolError` when something else does, and the server's own
    error, by name, when it refuses.
    """

    def __init__(
        self,
        url: str,
        config: Mapping[str, Any],
        weights: Mapping[str, torch.Tensor],
        *,
        link: Link | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.url, self._link = url.rstrip("/"), link
        self._connection = _Connection(self.url, timeout)
        self._headers: dict[str, str] = {}
        body = save_tensors(weights, {"session": json.dumps(dict(config))})
        answer = self._json("POST", "/v1/sessions", [body])
        if not isinstance(answer.get("session"), str) or not isinstance(answer.get("token"), str):
            raise ProtocolError(f"Expected a session and its token from {self.url}, found {answer}.")
        self.session: str = answer["session"]
        self.info = answer
        self._path = f"/v1/sessions/{self.session}"
        self._headers = {"Authorization": f"Bearer {answer['token']}"}

    def forward(self, step: int, frame: Frame) -> Reply:
        return self._frame("PUT", f"{self._path}/steps/{step}/forward", frame)

    def backward(self, step: int, frame: Frame) -> Reply:
        return self._frame("PUT", f"{self._path}/steps/{step}/backward", frame)

    def evaluate(self, frame: Frame) -> Reply:
        return self._frame("POST", f"{self._path}/evaluate", frame)

    def commit(self, commit: Commit) -> None:
        self._json("POST", f"{self._path}/commit", [json.dumps(commit.to_dict()).encode()])

    def weights(self) -> dict[str, torch.Tensor]:
        body, _, _ = self._call("GET", f"{self._path}/weights", [])
        return load_tensors(body)

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        body, _, _ = self._call("GET", f"{self._path}/optimizer", [])
        return unflatten_state(load_tensors(body), container.read(body)[1])

    def close(self) -> None:
        """End the session and the connection. A server that is gone has nothing to end."""
        try:
            self._json("DELETE", self._path, [])
        except ServerError:
            pass
        finally:
            self._connection.close()

    def _frame(self, method: str, path: str, frame: Frame) -> Reply:
        body, sent, received = self._call(method, path, frame.pieces)
        return Reply(Frame.parse(body), sent, received, _cross(self._link, sent, received))

    def _json(self, method: str, path: str, pieces: Sequence[bytes | memoryview]) -> dict[str, Any]:
        body, _, _ = self._call(method, path, pieces)
        try:
            answer = json.loads(bytes(body) or b"{}")
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ProtocolError(
                f"Expected JSON from {self.url}{path}, found {bytes(body[:80])!r}. Is it another server?"
            )
        return answer

    def _call(self, method: str, path: str, pieces: Sequence[bytes | memoryview]) -> tuple[memoryview, int, int]:
        status, kind, body, sent, received = self._connection.call(method, path, pieces, self._headers)
        if status >= 400:
            raise _refusal(self.url + path, status, kind, bytes(body))
        return body, sent, received


class _Connection:
    """One HTTP/1.1 connection to one address, kept open, with the bytes of each call counted at the socket."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ServerError(f"Expected a server's address such as http://127.0.0.1:8765, found {url!r}.")
        self.url = url
        self._prefix = parts.path
        self._client = _CountingClient(parts.hostname, parts.port or 80, timeout=timeout)

    def call(
        self, method: str, path: str, pieces: Sequence[bytes | memoryview], headers: Mapping[str, str]
    ) -> tuple[int, str, memoryview, int, int]:
        """Status, content type, body, bytes sent, bytes received."""
        self._reconnect_if_closed()
        size = sum(len(piece) for piece in pieces)
        body = b"".join(pieces) if size <= _JOINED else pieces
        sent, received = self._client.sent, self._client.received
        try:
            self._client.request(method, self._prefix + path, body, {**headers, "Content-Length": str(size)})
            response = self._client.getresponse()
            content = self._read(response)
        except (http.client.BadStatusLine, http.client.LineTooLong, http.client.UnknownProtocol) as error:
            self.close()
            if isinstance(error, http.client.RemoteDisconnected):
                raise self._lost(method, path, error) from error
            raise ProtocolError(
                f"Expected a spliteasy server at {self.url}, found something that does not speak HTTP ({error})."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._lost(method, path, error) from error
        counts = self._client.sent - sent, self._client.received - received
        return response.status, response.headers.get_content_type(), content, *counts

    def close(self) -> None:
        self._client.close()

    def _reconnect_if_closed(self) -> None:
        """A server may close a connection that was idle for long; an idle socket with something to read is that."""
        sock = self._client.sock
        if sock is not None and select.select([sock], [], [], 0)[0]:
            self._client.close()

    def _read(self, response: http.client.HTTPResponse) -> memoryview:
        length = response.length
        if length is None:
            return memoryview(response.read(_JOINED))
        if length > _MAX_BODY:
            raise http.client.HTTPException(f"a body of {length} bytes")
        buffer = empty_buffer(length)
        filled = 0
        while filled < length:
            count = response.readinto(buffer[filled:])
            if not count:
                raise http.client.IncompleteRead(b"", length - filled)
            filled += count
        response.read()
        return buffer

    def _lost(self, method: str, path: str, error: Exception) -> ConnectionLost:
        reason = str(error) or type(error).__name__
        return ConnectionLost(
            f"Expected an answer from {self.url} to {method} {path}, found none ({reason}). Is the server running? "
            "Start one with `spliteasy serve`, or use se.LocalServer(). The device keeps the parameters of the last "
            "finished step; B's are those of the last pull()."
        )


class _CountingClient(http.client.HTTPConnection):
    """Counts what goes through the socket, headers included, and does not wait to fill a packet."""

    sent = 0
    received = 0

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = _CountingSocket(self.sock, self)


class _CountingSocket:
    """A socket as `http.client` uses it."""

    def __init__(self, sock: socket.socket, counts: _CountingClient) -> None:
        self._sock, self._counts = sock, counts

    def sendall(self, data: bytes | memoryview) -> None:
        self._sock.sendall(data)
        self._counts.sent += len(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_CountingReader(self._sock.makefile("rb", buffering=0), self._counts), _JOINED)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def settimeout(self, timeout: float | None) -> None:
        self._sock.settimeout(timeout)


class _CountingReader(io.RawIOBase):
    """The receiving half of a socket."""

    def __init__(self, raw: io.RawIOBase, counts: _CountingClient) -> None:
        self._raw, self._counts = raw, counts

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        self._counts.received += count or 0
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _cross(link: Link | None, up: int, down: int) -> float:
    """Wait as long as the emulated link would take; the seconds waited."""
    if link is None:
        return 0.0
    seconds = link.seconds(up, down)
    time.sleep(seconds)
    return seconds


def _refusal(url: str, status: int, kind: str, body: bytes) -> SplitEasyError:
    """The error in a problem+json body (RFC 9457), by its own class."""
    if kind == "application/problem+json":
        try:
            problem = json.loads(body)
            name, detail = problem["type"].rpartition(":")[2], str(problem["detail"])
        except (ValueError, KeyError, TypeError, AttributeError):
            name, detail = "", ""
        cls = getattr(errors, name, None) if name in errors.__all__ else None
        if isinstance(cls, type) and issubclass(cls, SplitEasyError):
            return cls(detail)
        if detail:
            return ServerError(f"{url}: {status}: {detail}")
    return ProtocolError(
        f"Expected a spliteasy server at {url}, found an answer of status {status} and type {kind}. "
        "Is the address right? Is something else listening there?"
    )
