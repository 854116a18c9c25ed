"""Gaps in memory, and elements that many share: what of a tensor's strides decides the order of sums.

A slice such as ``x[..., :-1]`` has gaps between its rows, and an expanded gradient is one number read many times. Laid
out densely they hold the same values, but reductions and batch normalization run through them in another order, and
the last bit differs. Only the pattern matters: which dimensions follow on one another, which do not, which repeat. A
pattern takes little more memory than the values, whatever a frame says, where strides could claim any amount.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["is_pattern", "laid_out", "pattern_of"]


def pattern_of(tensor: torch.Tensor) -> list[int] | None:
    """The smallest strides that lie like the tensor's: 0 where elements repeat, one more than the product of what is
    inside where there is a gap. None for a tensor without gaps and repeats, of which the order of dimensions says all.
    """
    if tensor.numel() == 0:
        return None
    strides, plain = _smallest(tuple(tensor.shape), tensor.stride())
    return None if plain else strides


def is_pattern(strides: object, shape: Sequence[int]) -> bool:
    """Whether ``strides`` is what `pattern_of` gives for some tensor of this shape."""
    if not isinstance(strides, list) or len(strides) != len(shape) or 0 in shape:
        return False
    if any(type(stride) is not int or not 0 <= stride < 1 << 62 for stride in strides):
        return False
    again, plain = _smallest(tuple(shape), strides)
    return not plain and again == strides


def laid_out(tensor: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    """A copy of ``tensor`` with these strides, which must be a pattern of its shape."""
    repeats = [size > 1 and stride == 0 for size, stride in zip(tensor.shape, strides, strict=True)]
    shape = [1 if repeated else size for size, repeated in zip(tensor.shape, repeats, strict=True)]
    copy = torch.empty_strided(shape, list(strides), dtype=tensor.dtype, device=tensor.device)
    copy.copy_(tensor[tuple(slice(0, 1) if repeated else slice(None) for repeated in repeats)])
    return copy.expand(tensor.shape)


def _smallest(shape: tuple[int, ...], strides: Sequence[int]) -> tuple[list[int], bool]:
    """The smallest strides of the same pattern, and whether they have neither gaps nor repeats."""
    smallest = [0] * len(shape)
    expected, block, plain = 1, 1, True  # the stride that follows on: in this tensor, and in the smallest one
    for dim in sorted(range(len(shape)), key=lambda dim: (strides[dim], shape[dim], -dim)):
        if shape[dim] == 1:
            smallest[dim] = block
        elif strides[dim] == 0:
            plain = False
        else:
            follows = strides[dim] == expected
            smallest[dim] = block if follows else block + 1
            expected, block, plain = strides[dim] * shape[dim], smallest[dim] * shape[dim], plain and follows
    return smallest, plain
