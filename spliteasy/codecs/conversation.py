"""Two sides that talk through a chain as the wire lets them: four messages, a pair for a message and its gradient,
state that a committed step keeps, retries, evaluation in between, and random numbers that both draw alike."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from spliteasy.codecs.base import Context, TensorSpec
from spliteasy.codecs.chain import Chain
from spliteasy.codecs.container import bytes_of
from spliteasy.codecs.finite import all_finite
from spliteasy.codecs.state import flatten, unflatten
from spliteasy.errors import CodecError

__all__ = ["check_conversation", "check_random_numbers", "same"]

STEP = (
    ("activations", "device", "first"),
    ("outputs", "server", "second"),
    ("output_gradients", "device", "second"),
    ("input_gradients", "server", "first"),
)
"""The messages of a training step in order: name, who sends it, and the pair it belongs to."""


@dataclass
class _Side:
    """One end of the four streams: committed state by message, what the step proposes, and its pairs."""

    committed: dict[str, dict[str, Any]] = field(default_factory=dict)
    proposed: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def begin(self) -> None:
        self.proposed, self.pairs = {}, {}

    def commit(self) -> None:
        self.committed |= self.proposed

    def context(self, message: str, pair: str, step: int, training: bool = True) -> Context:
        state = copy.deepcopy(self.committed.get(message, {}))
        if training:
            self.proposed[message] = state
        shared = self.pairs.setdefault(pair, {}) if training else {}
        return Context(message, training, step, seed=7, pair=shared, state=state)


def check_conversation(chain: Chain, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Three steps, each tried twice, with an evaluation after each.

    The second attempt repeats the first to the bit. What a gradient's receiver decodes is what its sender would have
    decoded: the pairs of both sides hold the same. Neither state nor pair changes when tensors or frames are written
    to afterwards. Raises ``AssertionError`` otherwise.
    """
    sides = {"device": _Side(), "server": _Side()}
    generator = torch.Generator().manual_seed(4)
    for step in range(3):
        tensors = {name: (torch.randn(shape, generator=generator) * 2).relu_().to(dtype) for name, *_ in STEP}
        attempts = []
        for _ in range(2):
            for side in sides.values():
                side.begin()
            attempts.append(list(_attempt(chain, sides, tensors, step)))
        for (name, *_), first, second in zip(STEP, *attempts, strict=True):
            repeated = first[0] == second[0] and same(first[1], second[1])
            assert repeated, f"{chain!r}, {dtype}: {name} differ when step {step} is tried again"
        for side in sides.values():
            side.commit()
            for state in side.committed.values():
                _check_saved(chain, state)
        for name, sender, pair in STEP[:2]:
            evaluated = chain.encode(tensors[name], sides[sender].context(name, pair, step, training=False))
            other = sides["server" if sender == "device" else "device"]
            decoded = chain.decode(evaluated, other.context(name, pair, step, training=False))
            _check_decoded(chain, decoded, tensors[name], f"{chain!r}, {dtype}, {name} in evaluation")


def _check_saved(chain: Chain, state: dict[str, Any]) -> None:
    """State that was saved and loaded again is the same."""
    try:
        tensors, metadata = flatten(state)
    except CodecError as error:
        raise AssertionError(f"{chain!r} keeps state that cannot be saved: {error}") from None
    again, rest = flatten(unflatten(tensors, metadata))
    equal = again.keys() == tensors.keys() and all(same(again[name], tensors[name]) for name in tensors)
    assert equal and rest == metadata, f"{chain!r}: state differs once saved and loaded"


def _attempt(
    chain: Chain, sides: Mapping[str, _Side], tensors: Mapping[str, torch.Tensor], step: int
) -> Iterator[tuple[bytes, torch.Tensor]]:
    """One step: the frame of each message and what came out of it."""
    for name, sender, pair in STEP:
        where = f"{chain!r}, {tensors[name].dtype}, {name} of step {step}"
        spec = TensorSpec.of(tuple(tensors[name].shape), tensors[name].dtype)
        receiver = "server" if sender == "device" else "device"
        sending, receiving = (sides[side].context(name, pair, step) for side in (sender, receiver))
        alike = copy.deepcopy(Context(name, step=step, seed=7, pair=sending.pair, state=receiving.state))

        tensor = tensors[name].clone()
        frame = bytearray(chain.encode(tensor, sending))
        _check_own(tensor, sending, f"{where}: what encode keeps changes with its input")
        sent = bytes(frame)
        decoded = chain.decode(frame, receiving, spec)
        _check_decoded(chain, decoded, tensors[name], where)
        if sending.gradient:
            locally = chain.decode(sent, alike, spec)
            assert same(locally, decoded), f"{where}: the pairs of both sides hold different things"
        result = decoded.clone()
        _check_own(decoded, receiving, f"{where}: what decode keeps changes with the decoded tensor")
        yield sent, result


def _check_decoded(chain: Chain, decoded: torch.Tensor, tensor: torch.Tensor, where: str) -> None:
    right = decoded.shape == tensor.shape and decoded.dtype is tensor.dtype and all_finite(decoded)
    assert right, f"{where}: {decoded.dtype} of {tuple(decoded.shape)} came back, or NaN"
    assert not chain.lossless or same(decoded, tensor), f"{where}: elements changed, though the chain is lossless"


def _check_own(tensor: torch.Tensor, context: Context, complaint: str) -> None:
    """State and pair must have memory of their own: training writes to tensors in place."""
    before = copy.deepcopy((context.state, context.pair))
    tensor.fill_(-3)
    assert _equal(before, (context.state, context.pair)), f"{complaint}: keep a copy"


def _equal(one: Any, other: Any) -> bool:
    """Whether two stores hold the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return same(one, other)
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.tobytes() == other.tobytes())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


class _Watched(Context):
    """A context that keeps the generators that were asked for."""

    asked: ClassVar[list[torch.Generator]] = []

    @cached_property
    def generator(self) -> torch.Generator:
        made = super().generator
        self.asked.append(made)
        return made


def check_random_numbers(chain: Chain, shape: tuple[int, ...]) -> None:
    """Random numbers come from the context alone, another step draws others, and the global generators are left as they
    are. Raises ``AssertionError`` otherwise."""
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    state, legacy = torch.get_rng_state(), np.random.get_state(legacy=False)
    frames: dict[int, list[bytes]] = {}
    _Watched.asked.clear()
    for step in range(3):
        for _ in range(2):
            planes, _ = chain.encode_planes(tensor, _Watched(step=step))
            frames.setdefault(step, []).append(b"".join(bytes(bytes_of(plane)) for plane in planes.values()))
            chain.decode(chain.encode(tensor, Context(step=step)), Context(step=step))
    fresh = torch.Generator()
    drawn = any(not torch.equal(used.get_state(), fresh.manual_seed(used.initial_seed()).get_state())
                for used in _Watched.asked)  # fmt: skip
    _Watched.asked.clear()
    untouched = torch.equal(torch.get_rng_state(), state) and _equal(np.random.get_state(legacy=False), legacy)
    assert untouched, f"{chain!r} draws from a global generator; use context.generator"
    assert all(first == second for first, second in frames.values()), f"{chain!r}: a step encodes differently each time"
    several = len({made[0] for made in frames.values()}) > 1
    assert several or not drawn, f"{chain!r} draws random numbers, yet three steps make the same frame"


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to the bit, NaN and the sign of zero included."""
    return (
        one.dtype is other.dtype
        and one.shape == other.shape
        and bytes_of(one.contiguous()) == bytes_of(other.contiguous())
    )
