"""What a codec is: the contract that every plugin writes against.

Two kinds. A **tensor codec** turns one tensor into named planes (flat tensors) and back; the plane called ``values``
is what the next tensor codec in the chain takes onward, the others (``positions``, ``scale``) travel as they are. A
**bytes codec** is lossless and turns the bytes of one plane into fewer bytes. A chain holds tensor codecs first, then
bytes codecs.

What a codec may rely on:

- ``encode`` gets a contiguous CPU tensor. It belongs to the caller: read it, never write to it.
- ``decode`` gets exactly the planes that ``bounds`` names, flat, on the CPU, of the stated dtype and at most the
  stated length; ``values`` comes in the shape of ``out(spec)`` where that is known. All else is for the codec to
  check, since a frame may lie: exact lengths, indices strictly increasing and in range, scales finite. It raises
  ``FrameError``, and it checks before it allocates.
- A lossy codec sees floating tensors only. NaN and infinity are looked for by the wire, not here; let them through
  visibly.

What a codec owes: it is a value. Arguments are given to the constructor, checked there (``CodecError``) and kept as
attributes of the same name; they must be Python literals. ``repr`` is then the notation, and equality and hash follow
from it. Run ``spliteasy.codecs.testing.check_codec`` on it: it tries all of the above.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from spliteasy.errors import CodecError

if TYPE_CHECKING:
    from spliteasy.codecs.chain import Chain
    from spliteasy.codecs.fitted import Parameters

__all__ = [
    "BytesCodec",
    "BytesLike",
    "Codec",
    "Context",
    "PlaneBound",
    "Planes",
    "TensorCodec",
    "TensorSpec",
    "arguments_of",
]

BytesLike: TypeAlias = bytes | bytearray | memoryview
"""Anything whose bytes can be read without a copy; of a NumPy array, its ``data``."""

Planes: TypeAlias = Mapping[str, torch.Tensor]
"""Planes by name."""


@dataclass(frozen=True)
class TensorSpec:
    """What both sides know of a tensor before it is sent.

    ``shape`` is None for a flat vector whose length is known only once encoded; ``max_numel`` then bounds it (and is
    filled in from the shape otherwise). ``channel_axis`` is the dimension that holds the channels or features, or
    None.
    """

    shape: tuple[int, ...] | None
    dtype: torch.dtype
    channel_axis: int | None = None
    max_numel: int = -1

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
            object.__setattr__(self, "max_numel", math.prod(self.shape))
        if self.max_numel < 0:
            raise CodecError(f"a spec without a shape needs max_numel >= 0, found {self.max_numel}")
        if self.channel_axis is not None and not (self.shape and 0 <= self.channel_axis < len(self.shape)):
            raise CodecError(f"channel_axis {self.channel_axis} does not exist in shape {self.shape}")

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: torch.dtype) -> TensorSpec:
        """The spec of a message: channels on axis 1 of ``(B, E)``, ``(B, F, R, C)`` and ``(B, F, D, R, C)``, and on
        axis 2 of ``(B, tokens, E)``."""
        return cls(tuple(shape), dtype, {2: 1, 3: 2, 4: 1, 5: 1}.get(len(shape)))

    @property
    def numel(self) -> int:
        """How many elements the tensor has. Raises ``CodecError`` where that is known only once encoded."""
        if self.shape is None:
            raise CodecError("the length of this tensor is known only once encoded; use max_numel")
        return self.max_numel

    @property
    def nbytes(self) -> int:
        """The (largest) size of the tensor in bytes."""
        return self.max_numel * self.dtype.itemsize

    def with_dtype(self, dtype: torch.dtype) -> TensorSpec:
        """The same tensor with elements of another type."""
        return replace(self, dtype=dtype)

    def permuted(self, order: tuple[int, ...]) -> TensorSpec:
        """The spec of ``tensor.permute(order)``."""
        if self.shape is None:
            raise CodecError("a tensor of unknown length has no dimensions to permute")
        if all(place == dim for place, dim in enumerate(order)):
            return self
        axis = None if self.channel_axis is None else order.index(self.channel_axis)
        return replace(self, shape=tuple(self.shape[dim] for dim in order), channel_axis=axis)


@dataclass(frozen=True)
class PlaneBound:
    """The type of a plane, and the most elements it can have."""

    dtype: torch.dtype
    max_numel: int


@dataclass
class Context:
    """What a codec may know beside the tensor. ``Context()`` does for measuring and tests.

    ``message``: ``activations``, ``outputs``, ``output_gradients`` or ``input_gradients``. ``training``: False in
    evaluation. ``pair``: a store for one step, shared by a message and its gradient (positions to reuse, adjoints),
    filled by encode and by decode alike (in opposite order, so a codec that may stand twice in a chain puts ``stage``
    into its keys). ``state``: this stream's state; it starts as the committed state, and what is left in it after the
    call is the proposal that the committed step commits. ``seed``, ``step``, ``message``, ``tensor`` (index within
    the message), ``stage`` and ``within`` (the stages that a chain within a codec stands in) seed the ``generator``.
    ``spec`` describes the tensor in hand; the chain sets it, and ``stage``, before each codec's turn. ``counts`` is for
    what encoding has to tell those who measure: elements that were cut off at the largest representable number are
    added up under ``saturated``.

    State is saved with the session, so it holds tensors (in memory of their own: the one in hand is the caller's), what
    JSON can hold, and dicts of these by name.
    """

    message: str = "activations"
    training: bool = True
    step: int = 0
    seed: int = 0
    tensor: int = 0
    pair: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    stage: int = 0
    spec: TensorSpec | None = None
    counts: dict[str, int] = field(default_factory=dict)
    within: tuple[int, ...] = ()

    @property
    def gradient(self) -> bool:
        """Whether the message is one of the two gradients."""
        return self.message.endswith("gradients")

    def count(self, what: str, number: int) -> None:
        """Add to ``counts``."""
        self.counts[what] = self.counts.get(what, 0) + number

    @cached_property
    def generator(self) -> torch.Generator:
        """A CPU generator of this stage's own, the same on both sides of the wire and in every retry."""
        place = ".".join(map(str, (*self.within, self.stage)))
        name = f"{self.seed}/{self.step}/{self.message}/{self.tensor}/{place}"
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)

    @contextmanager
    def turn(self, stage: int, spec: TensorSpec) -> Iterator[Context]:
        """This context as one codec of the chain sees it: ``pair`` is shared, ``state`` is the codec's own part of
        the stream's (under the codec's place in the chain, if there is anything to keep)."""
        own = replace(self, stage=stage, spec=spec, state=self.state.get(str(stage), {}))
        yield own
        if own.state:
            self.state[str(stage)] = own.state

    def nested(self, state: dict[str, Any]) -> Context:
        """This context for a chain within the codec in turn: random numbers of its own, and ``state``, which is the
        codec's to keep; ``pair`` and ``counts`` are shared."""
        return replace(self, within=(*self.within, self.stage), stage=0, spec=None, state=state)


class Codec(ABC):
    """The root of both kinds; subclass ``TensorCodec`` or ``BytesCodec``.

    ``name`` is the name in the notation, the same as the entry point's. For ``spliteasy codecs`` and for tests:
    ``summary`` is one line, ``citation`` names the paper or library followed, ``example`` is a notation (empty: the
    name alone).
    """

    name: ClassVar[str] = ""
    kind: ClassVar[Literal["tensor", "bytes"]]
    lossless: ClassVar[bool] = False
    summary: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    example: ClassVar[str] = ""

    def __repr__(self) -> str:
        """The notation: ``topk(0.1)``. Keyword-only arguments appear where they differ from their default."""
        shown: list[str] = []
        for parameter in _parameters(type(self)):
            value = getattr(self, parameter.name)
            if parameter.kind is not parameter.KEYWORD_ONLY:
                shown.append(repr(value))
            elif value != parameter.default:
                shown.append(f"{parameter.name}={value!r}")
        name = self.name or type(self).__name__
        return f"{name}({', '.join(shown)})" if shown else name

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    @property
    def shipped(self) -> tuple[Parameters, ...]:
        """The fitted parameters that the other side must have too; a fitted codec has one, most have none."""
        return ()

    def __or__(self, other: Codec | Chain | str) -> Chain:
        """``topk | fp16``: a chain, in this order."""
        from spliteasy.codecs.chain import Chain

        return Chain([self]) | other


class TensorCodec(Codec):
    """A tensor to planes and back. See the head of this module for what may be relied on.

    ``elementwise``: each element is coded without regard to where it stands, so the chain may hand the dimensions
    over in memory order (``channel_axis`` moves along), which saves a copy for channels-last tensors. It may depend on
    the arguments.
    """

    kind = "tensor"
    elementwise: bool = False

    @abstractmethod
    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The planes of ``x``, ``values`` among them: contiguous, on the CPU, within ``bounds`` of ``context.spec``."""

    @abstractmethod
    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """A tensor of ``spec.shape`` (flat if that is None) and ``spec.dtype``. Raises ``FrameError`` if the planes
        lie."""

    @abstractmethod
    def out(self, spec: TensorSpec) -> TensorSpec:
        """What ``values`` becomes for a tensor of ``spec``: the dtype is always known, the length possibly not."""

    @abstractmethod
    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The dtype and largest size of every plane, so that decoding can check before it allocates."""

    def floor(self, x: torch.Tensor, context: Context) -> float | None:
        """The fewest bits that the side planes of ``x`` can take on average if all that they could say is equally
        likely: for k of d positions, log2 of the number of ways to choose them. None where the codec knows of no such
        number. Only those who measure ask; ``context.spec`` describes ``x``, and ``values`` are not counted."""
        return None

    @property
    def unfitted(self) -> tuple[TensorCodec, ...]:
        """The codecs in this one, itself or those that it wraps, that must be fitted before it can be used."""
        return ()

    def fit(
        self,
        tensors: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor | None] | None = None,
        message: str = "activations",
    ) -> Self:
        """This codec with what it takes from data found on calibration tensors; itself where there is nothing to find.

        Each of ``tensors`` is a tensor of ``message``, a batch; ``gradients`` are those of the loss with respect to
        each, of its shape (None: not known), for codecs that weigh errors by them. The result is the same for the same
        tensors. Raises ``CodecError`` if they do not suffice.
        """
        return self


class BytesCodec(Codec):
    """The bytes of a plane to fewer bytes and back, without loss."""

    kind = "bytes"
    lossless = True

    @abstractmethod
    def encode(self, array: npt.NDArray[Any]) -> BytesLike:
        """The bytes of a one-dimensional array. Its dtype has the item size of the plane (bfloat16 comes as uint16);
        the second bytes codec of a chain gets what the first one returned, as uint8."""

    @abstractmethod
    def decode(self, data: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """The array of ``count`` items again. ``count`` is within the agreed bounds, but ``data`` may be anything:
        verify every size that it states before allocating, leave no byte unread, raise ``FrameError``."""

    def bound(self, nbytes: int) -> int:
        """The most bytes that ``encode`` may return for ``nbytes`` bytes."""
        return nbytes + nbytes // 64 + 4096


def arguments_of(codec: Codec) -> dict[str, Any]:
    """The arguments that ``codec`` was made with, by name."""
    return {parameter.name: getattr(codec, parameter.name) for parameter in _parameters(type(codec))}


@functools.cache
def _parameters(cls: type[Codec]) -> tuple[inspect.Parameter, ...]:
    """The arguments of the constructor."""
    return tuple(inspect.signature(cls).parameters.values())
