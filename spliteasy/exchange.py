"""The calls of one step, from the device: encode, send, receive, decode, with the seconds and bytes of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from spliteasy.answers import check_answer
from spliteasy.backward import Pass
from spliteasy.boundary import Boundary
from spliteasy.runlog import Stopwatch
from spliteasy.server.limits import specs
from spliteasy.server.session import Commit
from spliteasy.splitting import Route, Split
from spliteasy.transport import Reply, Transport
from spliteasy.wire import Bytes, Frame, Message, Streams

__all__ = ["Exchange", "entering_c", "norms_of", "plain_of"]


_PLAIN = {"outputs": ("generator",), "input_gradients": ("norms",)}


@dataclass
class Exchange:
    """What one step says to the server. ``step`` is −1 in evaluation; ``commit`` is the last finished step."""

    split: Split
    streams: Streams
    transport: Transport
    commit: Commit
    step: int
    batch: int
    watch: Stopwatch
    sizes: dict[str, Bytes] = field(default_factory=dict)
    saturated: dict[str, int] = field(default_factory=dict)

    @property
    def _parameters(self) -> list[str]:
        return [name for name, _ in self.split.b.named_parameters()] if self.split.b is not None else []

    def forward(self, a: Pass, plain: dict[str, torch.Tensor]) -> Message:
        """Send the activations; the answer is outputs (double split) or input gradients (single split)."""
        route, first = self.split.routes[True], self._first(True)
        message = self._activations(a, plain, True)
        if self.split.c is None:
            return self._exchange(message, self._send_forward, "input_gradients", first, route.up)
        return self._exchange(message, self._send_forward, "outputs", self._second(True), route.down)

    def backward(self, gradients: Sequence[torch.Tensor | None]) -> Message:
        """Send the output gradients; the answer is input gradients."""
        message = Message("output_gradients", gradients)
        up = self.split.routes[True].up
        return self._exchange(message, self._send_backward, "input_gradients", self._first(True), up)

    def evaluate(self, a: Pass, plain: dict[str, torch.Tensor]) -> Message:
        """Send the activations in eval mode; the answer is outputs, or the score in its metadata (single split)."""
        message, second = self._activations(a, plain, False), self._second(False)
        down = self.split.routes[False].down if second is not None else ()
        return self._exchange(message, self.transport.evaluate, "outputs", second, down, training=False)

    def _activations(self, a: Pass, plain: dict[str, torch.Tensor], training: bool) -> Message:
        up, needs = self.split.routes[training].up, a.needs_gradient
        self._first(training).check(a.tensors_out, self.batch)
        self.streams.begin()
        meta = {
            "batch": self.batch,
            "commit": self.commit.to_dict(),
            "needs_gradient": [needs[slot] for slot in up],
        }
        return Message("activations", [a.tensors_out[slot] for slot in up], a.scalars_out, plain, meta)

    def _first(self, training: bool) -> Boundary:
        boundary = self.split.a.exit[training]
        assert boundary is not None
        return boundary

    def _second(self, training: bool) -> Boundary | None:
        return self.split.b.exit[training] if self.split.b is not None else None

    def _send_forward(self, frame: Frame) -> Reply:
        return self.transport.forward(self.step, frame)

    def _send_backward(self, frame: Frame) -> Reply:
        return self.transport.backward(self.step, frame)

    def _exchange(
        self,
        message: Message,
        send: Callable[[Frame], Reply],
        expected: str,
        boundary: Boundary | None,
        slots: Sequence[int],
        training: bool = True,
    ) -> Message:
        with self.watch.phase("encode"):
            frame = self.streams.encode(message, self.step, training)
        call = Stopwatch()
        reply = send(frame)
        seconds = call.finish()["total"]
        with self.watch.phase("decode"):
            shapes = specs(boundary, slots, self.batch) if boundary is not None else []
            answer = self.streams.decode(reply.frame, expected, self.step, shapes, training, _PLAIN[expected])
            if training:
                check_answer(answer, single=self.split.c is None, parameters=self._parameters)
        theirs = {phase: float(value) for phase, value in answer.meta.get("seconds", {}).items()}
        for phase, value in theirs.items():
            self.watch.add(phase, value)
        self.watch.add("link", reply.link)
        self.watch.add("transfer", seconds - reply.link - sum(theirs.values()))
        self.sizes[message.name] = Bytes(frame.raw, frame.nbytes, reply.sent)
        self.sizes[expected] = Bytes(answer.nbytes, reply.frame.nbytes, reply.received)
        for name, counts in ((message.name, frame.counts), (expected, answer.counts)):
            self.saturated[name] = counts.get("saturated", 0)
        return answer


def entering_c(route: Route, a: Pass, outputs: Message) -> tuple[list[torch.Tensor | None], Sequence[Any], list[bool]]:
    """C's entry slots, scalars and needs: what B sent, and what the device kept from A."""
    tensors: list[torch.Tensor | None] = [None] * (len(route.down) + len(route.kept))
    needs = [False] * len(tensors)
    sent = outputs.meta.get("needs_gradient", [False] * len(route.down))
    for slot, tensor, needed in zip(route.down, outputs.tensors, sent, strict=True):
        tensors[slot], needs[slot] = tensor, bool(needed)
    for slot, first in route.kept.items():
        tensors[slot], needs[slot] = a.tensors_out[first].detach(), a.needs_gradient[first]
    return tensors, outputs.scalars, needs


def norms_of(reply: Message) -> dict[str, torch.Tensor]:
    """The norms of B's gradients by parameter, where they were asked for."""
    norms = reply.plain.get("norms")
    return dict(zip(reply.meta["norms_of"], norms.unbind(), strict=True)) if norms is not None else {}


def plain_of(state: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The generator's state as a plain tensor of a message, if it drew numbers."""
    return {} if state is None else {"generator": state}
