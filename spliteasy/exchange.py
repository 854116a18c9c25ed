"""The calls of one step, from the device: encode, send, receive, decode, with the seconds and bytes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

__all__ = ["Asked", "Exchange", "entering_c", "norms_of", "plain_of"]


_PLAIN = {"outputs": ("generator",), "input_gradients": ("norms",)}


@dataclass(frozen=True)
class Asked:
    """A message that is ready to be sent, and what is expected in answer."""

    message: str
    frame: Frame
    expected: str
    boundary: Boundary | None
    slots: Sequence[int]
    training: bool


@dataclass
class Exchange:
    """What one step says to the server. ``step`` is −1 in evaluation; ``commit`` is the last finished step.

    A pipelined step has one for each of its ``parts``, of which this is ``part``, with its ``share`` of the samples.
    In such a step `transfer` is what the device waited for answers, whatever kept them."""

    split: Split
    streams: Streams
    transport: Transport
    commit: Commit
    step: int
    batch: int
    watch: Stopwatch
    sizes: dict[str, Bytes] = field(default_factory=dict)
    saturated: dict[str, int] = field(default_factory=dict)
    part: int = 0
    parts: int = 1
    share: float = 1.0

    @property
    def _parameters(self) -> list[str]:
        return [name for name, _ in self.split.b.named_parameters()] if self.split.b is not None else []

    def ask_forward(self, a: Pass, plain: dict[str, torch.Tensor]) -> Asked:
        """The activations, ready to be sent."""
        route, message = self.split.routes[True], self._activations(a, plain, True)
        if self.split.c is None:
            return self._asked(message, "input_gradients", self._first(True), route.up)
        return self._asked(message, "outputs", self._second(True), route.down)

    def ask_backward(self, gradients: Sequence[torch.Tensor | None]) -> Asked:
        """The output gradients, ready to be sent."""
        message = Message("output_gradients", gradients)
        return self._asked(message, "input_gradients", self._first(True), self.split.routes[True].up)

    def evaluate(self, a: Pass, plain: dict[str, torch.Tensor]) -> Message:
        """Send the activations in eval mode; the answer is outputs, or the score in its metadata (single split)."""
        message, second = self._activations(a, plain, False), self._second(False)
        down = self.split.routes[False].down if second is not None else ()
        return self.made(self._asked(message, "outputs", second, down, training=False))

    def _activations(self, a: Pass, plain: dict[str, torch.Tensor], training: bool) -> Message:
        up, needs = self.split.routes[training].up, a.needs_gradient
        self._first(training).check(a.tensors_out, self.batch)
        self.streams.begin()
        meta = {
            "batch": self.batch,
            "commit": self.commit.to_dict(),
            "needs_gradient": [needs[slot] for slot in up],
            **({"part": self.part, "parts": self.parts, "share": self.share} if self.parts > 1 else {}),
        }
        return Message("activations", [a.tensors_out[slot] for slot in up], a.scalars_out, plain, meta)

    def _first(self, training: bool) -> Boundary:
        boundary = self.split.a.exit[training]
        assert boundary is not None
        return boundary

    def _second(self, training: bool) -> Boundary | None:
        return self.split.b.exit[training] if self.split.b is not None else None

    def _asked(
        self, message: Message, expected: str, boundary: Boundary | None, slots: Sequence[int], training: bool = True
    ) -> Asked:
        with self.watch.phase("encode"):
            frame = self.streams.encode(message, self.step, training)
        return Asked(message.name, frame, expected, boundary, slots, training)

    def made(self, asked: Asked) -> Message:
        """Send a message and wait for its answer."""
        call = Stopwatch()
        if not asked.training:
            reply = self.transport.evaluate(asked.frame)
        elif asked.message == "activations":
            reply = self.transport.forward(self.step, asked.frame)
        else:
            reply = self.transport.backward(self.step, asked.frame)
        return self.understood(asked, reply, call.finish()["total"])

    def understood(self, asked: Asked, reply: Reply, seconds: float) -> Message:
        """The message in an answer that the device waited for so many seconds."""
        expected, boundary = asked.expected, asked.boundary
        with self.watch.phase("decode"):
            shapes = specs(boundary, asked.slots, self.batch) if boundary is not None else []
            answer = self.streams.decode(reply.frame, expected, self.step, shapes, asked.training, _PLAIN[expected])
            if asked.training:
                check_answer(answer, single=self.split.c is None, parameters=self._parameters)
        theirs = {phase: float(value) for phase, value in answer.meta.get("seconds", {}).items()}
        for phase, value in theirs.items():
            self.watch.add(phase, value)
        self.watch.add("link", reply.link)
        self.watch.add("transfer", seconds - (reply.link + sum(theirs.values()) if self.parts == 1 else 0.0))
        self._note(asked.message, Bytes(asked.frame.raw, asked.frame.nbytes, reply.sent), asked.frame.counts)
        self._note(expected, Bytes(answer.nbytes, reply.frame.nbytes, reply.received), answer.counts)
        return answer

    def _note(self, message: str, size: Bytes, counts: Mapping[str, int]) -> None:
        self.sizes[message] = self.sizes.get(message, Bytes()) + size
        self.saturated[message] = self.saturated.get(message, 0) + counts.get("saturated", 0)


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
