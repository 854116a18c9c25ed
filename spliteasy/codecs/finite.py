"""Looking for NaN and infinity at the price of a sum."""

from __future__ import annotations

import cmath

import torch

__all__ = ["all_finite"]


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite.

    One of those makes the sum NaN or infinite, so a finite sum answers yes without a mask of the size of the tensor;
    only a sum that is not finite (also that of large finite values) makes the elements be looked at. Integers and
    booleans always pass.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    tensor = tensor.detach()
    half = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    total = tensor.sum(dtype=torch.float32 if half else None)
    return cmath.isfinite(total.item()) or bool(torch.isfinite(tensor.float() if half else tensor).all())
