"""What a server takes at most, and what of it is stated when a session opens: batches, bodies, memory.

A step's body is bounded by what was agreed: the shapes at the cuts for the largest batch whose tensors fit, and what
the chains can make of these. Anything longer is refused by its stated length, before it is received.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from spliteasy.boundary import Boundary
from spliteasy.codecs import container
from spliteasy.codecs.base import TensorSpec
from spliteasy.codecs.chain import Chain
from spliteasy.errors import BusyError, CodecError, DataError, FrameError, ServerError, TrainingError
from spliteasy.heads import direction_and_part
from spliteasy.memory import optimizer_bytes
from spliteasy.segment import Segment
from spliteasy.splitting import Route
from spliteasy.wire import Codecs

__all__ = ["LARGEST_BATCH", "LARGEST_MESSAGE", "InFlight", "Limits", "SessionLimits", "held_bytes", "specs"]

LARGEST_MESSAGE = 1 << 32
"""The most bytes that the tensors of one message may take uncompressed: a frame states its batch, and a compressed
frame of a few bytes could otherwise ask for any amount of memory."""

LARGEST_BATCH = 1 << 24
"""The most samples in a batch."""

_ROOM = 8 + container.MAX_HEADER + (1 << 16)
"""What a body may hold beside planes: its header, the state of a generator, what lies between planes."""

_SMALLEST_HEAD = 1 << 10


@dataclass(frozen=True)
class Limits:
    """Bytes that a server takes at most: the tensors of one ``message`` uncompressed, the bodies ``in_flight`` of all
    requests together, the ``header`` of a request, the body that opens a session (``opening``).

    Raises `ServerError` for a limit under which nothing would work.
    """

    message: int = LARGEST_MESSAGE
    in_flight: int = 2 * LARGEST_MESSAGE
    header: int = 1 << 15
    opening: int = LARGEST_MESSAGE

    def __post_init__(self) -> None:
        least = {"message": 1, "in_flight": _ROOM, "header": _SMALLEST_HEAD, "opening": 1}
        for name, smallest in least.items():
            found = getattr(self, name)
            if type(found) is not int or found < smallest:
                raise ServerError(
                    f"Expected a limit of at least {smallest} bytes for {name.replace('_', ' ')}, found {found!r}."
                )


@dataclass(frozen=True)
class SessionLimits:
    """What one session takes: samples in a ``batch``, bytes in the body of each call by its name (``bodies``)."""

    batch: int
    bodies: Mapping[str, int]

    @classmethod
    def agreed(
        cls, segment: Segment, routes: Mapping[bool, Route], codecs: Codecs, single: bool, message: int
    ) -> SessionLimits:
        """From the shapes at the cuts and the chains, where the tensors of a message take at most ``message`` bytes.

        Raises `DataError` if a batch of one sample takes more.
        """

        def entering(training: bool) -> Callable[[int], list[TensorSpec]]:
            return lambda batch: specs(segment.entry[training], routes[training].up, batch)

        def leaving(batch: int) -> list[TensorSpec]:
            return specs(segment.exit[True], routes[True].back, batch)

        sent = {"forward": entering(True), "evaluate": entering(False), **({} if single else {"backward": leaving})}
        batch = _largest(lambda number: all(_raw(of(number)) <= message for of in sent.values()))
        if not batch:
            needed = max(_raw(of(1)) for of in sent.values())
            raise DataError(
                f"Expected messages of at most {message} bytes, found that one sample takes {needed} at these cuts. "
                "Split elsewhere, or start the server with a larger --max-message."
            )
        chains = {call: codecs.chain("output_gradients" if call == "backward" else "activations") for call in sent}
        bodies = {
            call: _ROOM
            + sum(_bound(chains[call], spec) for spec in of(batch))
            + (message if single else 0)  # labels, whose shape is the loss's business
            for call, of in sent.items()
        }
        return cls(batch, bodies)

    def check(self, call: str, length: int) -> None:
        """Raise `DataError` if a body is longer than that ``call`` can have, of whatever part of a step."""
        limit = self.bodies.get(direction_and_part(call)[0], _ROOM)
        if length > limit:
            raise DataError(
                f"Expected a body of at most {limit} bytes for {call}, as a batch of {self.batch} samples takes, found "
                f"{length}. Use smaller batches, or start the server with a larger --max-message."
            )

    def to_dict(self) -> dict[str, int]:
        """As it is stated when the session opens."""
        return {"largest_batch": self.batch, "largest_body": max(self.bodies.values())}


class InFlight:
    """The bodies that are being received or worked on: together they take at most ``limit`` bytes. ``is_full`` is
    called when there is no room for another."""

    def __init__(self, limit: int) -> None:
        self.limit, self._held, self._lock = limit, 0, threading.Lock()
        self.is_full: Callable[[], None] = lambda: None

    @contextmanager
    def hold(self, length: int) -> Iterator[None]:
        """Have ``length`` bytes of it within the block. Raises `BusyError` if so many are not free, `FrameError` if
        they never are."""
        with self.growing(length) as grow:
            grow(length)
            yield

    @contextmanager
    def growing(self, length: int) -> Iterator[Callable[[int], None]]:
        """Have of it within the block what the block asks for, up to ``length`` bytes. Raises as `hold` does."""
        if length > self.limit:
            raise FrameError(f"Expected a body of at most {self.limit} bytes, found {length}.")
        own = 0

        def grow(more: int) -> None:
            nonlocal own
            with self._lock:
                held = self._held
                if held + more <= self.limit:
                    self._held += more
                    own += more
                    return
            self.is_full()
            raise BusyError(
                f"This server takes {self.limit} bytes at once, has {held} in hand, and has no room for {more} now. "
                "Try again, or start it with a larger --max-in-flight."
            )

        try:
            yield grow
        finally:
            with self._lock:
                self._held -= own


def held_bytes(segment: nn.Module, optimizer: Mapping[str, Any]) -> dict[str, int | None]:
    """The bytes that a session keeps from step to step: ``parameters``, ``buffers``, ``gradients`` and ``optimizer``
    state (None where only values tell); what autograd saves of a batch comes on top while a step is under way."""
    trained = [parameter for parameter in segment.parameters() if parameter.requires_grad]
    try:
        state: int | None = optimizer_bytes(trained, optimizer)
    except TrainingError:
        state = None
    return {
        "parameters": sum(parameter.nbytes for parameter in segment.parameters()),
        "buffers": sum(buffer.nbytes for buffer in segment.buffers()),
        "gradients": sum(parameter.nbytes for parameter in trained),
        "optimizer": state,
    }


def specs(boundary: Boundary | None, slots: Sequence[int], batch: int) -> list[TensorSpec]:
    """What each slot's tensor must look like for a batch."""
    assert boundary is not None
    return [TensorSpec.of(boundary.slots[slot].shape(batch), boundary.slots[slot].dtype) for slot in slots]


def _largest(fits: Callable[[int], bool]) -> int:
    """The largest batch that fits; 0 if none does."""
    least, most = 0, LARGEST_BATCH
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least


def _raw(expected: Sequence[TensorSpec]) -> int:
    return sum(spec.nbytes for spec in expected)


def _bound(chain: Chain, spec: TensorSpec) -> int:
    """The most bytes of planes. Where a chain refuses so large a tensor, a smaller one may still be sent: twice the
    tensor is more than codecs make of it."""
    try:
        return sum(bound.max_numel * bound.dtype.itemsize for bound in chain.bounds(spec).values())
    except CodecError:
        return 2 * spec.nbytes
