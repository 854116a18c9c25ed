"""A session's calls, each made again until it is answered: numbered, with a digest, after pauses that grow.

A connection that is lost, an answer that is damaged or of another call, a server that has no place for now: none of
these is the training loop's business. The number tells the server that a call came before (`spliteasy.server.ledger`).
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from spliteasy import errors
from spliteasy.errors import (
    BusyError,
    ConnectionLost,
    DamagedError,
    FrameError,
    OrderError,
    ProtocolError,
    ServerError,
    SplitEasyError,
)
from spliteasy.heads import CALL, OPENING, Call, digest
from spliteasy.http1 import Answer, Connection
from spliteasy.shaping import Crossing

__all__ = ["FLEETING", "Caller", "Patience", "strange", "unwrapped"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_CLOSING = 5.0
"""For how many seconds closing a session is tried again."""
_GATEWAY = (502, 503, 504)
_log = logging.getLogger("spliteasy")


class Patience:
    """Pauses before a call is made again, until ``seconds`` are over: each twice as long as the one before, with a
    random half, so that many devices do not come back at once."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._seconds, self._end, self._pause = clock, seconds, clock() + seconds, _FIRST_PAUSE
        self._said = False

    def pause(self, error: SplitEasyError) -> bool:
        """Wait, after ``error``; whether there is time to try again."""
        now = self._clock()
        wait = self._pause * random.uniform(0.5, 1.0)
        if isinstance(error, BusyError):
            wait = max(wait, error.seconds)
        if now + wait > self._end:
            return False
        if not self._said and self._pause > 0.5:
            self._said = True
            _log.warning("%s Trying again for %.0f s.", str(error).partition(". ")[0] + ".", self._end - now)
        time.sleep(wait)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True


class Caller:
    """Makes calls to a server over one connection, in turn. ``retry`` are the seconds for which a call is made again,
    ``timeout`` those for which its answer is waited for.

    Raises `ConnectionLost` when nobody answers, `ProtocolError` when something else does, and the server's own error,
    by name, when it refuses.
    """

    def __init__(self, url: str, timeout: float, retry: float) -> None:
        self.url, self.retry, self.newest = url, retry, 0
        self.connection = Connection(url, timeout)
        self.headers: dict[str, str] = {}

    def number(self) -> int:
        """The number of the next call."""
        self.newest += 1
        return self.newest

    def skip_to(self, number: int) -> None:
        """Numbers go on after ``number``, which another process used last."""
        self.newest = number

    def opening(self, path: str, pieces: Sequence[bytes | memoryview]) -> Answer:
        """The call that opens a session, made again likewise, under a key by which the server knows it again.

        Where nobody was ever reached the address may be wrong, and where something else answers twice it is: neither is
        waited for."""
        before, foreign = self.connection.sent, 0

        def final(error: SplitEasyError) -> bool:
            nonlocal foreign
            foreign += isinstance(error, _Strange)
            return foreign > 1 or self.connection.sent == before

        key = {OPENING: secrets.token_urlsafe(32)}
        return self(self.number(), "POST", path, pieces, more=key, final=final)

    def closing(self, path: str) -> None:
        """The call that ends a session, made again likewise, but for a few seconds only.

        Where nobody listens any more there is nothing to end, and a server that is stopping keeps the session: neither
        is waited for. A session that is unknown by now was ended by a call whose answer was lost."""
        end = time.monotonic() + _CLOSING

        def final(error: SplitEasyError) -> bool:
            gone = isinstance(error.__cause__, ConnectionRefusedError)
            return gone or isinstance(error, BusyError) or time.monotonic() > end

        try:
            self(self.number(), "DELETE", path, [], final=final)
        except (ServerError, DamagedError) as error:
            _log.debug("%s was not closed: %s", path, error)

    def __call__(
        self,
        number: int,
        method: str,
        path: str,
        pieces: Sequence[bytes | memoryview],
        crossing: Callable[[], Crossing] | None = None,
        more: Mapping[str, str] | None = None,
        final: Callable[[SplitEasyError], bool] = lambda error: False,
    ) -> Answer:
        """Make call ``number``, with ``more`` headers, until it is answered or an error is ``final``."""
        headers, patience = {**self.headed(number, pieces), **(more or {})}, self.patience()
        while True:
            try:
                cross = None if crossing is None else crossing()
                with strange():
                    answer = self.connection.call(method, path, pieces, headers, cross)
                return self.checked(number, path, answer)
            except FLEETING as error:
                if not isinstance(error, BusyError):
                    self.connection.close()  # whatever else comes over it belongs to no call of ours
                if final(error) or not patience.pause(error):
                    raise unwrapped(error) from None

    def patience(self) -> Patience:
        """For one call."""
        return Patience(self.retry)

    def headed(self, number: int, pieces: Sequence[bytes | memoryview]) -> dict[str, str]:
        """The headers of call ``number``."""
        return {**self.headers, CALL: str(Call(number, digest(pieces)))}

    def checked(self, number: int, path: str, answer: Answer) -> Answer:
        """The answer, if it is that of the call and came whole."""
        stated = answer.headers.get(CALL.lower())
        if stated is None:
            try:
                _accepted(f"{self.url}{path}", answer)
            except ProtocolError as error:  # a parser that found no request in what arrived, or a gateway
                raise _Strange(error) from None
            raise _Strange(_foreign(f"{self.url}{path}", answer))
        try:
            call = Call.parse(stated)
        except FrameError as error:
            raise DamagedError(str(error)) from None
        if call != Call(number, digest([answer.body])):
            raise DamagedError(
                f"Expected the whole answer to call {number} of {self.url}{path}, found that of call {call.number}, "
                "or a damaged one."
            )
        return _accepted(f"{self.url}{path}", answer)


class _Strange(SplitEasyError):
    """An answer that no server of ours gives: it may be damage, and is final only when there is no time left."""

    def __init__(self, real: SplitEasyError) -> None:
        super().__init__(str(real))
        self.real = real


FLEETING = (ConnectionLost, BusyError, DamagedError, _Strange)
"""What a call is made again after."""


@contextmanager
def strange() -> Iterator[None]:
    """Within the block, what is no answer of ours may be damage."""
    try:
        yield
    except ProtocolError as error:
        raise _Strange(error) from None


def unwrapped(error: SplitEasyError) -> SplitEasyError:
    """What to raise for one of them when there is no time left."""
    return error.real if isinstance(error, _Strange) else error


def _accepted(url: str, answer: Answer) -> Answer:
    """The answer, unless it is a refusal: that is raised, by its own class (problem+json, RFC 9457)."""
    if answer.status < 400:
        return answer
    if answer.kind == "application/problem+json":
        try:
            problem = json.loads(bytes(answer.body))
            name, detail = problem["type"].rpartition(":")[2], str(problem["detail"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            name, detail = "", ""
        cls = getattr(errors, name, None) if name in errors.__all__ else None
        if cls is OrderError:
            raise _order_error(detail, problem.get("expected"))
        if cls is BusyError:
            raise BusyError(detail, _seconds(answer.headers.get("retry-after", "")))
        if isinstance(cls, type) and issubclass(cls, SplitEasyError):
            raise cls(detail)
        if detail:
            raise ServerError(f"{url}: {answer.status}: {detail}")
    if answer.status in _GATEWAY:
        raise BusyError(
            f"Expected a spliteasy server at {url}, found an answer of status {answer.status} and type {answer.kind}: "
            "something in between does not reach it. Is it running?",
            _seconds(answer.headers.get("retry-after", "")),
        )
    raise _foreign(url, answer)


def _order_error(detail: str, expected: object) -> OrderError:
    step, phase = (expected.get("step"), expected.get("phase")) if isinstance(expected, dict) else (None, "")
    return OrderError(detail, step if type(step) is int else None, phase if isinstance(phase, str) else "")


def _foreign(url: str, answer: Answer) -> ProtocolError:
    return ProtocolError(
        f"Expected a spliteasy server at {url}, found an answer of status {answer.status} and type {answer.kind}. "
        "Is the address right? Is something else listening there?"
    )


def _seconds(stated: str) -> float:
    """What a Retry-After header asks for; at most ten seconds, which is how long a device of ours would wait anyway."""
    return min(float(stated), 10.0) if stated.isdecimal() else 1.0
