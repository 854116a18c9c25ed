"""One HTTP/1.1 connection that is kept open and counts every byte: what a training step needs of a client, no more.

Bodies have a stated length both ways. They are sent in pieces without joining large ones, and received into one buffer
of the right size. General clients (`requests`, `http.client`) join or parse more than a step of a small network takes,
and do not say how many bytes went through the socket.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from spliteasy.errors import ConnectionLost, ProtocolError, ServerError
from spliteasy.heads import request_head
from spliteasy.shaping import Crossing
from spliteasy.wire import empty_buffer

__all__ = ["Answer", "Connection", "Receiver"]

_IDLE = 1.0
_JOINED = 1 << 16
_MAX_HEAD = 1 << 16
_MAX_BODY = 1 << 34
_AT_ONCE = Crossing(None)
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""What OpenSSL calls an answer to its greeting that is none of TLS."""


@dataclass(frozen=True)
class Answer:
    """Status, content type, headers by lower-case name, and body of an answer."""

    status: int
    kind: str
    headers: Mapping[str, str]
    body: memoryview


class Receiver(Protocol):
    """How bytes come from a socket, and when."""

    def receive(self, connected: socket.socket, size: int) -> bytes:
        """As `socket.recv`."""

    def receive_into(self, connected: socket.socket, place: memoryview) -> int:
        """As `socket.recv_into`."""


class Connection:
    """A connection to ``http://host:port`` or ``https://host:port``, opened with the first call and opened again if the
    server closed it idle.

    ``sent`` and ``received`` count every byte of every connection, also of calls that failed. They are HTTP's: what TLS
    adds to them (its handshake, some 22 bytes for each record of at most 16 KiB) is not counted.

    Over TLS the server's certificate is checked as Python's ``ssl`` does by default: against the authorities that the
    system trusts, or those in the file that the environment's ``SSL_CERT_FILE`` names.

    Raises `ServerError` for another kind of address and for a certificate that is not trusted, `ConnectionLost` when
    nobody answers, `ProtocolError` when the answer is not HTTP/1.1 with a stated length, or not TLS where it should be.
    """

    def __init__(self, url: str, timeout: float) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
            parts.netloc.encode("ascii")
            (host or "").encode("idna")
        except ValueError:  # UnicodeError is one
            host = None
        if not host or parts.scheme not in ("http", "https") or not url.isprintable() or " " in url:
            raise ServerError(f"Expected a server's address such as http://127.0.0.1:8765, found {url!r:.300}.")
        self.url, self._address, self._timeout = url, (host, port), timeout
        self._prefix, self._host = parts.path.rstrip("/"), parts.netloc
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._socket: socket.socket | None = None
        self._used, self._ahead = 0.0, b""
        self.sent = self.received = 0

    def call(
        self,
        method: str,
        path: str,
        pieces: Sequence[bytes | memoryview],
        headers: Mapping[str, str],
        crossing: Crossing | None = None,
    ) -> Answer:
        """Send a request and wait for its answer, both at the pace of ``crossing`` if there is one."""
        head, *body = self.request(method, path, pieces, headers)
        small = crossing is None and sum(map(len, body)) <= _JOINED
        try:
            connected = self.connected()
            for piece in [b"".join([head, *body])] if small else [head, *body]:
                if crossing is None:
                    connected.sendall(piece)
                else:
                    crossing.send(connected, piece)
                self.sent += len(piece)
            answer = self.answer(connected, crossing or _AT_ONCE)
            if self._ahead:
                raise self._foreign(self._ahead[:80])
            return answer
        except OSError as error:
            self.close()
            raise self.lost(f"{method} {path}", error) from error
        except BaseException:
            self.close()  # an answer that was not read to its end would be taken for that of the next call
            raise

    def request(
        self, method: str, path: str, pieces: Sequence[bytes | memoryview], headers: Mapping[str, str]
    ) -> list[bytes | memoryview]:
        """A request as it goes over the connection: its head, then its body."""
        head = request_head(method, f"{self._prefix}{path}", self._host, sum(map(len, pieces)), headers)
        return [head, *pieces]

    def lost(self, request: str, reason: Exception) -> ConnectionLost:
        """The error that says that there was no answer to a request."""
        return ConnectionLost(
            f"Expected an answer from {self.url} to {request}, found none ({str(reason) or type(reason).__name__}). "
            "Is the server running? Start one with `spliteasy serve`, or use se.LocalServer(). The device keeps the "
            "parameters of the last finished step; B's are those of the last pull()."
        )

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket, self._ahead = None, b""

    def connected(self) -> socket.socket:
        """The socket, connected."""
        idle = time.monotonic() - self._used
        if self._socket is not None and idle > _IDLE and self._is_closed_by_server(self._socket):
            self.close()
        if self._socket is None:
            connected = socket.create_connection(self._address, self._timeout)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = connected if self._tls is None else self._encrypted(self._tls, connected)
        self._used = time.monotonic()
        return self._socket

    def _encrypted(self, tls: ssl.SSLContext, connected: socket.socket) -> ssl.SSLSocket:
        """The same socket, speaking TLS with the server that the address names."""
        try:
            return tls.wrap_socket(connected, server_hostname=self._address[0])
        except ssl.SSLCertVerificationError as error:
            connected.close()
            raise ServerError(
                f"Expected a certificate for {self._address[0]} that this machine trusts at {self.url}, found another: "
                f"{error.verify_message or error}. Check the address; if the certificate is of your own making, name "
                "the file of its authority in the environment: SSL_CERT_FILE=FILE."
            ) from None
        except ssl.SSLError as error:
            connected.close()
            if error.reason in _NOT_TLS:
                raise ProtocolError(
                    f"Expected a server that speaks TLS at {self.url}, found one that does not. Is its address "
                    "http://, or was it started without --certificate and --key?"
                ) from None
            raise
        except BaseException:
            connected.close()
            raise

    def _is_closed_by_server(self, idle: socket.socket) -> bool:
        """A server may close a connection that was idle for long; an idle socket with something to read is that."""
        idle.setblocking(False)
        try:
            idle.recv(1)
            return True
        except (BlockingIOError, ssl.SSLWantReadError):  # TLS may have something to say without there being any data
            return False
        except OSError:
            return True
        finally:
            idle.settimeout(self._timeout)

    def answer(self, connected: socket.socket, receiver: Receiver) -> Answer:
        """Receive an answer. What came with it belongs to the next one."""
        received, self._ahead = bytearray(self._ahead), b""
        end = received.find(b"\r\n\r\n")
        while end < 0:
            piece = receiver.receive(connected, _JOINED)
            if not piece:
                raise ConnectionResetError("the connection was closed" + (" in mid-answer" if received else ""))
            received += piece
            self.received += len(piece)
            end = received.find(b"\r\n\r\n")
            if not received.startswith(b"HTTP/1."[: len(received)]) or (end < 0 and len(received) > _MAX_HEAD):
                raise self._foreign(bytes(received[:80]))
        status, fields, length = self._head(bytes(received[:end]))
        body = empty_buffer(length)
        start = end + 4
        self._ahead = bytes(received[start + length :])
        filled = min(len(received) - start, length)
        body[:filled] = received[start : start + filled]
        while filled < length:
            count = receiver.receive_into(connected, body[filled:])
            if not count:
                raise ConnectionResetError(f"the connection was closed after {filled} of {length} bytes")
            filled += count
            self.received += count
        if fields.get("connection", "").lower() == "close":
            self.close()
        kind = fields.get("content-type", "").partition(";")[0].strip().lower()
        return Answer(status, kind, fields, body)

    def _head(self, head: bytes) -> tuple[int, dict[str, str], int]:
        """Status, headers by lower-case name, and length of the body."""
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status, length = first.split(" ")[1:2], fields.get("content-length", "")
        if not status or not re.fullmatch("[1-5][0-9]{2}", status[0]) or not re.fullmatch("[0-9]{1,11}", length):
            raise self._foreign(head[:200])
        if int(length) > _MAX_BODY:
            raise self._foreign(head[:200])
        return int(status[0]), fields, int(length)

    def _foreign(self, found: bytes) -> ProtocolError:
        return ProtocolError(
            f"Expected a spliteasy server at {self.url}, found an answer that begins {found!r}. Is the address right? "
            "Is something else listening there?"
        )
