"""Floats of 16 bits: fp16 with a power-of-two scale or without, and bfloat16.

The scale follows the loss scaling of mixed precision training (Micikevicius et al., arXiv 1710.03740), chosen anew
for every tensor: without it most gradients at a cut would be subnormal in fp16. bfloat16 has the exponents of fp32 and
needs none (Kalamkar et al., arXiv 1905.12322).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.errors import CodecError, FrameError

__all__ = ["BFloat16", "Float16"]

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
    magnitude: the nearest fp16 number, of two equally near the even one. NaN and infinity come back as they are.
    float16 tensors pass untouched, with scale 1.

    ``scaled=False`` is the plain cast, without the plane ``scale``, to show what it does: below 6.1e-5 an element is
    off by up to 3.0e-8, so that below 3.0e-8 nothing is left of it; beyond 65504 it becomes 65504 with its sign.

    Finite elements that the range of fp16, or of the tensor's own type on decoding, would have made infinite become
    the largest number instead, and are counted as ``saturated``. Raises ``CodecError`` unless ``scaled`` is a boolean.
    """

    name = "fp16"
    elementwise = True
    summary = "16-bit floats with a power-of-two scale"
    citation = "Micikevicius et al., arXiv 1710.03740"

    def __init__(self, *, scaled: bool = True) -> None:
        if type(scaled) is not bool:
            raise CodecError(f"expected scaled=True or scaled=False for fp16, found {scaled!r}")
        self.scaled = scaled

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """``x`` divided by the scale, as float16. All-zero and empty tensors have scale 1."""
        working = _working(x.dtype)
        if x.dtype is torch.float16:
            return {"values": x, **self._side(1.0, working)}
        low, high = _finite_range(x)
        exponent = _exponent(max(-low, high), x.dtype) if self.scaled else 0
        values = _cast(x, torch.float16, exponent)
        # Rounded up, 2^TOP * scale would leave the range of x.dtype; unscaled, 65504 is the end of fp16.
        edge = exponent + TOP == math.frexp(torch.finfo(x.dtype).max)[1]
        if not self.scaled or edge:
            largest = LARGEST if edge else torch.finfo(torch.float16).max
            if math.ldexp(max(-low, high), -exponent) > largest:
                _saturate(x, values, largest, context)
        return {"values": values, **self._side(math.ldexp(1.0, exponent), working)}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """The values times the scale. Raises ``FrameError`` unless the scale is one power of two."""
        scale = _power_of_two(planes["scale"]) if self.scaled else 1.0
        values = planes["values"]
        if spec.dtype is torch.float16:
            if scale != 1:
                raise FrameError(f"expected scale 1 for a float16 tensor, found {scale}")
            return values
        x = torch.empty(values.shape, dtype=_working(spec.dtype))
        source, target = values.view(-1), x.view(-1)
        for begin in range(0, source.numel(), BLOCK):
            block = target[begin : begin + BLOCK].copy_(source[begin : begin + BLOCK])
            if scale != 1:
                block.mul_(scale)
        x = x.to(spec.dtype)
        return _bounded(x, values) if scale * torch.finfo(torch.float16).max > torch.finfo(spec.dtype).max else x

    def out(self, spec: TensorSpec) -> TensorSpec:
        """float16 values of the same shape."""
        return spec.with_dtype(torch.float16)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The values, and one scale unless unscaled."""
        values = PlaneBound(torch.float16, spec.max_numel)
        return {"values": values, "scale": PlaneBound(_working(spec.dtype), 1)} if self.scaled else {"values": values}

    def _side(self, scale: float, working: torch.dtype) -> dict[str, torch.Tensor]:
        return {"scale": torch.tensor([scale], dtype=working)} if self.scaled else {}


class BFloat16(TensorCodec):
    """The nearest bfloat16 number, of two equally near the even one: 8 bits of precision, the range of fp32.

    Plane: ``values`` bfloat16 of the tensor's shape. An element is off by at most 2^-9 of itself, or 4.6e-41. Finite
    elements that rounding would make infinite, there or on decoding to float16, become the largest number that it does
    not (3.39e38; 65280 for float16), and are counted as ``saturated``. NaN and infinity come back as they are.
    bfloat16 tensors pass untouched.
    """

    name = "bf16"
    elementwise = True
    summary = "16-bit floats with the range of fp32"
    citation = "Kalamkar et al., arXiv 1905.12322"

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """``x`` as bfloat16."""
        if x.dtype is torch.bfloat16:
            return {"values": x}
        values = _cast(x, torch.bfloat16)
        low, high = _finite_range(x)
        largest = 65280.0 if x.dtype is torch.float16 else torch.finfo(torch.bfloat16).max
        if max(-low, high) > largest:
            _saturate(x, values, largest, context)
        return {"values": values}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """The values in the tensor's type."""
        x = planes["values"].to(spec.dtype)
        return _bounded(x, planes["values"]) if spec.dtype is torch.float16 else x

    def out(self, spec: TensorSpec) -> TensorSpec:
        """bfloat16 values of the same shape."""
        return spec.with_dtype(torch.bfloat16)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The values."""
        return {"values": PlaneBound(torch.bfloat16, spec.max_numel)}


def _working(dtype: torch.dtype) -> torch.dtype:
    """The type to scale in, wide enough for every scale of ``dtype``."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _cast(x: torch.Tensor, dtype: torch.dtype, exponent: int = 0) -> torch.Tensor:
    """``x`` divided by ``2 ** exponent``, rounded once to the 16 bits of ``dtype``."""
    values, working = torch.empty(x.shape, dtype=dtype), _working(x.dtype)
    inverse = math.ldexp(1.0, -exponent)
    source, target = x.view(-1), values.view(-1)
    buffer = torch.empty(min(BLOCK, x.numel()), dtype=working)
    for begin in range(0, x.numel(), BLOCK):
        block = source[begin : begin + BLOCK]
        if exponent:
            scaled = buffer[: block.numel()]
            if x.dtype is working:
                torch.mul(block, inverse, out=scaled)
            else:
                scaled.copy_(block).mul_(inverse)
            block = scaled
        target[begin : begin + BLOCK].copy_(_to_odd(block) if working is torch.float64 else block)
    return values


def _to_odd(x: torch.Tensor) -> torch.Tensor:
    """float64 as float32 rounded to odd: what is not exact gets a last bit of 1, so that rounding again to 16 bits is
    as good as rounding once (Boldo and Melquiond, IEEE Transactions on Computers 57(4), 2008)."""
    single = x.float()
    back = single.double()
    bits = single.view(torch.int32)
    bits -= (back.abs() > x.abs()).int()  # towards zero, whatever the sign: the bits below it are a magnitude
    bits |= (back != x).int()
    return single


def _saturate(x: torch.Tensor, values: torch.Tensor, largest: float, context: Context) -> None:
    """Bring values beyond ``largest`` back to it, but for those of NaN and infinity, and count those that would have
    been infinite."""
    beyond = (values.abs() > largest) & x.isfinite()
    context.count("saturated", int(beyond.sum()))
    values[beyond] = values[beyond].sign() * largest


def _bounded(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``x``, decoded from ``values``, with the largest number where only decoding made it infinite: the codecs after
    this one may have taken values beyond those that were encoded."""
    lost = x.isinf() & values.isfinite()
    x[lost] = values[lost].sign().to(x.dtype) * torch.finfo(x.dtype).max
    return x


def _power_of_two(scales: torch.Tensor) -> float:
    scale: Any = scales.item() if scales.numel() == 1 else math.nan
    if not (math.isfinite(scale) and scale > 0 and math.frexp(scale)[0] == 0.5):
        raise FrameError(f"expected one scale for the tensor, a power of two; found {scales.tolist()}")
    return float(scale)


def _finite_range(x: torch.Tensor) -> tuple[float, float]:
    """The least and the greatest finite element; zeros where there is none."""
    if not x.numel():
        return 0.0, 0.0
    low, high = (float(end) for end in torch.aminmax(x))
    if not (math.isfinite(low) and math.isfinite(high)):
        return _finite_range(x[x.isfinite()])
    return low, high


def _exponent(largest: float, dtype: torch.dtype) -> int:
    """e such that ``largest`` is in [2^(TOP-1), 2^TOP) times 2^e, as far as 2^e is a normal number; 0 for 0."""
    smallest = math.frexp(torch.finfo(_working(dtype)).tiny)[1] - 1
    return max(math.frexp(largest)[1] - TOP, smallest) if largest else 0
