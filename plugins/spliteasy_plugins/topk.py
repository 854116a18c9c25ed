"""Keep the largest entries of every sample.

Top-k sparsification (Aji and Heafield, arXiv 1704.05021), applied to what crosses a cut. The k-th largest magnitude
is found exactly, on the bits of |x|, which order as the numbers do; a sample of the entries narrows down where it can
lie.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.errors import CodecError, FrameError

__all__ = ["TopK"]

Bits: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
Mask: TypeAlias = npt.NDArray[np.bool_]

UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

LARGE = 1 << 14
"""Entries of a sample from which narrowing down beats partitioning all of them."""

DRAWN = 1 << 12
"""Entries drawn to narrow down."""


class TopK(TensorCodec):
    """Keeps exactly ``k = max(1, round(fraction * d))`` of the d entries of each sample (dimension 0), those of the
    largest magnitude, of equal ones those of the lowest index, and decodes the others to zero.

    Planes: ``values`` of shape (samples, k) in the order of their positions, in the tensor's dtype; ``positions``,
    whichever is smaller: one bit an entry (uint8, lowest bit first) or the indices within the sample (uint16 up to
    65536 entries, else int32). Nothing where k is d. NaN counts as the largest magnitude, so that it is never hidden.
    A vector is a batch of numbers, all kept.

    Raises ``CodecError`` unless 0 < fraction <= 1, and for tensors whose shape is known only once encoded.
    """

    name = "topk"
    summary = "the largest entries of each sample, the others zero"
    citation = "Aji and Heafield, arXiv 1704.05021"
    example = "topk(0.1)"

    def __init__(self, fraction: float) -> None:
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise CodecError(f"expected a fraction above 0 and at most 1 for topk, found {fraction!r}")
        self.fraction = float(fraction)

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The kept values and where they stood."""
        samples, entries, k = self._sizes(tuple(x.shape))
        if k == entries:
            return {"values": x.reshape(samples, k), "positions": torch.empty(0, dtype=torch.uint8)}
        bits = _bits(x).reshape(samples, entries)
        mask = _largest(bits, k)
        kept = np.flatnonzero(mask)
        values = torch.from_numpy(bits.reshape(-1)[kept]).view(x.dtype).view(samples, k)
        dtype = _index_dtype(samples, entries, k)
        if dtype is None:
            return {"values": values, "positions": torch.from_numpy(np.packbits(mask, bitorder="little"))}
        indices = kept.reshape(samples, k) - np.arange(samples)[:, None] * entries
        return {"values": values, "positions": torch.from_numpy(indices.astype(dtype))}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """Zeros, with the values at their positions. Raises ``FrameError`` unless each sample has k positions, in
        increasing order and in range."""
        samples, entries, k = self._sizes(spec.shape)
        values, positions = planes["values"], planes["positions"].numpy()
        bound = self.bounds(spec)["positions"].max_numel
        if positions.size != bound or values.numel() != samples * k:
            found = f"{values.numel()} and {positions.size}"
            raise FrameError(f"expected {samples * k} values and {bound} items of positions, found {found}")
        if k == entries:
            return values.reshape(spec.shape or ())
        dense = np.zeros(samples * entries, UNSIGNED[spec.dtype.itemsize])
        if _index_dtype(samples, entries, k) is None:
            dense[_unpacked(positions, samples, entries, k)] = _bits(values)
        else:
            dense[_flat(positions.reshape(samples, k), entries)] = _bits(values)
        return torch.from_numpy(dense).view(spec.dtype).view(spec.shape or ())

    def out(self, spec: TensorSpec) -> TensorSpec:
        """k values a sample."""
        samples, _, k = self._sizes(spec.shape)
        return TensorSpec((samples, k), spec.dtype)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The values, and the smaller of bitmap and indices."""
        samples, entries, k = self._sizes(spec.shape)
        dtype = _index_dtype(samples, entries, k)
        if k == entries:
            positions = PlaneBound(torch.uint8, 0)
        elif dtype is None:
            positions = PlaneBound(torch.uint8, _bitmap_bytes(samples, entries))
        else:
            positions = PlaneBound(torch.uint16 if dtype is np.uint16 else torch.int32, samples * k)
        return {"values": PlaneBound(spec.dtype, samples * k), "positions": positions}

    def floor(self, x: torch.Tensor, context: Context) -> float:
        """Bits of the positions if any k of the d entries are equally likely: log2 of d choose k for each sample, which
        is below d·H(k/d) by the half logarithm of 2π·k·(1 − k/d)."""
        samples, entries, k = self._sizes(tuple(x.shape))
        ways = math.lgamma(entries + 1) - math.lgamma(k + 1) - math.lgamma(entries - k + 1)
        return samples * ways / math.log(2)

    def _sizes(self, shape: tuple[int, ...] | None) -> tuple[int, int, int]:
        """Samples, entries in each, and how many of those are kept."""
        if shape is None:
            raise CodecError(f"{self!r} needs a tensor with samples; put it before codecs that leave a flat vector")
        samples, entries = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        return samples, entries, min(entries, max(1, round(self.fraction * entries)))


def _bits(x: torch.Tensor) -> Bits:
    """The elements as unsigned integers, flat: a view."""
    return x.reshape(-1).view(SIGNED[x.dtype.itemsize]).numpy().view(UNSIGNED[x.dtype.itemsize])


def _bitmap_bytes(samples: int, entries: int) -> int:
    return -(-samples * entries // 8)


def _index_dtype(samples: int, entries: int, k: int) -> type[np.uint16] | type[np.int32] | None:
    """The type of the indices; None where a bitmap is no larger (or only a bitmap can count that far)."""
    dtype = np.uint16 if entries <= 1 << 16 else np.int32
    bitmap = _bitmap_bytes(samples, entries) <= samples * k * np.dtype(dtype).itemsize
    return None if bitmap or entries > 1 << 31 else dtype


def _largest(bits: Bits, k: int) -> Mask:
    """Where the k largest magnitudes of each row stand, of equal ones the first. ``bits``: (samples, entries); 0 < k
    < entries."""
    entries = bits.shape[1]
    unsigned = bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    mask = np.empty(bits.shape, np.bool_)
    if entries < LARGE:
        size = bits & unsigned
        wide = size.astype(np.uint32) if size.itemsize < 4 else size  # 16-bit partitions are the slow ones
        edges = np.partition(wide, entries - k, axis=1)[:, entries - k].astype(bits.dtype)
        np.greater_equal(size, edges[:, None], out=mask)
        for row in np.flatnonzero(np.count_nonzero(mask, axis=1) > k):
            _drop_last_ties(mask[row], size[row], edges[row], k)
        return mask
    for row, found in zip(bits, mask, strict=True):
        size = row & unsigned
        edge = _kth_largest(size, k)
        np.greater_equal(size, edge, out=found)
        _drop_last_ties(found, size, edge, k)
    return mask


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


def _unpacked(bitmap: npt.NDArray[Any], samples: int, entries: int, k: int) -> Mask:
    """The flat mask of a bitmap in which every sample has k bits."""
    padding = bitmap.size * 8 - samples * entries
    mask = np.unpackbits(bitmap, count=samples * entries, bitorder="little").view(np.bool_)
    if (bitmap.size and bitmap[-1] >> (8 - padding)) or (
        np.count_nonzero(mask.reshape(samples, entries), axis=1) != k
    ).any():
        raise FrameError(f"expected a bitmap with {k} of {entries} bits set in each of {samples} samples")
    return mask


def _flat(indices: npt.NDArray[Any], entries: int) -> npt.NDArray[np.int64]:
    """Indices within samples as indices into the whole."""
    increasing = (indices[:, 1:] > indices[:, :-1]).all()
    if not increasing or (indices.size and (indices[:, 0].min() < 0 or indices[:, -1].max() >= entries)):
        raise FrameError(f"expected strictly increasing positions from 0 to {entries - 1} in each sample")
    return (indices + np.arange(indices.shape[0], dtype=np.int64)[:, None] * entries).reshape(-1)
