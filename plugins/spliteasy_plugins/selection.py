"""Which entries of a sample have the largest magnitude: exactly k of them, of equal ones the first.

The k-th largest magnitude is found on the bits of |x|, which order as the numbers do (NaN above infinity); a sample of
the entries narrows down where it can lie.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["UNSIGNED", "Bits", "Mask", "bits_of", "largest", "marked"]

Bits: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
Mask: TypeAlias = npt.NDArray[np.bool_]

UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

LARGE = 1 << 14
"""Entries of a sample from which narrowing down beats partitioning all of them."""

DRAWN = 1 << 12
"""Entries drawn to narrow down."""


def bits_of(x: torch.Tensor) -> Bits:
    """The elements of a contiguous CPU tensor as unsigned integers of their size, flat: a view."""
    return x.reshape(-1).view(SIGNED[x.dtype.itemsize]).numpy().view(UNSIGNED[x.dtype.itemsize])


def _magnitudes(bits: Bits) -> Bits:
    """The bits of |x|: without the sign."""
    return bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)


def largest(bits: Bits, k: int) -> Mask:
    """Where the k largest magnitudes of each row stand, of equal ones the first. ``bits``: (samples, entries); 0 < k
    < entries; the mask has the same shape."""
    entries = bits.shape[1]
    mask = np.empty(bits.shape, np.bool_)
    if entries < LARGE:
        size = _magnitudes(bits)
        wide = size.astype(np.uint32) if size.itemsize < 4 else size  # 16-bit partitions are the slow ones
        edges = np.partition(wide, entries - k, axis=1)[:, entries - k].astype(bits.dtype)
        np.greater_equal(size, edges[:, None], out=mask)
        for row in np.flatnonzero(np.count_nonzero(mask, axis=1) > k):
            _drop_last_ties(mask[row], size[row], edges[row], k)
        return mask
    for row, found in zip(bits, mask, strict=True):
        size = _magnitudes(row)
        edge = _kth_largest(size, k)
        np.greater_equal(size, edge, out=found)
        _drop_last_ties(found, size, edge, k)
    return mask


def marked(mask: Mask) -> npt.NDArray[np.intp]:
    """The flat positions of the marks, increasing.

    Up to a tenth of marks NumPy looks for one after the other, above without branches, which from some percent on is
    several times faster. So a mask in between is filled up with marks at its end, which are then left out.
    """
    count, size = int(np.count_nonzero(mask)), mask.size
    if not size // 25 < count <= size // 10:
        return np.flatnonzero(mask)
    filled = np.ones(size + size // 8 - count, np.bool_)
    filled[:size] = mask.reshape(-1)
    return np.flatnonzero(filled)[:count]


def _drop_last_ties(mask: Mask, size: Bits, edge: np.unsignedinteger[Any], k: int) -> None:
    """Unmark the last of those that equal the edge until k are marked."""
    surplus = int(np.count_nonzero(mask)) - k
    if surplus:
        mask[np.flatnonzero(size == edge)[-surplus:]] = False


def _kth_largest(size: Bits, k: int) -> np.unsignedinteger[Any]:
    """The k-th largest of many numbers. Drawn entries say between which two it almost surely lies; counting says
    whether it does."""
    drawn = np.sort(size[_draw(size.size)])
    rank = DRAWN * (1 - k / size.size)
    margin = 4 * math.sqrt(DRAWN * k / size.size * (1 - k / size.size)) + 4
    low = drawn[max(0, math.floor(rank - margin))]
    place = math.ceil(rank + margin)
    high = drawn[place] if place < DRAWN else None
    above = int(np.count_nonzero(size >= high)) if high is not None else 0
    if high is not None and above >= k:
        return high if np.count_nonzero(size > high) < k else _partitioned(size, k)
    if np.count_nonzero(size > low) < k:
        return low if np.count_nonzero(size >= low) >= k else _partitioned(size, k)
    between = size > low if high is None else (size > low) & (size < high)
    return _partitioned(size[between], k - above)


def _partitioned(size: Bits, k: int) -> np.unsignedinteger[Any]:
    found: np.unsignedinteger[Any] = np.partition(size, size.size - k)[size.size - k]
    return found


@functools.lru_cache(maxsize=64)
def _draw(entries: int) -> npt.NDArray[np.int64]:
    """Which entries to look at: random, so that no regularity of an image meets one of the sampling; the result is
    exact anyway."""
    return np.sort(np.random.default_rng(0).integers(entries, size=DRAWN))
