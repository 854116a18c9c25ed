"""Sessions kept apart: each has an identifier and a secret token, their number is capped, and idle ones expire."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from spliteasy.errors import SessionError, TokenError
from spliteasy.server.session import Session

__all__ = ["IDENTIFIER_BYTES", "TOKEN_BYTES", "SessionStore"]

IDENTIFIER_BYTES, TOKEN_BYTES = 12, 32
"""The random bytes in a session's identifier and token, which are written in base64."""


@dataclass
class _Entry:
    session: Session
    token: str
    used: float


class SessionStore:
    """At most ``capacity`` sessions; one that was idle for ``idle_seconds`` is forgotten when the next call comes."""

    def __init__(
        self, capacity: int = 16, idle_seconds: float = 3600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity, self.idle_seconds, self._clock = capacity, idle_seconds, clock
        self._entries: dict[str, _Entry] = {}
        self._opening = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            self._expire()
            return len(self._entries)

    def open(self, build: Callable[[], Session]) -> tuple[str, str]:
        """Reserve a place, build a session, and return its identifier and token. Raises `SessionError` when full."""
        with self._lock:
            self._expire()
            if len(self._entries) + self._opening >= self.capacity:
                raise SessionError(
                    f"This server holds its {self.capacity} sessions already. Close one (leave its `with` block), wait "
                    f"{self.idle_seconds:.0f} s for an idle one to expire, or start it with --max-sessions."
                )
            self._opening += 1
        try:
            session = build()
            with self._lock:
                identifier, token = secrets.token_urlsafe(IDENTIFIER_BYTES), secrets.token_urlsafe(TOKEN_BYTES)
                self._entries[identifier] = _Entry(session, token, self._clock())
        finally:
            with self._lock:
                self._opening -= 1
        return identifier, token

    def get(self, identifier: str, token: str) -> Session:
        """The session, if the token opens it. Raises `SessionError` if it is unknown, `TokenError` if it does not."""
        with self._lock:
            self._expire()
            entry = self._entries.get(identifier)
            if entry is None:
                raise SessionError(
                    f"There is no session {identifier!r}: it was closed, or was idle for {self.idle_seconds:.0f} s, or "
                    "the server was started again. Open a new one."
                )
            if not hmac.compare_digest(entry.token.encode(), token.encode()):
                raise TokenError("The token does not open this session. Send the one that opening it returned.")
            entry.used = self._clock()
            return entry.session

    def close(self, identifier: str, token: str) -> None:
        """Forget a session."""
        self.get(identifier, token)
        with self._lock:
            self._entries.pop(identifier, None)

    def _expire(self) -> None:
        oldest = self._clock() - self.idle_seconds
        for identifier in [key for key, entry in self._entries.items() if entry.used < oldest]:
            del self._entries[identifier]
