"""The low spatial frequencies of feature maps, as JPEG keeps those of a picture.

Ahmed, Natarajan and Rao, "Discrete Cosine Transform", IEEE Transactions on Computers, 1974. Evans, Liu and Aamodt,
"JPEG-ACT: Accelerating Deep Learning via Transform-based Lossy Compression", ISCA 2020, use it on activations, block by
block; here a whole map is transformed.
"""

from __future__ import annotations

import functools
import math

import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.errors import CodecError
from spliteasy_plugins.magnitudes import saturated, scaled, working

__all__ = ["DCT"]


class DCT(TensorCodec):
    """The ``size`` × ``size`` lowest frequencies of each map's two-dimensional cosine transform (DCT-II, orthonormal),
    the others zero.

    With C the first ``size`` rows of the cosine transform, a map X (rows × columns, the last two dimensions) travels as
    C X Cᵀ and comes back as Cᵀ C X Cᵀ C, the nearest map that these frequencies can make. The map is symmetric, so a
    gradient through the same codec is the exact gradient of what was sent. Nothing is fitted and nothing is drawn.

    Plane: ``values``, (..., channels, size, size), float64 for float64 tensors, else float32. An axis of ``size`` or
    fewer keeps all its frequencies; tensors of fewer than four dimensions, which have no maps, travel as they are, and
    so do maps of which all would be kept. Numbers beyond the range of a dtype are cut off at its largest (counted as
    ``saturated`` on encoding). NaN or infinity makes the whole tensor NaN, which no later step can hide.

    Raises ``CodecError`` unless ``size`` is a whole number of 1 or more, and for tensors whose shape is known only once
    encoded.
    """

    name = "dct"
    summary = "the low spatial frequencies of each feature map"
    citation = "Ahmed et al. 1974; cf. JPEG-ACT, Evans et al., ISCA 2020"
    example = "dct(4)"

    def __init__(self, size: int = 4) -> None:
        if type(size) is not int or size < 1:
            raise CodecError(f"expected 1 or more frequencies each way for dct, found {size!r}")
        self.size = size

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The low frequencies of every map."""
        if not self._acts(tuple(x.shape)):
            return {"values": x}
        small, power = scaled(x)
        (rows, columns) = (_cosines(length, self.size, small.dtype) for length in x.shape[-2:])
        values, cut = saturated(rows @ small @ columns.T, power, small.dtype)
        context.count("saturated", cut)
        return {"values": values}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """The maps that these frequencies make."""
        shape, values = spec.shape or (), planes["values"]
        if not self._acts(spec.shape):
            return values
        small, power = scaled(values)
        (rows, columns) = (_cosines(length, self.size, small.dtype) for length in shape[-2:])
        return saturated(rows.T @ small @ columns, power, spec.dtype)[0]

    def out(self, spec: TensorSpec) -> TensorSpec:
        """The same dimensions with at most ``size`` rows and columns."""
        if not self._acts(spec.shape):
            return spec
        *front, rows, columns = spec.shape or ()
        shape = (*front, min(rows, self.size), min(columns, self.size))
        return TensorSpec(shape, working(spec.dtype), spec.channel_axis)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The frequencies that are kept."""
        after = self.out(spec)
        return {"values": PlaneBound(after.dtype, after.numel)}

    def _acts(self, shape: tuple[int, ...] | None) -> bool:
        """Whether there are maps with frequencies to leave out."""
        if shape is None:
            raise CodecError(f"{self!r} needs a tensor with rows and columns; put it before codecs that leave a vector")
        return len(shape) >= 4 and max(shape[-2:]) > self.size


@functools.lru_cache(maxsize=64)
def _cosines(length: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """The ``size`` lowest cosines over ``length`` places, orthonormal: (min(size, length), length)."""
    frequency = torch.arange(min(size, length), dtype=torch.float64)[:, None]
    place = torch.arange(length, dtype=torch.float64) + 0.5
    cosines = torch.cos(math.pi / max(length, 1) * frequency * place) * math.sqrt(2 / max(length, 1))
    cosines[:1] /= math.sqrt(2)
    return cosines.to(dtype)
