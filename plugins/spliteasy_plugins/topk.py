"""Keep the largest entries of every sample.

Top-k sparsification (Aji and Heafield, arXiv 1704.05021), applied to what crosses a cut.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins import positions
from spliteasy_plugins.selection import UNSIGNED, Mask, bits_of, largest, marked

__all__ = ["TopK"]


class TopK(TensorCodec):
    """Keeps exactly ``k = max(1, round(fraction * d))`` of the d entries of each sample (dimension 0), those of the
    largest magnitude, of equal ones those of the lowest index, and decodes the others to zero.

    Planes: ``values`` of shape (samples, k) in the order of their positions, in the tensor's dtype; ``positions``,
    flat uint8, as ``spliteasy_plugins.positions`` defines them; none where k is d. NaN counts as the largest
    magnitude, so that it is never hidden. A vector is a batch of numbers, all kept.

    With ``reuse=True`` in the chains of a message and of its gradient, the gradient keeps the entries that its message
    kept, whatever their magnitude, and sends values only. That loses nothing: what came out of the message was
    ``mask * x``, an entry that was dropped had no influence on the loss, and by the chain rule the gradient of x is
    ``mask`` times the gradient that comes back. Where no positions were kept for it (evaluation, ``reuse`` in one of
    the two chains only, at another place in the chain, another k) a gradient has its own top-k.

    Raises ``CodecError`` unless 0 < fraction <= 1, and for tensors whose shape is known only once encoded.
    """

    name = "topk"
    summary = "the largest entries of each sample, the others zero"
    citation = "Aji and Heafield, arXiv 1704.05021"
    example = "topk(0.1)"

    def __init__(self, fraction: float, *, reuse: bool = False) -> None:
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise CodecError(f"expected a fraction above 0 and at most 1 for {self.name}, found {fraction!r}")
        if not isinstance(reuse, bool):
            raise CodecError(f"expected reuse=True or False for {self.name}, found {reuse!r}")
        self.fraction = float(fraction)
        self.reuse = reuse

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The kept values and where they stood."""
        samples, entries, k = self._sizes(tuple(x.shape))
        nothing = torch.empty(0, dtype=torch.uint8)
        if k == entries:
            return {"values": x.reshape(samples, k), "positions": nothing}
        bits = bits_of(x)
        kept = self._shared(context, samples, entries, k)
        plane = nothing
        if kept is None:
            mask = self._chosen(x.reshape(samples, entries), k, context)
            kept = marked(mask)
            plane = torch.from_numpy(positions.encode(mask, kept.reshape(samples, k)))
            self._share(context, samples, entries, kept)
        return {"values": torch.from_numpy(bits[kept]).view(x.dtype).view(samples, k), "positions": plane}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """Zeros, with the values at their positions. Raises ``FrameError`` unless each sample has k positions, in
        increasing order and in range, or if positions are there that were sent before, or the other way round."""
        samples, entries, k = self._sizes(spec.shape)
        values, plane = planes["values"], planes["positions"].numpy()
        if values.numel() != samples * k:
            raise FrameError(f"expected {samples * k} values, {k} a sample, found {values.numel()}")
        kept = None if k == entries else self._shared(context, samples, entries, k)
        if kept is not None and plane.size:
            raise FrameError(f"expected no positions but those of the message, found {plane.size} bytes of others")
        if kept is None:
            kept = positions.decode(plane, samples, entries, k)
        if k == entries:
            return values.reshape(spec.shape or ())
        self._share(context, samples, entries, kept)
        dense = np.zeros(samples * entries, UNSIGNED[spec.dtype.itemsize])
        dense[kept] = bits_of(values)
        return torch.from_numpy(dense).view(spec.dtype).view(spec.shape or ())

    def out(self, spec: TensorSpec) -> TensorSpec:
        """k values a sample."""
        samples, _, k = self._sizes(spec.shape)
        return TensorSpec((samples, k), spec.dtype)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The values, and the most bytes that their positions can take."""
        samples, entries, k = self._sizes(spec.shape)
        return {
            "values": PlaneBound(spec.dtype, samples * k),
            "positions": PlaneBound(torch.uint8, positions.bound(samples, entries, k)),
        }

    def _chosen(self, x: torch.Tensor, k: int, context: Context) -> Mask:
        """Which k entries to keep in each row of ``x``: (samples, entries), 0 < k < entries."""
        return largest(bits_of(x).reshape(x.shape), k)

    def _share(self, context: Context, samples: int, entries: int, kept: npt.NDArray[np.int64]) -> None:
        """Leave the positions of a message for its gradient."""
        if self.reuse and not context.gradient:
            context.pair[f"{context.stage}.kept"] = (samples, entries, kept)

    def _shared(self, context: Context, samples: int, entries: int, k: int) -> npt.NDArray[np.int64] | None:
        """The positions that the message left for this gradient, flat; None if it has to choose its own."""
        found = context.pair.get(f"{context.stage}.kept") if self.reuse and context.gradient else None
        if found is None or (found[:2], found[2].size) != ((samples, entries), samples * k):
            return None
        kept: npt.NDArray[np.int64] = found[2]
        return kept

    def floor(self, x: torch.Tensor, context: Context) -> float:
        """Bits of the positions if any k of the d entries are equally likely: log2 of d choose k for each sample, which
        is below d·H(k/d) by the half logarithm of 2π·k·(1 − k/d)."""
        samples, entries, k = self._sizes(tuple(x.shape))
        ways = math.lgamma(entries + 1) - math.lgamma(k + 1) - math.lgamma(entries - k + 1)
        return samples * ways / math.log(2)

    def _sizes(self, shape: tuple[int, ...] | None) -> tuple[int, int, int]:
        """Samples, entries in each, and how many of those are kept."""
        if shape is None:
            raise CodecError(f"{self!r} needs a tensor with samples; put it before codecs that leave a flat vector")
        samples, entries = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        return samples, entries, min(entries, max(1, round(self.fraction * entries)))
