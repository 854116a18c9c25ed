"""Which scale belongs to which element, and how to walk through them in blocks that stay in a core's cache.

What quantizers share: a tensor has one scale for each channel, for each group of consecutive elements, or for all of
it. NumPy does the arithmetic, since its casts between bytes and floats are several times faster than PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from spliteasy.codecs import Context, TensorSpec
from spliteasy.errors import FrameError, NonFiniteError

__all__ = ["Array", "Block", "Grid", "array_dtype", "checked_scale", "require_finite", "scale_dtype", "spec_of"]

Array: TypeAlias = npt.NDArray[Any]
"""A NumPy array."""

BLOCK = 1 << 17
"""Elements computed at a time: few enough for the next pass to find them in the cache, so many that calls cost
little."""


class Block(NamedTuple):
    """Consecutive elements of the flat tensor, seen in three dimensions of which the middle one runs along
    ``scales``."""

    elements: slice
    scales: slice
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """``numel`` elements in row-major order with ``count`` scales: element i has scale ``i // inner % count``, but the
    last group of a grouped tensor may be shorter."""

    numel: int
    count: int
    inner: int

    @classmethod
    def of(cls, shape: tuple[int, ...], channel_axis: int | None, group: int | None) -> Grid:
        """One scale for every ``group`` consecutive elements if that is given; else for each channel; else, with
        neither, for the tensor."""
        numel = math.prod(shape)
        if group is not None:
            return cls(numel, -(-numel // group), group)
        if channel_axis is not None:
            return cls(numel, shape[channel_axis], math.prod(shape[channel_axis + 1 :]))
        return cls(numel, 1, max(numel, 1))

    @property
    def largest_block(self) -> int:
        """The elements that a buffer for one block must hold."""
        return min(BLOCK, self.numel)

    @property
    def parts(self) -> list[Block]:
        """The tensor as at most two blocks of any size: all, or all but a shorter last group and that group."""
        period = self.count * self.inner
        if self.numel < period:  # the last group is cut short
            whole = self.numel // self.inner
            edge = whole * self.inner
            rest = self.numel - edge
            first = [Block(slice(0, edge), slice(0, whole), (1, whole, self.inner))] if whole else []
            return [*first, Block(slice(edge, self.numel), slice(whole, self.count), (1, 1, rest))] if rest else first
        if not self.numel:
            return []
        return [Block(slice(0, self.numel), slice(0, self.count), (self.numel // period, self.count, self.inner))]

    def blocks(self) -> Iterator[Block]:
        """All elements in order, in blocks of at most ``BLOCK``."""
        for elements, scales, (outer, count, inner) in self.parts:
            outers = max(1, BLOCK // (count * inner))
            counts = min(count, max(1, BLOCK // inner))
            inners = min(inner, BLOCK)
            for place in range(0, outer, outers):
                for scale in range(0, count, counts):
                    for offset in range(0, inner, inners):
                        shape = (
                            min(outers, outer - place),
                            min(counts, count - scale),
                            min(inners, inner - offset),
                        )
                        begin = elements.start + (place * count + scale) * inner + offset
                        yield Block(
                            slice(begin, begin + math.prod(shape)),
                            slice(scales.start + scale, scales.start + scale + shape[1]),
                            shape,
                        )

    def ranges(self, x: torch.Tensor) -> tuple[Array, Array]:
        """The least and the greatest element under each scale, both float64 of shape (count,); 0 where there is
        none. NaN wherever there is one."""
        low, high = np.zeros(self.count), np.zeros(self.count)
        flat = x.reshape(-1)
        for elements, scales, shape in self.parts:
            part = flat[elements].view(shape)
            low[scales] = part.amin((0, 2)).double().numpy()
            high[scales] = part.amax((0, 2)).double().numpy()
        return low, high

    def floats(self, x: torch.Tensor) -> Iterator[tuple[Block, Array]]:
        """The blocks and their elements, as float32 (float64 of a float64 tensor): views, or a buffer that is used
        again. Read them only."""
        flat, working = x.reshape(-1), scale_dtype(x.dtype)
        buffer = torch.empty(self.largest_block, dtype=working)
        for block in self.blocks():
            part = flat[block.elements]
            if x.dtype is not working:
                part = buffer[: part.numel()].copy_(part)
            yield block, part.view(block.shape).numpy()

    def restored(
        self, codes: Array, scale: Array, spec: TensorSpec, most: int, zero: Array | None = None, divisor: int = 1
    ) -> torch.Tensor:
        """The tensor of ``(codes - zero) / divisor * scale``, where that leaves the range of ``spec.dtype`` its
        largest number. ``codes``: integers of shape (numel,), which ``zero`` takes no further from 0 than ``most``."""
        working = scale_dtype(spec.dtype)
        x = torch.empty(self.numel, dtype=spec.dtype)
        buffer = torch.empty(self.largest_block, dtype=working) if spec.dtype is not working else None
        limit = torch.finfo(spec.dtype).max
        clamped = self.count > 0 and float(np.abs(scale).max()) / divisor > limit / most
        shift = zero.astype(scale.dtype) if zero is not None and zero.any() else None
        with np.errstate(over="ignore"):
            for elements, scales, shape in self.blocks():
                target = x[elements]
                part = target if buffer is None else buffer[: target.numel()]
                floats = part.numpy().reshape(shape)
                np.copyto(floats, codes[elements].reshape(shape))
                if shift is not None:
                    np.subtract(floats, shift[scales, None], out=floats)
                if divisor != 1:
                    np.divide(floats, divisor, out=floats)
                np.multiply(floats, scale[scales, None], out=floats)
                if clamped:
                    np.clip(floats, -limit, limit, out=floats)
                if buffer is not None:
                    target.copy_(part)
        return x if spec.shape is None else x.view(spec.shape)


def scale_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of scales, and the one to compute in: float64 for float64, else float32."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def array_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The NumPy name of such a type."""
    return np.dtype(np.float64 if dtype is torch.float64 else np.float32)


def spec_of(x: torch.Tensor, context: Context) -> TensorSpec:
    """What the chain says of ``x``, or what its shape says outside a chain."""
    return context.spec or TensorSpec.of(tuple(x.shape), x.dtype)


def require_finite(name: str, *found: Array) -> None:
    """Raises ``NonFiniteError`` if ranges, norms or means show that a tensor holds NaN or infinity, which integers
    would hide."""
    if not all(np.isfinite(numbers).all() for numbers in found):
        raise NonFiniteError(
            f"expected finite numbers for {name}, found NaN or infinity, for which it has no code; look at the inputs"
        )


def checked_scale(plane: torch.Tensor, count: int) -> Array:
    """A plane of ``count`` finite scales. Raises ``FrameError`` for any other."""
    scale: Array = plane.numpy()
    if scale.size != count or not np.isfinite(scale).all():
        finite = int(np.isfinite(scale).sum())
        raise FrameError(f"expected {count} finite scales, found {scale.size}, of which {finite} are finite")
    return scale
