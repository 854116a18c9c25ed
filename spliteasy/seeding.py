"""Random numbers of a step: one generator state that travels through the segments as it would through one network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spliteasy.errors import FrameError

__all__ = ["STATE_BYTES", "StepRandom", "check_generator_state", "preserved", "step_seed"]

STATE_BYTES = int(torch.get_rng_state().numel())
"""The size of the generator's state as it travels."""


def step_seed(seed: int, step: int) -> int:
    """The seed of a step's generator: 63 bits of BLAKE2b of both numbers.

    The unsplit reference is the plain model after ``torch.manual_seed(step_seed(seed, step))``.
    """
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


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


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the global generator's state afterwards, whatever happens inside."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


class StepRandom:
    """The global generator at the start of a segment: seeded for the step, or continued from where another stopped.

    `drawn` returns the state to send on if the segment drew numbers, and None if it did not: both sides then know it.
    """

    def __init__(self, seed: int, step: int, continued: torch.Tensor | None = None) -> None:
        if continued is not None:
            torch.set_rng_state(continued)
        else:
            # Not torch.manual_seed: without CUDA it records a stack trace for a lazy call, which costs more than a
            # small segment computes.
            torch.default_generator.manual_seed(step_seed(seed, step))
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.manual_seed_all(step_seed(seed, step))
        self._start = torch.get_rng_state()
        self._continued = continued is not None

    def drawn(self) -> torch.Tensor | None:
        """The state now, if it must travel: numbers were drawn here or before."""
        state = torch.get_rng_state()
        return state if self._continued or not torch.equal(state, self._start) else None
