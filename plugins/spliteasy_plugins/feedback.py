"""Error feedback: what a chain lost in this step is added to the tensor of the next.

Seide et al. (1-bit SGD, Interspeech 2014); Karimireddy et al., arXiv 1901.09847, whose proof is for gradients of
parameters: one vector that is compressed again and again. At a cut the rows are samples, other ones in every step, so
the memory of a row is added to another sample's gradient; on activations it is noise, which the codec warns of.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch

from spliteasy.codecs import Chain, Codec, Context, Parameters, PlaneBound, TensorCodec, TensorSpec, codec
from spliteasy.codecs.base import Planes
from spliteasy.codecs.finite import all_finite
from spliteasy.errors import CodecError
from spliteasy_plugins.magnitudes import working

__all__ = ["ErrorFeedback", "ErrorFeedbackWarning"]


class ErrorFeedbackWarning(UserWarning):
    """Error feedback stands where its memory belongs to other samples."""


class ErrorFeedback(TensorCodec):
    """Error feedback around a ``chain`` of tensor codecs: with the memory e (zero at first), ``y = x + e`` is encoded,
    and ``e' = y - decoded`` becomes the memory when the step is committed.

    ``decoded`` is computed from the planes that are sent, by the other side's own decoding, so the memory is exact:
    over any number of steps, what was decoded and what is remembered add up to the tensors given (but for rounding).
    This holds where every lossy codec stands inside: ``ef('topk(0.01) | fp16') | zstd(1)``.

    The memory is the encoder's alone: float32 (float64 for float64 tensors), of the tensor's shape, one row for each
    place in the batch. A smaller batch takes and gives back the rows that it has, and the others wait; rows that are
    new start at zero; another shape of the rows starts everything at zero. Sums beyond the largest number are cut off
    there. In evaluation the tensor goes through the chain as it is. Planes: those of the inner chain, under their names
    there (``0.positions``), and its ``values``.

    On activations and outputs it warns (``ErrorFeedbackWarning``) when the memory is begun. Raises ``CodecError`` for
    bytes codecs within, and for tensors whose shape is known only once encoded.
    """

    name = "ef"
    summary = "error feedback: what a chain loses is added in the next step"
    citation = "Seide et al., Interspeech 2014; Karimireddy et al., arXiv 1901.09847"
    example = "ef('topk(0.01) | fp16')"

    def __init__(self, chain: str | Chain | Codec) -> None:
        self._inner = codec(chain)
        if self._inner.bytes_codecs:
            inside, after = (
                " | ".join(map(repr, part)) for part in (self._inner.tensor_codecs, self._inner.bytes_codecs)
            )
            raise CodecError(
                f"expected tensor codecs within ef(...), found {self._inner!r}; bytes codecs lose nothing: write "
                f"ef({inside!r}) | {after}"
            )
        self.chain = repr(self._inner)

    @property
    def shipped(self) -> tuple[Parameters, ...]:
        return self._inner.shipped

    @property
    def unfitted(self) -> tuple[TensorCodec, ...]:
        return self._inner.unfitted

    def fit(
        self,
        tensors: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor | None] | None = None,
        message: str = "input_gradients",
    ) -> Self:
        """Error feedback around the fitted chain."""
        return type(self)(self._inner.fit(tensors, message, gradients))

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The planes of ``x`` and what is remembered."""
        spec, state = context.spec or TensorSpec.of(tuple(x.shape), x.dtype), context.state
        self._require_shape(spec)
        own = context.nested(state.get("encoder", {}))
        if not context.training:
            planes, _ = self._inner.encode_planes(_row_major(x), own, spec)
            return {_outside(name): plane for name, plane in planes.items()}
        memory = state.get("error")
        if memory is None and not context.gradient:
            self._warn(context.message)
        # The other side's decoder, with its own state, and what it knows of the pair before this message.
        mirror = replace(context.nested(state.get("decoder", {})), pair=dict(context.pair), counts={})
        x = _row_major(x)
        total = _with_memory(x, memory)
        y = _saturated(total, x.dtype, x)
        planes, _ = self._inner.encode_planes(y, own, spec)
        decoded = self._inner.decode_planes(planes, {}, spec, mirror)
        state["error"] = _remembered(_saturated(total - decoded, total.dtype, x), memory)
        _keep(state, encoder=own, decoder=mirror)
        return {_outside(name): plane for name, plane in planes.items()}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """What the inner chain decodes, no more: the memory is the encoder's."""
        self._require_shape(spec)
        own = context.nested(context.state.get("decoder", {}))
        inside = {name: planes[_outside(name)].reshape(-1) for name in self._inner.bounds(spec)}
        x = self._inner.decode_planes(inside, {}, spec, own)
        if context.training:
            _keep(context.state, decoder=own)
        return x

    def out(self, spec: TensorSpec) -> TensorSpec:
        """What the inner chain makes of ``values``."""
        return self._inner.out(spec)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The planes of the inner chain."""
        return {_outside(name): bound for name, bound in self._inner.bounds(spec).items()}

    def _warn(self, message: str) -> None:
        warnings.warn(
            f"{self!r} on {message}: its memory is added to other samples in the next step, which did not help where "
            "it was tried. It is meant for gradients.",
            ErrorFeedbackWarning,
            stacklevel=3,
        )

    def _require_shape(self, spec: TensorSpec) -> None:
        if spec.shape is None:
            raise CodecError(f"{self!r} needs a tensor of known shape; put it before codecs that leave a flat vector")


def _outside(name: str) -> str:
    """The name of an inner chain's plane among ours: its ``values`` are ours."""
    return "values" if name.rpartition(".")[2] == "values" else name


def _keep(state: dict[str, object], **contexts: Context) -> None:
    """The state of the inner codecs, where they have any."""
    state |= {name: context.state for name, context in contexts.items() if context.state}


def _row_major(x: torch.Tensor) -> torch.Tensor:
    """``x`` with the strides of its shape, also along dimensions of size 1, so that the inner chain has no layout to
    note."""
    return x.reshape(-1).view(x.shape)


def _fits(x: torch.Tensor, memory: torch.Tensor | None) -> bool:
    """Whether the memory has rows like those of ``x``."""
    return memory is not None and memory.ndim == x.ndim and memory.shape[1:] == x.shape[1:]


def _with_memory(x: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
    """``x + e`` in the dtype of the memory."""
    if memory is None or not _fits(x, memory):
        return x.to(working(x.dtype))
    if x.shape == memory.shape:
        return x + memory
    rows = min(len(x), len(memory))
    total = x.to(working(x.dtype), copy=True)
    total[:rows] += memory[:rows]
    return total


def _remembered(error: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
    """The error, and the rows of the memory that this batch was too small for."""
    if memory is None or not _fits(error, memory) or not error.ndim or len(error) >= len(memory):
        return error
    return torch.cat([error, memory[len(error) :]])


def _saturated(total: torch.Tensor, dtype: torch.dtype, x: torch.Tensor) -> torch.Tensor:
    """``total`` as ``dtype``, what is too large cut off at the largest number; where ``x`` is not finite it shows."""
    found = total.to(dtype)
    if all_finite(found):
        return found
    limit = torch.finfo(dtype).max
    return torch.where(x.isfinite(), total.clamp(-limit, limit), x.to(total.dtype)).to(dtype)
