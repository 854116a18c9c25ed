"""A step in parts: what both sides of a pipelined step keep for each micro-batch, and how gradients are added up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from spliteasy.backward import Pass
from spliteasy.errors import CodecError
from spliteasy.heads import phase_of
from spliteasy.seeding import part_seed
from spliteasy.wire import Codecs, Streams

__all__ = ["MOST_PARTS", "GradientSum", "PartStreams", "Parts"]

MOST_PARTS = 64
"""The most micro-batches of a step."""

_BETWEEN = "/"


class PartStreams:
    """One side's `Streams` of each part of a step: a codec's state, and what it draws, belong to the place of a
    micro-batch in its step, so that they do not depend on the order in which parts are computed."""

    def __init__(self, codecs: Codecs, seed: int, parts: int = 1) -> None:
        self.codecs = codecs
        self._parts = [Streams(codecs, part_seed(seed, part)) for part in range(parts)]

    def __getitem__(self, part: int) -> Streams:
        return self._parts[part]

    def __len__(self) -> int:
        return len(self._parts)

    def begin(self) -> None:
        """Start a step, as `Streams.begin`."""
        for part in self._parts:
            part.begin()

    def commit(self) -> None:
        """Keep the state that the step proposed."""
        for part in self._parts:
            part.commit()

    def state(self) -> dict[str, dict[str, Any]]:
        """As `Streams.state`; the messages of parts after the first are called ``activations/1`` and so on."""
        return {
            f"{message}{_BETWEEN}{number}" if number else message: slots
            for number, part in enumerate(self._parts)
            for message, slots in part.state().items()
        }

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from what `state` gave. Raises `CodecError` if it is none of so many parts."""
        found: list[dict[str, Mapping[str, Any]]] = [{} for _ in self._parts]
        for name, slots in state.items():
            message, _, number = name.partition(_BETWEEN)
            part = int(number) if number.isdecimal() else 0 if name == message else len(found)
            if part >= len(found):
                raise CodecError(f"Expected the codecs' state of {len(found)} parts, found {name!r:.80}.")
            found[part][message] = slots
        for streams, its in zip(self._parts, found, strict=True):
            streams.load_state(its)


class GradientSum:
    """The gradients of parameters over the parts of a step, added in the order of the parts: as autograd adds them up
    in one network that goes through one micro-batch after the other.

    A part's own gradients are those that the parameters hold while it is computed; `put` and `take` bring them there
    and back, where parts are computed in turns.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._sum: dict[str, torch.Tensor] = {}

    def take(self) -> dict[str, torch.Tensor]:
        """The gradients that the parameters hold, which hold none then."""
        taken = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        for parameter in self._parameters.values():
            parameter.grad = None
        return taken

    def put(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Give the parameters what was taken."""
        for name, gradient in gradients.items():
            self._parameters[name].grad = gradient

    def add(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Add those of the next part."""
        for name, gradient in gradients.items():
            if name in self._sum:
                self._sum[name].add_(gradient)
            else:
                self._sum[name] = gradient

    def finish(self) -> None:
        """Give the parameters the sums."""
        self.put(self._sum)
        self._sum = {}


class Parts:
    """How far the parts of a step are where segment B is: which forwards are done and which backwards."""

    def __init__(self, count: int, gradients: GradientSum) -> None:
        self._count, self._gradients = count, gradients
        self._open: dict[int, tuple[Pass, int]] = {}
        self._forwards = self._backwards = 0

    def is_next(self, part: int, count: int) -> bool:
        """Whether the forward of ``part`` may come now, in a step of ``count`` parts."""
        return part == self._forwards and count == self._count

    def is_open(self, part: int) -> bool:
        """Whether the backward of ``part`` may come now."""
        return part == self._backwards and part in self._open

    @property
    def awaited(self) -> str:
        """A phase that may come now, other than the first forward; empty if there is none."""
        if self.is_open(self._backwards):
            return phase_of("backward", self._backwards)
        return phase_of("forward", self._forwards) if 0 < self._forwards < self._count else ""

    def begun(self, part: int, run: Pass, batch: int) -> None:
        """The forward of ``part`` is done."""
        self._open[part] = run, batch
        self._forwards += 1

    def batch_of(self, part: int) -> int:
        """The samples of a part that is open."""
        return self._open[part][1]

    def taken(self, part: int) -> Pass:
        """The pass of a part, to go back through, once."""
        return self._open.pop(part)[0]

    def ended(self) -> bool:
        """The gradients of a part are there and are added to those before; whether it was the last part."""
        self._backwards += 1
        self._forwards = max(self._forwards, self._backwards)  # with the loss here, a forward is both
        if self._count > 1:
            self._gradients.add(self._gradients.take())
            if self._backwards == self._count:
                self._gradients.finish()
        return self._backwards == self._count
