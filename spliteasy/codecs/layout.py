"""The order in which a tensor's dimensions lie in memory, kept across the wire without a copy.

A layout is the dimensions from the widest stride to the narrowest: ``(0, 1, 2, 3)`` for an ordinary batch of images,
``(0, 2, 3, 1)`` for channels-last. Values are sent in memory order and the layout is restored on the other side,
because kernels choose by it: without it, split training would not equal unsplit training to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["default_layout", "from_flat", "is_layout", "layout_of", "memory_order", "restore", "to_flat", "unpermuted"]


def default_layout(ndim: int) -> tuple[int, ...]:
    """The row-major layout of ``ndim`` dimensions."""
    return tuple(range(ndim))


def layout_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """The dimensions of ``tensor`` by stride, descending.

    Of equal strides the larger dimension comes first, which also restores the strides of dimensions of size 1 (``(B,
    F, 1, 1)`` exists in both layouts). Tensors whose elements overlap (expanded ones) or that are empty have the
    default layout.
    """
    sizes, strides = tensor.shape, tensor.stride()
    if tensor.numel() == 0 or any(stride == 0 and size > 1 for size, stride in zip(sizes, strides, strict=True)):
        return default_layout(tensor.ndim)
    return tuple(sorted(range(tensor.ndim), key=lambda dim: (-strides[dim], -sizes[dim], dim)))


def is_layout(layout: object, ndim: int) -> bool:
    """Whether ``layout`` is an order of ``ndim`` dimensions."""
    if not isinstance(layout, list | tuple) or any(type(dim) is not int for dim in layout):
        return False
    return sorted(layout) == list(range(ndim))


def memory_order(tensor: torch.Tensor, layout: Sequence[int]) -> torch.Tensor:
    """``tensor`` with its dimensions permuted into ``layout``, dense; a view where the tensor already is."""
    return tensor.permute(tuple(layout)).contiguous()


def to_flat(tensor: torch.Tensor, layout: Sequence[int]) -> torch.Tensor:
    """The elements in memory order: shape ``(numel,)``, a view where ``tensor`` is dense in ``layout``."""
    return memory_order(tensor, layout).view(-1)


def from_flat(flat: torch.Tensor, shape: Sequence[int], layout: Sequence[int]) -> torch.Tensor:
    """The inverse of ``to_flat``: a view of ``flat`` with ``shape`` and ``layout``."""
    return unpermuted(flat.view([shape[dim] for dim in layout]), layout)


def unpermuted(tensor: torch.Tensor, layout: Sequence[int]) -> torch.Tensor:
    """The inverse of ``tensor.permute(layout)``, a view."""
    inverse = [0] * len(layout)
    for place, dim in enumerate(layout):
        inverse[dim] = place
    return tensor.permute(inverse)


def restore(tensor: torch.Tensor, layout: Sequence[int]) -> torch.Tensor:
    """``tensor``, equal in every element, lying in memory in ``layout``; a copy unless it already does.

    Through the flat form, which also gives dimensions of size 1 the strides that this layout has for them.
    """
    return from_flat(to_flat(tensor, layout), tensor.shape, layout)
