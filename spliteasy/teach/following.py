"""Follow HTTP/1.1 in a stream of bytes that passes by: where each message begins and ends, how large its parts are."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from spliteasy.errors import ProtocolError

__all__ = ["Follower", "Passing"]

_MAX_HEAD = 1 << 16


@dataclass
class Passing:
    """A request or an answer, as far as it has passed: its first line, bytes of head and body, when it began and when
    its last bytes came. ``data`` is the body's beginning, or all of it, as the follower was told."""

    began: float
    ended: float
    line: str = ""
    head: int = 0
    body: int = 0
    data: bytearray = field(default_factory=bytearray)


class Follower:
    """Follows one direction of one connection.

    ``kept`` is how many bytes of each body are kept. Raises `ProtocolError` for bytes that are not HTTP/1.1, and for
    bodies without a stated length, which nobody here sends.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._passing: Passing | None = None
        self._head = bytearray()
        self._length = 0

    def feed(self, data: bytes, now: float, bodiless: bool = False) -> tuple[list[Passing], list[Passing]]:
        """The messages that begin in these bytes, and those that end in them. ``bodiless``: the answer is to a HEAD."""
        begun: list[Passing] = []
        ended: list[Passing] = []
        rest = memoryview(data)
        while len(rest):
            if self._passing is None:
                self._passing = Passing(now, now)
                begun.append(self._passing)
            message = self._passing
            message.ended = now
            rest = self._into_body(message, rest) if message.line else self._into_head(message, rest, bodiless)
            if message.line and message.body == self._length:
                self._passing = None
                if not re.match(r"HTTP/1\.1 1", message.line):  # 100 Continue: not the answer yet
                    ended.append(message)
        return begun, ended

    def _into_head(self, message: Passing, rest: memoryview, bodiless: bool) -> memoryview:
        before = len(self._head)
        self._head += rest
        end = self._head.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0:
            if len(self._head) > _MAX_HEAD:
                raise ProtocolError(f"Expected an HTTP head of up to {_MAX_HEAD} bytes, found a longer one.")
            return rest[:0]
        message.head = end + 4
        message.line, *lines = self._head[:end].decode("latin-1").split("\r\n")
        self._head = bytearray()
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        stated = fields.get("content-length", "")
        answer = re.match(r"HTTP/1\.1 (\d{3})", message.line)
        empty = bodiless or (answer and (answer[1] in ("204", "304") or answer[1][0] == "1"))
        if not answer and not re.fullmatch(r"[A-Z]+ \S+ HTTP/1\.1", message.line):
            raise ProtocolError(f"Expected HTTP/1.1, found {message.line!r:.80}.")
        if "transfer-encoding" in fields or (answer and not empty and not stated.isdecimal()):
            raise ProtocolError(f"Expected a body of a stated length, found none stated after {message.line!r:.80}.")
        self._length = 0 if empty else int(stated or 0)
        return rest[message.head - before :]

    def _into_body(self, message: Passing, rest: memoryview) -> memoryview:
        taken = min(len(rest), self._length - message.body)
        message.data += rest[: min(taken, max(0, self._kept - message.body))]
        message.body += taken
        return rest[taken:]
