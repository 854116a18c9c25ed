"""The paper's protocol: a step of a double split is four calls, two of which fetch what a pushed notice says is there.

Each message has a call of its own (section 2 of SplitEasy, HotMobile '21): activations are sent, and outputs fetched
when B is done; output gradients are sent, and input gradients fetched. Sessions, numbers and retries are those of two
calls, and so are the bits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import torch

from spliteasy.errors import ConnectionLost
from spliteasy.events import EventSource
from spliteasy.heads import LATER, answer_path, events_path
from spliteasy.http1 import Answer
from spliteasy.link import Link
from spliteasy.server.session import Commit
from spliteasy.shaping import Crossing
from spliteasy.transport import HTTP
from spliteasy.wire import Frame

__all__ = ["FourCalls"]

_ASK_AFTER = 5.0
"""Seconds without a notice after which the device asks."""

_ACCEPTED = 202


class FourCalls(HTTP):
    """`HTTP` with two calls for a message and its answer, and a connection over which the server says when it is there.

    A notice that is lost costs time, nothing else: the stream of notices is opened again, and the device asks for an
    answer that it was not told of."""

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
        super().__init__(url, config, tensors, link=link, timeout=timeout, retry=retry)
        self._events.open()

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
    ) -> FourCalls:
        """As `HTTP.resume`."""
        made = super().resume(kept, commit, url=url, link=link, timeout=timeout, retry=retry)
        made._events.open()
        return made

    def _set_up(self, url: str, link: Link | None, timeout: float, retry: float) -> None:
        super()._set_up(url, link, timeout, retry)
        self._timeout = timeout

    def _enter(self, opened: Mapping[str, Any]) -> None:
        super()._enter(opened)
        self._events = EventSource(self.url, self._timeout, events_path(self._path), self._caller.headers)

    def close(self) -> None:
        """End the session and both connections."""
        try:
            super().close()
        finally:
            self._events.close()

    def _make(self, number: int, path: str, frame: Frame, step: int, call: int) -> Answer:
        """Send the message, wait until its answer is there, and fetch it."""
        sending, fetching = self._crossing(step, 2 * call), self._crossing(step, 2 * call + 1)
        end = time.monotonic() + self._timeout

        def send() -> Answer:
            self._events.expect(number)
            return self._caller(number, "PUT", path, frame.pieces, sending, dict([LATER]))

        answer = send()
        while answer.status == _ACCEPTED:
            told = self._events.wait(number, _ASK_AFTER)
            if told:
                sending().told(told)
            answer = self._caller(number, "GET", answer_path(self._path, number), [], fetching)
            if answer.status == _ACCEPTED:
                if time.monotonic() > end:
                    raise ConnectionLost(
                        f"Expected the answer to call {number} from {self.url} within {self._timeout:g} s, found that "
                        "it is not there yet. Give the trainer a longer timeout."
                    )
                if _is_unknown(answer):  # a server that was started anew has lost it with its memory
                    answer = send()
                else:  # it came twice, and is computed again
                    self._events.expect(number)
        return answer

    def _counted(self) -> tuple[int, int]:
        sent, received = super()._counted()
        return sent + self._events.sent, received + self._events.received

    def _link_seconds(self, step: int, call: int, sent: int, received: int) -> float:
        if self._link is None or step < 0:
            return super()._link_seconds(step, call, sent, received)
        return Crossing(self._link, self._link.two_calls_and_notice(step, call)).seconds(sent, received)


def _is_unknown(answer: Answer) -> bool:
    try:
        said = json.loads(bytes(answer.body))
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("state") == "unknown"
