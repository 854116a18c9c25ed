"""Where a tensor's elements lie: what of its strides and its address decides the last bit of what is computed.

A slice such as ``x[..., :-1]`` has gaps between its rows, and an expanded gradient is one number read many times. Laid
out densely they hold the same values, but reductions, batch normalization and matrix products run through them in
another order or by another kernel, and the last bit differs. Only the pattern matters: which dimensions follow on one
another, which do not, which repeat, and how rows and the first element lie to the processor's vectors (multiples of 64
bytes). A pattern takes little more memory than the values, whatever a frame says, where strides could claim any amount.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["is_offset", "is_pattern", "laid_out", "offset_of", "pattern_of", "placed"]

ALIGNMENT = 64
"""Bytes: PyTorch allocates at multiples of this, and the widest vectors have this length."""


def pattern_of(tensor: torch.Tensor) -> list[int] | None:
    """The smallest strides that lie like the tensor's: 0 where elements repeat; where there is a gap, more than the
    product of what is inside, and as far from a multiple of 64 bytes. None for a tensor without gaps and repeats, of
    which the order of dimensions says all.
    """
    if tensor.numel() == 0:
        return None
    strides, plain = _smallest(tuple(tensor.shape), tensor.stride(), tensor.element_size())
    return None if plain else strides


def is_pattern(strides: object, shape: Sequence[int], itemsize: int) -> bool:
    """Whether ``strides`` is what `pattern_of` gives for some tensor of this shape, with elements of ``itemsize``."""
    if not isinstance(strides, list) or len(strides) != len(shape) or 0 in shape:
        return False
    if any(type(stride) is not int or not 0 <= stride < 1 << 62 for stride in strides):
        return False
    again, plain = _smallest(tuple(shape), strides, itemsize)
    return not plain and again == strides


def offset_of(tensor: torch.Tensor) -> int:
    """How many elements the first one lies behind a multiple of 64 bytes."""
    return tensor.data_ptr() % ALIGNMENT // tensor.element_size() if tensor.numel() else 0


def is_offset(offset: object, itemsize: int) -> bool:
    """Whether ``offset`` is what `offset_of` gives for some tensor."""
    return type(offset) is int and 0 <= offset < ALIGNMENT // itemsize


def placed(tensor: torch.Tensor, offset: int = 0) -> torch.Tensor:
    """The tensor where its first element lies ``offset`` elements behind a multiple of 64 bytes: a copy, if need be."""
    if not tensor.numel() or tensor.data_ptr() % ALIGNMENT == offset * tensor.element_size():
        return tensor
    return laid_out(tensor, tensor.stride(), offset)


def laid_out(tensor: torch.Tensor, strides: Sequence[int], offset: int = 0) -> torch.Tensor:
    """A copy of ``tensor`` with these strides and this offset, which must be a pattern of its shape (or its own)."""
    repeats = [size > 1 and stride == 0 for size, stride in zip(tensor.shape, strides, strict=True)]
    shape = [1 if repeated else size for size, repeated in zip(tensor.shape, repeats, strict=True)]
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    memory = torch.empty(offset + reach + 1, dtype=tensor.dtype, device=tensor.device)
    copy = memory.as_strided(shape, list(strides), offset)
    copy.copy_(tensor[tuple(slice(0, 1) if repeated else slice(None) for repeated in repeats)])
    return copy.expand(tensor.shape)


def _smallest(shape: tuple[int, ...], strides: Sequence[int], itemsize: int) -> tuple[list[int], bool]:
    """The smallest strides of the same pattern, and whether they have neither gaps nor repeats."""
    smallest = [0] * len(shape)
    expected, block, plain = 1, 1, True  # the stride that follows on: in this tensor, and in the smallest one
    vector = ALIGNMENT // itemsize
    for dim in sorted(range(len(shape)), key=lambda dim: (strides[dim], shape[dim], -dim)):
        if shape[dim] == 1:
            smallest[dim] = block
        elif strides[dim] == 0:
            plain = False
        else:
            follows = strides[dim] == expected
            gap = 1 if block == 1 else 1 + (strides[dim] - block - 1) % vector  # single elements fill no vector
            smallest[dim] = block if follows else block + gap
            expected, block, plain = strides[dim] * shape[dim], smallest[dim] * shape[dim], plain and follows
    return smallest, plain
