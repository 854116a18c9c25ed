"""From the device to the session: in the same process, or over HTTP on one connection that is kept open.

Both give the same answers; only HTTP has a socket, on which every byte is counted.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from spliteasy import errors
from spliteasy.codecs import container
from spliteasy.codecs.state import unflatten
from spliteasy.errors import ProtocolError, ServerError, SplitEasyError
from spliteasy.heads import authorization, session_path, step_path
from spliteasy.http1 import Connection
from spliteasy.link import Link
from spliteasy.server.session import Commit, Session
from spliteasy.shaping import Crossing
from spliteasy.weights import load_tensors, save_tensors, unflatten_state
from spliteasy.wire import Frame

__all__ = ["HTTP", "InProcess", "Reply", "Transport"]


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

    def close(self) -> None:
        """End the session."""


class InProcess:
    """The session in this process: frames are handed over as they are, no socket, no copy. A link is waited for."""

    def __init__(self, session: Session, link: Link | None = None) -> None:
        self.session, self._link, self._evaluated = session, link, 0

    def forward(self, step: int, frame: Frame) -> Reply:
        return self._reply(frame, self.session.forward(step, frame), step, 0)

    def backward(self, step: int, frame: Frame) -> Reply:
        return self._reply(frame, self.session.backward(step, frame), step, 1)

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

    def close(self) -> None:
        """Nothing to end: the session shares the model."""

    def _reply(self, request: Frame, answer: Frame, step: int, call: int) -> Reply:
        if self._link is None:
            return Reply(answer)
        seconds = Crossing(self._link, self._link.round_trip(step, call)).seconds(request.nbytes, answer.nbytes)
        time.sleep(seconds)
        return Reply(answer, link=seconds)


class HTTP:
    """A session on a server. Opening it sends the configuration and ``tensors``: B's weights and fitted parameters.

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
    ) -> None:
        self.url, self._link, self._evaluated = url.rstrip("/"), link, 0
        self._connection = Connection(self.url, timeout)
        self._headers: dict[str, str] = {}
        body = save_tensors(tensors, {"session": json.dumps(dict(config))})
        answer = self._json("POST", "/v1/sessions", [body])
        names = [answer.get("session"), answer.get("token")]
        if not all(isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_\-]{1,200}", name) for name in names):
            raise ProtocolError(f"Expected a session and its token from {self.url}, found {answer!r:.200}.")
        self.session: str = answer["session"]
        self.info = answer
        self._path = session_path(self.session)
        self._headers = authorization(answer["token"])

    def forward(self, step: int, frame: Frame) -> Reply:
        return self._frame("PUT", step_path(self._path, step, "forward"), frame, step, 0)

    def backward(self, step: int, frame: Frame) -> Reply:
        return self._frame("PUT", step_path(self._path, step, "backward"), frame, step, 1)

    def evaluate(self, frame: Frame) -> Reply:
        self._evaluated += 1
        return self._frame("POST", f"{self._path}/evaluate", frame, -1, self._evaluated)

    def commit(self, commit: Commit) -> None:
        self._json("POST", f"{self._path}/commit", [json.dumps(commit.to_dict()).encode()])

    def weights(self) -> dict[str, torch.Tensor]:
        body, _, _ = self._call("GET", f"{self._path}/weights", [])
        return load_tensors(body)

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        body, _, _ = self._call("GET", f"{self._path}/optimizer", [])
        return unflatten_state(load_tensors(body), container.read(body)[1])

    def codec_state(self) -> dict[str, dict[str, Any]]:
        body, _, _ = self._call("GET", f"{self._path}/codecs", [])
        return unflatten(load_tensors(body), container.read(body)[1])

    def close(self) -> None:
        """End the session and the connection. A server that is gone has nothing to end."""
        try:
            self._json("DELETE", self._path, [])
        except ServerError:
            pass
        finally:
            self._connection.close()

    def _frame(self, method: str, path: str, frame: Frame, step: int, call: int) -> Reply:
        if self._link is None:
            body, sent, received = self._call(method, path, frame.pieces)
            return Reply(Frame.parse(body), sent, received)
        crossing = Crossing(self._link, self._link.round_trip(step, call))
        body, sent, received = self._call(method, path, frame.pieces, crossing)
        return Reply(Frame.parse(body), sent, received, crossing.seconds(sent, received))

    def _json(self, method: str, path: str, pieces: Sequence[bytes | memoryview]) -> dict[str, Any]:
        body, _, _ = self._call(method, path, pieces)
        try:
            answer = json.loads(bytes(body) or b"{}")
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ProtocolError(
                f"Expected JSON from {self.url}{path}, found {bytes(body[:80])!r}. Is it another server?"
            )
        return answer

    def _call(
        self, method: str, path: str, pieces: Sequence[bytes | memoryview], crossing: Crossing | None = None
    ) -> tuple[memoryview, int, int]:
        answer = self._connection.call(method, path, pieces, self._headers, crossing)
        if answer.status >= 400:
            raise _refusal(self.url + path, answer.status, answer.kind, bytes(answer.body))
        return answer.body, answer.sent, answer.received


def _refusal(url: str, status: int, kind: str, body: bytes) -> SplitEasyError:
    """The error in a problem+json body (RFC 9457), by its own class."""
    if kind == "application/problem+json":
        try:
            problem = json.loads(body)
            name, detail = problem["type"].rpartition(":")[2], str(problem["detail"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            name, detail = "", ""
        cls = getattr(errors, name, None) if name in errors.__all__ else None
        if isinstance(cls, type) and issubclass(cls, SplitEasyError):
            return cls(detail)
        if detail:
            return ServerError(f"{url}: {status}: {detail}")
    return ProtocolError(
        f"Expected a spliteasy server at {url}, found an answer of status {status} and type {kind}. "
        "Is the address right? Is something else listening there?"
    )
