"""A server's log: one JSON object a line, of what happened and never of what was in it.

A line names the time, the event, the session by the first characters of its identifier, the step, the phase, bytes and
seconds, an error by its class. Tokens, tensors, labels and the texts of errors, which may quote what a client sent,
have no way into it.
"""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import UTC, datetime
from typing import TextIO

__all__ = ["EventLog", "shortened"]

_SHOWN = 6


def shortened(identifier: str) -> str:
    """Enough of a session's identifier to follow it through a log, and too little to call it."""
    return identifier[:_SHOWN] if identifier.isascii() and identifier.isprintable() else ""


class EventLog:
    """Writes events to ``stream``, from any thread; None: nowhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def write(self, event: str, session: str | None = None, **fields: str | float | bool | None) -> None:
        """One line; fields that are None are left out. What cannot be written is lost: no training stops for a
        log."""
        if self._stream is None:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        named = {"session": None if session is None else shortened(session), **fields}
        rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in named.items()}
        line = json.dumps(
            {"time": time, "event": event, **{name: value for name, value in rounded.items() if value is not None}}
        )
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()
