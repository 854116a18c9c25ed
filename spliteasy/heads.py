"""The heads of HTTP messages as both sides of a step write them: here once, to be sent and to be counted."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import xxhash

from spliteasy.errors import FrameError

__all__ = [
    "CALL",
    "EVENT_TYPE",
    "FRAME_TYPE",
    "LATER",
    "OPENING",
    "SAVED",
    "Call",
    "answer_head",
    "answer_path",
    "authorization",
    "digest",
    "direction_and_part",
    "events_path",
    "phase_of",
    "request_head",
    "session_path",
    "step_path",
]

CALL = "Call"
"""The header of a numbered call and of its answer: the number, and a digest of the body."""

OPENING = "Opening"
"""The header of a call that opens a session: a secret that its device drew, the same when the call is made again."""

SAVED = "Saved"
"""The header that names the last step whose state a server that keeps states has on its disk."""

FRAME_TYPE = "application/octet-stream"
"""The content type of an answer that is a frame."""

EVENT_TYPE = "text/event-stream"
"""The content type of server-sent events."""

LATER = ("Prefer", "respond-async")
"""The header of a call whose answer is fetched by another call, once it is there (RFC 7240, section 4.1)."""


def request_head(method: str, path: str, host: str, size: int, headers: Mapping[str, str]) -> bytes:
    """Request line and headers of a request to ``host`` (with its port) whose body has ``size`` bytes."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def answer_head(status: str, kind: str | None, size: int, headers: Mapping[str, str]) -> bytes:
    """Status line and headers of the answer to a step's call: ``status`` as in ``200 OK``, a body of ``size`` bytes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def session_path(identifier: str) -> str:
    """Where a session is."""
    return f"/v1/sessions/{identifier}"


def step_path(session: str, step: int, phase: str) -> str:
    """Where the call of a step goes, below its session's path; ``phase`` is as `phase_of` gives it."""
    return f"{session}/steps/{step}/{phase}"


def phase_of(direction: str, part: int) -> str:
    """``forward`` or ``backward`` of a part of a step: the first is called so, others ``forward/1`` and so on."""
    return f"{direction}/{part}" if part else direction


def direction_and_part(phase: str) -> tuple[str, int]:
    """``forward`` or ``backward``, and the part of the step: the inverse of `phase_of`."""
    direction, _, part = phase.partition("/")
    return direction, int(part or 0)


def answer_path(session: str, number: int) -> str:
    """Where the answer to a call is fetched, below its session's path."""
    return f"{session}/calls/{number}"


def events_path(session: str) -> str:
    """Where a session's events are told."""
    return f"{session}/events"


def authorization(token: str) -> dict[str, str]:
    """The header that opens a session."""
    return {"Authorization": f"Bearer {token}"}


def digest(pieces: Iterable[bytes | memoryview]) -> str:
    """22 characters for the content of a body: xxh3 of 128 bits, which takes 0.3 ms for 6 MB. It is there to find
    damage, not forgery: who may write to a session has its token."""
    state = xxhash.xxh3_128()
    for piece in pieces:
        state.update(piece)
    return base64.urlsafe_b64encode(state.digest()).decode("ascii")[:22]


@dataclass(frozen=True)
class Call:
    """A call as its header states it: its number in the session, from 1, and the digest of its body.

    A call that is made again has the same number; one that replaces another has a greater one.
    """

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number} {self.digest}"

    @classmethod
    def parse(cls, text: str) -> Call:
        """Read from a header. Raises `FrameError` if it is none."""
        found = re.fullmatch(r"([1-9][0-9]{0,17}) ([A-Za-z0-9_\-]{22})", text)
        if found is None:
            raise FrameError(f"Expected a call as its number and the digest of its body, found {text!r:.80}.")
        return cls(int(found[1]), found[2])
