"""Stochastic rounding to a few levels of each bucket's norm.

QSGD (Alistarh et al., arXiv 1610.02132, section 3.1 and the buckets of section 4). Its Elias codes are left to the
bytes codecs of the chain.
"""

from __future__ import annotations

import numpy as np
import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins.grids import Array, Grid, array_dtype, checked_scale, require_finite, scale_dtype

__all__ = ["QSGD"]


class QSGD(TensorCodec):
    """Every ``bucket`` of consecutive values (the last may be shorter) as its L2 norm and integers from ``-levels``
    to ``levels``: x becomes ``norm * code / levels``, where the code is one of the two integers around
    ``x / norm * levels``, drawn from ``context.generator`` so that the expectation of the decoded value is x.

    Planes: ``values`` int8 of the tensor's shape; ``norm`` float32 (float64 for float64 tensors), one for each bucket
    and at most the largest number of the tensor's type, with which the expectation still holds. An element is off by
    less than ``norm / levels``. Zeros are exact.

    Raises ``CodecError`` unless ``levels`` is from 1 to 127 and ``bucket`` a positive integer, ``NonFiniteError`` for
    NaN and infinity.
    """

    name = "qsgd"
    summary = "stochastic rounding to levels of each bucket's norm, unbiased"
    citation = "Alistarh et al., arXiv 1610.02132"
    example = "qsgd(127, 512)"

    def __init__(self, levels: int = 127, bucket: int = 512) -> None:
        if type(levels) is not int or not 1 <= levels <= 127:
            raise CodecError(f"expected from 1 to 127 levels for qsgd, found {levels!r}")
        if type(bucket) is not int or bucket < 1:
            raise CodecError(f"expected a positive number of values in a bucket of qsgd, found {bucket!r}")
        self.levels = levels
        self.bucket = bucket

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The drawn codes and the norms."""
        grid = Grid.of((x.numel(),), None, self.bucket)
        norm = self._norms(x, grid).astype(array_dtype(scale_dtype(x.dtype)))
        divisor = np.where(norm > 0, norm, 1)
        codes = np.empty(grid.numel, np.int8)
        drawn = torch.empty(grid.largest_block, dtype=scale_dtype(x.dtype))
        for (elements, scales, shape), floats in grid.floats(x):
            steps = drawn[: floats.size].uniform_(generator=context.generator).numpy().reshape(shape)
            steps += floats / divisor[scales, None] * self.levels
            np.floor(steps, out=steps)
            np.clip(steps, -self.levels, self.levels, out=steps)  # a sum next to an integer may be rounded up to it
            np.copyto(codes[elements].reshape(shape), steps, casting="unsafe")
        return {"values": torch.from_numpy(codes).view(x.shape), "norm": torch.from_numpy(norm)}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """``norm * values / levels``. Raises ``FrameError`` unless there is a norm for each bucket, finite and not
        negative, and every value is a level."""
        codes: Array = planes["values"].reshape(-1).numpy()
        grid = Grid.of((codes.size,), None, self.bucket)
        norm = checked_scale(planes["norm"], grid.count)
        if (norm < 0).any():
            raise FrameError(f"expected norms of 0 and above, found {norm.min()}")
        if codes.size and (codes.min() < -self.levels or codes.max() > self.levels):
            found = f"{codes.min()} to {codes.max()}"
            raise FrameError(f"expected values from {-self.levels} to {self.levels}, found {found}")
        return grid.restored(codes, norm, spec, self.levels, divisor=self.levels)

    def out(self, spec: TensorSpec) -> TensorSpec:
        """int8 values of the same shape."""
        return spec.with_dtype(torch.int8)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The values, and a norm for each bucket."""
        buckets = -(-spec.max_numel // self.bucket)
        return {
            "values": PlaneBound(torch.int8, spec.max_numel),
            "norm": PlaneBound(scale_dtype(spec.dtype), buckets),
        }

    def _norms(self, x: torch.Tensor, grid: Grid) -> Array:
        """The L2 norms, float64. Divided by the largest magnitude first, so that no square leaves the range."""
        low, high = grid.ranges(x)
        largest = np.maximum(-low, high)
        require_finite(repr(self), largest)
        divisor = np.where(largest > 0, largest, 1)
        squares = np.zeros(grid.count)
        for (_, scales, _), floats in grid.floats(x):
            squares[scales] += np.square(floats / divisor[scales, None]).sum(axis=(0, 2))
        with np.errstate(over="ignore"):
            norms: Array = np.minimum(largest * np.sqrt(squares), torch.finfo(x.dtype).max)
        return norms
