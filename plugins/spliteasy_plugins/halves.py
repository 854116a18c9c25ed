"""Floats of 16 bits.

The scale follows the loss scaling of mixed precision training (Micikevicius et al., arXiv 1710.03740), chosen anew
for every tensor: without it most gradients at a cut would be subnormal in fp16.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.errors import FrameError

__all__ = ["Float16"]

TOP = 15
"""The largest magnitude lands in [2^14, 2^15): near the top of fp16 (65504), with room for rounding."""

LARGEST = 32752.0
"""The largest fp16 number below 2^15."""

BLOCK = 1 << 17
"""Elements converted at a time: two blocks of fp32 stay in a core's cache, which is 3 to 5 times faster than whole
tensors."""


class Float16(TensorCodec):
    """Half precision with one power-of-two scale for the tensor, so that the scaling itself loses nothing.

    Planes: ``values`` float16 of the tensor's shape; ``scale`` float32 (float64 for float64 tensors), by which the
    values are multiplied on decoding. An element is off by at most 2^-11 of itself, or 2^-39 of the tensor's largest
    magnitude. NaN and infinity come back as they are. float16 tensors pass untouched, with scale 1.
    """

    name = "fp16"
    elementwise = True
    summary = "16-bit floats with a power-of-two scale"
    citation = "Micikevicius et al., arXiv 1710.03740"

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """``x`` divided by the scale, as float16. All-zero and empty tensors have scale 1."""
        working = _working(x.dtype)
        if x.dtype is torch.float16:
            return {"values": x, "scale": torch.ones(1, dtype=working)}
        exponent = _exponent(x)
        scale, inverse = math.ldexp(1.0, exponent), math.ldexp(1.0, -exponent)
        values = torch.empty(x.shape, dtype=torch.float16)
        source, target = x.view(-1), values.view(-1)
        buffer = torch.empty(min(BLOCK, x.numel()), dtype=working)
        for begin in range(0, x.numel(), BLOCK):
            block = source[begin : begin + BLOCK]
            scaled = buffer[: block.numel()]
            if x.dtype is working:
                torch.mul(block, inverse, out=scaled)
            else:
                scaled.copy_(block).mul_(inverse)
            target[begin : begin + BLOCK].copy_(scaled)
        if exponent + TOP == math.frexp(torch.finfo(x.dtype).max)[1]:  # rounding up would leave the range of x.dtype
            torch.where(values.isfinite(), values.clamp(-LARGEST, LARGEST), values, out=values)
        return {"values": values, "scale": torch.tensor([scale], dtype=working)}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """The values times the scale. Raises ``FrameError`` unless the scale is one power of two."""
        values, scales = planes["values"], planes["scale"]
        scale: Any = scales.item() if scales.numel() == 1 else math.nan
        if not (math.isfinite(scale) and scale > 0 and math.frexp(scale)[0] == 0.5):
            raise FrameError(f"expected one scale for the tensor, a power of two; found {scales.tolist()}")
        if spec.dtype is torch.float16:
            if scale != 1:
                raise FrameError(f"expected scale 1 for a float16 tensor, found {scale}")
            return values
        x = torch.empty(values.shape, dtype=_working(spec.dtype))
        source, target = values.view(-1), x.view(-1)
        for begin in range(0, source.numel(), BLOCK):
            target[begin : begin + BLOCK].copy_(source[begin : begin + BLOCK]).mul_(scale)
        return x.to(spec.dtype)

    def out(self, spec: TensorSpec) -> TensorSpec:
        """float16 values of the same shape."""
        return spec.with_dtype(torch.float16)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The values and one scale."""
        return {"values": PlaneBound(torch.float16, spec.max_numel), "scale": PlaneBound(_working(spec.dtype), 1)}


def _working(dtype: torch.dtype) -> torch.dtype:
    """The type to scale in, wide enough for every scale of ``dtype``."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _exponent(x: torch.Tensor) -> int:
    """e such that the largest finite magnitude of ``x`` is in [2^(TOP-1), 2^TOP) times 2^e, as far as 2^e is a normal
    number."""
    if not x.numel():
        return 0
    low, high = (float(end) for end in torch.aminmax(x if x.dtype.itemsize > 1 else x.float()))
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = x[x.isfinite()]
        return _exponent(finite)
    largest = max(-low, high)
    smallest = math.frexp(torch.finfo(_working(x.dtype)).tiny)[1] - 1
    return max(math.frexp(largest)[1] - TOP, smallest) if largest else 0
