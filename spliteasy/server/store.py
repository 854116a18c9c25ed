"""Sessions kept apart: each has an identifier and a secret token, their number is capped, and idle ones are put away.

Where the server keeps states, a session that is not in memory is read from its disk when its device comes back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from spliteasy.errors import BusyError, FrameError, OrderError, SessionError
from spliteasy.server.checkpoints import Keeper
from spliteasy.server.ledger import Ledger
from spliteasy.server.mailbox import Mailbox
from spliteasy.server.session import Session

__all__ = ["IDENTIFIER_BYTES", "TOKEN_BYTES", "Served", "SessionStore", "names", "seal"]

IDENTIFIER_BYTES, TOKEN_BYTES = 12, 32
"""The random bytes in a session's identifier and token, which are written in base64."""


@dataclass
class Served:
    """A session, and what the server knows of it besides: its name, its token's seal, and the calls that came."""

    session: Session
    identifier: str
    seal: str
    ledger: Ledger = field(default_factory=Ledger)
    mailbox: Mailbox = field(default_factory=Mailbox)
    keeper: Keeper | None = None
    used: float = 0.0


class SessionStore:
    """At most ``capacity`` sessions in memory; one that was idle for ``idle_seconds`` leaves it with the next call.

    ``find`` gives a session by its identifier that is not in memory, or None.
    """

    def __init__(
        self,
        capacity: int = 16,
        idle_seconds: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        find: Callable[[str], Served | None] = lambda identifier: None,
    ) -> None:
        self.capacity, self.idle_seconds, self._clock, self._find = capacity, idle_seconds, clock, find
        self._served: dict[str, Served] = {}
        self._opening = 0
        self._opened_now: set[str] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            self._expire()
            return len(self._served)

    def open(
        self,
        build: Callable[[], Session],
        keep: Callable[[Served], None] = lambda served: None,
        named: tuple[str, str] | None = None,
    ) -> tuple[str, str]:
        """Reserve a place, build a session, let it be kept, and return its identifier and token: those of ``named``, if
        given, under which a session that is there already is found again.

        Raises `BusyError` when full or while the same is opened, `OrderError` if the token is not that session's."""
        identifier, token = named or names(secrets.token_urlsafe(TOKEN_BYTES), "")

        def make() -> Served:
            served = self._find(identifier) if named is not None else None
            if served is None:
                served = Served(build(), identifier, seal(token))
                keep(served)
            return served

        with self._lock:
            self._expire()
            served = self._served.get(identifier)
            if identifier in self._opened_now:
                raise BusyError("Expected a session that is not being opened yet, found that it is. Ask again.")
            self._opened_now.add(identifier)
        try:
            served = served or self._enter(make)
            if served is None or not hmac.compare_digest(served.seal, seal(token)):
                raise OrderError(
                    "Expected the opening of a session as it came before under the same key, found another body. Send "
                    "the same bytes again, or draw another key."
                )
            served.used = self._clock()
        finally:
            with self._lock:
                self._opened_now.discard(identifier)
        return identifier, token

    def get(self, identifier: str, token: str) -> Served:
        """The session, if the token opens it. Raises `SessionError` if it is unknown or another's: which of the two, it
        does not say."""
        with self._lock:
            self._expire()
            served = self._served.get(identifier)
        if served is None:
            served = self._read(identifier, token)
        if served is None or not hmac.compare_digest(served.seal, seal(token)):
            raise SessionError(
                f"There is no session {identifier!r} for this token: it was closed, or was idle for "
                f"{self.idle_seconds:.0f} s, or the server was started again without --state. Open a new one."
            )
        served.used = self._clock()
        return served

    def close(self, identifier: str, token: str) -> Served:
        """Forget a session."""
        served = self.get(identifier, token)
        with self._lock:
            self._served.pop(identifier, None)
        served.mailbox.close()
        return served

    def replace(self, served: Served) -> None:
        """Put another session in the place of that with its identifier."""
        with self._lock:
            served.used = self._clock()
            before = self._served.get(served.identifier)
            self._served[served.identifier] = served
        if before is not None:
            before.mailbox.close()

    def __iter__(self) -> Iterator[Served]:
        with self._lock:
            return iter(list(self._served.values()))

    def _read(self, identifier: str, token: str) -> Served | None:
        """A session from the disk, which takes a place in memory if the token opens it."""

        def make() -> Served | None:
            with self._lock:
                if identifier in self._served:  # another call was faster
                    return self._served[identifier]
            found = self._find(identifier)
            return found if found is not None and hmac.compare_digest(found.seal, seal(token)) else None

        return self._enter(make)

    def _enter(self, make: Callable[[], Served | None]) -> Served | None:
        with self._lock:
            self._expire()
            if len(self._served) + self._opening >= self.capacity:
                raise BusyError(
                    f"This server holds its {self.capacity} sessions already. Close one (leave its `with` block), wait "
                    f"{self.idle_seconds:.0f} s for an idle one to expire, or start it with --max-sessions."
                )
            self._opening += 1
        try:
            served = make()
            if served is not None:
                with self._lock:
                    served.used = self._clock()
                    served = self._served.setdefault(served.identifier, served)
        finally:
            with self._lock:
                self._opening -= 1
        return served

    def _expire(self) -> None:
        oldest = self._clock() - self.idle_seconds
        for identifier in [key for key, served in self._served.items() if served.used < oldest]:
            self._served.pop(identifier).mailbox.close()


def names(key: str, digest: str) -> tuple[str, str]:
    """The identifier and the token of the session that is opened under a secret ``key`` by a body of this ``digest``.

    They are made of these alone: a server that is asked again, also one that was started anew, finds the session or has
    lost it, and need not remember who asked. Raises `FrameError` for a key that could be guessed."""
    if not re.fullmatch(r"[A-Za-z0-9_\-]{32,200}", key):
        raise FrameError("Expected a key of 32 or more random letters and digits to open a session, found another.")

    def made(what: str, size: int) -> str:
        drawn = hmac.digest(key.encode(), what.encode(), "sha256")[:size]
        return base64.urlsafe_b64encode(drawn).decode().rstrip("=")

    return made("identifier", IDENTIFIER_BYTES), made(f"token {digest}", TOKEN_BYTES)


def seal(token: str) -> str:
    """What is kept of a token: its SHA-256, from which it cannot be had back."""
    return hashlib.sha256(token.encode()).hexdigest()
