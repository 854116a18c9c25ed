"""All sessions of a server and what may be done to them: calls in turn on one thread, each once; states on the disk.

Nothing here knows of HTTP. Methods that say so run on the compute thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch

from spliteasy.codecs.state import flatten
from spliteasy.errors import OrderError, SplitEasyError, StateError
from spliteasy.heads import Call, direction_and_part
from spliteasy.server.checkpoints import Checkpoints, Keeper
from spliteasy.server.compute import ComputeThread
from spliteasy.server.in_hand import CallsInHand
from spliteasy.server.limits import InFlight, Limits, held_bytes
from spliteasy.server.observing import Observer
from spliteasy.server.opening import SessionConfig, open_session
from spliteasy.server.session import Commit, Session
from spliteasy.server.store import Served, SessionStore
from spliteasy.weights import flatten_state, save_tensors
from spliteasy.wire import Frame

__all__ = ["Sessions"]

T = TypeVar("T")


class Sessions:
    """At most ``max_sessions`` in memory, idle ones put away after ``idle_seconds``; ``threads`` are those that torch
    computes with, ``allow`` the factories it may import, ``checkpoints`` where states are kept (None: nowhere),
    ``limits`` the most bytes that are taken.

    ``observer`` is told of what is done, ``in_hand`` are the calls that are under way."""

    def __init__(
        self,
        *,
        max_sessions: int = 16,
        idle_seconds: float = 3600.0,
        threads: int | None = None,
        allow: Collection[str] = (),
        checkpoints: Checkpoints | None = None,
        limits: Limits | None = None,
        store: SessionStore | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.in_flight = InFlight(self.limits.in_flight)
        self.observer, self.in_hand = observer or Observer(), CallsInHand()
        if checkpoints is not None:
            checkpoints.observer = self.observer
        self.computed, self._allow, self._checkpoints = ComputeThread(threads), list(allow), checkpoints
        self.store = store if store is not None else SessionStore(max_sessions, idle_seconds, find=self._find)

    @property
    def saves_every(self) -> int | None:
        """After how many steps a session's state is written; None: never."""
        return self._checkpoints.every if self._checkpoints is not None else None

    def open(
        self, config: SessionConfig, tensors: Mapping[str, torch.Tensor], named: tuple[str, str] | None = None
    ) -> tuple[str, str]:
        """A new session's identifier and token; ``named``: those that it gets, or has got before. Not for the compute
        thread."""
        new = False

        def build() -> Session:
            nonlocal new
            new = True
            return self.computed(lambda: self._build(config, tensors))

        def keep(served: Served) -> None:
            if self._checkpoints is not None:
                keeper = Keeper(self._checkpoints, served.identifier, config, served.seal)
                served.keeper = served.session.keeper = keeper
                self.computed(lambda: keeper.write(served.session))

        started = time.perf_counter()
        opened = self.store.open(build, keep, named)
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        self.observer.opened(opened[0], nbytes, time.perf_counter() - started, not new)
        return opened

    def stated(self, served: Served, config: SessionConfig) -> dict[str, Any]:
        """What a session takes: its limits, and the bytes of memory that it keeps."""
        session = served.session
        return {"limits": session.limits.to_dict(), "memory": held_bytes(session.segment, config.optimizer)}

    def step(self, served: Served, call: Call | str, step: int, phase: str, body: memoryview) -> Frame:
        """Run ``phase`` of ``step``, or answer as before. ``call`` is its number with the body's digest, or the digest.
        On the compute thread."""
        direction, part = direction_and_part(phase)
        forward = direction == "forward"
        work = served.session.forward if forward else served.session.backward
        number, digest = (call.number, call.digest) if isinstance(call, Call) else (None, call)

        def once() -> Frame:
            return served.ledger.once(number, digest, step, phase, lambda: work(step, Frame.parse(body), part))

        messages = ("activations", "outputs") if forward else ("output_gradients", "input_gradients")
        if served.session.loss is not None:
            messages = ("activations", "input_gradients")
        return self._exchanged(served, messages, step, phase, len(body), once)

    def begin(self, served: Served, call: Call, step: int, phase: str, body: memoryview) -> None:
        """The same, without waiting: the answer is put in the session's mailbox. Not for the compute thread."""
        served.mailbox.begin(call, self.computed.later, lambda: self.step(served, call, step, phase, body))

    def evaluate(self, served: Served, call: Call | str, body: memoryview) -> Frame:
        """On the compute thread."""

        def evaluate() -> Frame:
            return self._in_turn(served, call, lambda: served.session.evaluate(Frame.parse(body)))

        return self._exchanged(served, ("activations", "outputs"), None, "evaluate", len(body), evaluate)

    def commit(self, served: Served, call: Call | str, commit: Commit) -> None:
        """On the compute thread."""
        self._counted(served, lambda: self._in_turn(served, call, lambda: served.session.settle(commit)))

    def save(self, served: Served, call: Call | str, commit: Commit, also: int | None) -> None:
        """Commit, and keep the state until another is kept, and that of step ``also`` with it. On the compute
        thread. Raises `StateError` where no states are kept, or the disk refuses."""
        self.commit(served, call, commit)
        if served.keeper is None:
            raise StateError(
                "Expected a server that keeps states, found one that does not. Start it with `spliteasy serve --state "
                "DIR`, or se.LocalServer(state=DIR)."
            )
        served.keeper.write(served.session, pin=True, also=also)

    def resume(self, served: Served, step: int) -> None:
        """Go back to the state after ``step``. On the compute thread. Raises `StateError` if it is not there."""
        if served.keeper is not None:
            served.keeper.wait()
        found = self._read(served.identifier, step)
        if found is None:
            raise StateError(f"Expected a state of this session after step {step}, found none. Open a new session.")
        self.store.replace(found)

    def state(self, served: Served, what: str, step: int | None) -> bytes:
        """Weights, optimizer state or codec state as safetensors. On the compute thread. Raises `OrderError` if
        ``step`` is not the last finished one."""
        session = served.session
        if step is not None and step != session.committed:
            raise OrderError(
                f"Expected to be asked for the state after step {session.committed}, found step {step}.",
                session.committed + 1,
                "forward",
            )
        if what == "weights":
            return save_tensors(session.weights())
        if what == "optimizer":
            return save_tensors(*flatten_state(session.updater.state()))
        return save_tensors(*flatten(session.streams.state()))

    def close(self, identifier: str, token: str) -> None:
        """End a session, and remove its states."""
        served = self.store.close(identifier, token)
        if served.keeper is not None and self._checkpoints is not None:
            served.keeper.wait()
            self._checkpoints.remove(identifier)
        self.observer.closed(identifier)

    def write_all(self) -> list[SplitEasyError]:
        """Write the state of every session that keeps one; what went wrong. Not for the compute thread."""
        wrong: list[SplitEasyError] = []
        for served in self.store:
            keeper, session = served.keeper, served.session
            if keeper is not None:
                try:
                    self.computed(lambda keeper=keeper, session=session: keeper.write(session))  # type: ignore[misc]
                except SplitEasyError as error:
                    wrong.append(error)
        return wrong

    def stop(self) -> list[SplitEasyError]:
        """Take no new calls, finish those in hand, and write every state, unless it was told to hurry; what went
        wrong. Not for the compute thread."""
        self.in_hand.refuse()
        self.observer.stopping(len(self.in_hand))
        return self.write_all() if self.in_hand.wait() else []

    def metrics(self) -> str:
        """What happened so far, in the text format of Prometheus."""
        return self.observer.metrics.text(
            spliteasy_sessions=len(self.store), spliteasy_stopping=float(self.in_hand.stopping)
        )

    def _exchanged(
        self,
        served: Served,
        messages: tuple[str, str],
        step: int | None,
        phase: str,
        received: int,
        work: Callable[[], Frame],
    ) -> Frame:
        """The frame that ``work`` answers; the observer is told of both messages."""
        started, again = time.perf_counter(), served.ledger.again
        self.observer.arrived(messages[0], received)
        frame = self._counted(served, work)
        self.observer.left(messages[1], frame.nbytes)
        seconds, repeated = time.perf_counter() - started, served.ledger.again > again
        self.observer.answered(served.identifier, step, phase, received, frame.nbytes, seconds, repeated)
        return frame

    def _counted(self, served: Served, work: Callable[[], T]) -> T:
        """What ``work`` returns; the observer is told of updates and seconds also where it raised."""
        session, ledger = served.session, served.ledger
        committed, again = session.committed, ledger.again
        try:
            return work()
        finally:
            self.observer.worked(session.committed - committed, ledger.again - again, session.take_seconds())

    def _in_turn(self, served: Served, call: Call | str, work: Callable[[], T]) -> T:
        """What ends the step in hand: it was finished, or given up."""
        result = served.ledger.harmless(call.number if isinstance(call, Call) else None, work)
        served.ledger.forget()
        return result

    def _find(self, identifier: str) -> Served | None:
        return self.computed(lambda: self._read(identifier, None)) if self._checkpoints is not None else None

    def _read(self, identifier: str, step: int | None) -> Served | None:
        if self._checkpoints is None:
            return None
        found = self._checkpoints.read(identifier, step, self._build)
        if found is None:
            return None
        session, config, seal = found
        saved, pinned = session.committed, self._checkpoints.steps(identifier)
        served = Served(session, identifier, seal)
        served.keeper = session.keeper = Keeper(self._checkpoints, identifier, config, seal, saved, pinned)
        return served

    def _build(self, config: SessionConfig, tensors: Mapping[str, torch.Tensor]) -> Session:
        return open_session(config, tensors, self._allow, self.limits.message)
