"""What the device computes of a micro-batch, which is a whole batch unless the step is pipelined."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from spliteasy.backward import Backward, Pass
from spliteasy.exchange import Asked, Exchange, entering_c, plain_of
from spliteasy.optimization import Loss, scalar_loss, shared
from spliteasy.runlog import Stopwatch
from spliteasy.seeding import StepRandom
from spliteasy.splitting import Split
from spliteasy.wire import Message

__all__ = ["MicroBatch", "unsplit_step"]


def unsplit_step(split: Split, loss: Loss, x: torch.Tensor, y: torch.Tensor, watch: Stopwatch) -> float:
    """Forward and backward of a network that is all on the device; the loss."""
    with watch.phase("a_forward"):
        found = scalar_loss(loss(Pass.of_input(split.a, x).output, y))
    with watch.phase("a_backward"):
        found.backward()  # type: ignore[no-untyped-call]
    return float(found.detach())


@dataclass
class MicroBatch:
    """Inputs ``x`` and labels ``y`` on their way through A, out to B, through C with the loss, out to B, back through
    A. In a single split B is followed by nothing: the server holds the loss, and labels go with the activations.

    ``loss_value`` is its part of the batch's mean loss, ``error`` the gradient error of the device's own backward and
    of B's.
    """

    split: Split
    loss: Loss
    method: Backward
    exchange: Exchange
    x: torch.Tensor
    y: torch.Tensor
    loss_value: float = 0.0
    error: float = 0.0
    _a: Pass | None = None
    _state: torch.Tensor | None = None
    _gradients: list[torch.Tensor | None] = field(default_factory=list)

    def start(self) -> Asked:
        """A's forward; the activations."""
        with self.exchange.watch.phase("a_forward"):
            random = StepRandom(self.exchange.streams.seed, self.exchange.step)
            self._a = Pass.of_input(self.split.a, self.x)
            self._state = random.drawn()
        self._gradients = [None] * len(self._a.tensors_out)
        labels = {"labels": self.y} if self.split.c is None else {}
        return self.exchange.ask_forward(self._a, {**plain_of(self._state), **labels})

    def turn(self, outputs: Message) -> Asked:
        """C's forward, the loss, C's backward; the output gradients."""
        route, c, a = self.split.routes[True], self.split.c, self._a
        assert c is not None and a is not None
        with self.exchange.watch.phase("c"):
            seed, step = self.exchange.streams.seed, self.exchange.step
            StepRandom(seed, step, outputs.plain.get("generator", self._state))
            run = Pass(c, *entering_c(route, a, outputs))
            loss = shared(scalar_loss(self.loss(run.output, self.y)), self.exchange.share)
            loss.backward()  # type: ignore[no-untyped-call]
            from_c = run.input_gradients()
        self.loss_value = float(loss.detach())
        for slot, first in route.kept.items():  # what B never saw; for the rest, B adds its own gradient to C's
            self._gradients[first] = from_c[slot]
        return self.exchange.ask_backward([from_c[slot] for slot in route.back])

    def end(self, reply: Message) -> None:
        """A's backward."""
        a, self._a = self._a, None
        assert a is not None
        for slot, gradient in zip(self.split.routes[True].up, reply.tensors, strict=True):
            self._gradients[slot] = gradient
        with self.exchange.watch.phase("a_backward"):
            _, self.error = a.backward(self._gradients, self.method)
        if self.split.c is None:
            self.loss_value = float(reply.meta["loss"])
        else:
            self.error = max(self.error, float(reply.meta["gradient_error"]))
