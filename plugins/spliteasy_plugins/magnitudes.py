"""Arithmetic near the ends of a dtype's range: divide by a power of two first, multiply and cut off last."""

from __future__ import annotations

import math

import torch

from spliteasy.codecs.finite import all_finite

__all__ = ["power_of_two", "saturated", "scaled", "working"]


def working(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float64 for float64, float32 for every smaller one."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def power_of_two(x: torch.Tensor) -> float:
    """A power of two p with the largest magnitude of ``x`` in [p, 2p), as far as p and 1/p are normal numbers of its
    working dtype; 1 if all is zero, NaN if something is not finite."""
    if not x.numel():
        return 1.0
    low, high = (float(end) for end in torch.aminmax(x))
    largest = max(-low, high)
    if not (math.isfinite(low) and math.isfinite(high)):
        return math.nan
    limit = 1022 if x.dtype is torch.float64 else 126
    exponent = math.frexp(largest)[1] - 1 if largest else 0
    return math.ldexp(1.0, min(max(exponent, -limit), limit))


def scaled(x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """``x`` divided by its ``power_of_two``, in the working dtype and in memory of its own, and that power. A tensor
    that is not finite becomes NaN throughout, which no later step can hide."""
    power = power_of_two(x)
    return x.to(working(x.dtype)) * (1 / power), power


def saturated(x: torch.Tensor, power: float, dtype: torch.dtype) -> tuple[torch.Tensor, int]:
    """``x`` times ``power`` as ``dtype``, what is too large cut off at the largest number, and how many those were."""
    product = x * power
    found = product.to(dtype)
    if not math.isfinite(power) or all_finite(found):
        return found, 0
    limit = torch.finfo(dtype).max
    return product.clamp(-limit, limit).to(dtype), int(found.isinf().sum())
