"""Integers of 8 and 4 bits with a scale and a zero point.

Affine quantization with an integer zero point (Jacob et al., arXiv 1712.05877), its range taken anew from every tensor.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins.grids import Array, Grid, array_dtype, checked_scale, require_finite, scale_dtype, spec_of
from spliteasy_plugins.packing import pack, packed_size, packed_spec, unpack

__all__ = ["Int4", "Int8"]

MARGIN = 1 + 2.0**-20
"""By how much a step is wider than need be: more than rounding in fp32 can add up to, so that no code leaves its range
and none has to be clamped."""


class _Affine(TensorCodec):
    """Integers from 0 to ``top``; an element is ``(code - zero) * scale``."""

    citation = "Jacob et al., arXiv 1712.05877"
    top: ClassVar[int]

    def __init__(self, group: int | None = None) -> None:
        if group is not None and (type(group) is not int or group < 1):
            raise CodecError(
                f"expected how many consecutive values share a scale, or nothing for one per channel; found {group!r}"
            )
        self.group = group
        self.elementwise = group is None  # a channel stays one in any order of dimensions, a group does not

    def __repr__(self) -> str:
        return self.name if self.group is None else f"{self.name}({self.group})"

    def _grid(self, shape: tuple[int, ...], spec: TensorSpec) -> Grid:
        return Grid.of(shape, spec.channel_axis, self.group)

    def _scales(self, spec: TensorSpec) -> PlaneBound:
        """The most scales a tensor of ``spec`` can have."""
        grid = self._grid((spec.max_numel,) if spec.shape is None else spec.shape, spec)
        return PlaneBound(scale_dtype(spec.dtype), grid.count)

    def _quantized(self, x: torch.Tensor, context: Context) -> tuple[Array, torch.Tensor, Array]:
        """Codes (uint8, flat), scales, and zero points (uint8)."""
        grid = self._grid(tuple(x.shape), spec_of(x, context))
        low, high = grid.ranges(x)
        require_finite(repr(self), low, high)
        working = array_dtype(scale_dtype(x.dtype))
        constant, value = low == high, high.astype(working)
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        # Divided before they are subtracted, since their difference may overflow; wide enough to have an inverse.
        step = (high / self.top - low / self.top) * MARGIN
        scale = np.maximum(step, np.finfo(working).tiny).astype(working)
        zero = np.ceil(-low / scale - 0.5)
        inverse, offset = 1 / scale, (zero + 0.5).astype(working)
        scale[constant], zero[constant] = value[constant], 0
        inverse[constant], offset[constant] = 0, 1.5
        codes = np.empty(grid.numel, np.uint8)
        buffer = np.empty(grid.largest_block, working)
        for (elements, scales, shape), floats in grid.floats(x):
            steps = buffer[: floats.size].reshape(shape)
            np.multiply(floats, inverse[scales, None], out=steps)
            np.add(steps, offset[scales, None], out=steps)
            np.copyto(codes[elements].reshape(shape), steps, casting="unsafe")  # rounds down
        return codes, torch.from_numpy(scale), zero.astype(np.uint8)

    def _restored(self, codes: Array, scales: torch.Tensor, zero: Array, spec: TensorSpec) -> torch.Tensor:
        """The tensor of codes whose number is right."""
        grid = self._grid((codes.size,) if spec.shape is None else spec.shape, spec)
        scale = checked_scale(scales, grid.count)
        if zero.size != grid.count:
            raise FrameError(f"expected {grid.count} zero points, one for each scale, found {zero.size}")
        return grid.restored(codes, scale, spec, self.top, zero)


class Int8(_Affine):
    """256 levels between the least and the greatest value (0 included) of every channel, or of every ``group`` of
    consecutive values, of which the last may be shorter.

    Planes: ``values`` uint8 of the tensor's shape; ``scale`` float32 (float64 for float64 tensors) and ``zero``
    uint8, one each for a channel (``TensorSpec.channel_axis``; one for a tensor without) or group. An element is
    ``(value - zero) * scale``, at most the largest number of its type. Rounded to the nearest level, it is off by half
    a scale at most (0.5002, with the rounding of the arithmetic itself, and that of a 16-bit type); nothing
    saturates. 0 is a level, so zeros stay exact; a channel or group of equal numbers is exact too: its scale is that
    number, its values are 1. Scales are no smaller than the smallest normal number otherwise.

    Raises ``CodecError`` unless ``group`` is a positive integer or None, ``NonFiniteError`` for NaN and infinity.
    """

    name = "int8"
    summary = "8-bit integers with a scale and zero point per channel or group"
    example = "int8"
    top = 255

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The nearest levels, scales and zero points."""
        codes, scale, zero = self._quantized(x, context)
        return {"values": torch.from_numpy(codes).view(x.shape), "scale": scale, "zero": torch.from_numpy(zero)}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """``(values - zero) * scale``. Raises ``FrameError`` unless there is a finite scale and a zero point for each
        channel or group."""
        codes = planes["values"].reshape(-1).numpy()
        return self._restored(codes, planes["scale"], planes["zero"].numpy(), spec)

    def out(self, spec: TensorSpec) -> TensorSpec:
        """uint8 values of the same shape."""
        return spec.with_dtype(torch.uint8)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The values, and a scale and zero point for each channel or group."""
        scales = self._scales(spec)
        return {
            "values": PlaneBound(torch.uint8, spec.max_numel),
            "scale": scales,
            "zero": PlaneBound(torch.uint8, scales.max_numel),
        }


class Int4(_Affine):
    """``int8`` with 16 levels, two values to a byte.

    Planes: ``values`` uint8, flat, the first of two values in the low half of the byte, an unused half zero (if the
    length of the tensor was not agreed, one byte more says whether there is one); ``scale`` as for ``int8``; ``zero``
    packed as the values are. Exactness, bound and errors are those of ``int8``.
    """

    name = "int4"
    summary = "4-bit integers with a scale and zero point per channel or group"
    example = "int4(64)"
    top = 15

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The nearest levels, scales and zero points."""
        codes, scale, zero = self._quantized(x, context)
        agreed = spec_of(x, context).shape is not None
        return {
            "values": torch.from_numpy(pack(codes, 4, agreed)),
            "scale": scale,
            "zero": torch.from_numpy(pack(zero, 4)),
        }

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """``(values - zero) * scale``. Raises ``FrameError`` unless there is a finite scale and a zero point for each
        channel or group, and unused halves of bytes are zero."""
        codes = unpack(planes["values"].numpy(), 4, None if spec.shape is None else spec.numel)
        zero = unpack(planes["zero"].numpy(), 4, planes["scale"].numel())
        return self._restored(codes, planes["scale"], zero, spec)

    def out(self, spec: TensorSpec) -> TensorSpec:
        """uint8 values, flat, half as many."""
        return packed_spec(spec, 4)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The packed values, a scale for each channel or group, and the packed zero points."""
        scales = self._scales(spec)
        return {
            "values": PlaneBound(torch.uint8, self.out(spec).max_numel),
            "scale": scales,
            "zero": PlaneBound(torch.uint8, packed_size(scales.max_numel, 4)),
        }
