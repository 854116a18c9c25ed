"""From the device to the session: in the same process, or over HTTP on one connection that is kept open.

Both give the same answers; only HTTP has a socket, on which every byte is counted.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import torch

from spliteasy.calling import Caller
from spliteasy.codecs import container
from spliteasy.codecs.state import unflatten
from spliteasy.errors import DataError, OrderError, ProtocolError
from spliteasy.heads import SAVED, authorization, direction_and_part, session_path, step_path
from spliteasy.http1 import Answer
from spliteasy.link import Link
from spliteasy.piped_calls import Pipe, PipedCall
from spliteasy.sent_steps import SentSteps
from spliteasy.server.session import Commit, Session
from spliteasy.shaping import Crossing
from spliteasy.weights import load_tensors, save_tensors, unflatten_state
from spliteasy.wire import Frame

__all__ = ["HTTP", "InProcess", "Reply", "Transport"]

T = TypeVar("T")

_RESTARTS = 20
"""How often a server may be started anew while one call waits for its answer."""

_OPENED = ("session", "token", "saves_every", "limits", "memory")
"""What the answer to opening a session says of it."""


@dataclass(frozen=True)
class Reply:
    """A frame that came back, the bytes that went over the socket each way, and the seconds that an emulated link takes
    for them."""

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

    def begin(self, step: int, phase: str, frame: Frame) -> None:
        """Send a message of a part of a step, without waiting; ``phase`` as `heads.phase_of` gives it."""

    def answered(self, wait: bool) -> Reply | None:
        """The answer to the first of these that has none yet; None if it is not there and none is waited for, or if
        `is_free` may have changed."""

    @property
    def is_free(self) -> bool:
        """Whether a message that is sent now would soon be on its way."""

    def give_up(self) -> None:
        """Forget those that are under way: their step is not finished."""

    def evaluate(self, frame: Frame) -> Reply:
        """Activations in eval mode."""

    def commit(self, commit: Commit) -> None:
        """The last finished step, when no other call will carry it."""

    def weights(self) -> dict[str, torch.Tensor]:
        """B's parameters and buffers by name."""

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        """B's optimizer state by parameter."""

    def codec_state(self) -> dict[str, dict[str, Any]]:
        """The state of the server's codecs, by message and slot."""

    def keep(self, commit: Commit, also: int | None) -> dict[str, Any]:
        """Commit, and keep the state on the server, and that of step ``also`` with it; what a later process needs to go
        on from there. Raises `StateError` where it cannot be kept."""

    def hurry(self) -> None:
        """Make calls once only from now on."""

    def close(self) -> None:
        """End the session."""


class InProcess:
    """The session in this process: frames are handed over as they are, no socket, no copy. A link is waited for."""

    def __init__(self, session: Session, link: Link | None = None, protocol: str = "two-call") -> None:
        self.session, self._link, self._evaluated = session, link, 0
        self._fetched = protocol == "four-call"
        self._answers: deque[Reply] = deque()

    def forward(self, step: int, frame: Frame) -> Reply:
        return self._reply(frame, self.session.forward(step, frame), step, 0)

    def backward(self, step: int, frame: Frame) -> Reply:
        return self._reply(frame, self.session.backward(step, frame), step, 1)

    def begin(self, step: int, phase: str, frame: Frame) -> None:
        direction, part = direction_and_part(phase)
        work = self.session.forward if direction == "forward" else self.session.backward
        self._answers.append(self._reply(frame, work(step, frame, part), step, _place(phase)))

    def answered(self, wait: bool) -> Reply | None:
        return self._answers.popleft() if self._answers else None

    @property
    def is_free(self) -> bool:
        return True

    def give_up(self) -> None:
        self._answers.clear()

    def evaluate(self, frame: Frame) -> Reply:
        self._evaluated += 1
        return self._reply(frame, self.session.evaluate(frame), -1, self._evaluated)

    def commit(self, commit: Commit) -> None:
        self.session.settle(commit)

    def weights(self) -> dict[str, torch.Tensor]:
        return self.session.weights()

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        return self.session.updater.state()

    def codec_state(self) -> dict[str, dict[str, Any]]:
        return self.session.streams.state()

    def keep(self, commit: Commit, also: int | None) -> dict[str, Any]:
        self.session.settle(commit)
        return {}

    def hurry(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to end: the session shares the model."""

    def _reply(self, request: Frame, answer: Frame, step: int, call: int) -> Reply:
        if self._link is None:
            return Reply(answer)
        fetched = self._fetched and step >= 0
        waiting = self._link.two_calls_and_notice(step, call) if fetched else self._link.round_trip(step, call)
        seconds = Crossing(self._link, waiting).seconds(request.nbytes, answer.nbytes)
        time.sleep(seconds)
        return Reply(answer, link=seconds)


class HTTP:
    """A session on a server. Opening it sends the configuration and ``tensors``: B's weights and fitted parameters.

    A call whose connection is lost is made again for ``retry`` seconds, also the one that opens the session. Where the
    server keeps states (``serve --state``), the steps since the last one that it wrote are remembered here, and sent
    again if it was started anew.

    Raises `ConnectionLost` when no server answers, `ProtocolError` when something else does, and the server's own
    error, by name, when it refuses. A ``link`` shapes the socket for the messages of steps and evaluation; opening and
    closing, weights and states are not made to wait.
    """

    def __init__(
        self,
        url: str,
        config: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        *,
        link: Link | None = None,
        timeout: float = 600.0,
        retry: float = 60.0,
    ) -> None:
        self._set_up(url, link, timeout, retry)
        body = save_tensors(tensors, {"session": json.dumps(dict(config))})
        answer = self._read("/v1/sessions", self._caller.opening("/v1/sessions", [body]))
        names = [answer.get("session"), answer.get("token")]
        if not all(isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_\-]{1,200}", name) for name in names):
            raise ProtocolError(f"Expected a session and its token from {self.url}, found {answer!r:.200}.")
        self._enter(answer)

    @classmethod
    def resume(
        cls,
        kept: Mapping[str, Any],
        commit: Commit,
        *,
        url: str | None,
        link: Link | None,
        timeout: float,
        retry: float,
    ) -> Self:
        """Go on with a session from the state that `keep` told of. ``url`` is where the server is now, if it moved.

        Raises `StateError` if it is not there any more, `SessionError` if the session is not."""
        made = cls.__new__(cls)
        made._set_up(url or str(kept["url"]), link, timeout, retry)
        made._enter(kept)
        made._caller.skip_to(int(kept["number"]))
        made._commit, made._evaluated = commit, int(kept["evaluated"])
        made._caller(made._caller.number(), "PUT", f"{made._path}/states/{commit.step}", [])
        return made

    def _set_up(self, url: str, link: Link | None, timeout: float, retry: float) -> None:
        self.url, self._link, self._evaluated = url.rstrip("/"), link, 0
        self._caller = Caller(self.url, timeout, retry)
        self._pipe = Pipe(self._caller, timeout, link)
        self._commit = Commit()

    def _enter(self, opened: Mapping[str, Any]) -> None:
        self._opened = {name: opened[name] for name in _OPENED if name in opened}
        limits = opened.get("limits")
        largest = limits.get("largest_body") if isinstance(limits, dict) else None
        self._largest_body = largest if type(largest) is int else None
        self.session: str = opened["session"]
        self._path = session_path(self.session)
        self._caller.headers = authorization(opened["token"])
        self._sent = SentSteps() if opened.get("saves_every") is not None else None

    def forward(self, step: int, frame: Frame) -> Reply:
        return self._step(step, "forward", frame, 0)

    def backward(self, step: int, frame: Frame) -> Reply:
        return self._step(step, "backward", frame, 1)

    def begin(self, step: int, phase: str, frame: Frame) -> None:
        number = self._next(step, phase, frame)
        late = 0.0 if self._link is None else self._link.round_trip(step, _place(phase))
        self._pipe.put(PipedCall(number, step_path(self._path, step, phase), frame.pieces, late))

    def answered(self, wait: bool) -> Reply | None:
        found = self._caught_up(lambda: self._pipe.take(wait), self._pipe.first)
        if found is None:
            return None
        call, answer = found
        self._note_saved(answer)
        link = Crossing(self._link, call.round_trip).seconds(call.sent, call.received)
        return Reply(Frame.parse(answer.body), call.sent, call.received, link)

    @property
    def is_free(self) -> bool:
        return self._pipe.is_free

    def give_up(self) -> None:
        self._pipe.give_up()

    def evaluate(self, frame: Frame) -> Reply:
        self._check_size(frame)
        self._evaluated += 1
        path, number, cross = f"{self._path}/evaluate", self._caller.number(), self._crossing(-1, self._evaluated)
        return self._reply(lambda: self._caller(number, "POST", path, frame.pieces, cross), -1, self._evaluated)

    def commit(self, commit: Commit) -> None:
        self._commit = commit
        self._caught_up(self._send_commit)

    def weights(self) -> dict[str, torch.Tensor]:
        return load_tensors(self._get("weights").body)

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        body = self._get("optimizer").body
        return unflatten_state(load_tensors(body), container.read(body)[1])

    def codec_state(self) -> dict[str, dict[str, Any]]:
        body = self._get("codecs").body
        return unflatten(load_tensors(body), container.read(body)[1])

    def keep(self, commit: Commit, also: int | None) -> dict[str, Any]:
        self._commit = commit
        body, path = json.dumps(commit.to_dict()).encode(), f"{self._path}/states"
        path += "" if also is None else f"?also={also}"
        self._caught_up(lambda: self._caller(self._caller.number(), "POST", path, [body]))
        if self._sent is not None:
            self._sent.saved(str(commit.step))
        return {**self._opened, "url": self.url, "number": self._caller.newest, "evaluated": self._evaluated}

    def hurry(self) -> None:
        self._caller.retry = 0.0

    def close(self) -> None:
        """End the session, if the server is still there, and the connection."""
        try:
            self._caller.closing(self._path)
        finally:
            self._caller.connection.close()

    def _step(self, step: int, phase: str, frame: Frame, call: int) -> Reply:
        number = self._next(step, phase, frame)
        path = step_path(self._path, step, phase)
        return self._reply(lambda: self._make(number, path, frame, step, call), step, call, number)

    def _next(self, step: int, phase: str, frame: Frame) -> int:
        """The number of a step's call that is about to be made."""
        self._check_size(frame)
        number = self._caller.number()
        if self._sent is not None:
            self._sent.add(step, phase, number, frame)
        return number

    def _make(self, number: int, path: str, frame: Frame, step: int, call: int) -> Answer:
        """Make a step's call; its answer."""
        return self._caller(number, "PUT", path, frame.pieces, self._crossing(step, call))

    def _counted(self) -> tuple[int, int]:
        """All bytes that went over sockets so far, each way."""
        return self._caller.connection.sent, self._caller.connection.received

    def _link_seconds(self, step: int, call: int, sent: int, received: int) -> float:
        """What an emulated link takes for these bytes of a call."""
        return self._crossing(step, call)().seconds(sent, received)

    def _check_size(self, frame: Frame) -> None:
        """A body that the server would refuse by its length is not sent. Raises `DataError`."""
        if self._largest_body is not None and frame.nbytes > self._largest_body:
            raise DataError(
                f"Expected a message of at most {self._largest_body} bytes, which is what the server takes for these "
                f"cuts and chains; found {frame.nbytes}. Use smaller batches, or start it with a larger --max-message."
            )

    def _reply(self, send: Callable[[], Answer], step: int, call: int, number: float = math.inf) -> Reply:
        """The frame that came back, and all bytes that went over the socket for it."""
        before = self._counted()
        answer = self._caught_up(send, number)
        sent, received = (now - then for now, then in zip(self._counted(), before, strict=True))
        link = 0.0 if self._link is None else self._link_seconds(step, call, sent, received)
        self._note_saved(answer)
        return Reply(Frame.parse(answer.body), sent, received, link)

    def _note_saved(self, answer: Answer) -> None:
        if self._sent is not None:
            self._sent.saved(answer.headers.get(SAVED.lower(), ""))

    def _crossing(self, step: int, call: int) -> Callable[[], Crossing]:
        link = self._link
        return lambda: Crossing(link, 0.0 if link is None else link.round_trip(step, call))

    def _get(self, what: str) -> Answer:
        """What the session holds, as of the last step that the device finished."""
        path = f"{self._path}/{what}?step={self._commit.step}"

        def get() -> Answer:
            return self._caller(self._caller.number(), "GET", path, [])

        return self._caught_up(get)

    def _send_commit(self) -> Answer:
        body = json.dumps(self._commit.to_dict()).encode()
        return self._caller(self._caller.number(), "POST", f"{self._path}/commit", [body])

    def _caught_up(self, send: Callable[[], T], pending: float = math.inf) -> T:
        """What ``send`` returns; where the server fell behind, because it was started anew, once it has caught up.
        ``pending`` is the number of the first call that is sent, which is not among those that it lacks."""
        behind: OrderError | None = None
        for _ in range(_RESTARTS):
            try:
                if behind is not None:
                    self._send_again(behind, pending)
                return send()
            except OrderError as error:
                if self._sent is None or not self._sent.since(error.step, pending):
                    raise
                behind = error
        assert behind is not None
        raise behind

    def _send_again(self, behind: OrderError, pending: float) -> None:
        assert self._sent is not None
        for call in self._sent.since(behind.step, pending):
            self._caller(call.number, "PUT", step_path(self._path, call.step, call.phase), [call.body])
        if pending == math.inf:  # a step's own forward carries the commit
            self._send_commit()

    def _read(self, path: str, answer: Answer) -> dict[str, Any]:
        try:
            value = json.loads(bytes(answer.body) or b"{}")
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ProtocolError(
                f"Expected JSON from {self.url}{path}, found {bytes(answer.body[:80])!r}. Is it another server?"
            )
        return value


def _place(phase: str) -> int:
    """Which of a step's calls a phase is, for a link whose round trips differ."""
    direction, part = direction_and_part(phase)
    return 2 * part + (direction == "backward")
