"""One bit a value.

The signs of signSGD (Bernstein et al., arXiv 1802.04434) and of 1-bit SGD (Seide et al., Interspeech 2014), scaled by
the mean magnitude as in EF-signSGD (Karimireddy et al., arXiv 1901.09847).
"""

from __future__ import annotations

import numpy as np
import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy_plugins.grids import Array, Grid, array_dtype, checked_scale, require_finite, scale_dtype, spec_of
from spliteasy_plugins.packing import pack, packed_spec, unpack

__all__ = ["Sign"]

HEADROOM = 2.0**-64
"""By what float64 values are multiplied before they are added up, where their sum would overflow."""


class Sign(TensorCodec):
    """Every element as plus or minus the mean magnitude of its channel (``TensorSpec.channel_axis``), or of the
    tensor where there is no channel axis.

    One bit has no third case: an exact zero, of either sign, is sent as plus. So it comes back as the mean magnitude,
    unless its whole channel is zero. Channels whose elements differ in sign only are exact.

    Planes: ``values`` uint8, flat, one bit an element, lowest bit first, set where the element is below 0, unused bits
    zero (if the length of the tensor was not agreed, one byte more says how many those are); ``scale`` float32
    (float64 for float64 tensors), the means. Raises ``NonFiniteError`` for NaN and infinity.
    """

    name = "sign"
    elementwise = True
    summary = "the sign alone, times the mean magnitude of the channel"
    citation = "Bernstein et al., arXiv 1802.04434; Karimireddy et al., arXiv 1901.09847"

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The signs and the mean magnitudes."""
        spec = spec_of(x, context)
        grid = Grid.of(tuple(x.shape), spec.channel_axis, None)
        means = _means(x, grid)
        require_finite(repr(self), means)
        negative = (x.reshape(-1) < 0).view(torch.uint8).numpy()
        return {
            "values": torch.from_numpy(pack(negative, 1, spec.shape is not None)),
            "scale": torch.from_numpy(means.astype(array_dtype(scale_dtype(x.dtype)))),
        }

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """Plus or minus the scale. Raises ``FrameError`` unless there is a finite scale for each channel and a bit for
        each element."""
        negative = unpack(planes["values"].numpy(), 1, None if spec.shape is None else spec.numel)
        grid = Grid.of((negative.size,) if spec.shape is None else spec.shape, spec.channel_axis, None)
        scale = checked_scale(planes["scale"], grid.count)
        signs: Array = 1 - 2 * negative.view(np.int8)
        return grid.restored(signs, scale, spec, 1)

    def out(self, spec: TensorSpec) -> TensorSpec:
        """uint8 values, flat, an eighth as many."""
        return packed_spec(spec, 1)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The packed signs, and a scale for each channel."""
        channels = 1 if spec.shape is None or spec.channel_axis is None else spec.shape[spec.channel_axis]
        return {
            "values": PlaneBound(torch.uint8, self.out(spec).max_numel),
            "scale": PlaneBound(scale_dtype(spec.dtype), channels),
        }


def _means(x: torch.Tensor, grid: Grid) -> Array:
    """The mean magnitude under each scale, float64; 0 where there is no element."""
    count = max(1, grid.numel // max(1, grid.count))
    with np.errstate(over="ignore"):
        means = _sums(x, grid, 1.0) / count
        return means if np.isfinite(means).all() else _sums(x, grid, HEADROOM) / count / HEADROOM


def _sums(x: torch.Tensor, grid: Grid, factor: float) -> Array:
    """The sums of the magnitudes times ``factor``, float64."""
    sums = np.zeros(grid.count)
    for (_, scales, _), floats in grid.floats(x):
        magnitudes = np.abs(floats)
        if factor != 1:
            magnitudes = magnitudes * factor
        sums[scales] += magnitudes.sum(axis=(0, 2), dtype=np.float64)
    return sums
