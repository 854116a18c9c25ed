"""The heads of HTTP messages as both sides of a step write them: here once, to be sent and to be counted."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FRAME_TYPE", "answer_head", "authorization", "request_head", "session_path", "step_path"]

FRAME_TYPE = "application/octet-stream"
"""The content type of an answer that is a frame."""


def request_head(method: str, path: str, host: str, size: int, headers: Mapping[str, str]) -> bytes:
    """Request line and headers of a request to ``host`` (with its port) whose body has ``size`` bytes."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def answer_head(status: str, kind: str | None, size: int) -> bytes:
    """Status line and headers of the answer to a step's call: ``status`` as in ``200 OK``, a body of ``size`` bytes."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n".encode("ascii")


def session_path(identifier: str) -> str:
    """Where a session is."""
    return f"/v1/sessions/{identifier}"


def step_path(session: str, step: int, phase: str) -> str:
    """Where the call of a step goes, below its session's path; ``phase`` is ``forward`` or ``backward``."""
    return f"{session}/steps/{step}/{phase}"


def authorization(token: str) -> dict[str, str]:
    """The header that opens a session."""
    return {"Authorization": f"Bearer {token}"}
