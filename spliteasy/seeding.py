"""Random numbers of a step: one generator state that travels through the segments as it would through one network."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spliteasy.errors import FrameError

__all__ = [
    "STATE_BYTES",
    "StepRandom",
    "check_generator_state",
    "drawing_from",
    "generator_state",
    "part_seed",
    "preserved",
    "step_seed",
]

STATE_BYTES = int(torch.get_rng_state().numel())
"""The size of the generator's state as it travels."""


def step_seed(seed: int, step: int) -> int:
    """The seed of a step's generator: 63 bits of BLAKE2b of both numbers.

    The unsplit reference is the plain model after ``torch.manual_seed(step_seed(seed, step))``.
    """
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def part_seed(seed: int, part: int) -> int:
    """The seed in place of ``seed`` for a micro-batch of a pipelined step: the first has ``seed`` itself, so that a
    step of one part is a step like any other."""
    return step_seed(seed, -1 - part) if part else seed


def check_generator_state(state: torch.Tensor) -> torch.Tensor:
    """A generator's state as it came over the wire. Raises `FrameError` if it is none."""
    if state.dtype != torch.uint8 or tuple(state.shape) != (STATE_BYTES,):
        raise FrameError(
            f"Expected a generator state of {STATE_BYTES} bytes, found {state.dtype} {tuple(state.shape)}."
        )
    try:
        torch.Generator().set_state(state)
    except RuntimeError as error:
        raise FrameError(f"Expected the state of a generator, found other bytes ({error}).") from error
    return state


class _Thread(threading.local):
    """The generator that steps of this thread seed and read: torch's global one, unless `drawing_from` says another."""

    generator = torch.default_generator


_thread = _Thread()


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Within the block, and in this thread, steps seed and read ``generator`` in place of torch's global one, which
    belongs to all threads. Who calls this sees to it that operations draw from it too."""
    before, _thread.generator = _thread.generator, generator
    try:
        yield
    finally:
        _thread.generator = before


def generator_state() -> torch.Tensor:
    """The state of the generator that this thread's steps draw from."""
    return _thread.generator.get_state()


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the generator's state afterwards, whatever happens inside."""
    state = _thread.generator.get_state()
    try:
        yield
    finally:
        _thread.generator.set_state(state)


class StepRandom:
    """The generator at the start of a segment: seeded for the step, or continued from where another stopped.

    `drawn` returns the state to send on if the segment drew numbers, and None if it did not: both sides then know it.
    """

    def __init__(self, seed: int, step: int, continued: torch.Tensor | None = None) -> None:
        if continued is not None:
            _thread.generator.set_state(continued)
        else:
            # Not torch.manual_seed: without CUDA it records a stack trace for a lazy call, which costs more than a
            # small segment computes.
            _thread.generator.manual_seed(step_seed(seed, step))
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.manual_seed_all(step_seed(seed, step))
        self._start = _thread.generator.get_state()
        self._continued = continued is not None

    def drawn(self) -> torch.Tensor | None:
        """The state now, if it must travel: numbers were drawn here or before."""
        state = _thread.generator.get_state()
        return state if self._continued or not torch.equal(state, self._start) else None
