"""Where the kept entries stand: k strictly increasing positions in each of n samples of d entries, in few bytes.

For independent positions log2(d over k), about d·H(k/d) bits a sample, is the floor (H: the binary entropy). Rice
codes of the gaps come within some percent of it; activations cluster, and there what a general compressor makes of a
bitmap or of the gaps takes a third to a half of that. So there are four encodings, and the cheapest is written:

- ``BITMAP``: one bit an entry, lowest bit first.
- ``RICE`` with parameter m (Golomb 1966; Rice 1979): a gap g, the number of entries between two positions (for the
  first: before it), is the number ``g >> m`` in unary, zeros and a one, and its m low bits. The streams are split: all
  lowest bits, then all second lowest bits and so on, padded to a byte together; then the unary numbers.
- ``GAPS``: each gap as bytes, 255 for every full 255 in it and then the rest, compressed as one zstd frame.
- ``PACKED``: the bitmap as one zstd frame (RFC 8878).

The plane is flat uint8. Its first byte is the encoding plus four times the Rice parameter. If more than half of the
entries are kept, the positions of the others are coded instead. There is no plane (no bytes) where nothing is open:
no samples, or k = d.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from spliteasy.errors import FrameError
from spliteasy_plugins.selection import Mask, marked

__all__ = ["bound", "decode", "encode"]

BITMAP, RICE, GAPS, PACKED = range(4)
"""The encodings, by their number in the first byte."""

ESCAPE = 255
"""The byte that stands for as many entries, the gap going on in the next byte."""

LEVEL = 1
"""Of zstd: higher ones save at most a tenth of positions that are a tenth of a frame."""

SMALL = 128
"""Bytes up to which compressing is not tried: what it could save is less than the header of a frame."""

EXPANSION = 1 << 15
"""The most a zstd frame can grow when it is decompressed (RFC 8878, 3.1.1.2)."""

BLOCK, EVERY = 1 << 14, 4
"""To estimate what zstd would make of many bytes, every so many-th block of this size is compressed."""

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[Any]


def bound(samples: int, entries: int, k: int) -> int:
    """The most bytes that ``encode`` may return."""
    few = min(k, entries - k)
    if not samples or not few:
        return 0
    longest = min(
        _rice_bytes(samples * few, samples * ((entries - few) >> parameter), parameter)
        for parameter in range(_parameters(entries, few))
    )
    return 1 + min(_bitmap_bytes(samples, entries), longest)


def encode(mask: Mask, kept: npt.NDArray[np.intp]) -> Bytes:
    """The plane for a mask of (samples, entries) with equally many marks in each row; ``kept`` are its flat positions
    (samples, k), which whoever calls has anyway."""
    samples, entries = mask.shape
    few = min(kept.shape[1], entries - kept.shape[1])
    if not samples or not few:
        return np.empty(0, np.uint8)
    if few < kept.shape[1]:
        mask = ~mask
        kept = marked(mask).reshape(samples, few)
    gaps = _gaps(kept, entries)
    sums = _quotients(gaps, _parameters(entries, few))
    sizes = [_rice_bytes(gaps.size, total, parameter) for parameter, total in enumerate(sums)]
    parameter = min(range(len(sizes)), key=sizes.__getitem__)
    certain = min(_bitmap_bytes(samples, entries), sizes[parameter])
    if certain > SMALL:
        bitmap, spelt = np.packbits(mask, bitorder="little"), _spell(gaps)
        estimate, encoding, content = min((_estimate(spelt), GAPS, spelt), (_estimate(bitmap), PACKED, bitmap))
        if estimate < certain:
            made = _compressed(content)
            if made.size < certain:
                return _plane(encoding, made)
    if sizes[parameter] < _bitmap_bytes(samples, entries):
        return _plane(RICE + 4 * parameter, _rice(gaps, parameter, sums[parameter]))
    return _plane(BITMAP, np.packbits(mask, bitorder="little"))


def decode(plane: Bytes, samples: int, entries: int, k: int) -> npt.NDArray[np.int64]:
    """The flat positions of all samples, of shape (samples · k), increasing.

    Every length is held against the three numbers before anything is allocated. Raises ``FrameError`` unless the plane
    says for each sample k different positions below ``entries``, with no byte and no bit left over.
    """
    few = min(k, entries - k)
    if not samples or not few:
        if plane.size:
            raise FrameError(f"expected no positions where all {k} entries are kept, found {plane.size} bytes")
        return np.arange(samples * k, dtype=np.int64)
    if not 1 < plane.size <= bound(samples, entries, k):
        raise FrameError(f"expected 2 to {bound(samples, entries, k)} bytes of positions, found {plane.size}")
    encoding, parameter, content = int(plane[0]) & 3, int(plane[0]) >> 2, plane[1:]
    if parameter >= (_parameters(entries, few) if encoding == RICE else 1):
        raise FrameError(f"the positions are in an unknown encoding, {plane[0]}: made by a newer version, or damaged")
    if encoding == RICE:
        places = _places(_read_rice(content, samples * few, parameter), samples, entries)
    elif encoding == GAPS:
        longest = samples * (few + (entries - few) // ESCAPE)
        spelt = _decompressed(content, samples * few, longest)
        places = _places(_read_spelt(spelt, samples * few), samples, entries)
    else:
        exact = _bitmap_bytes(samples, entries)
        places = _marked(_decompressed(content, exact, exact) if encoding == PACKED else content, samples, entries, few)
    if few == k:
        return places
    mask = np.ones(samples * entries, np.bool_)
    mask[places] = False
    return marked(mask)


def _bitmap_bytes(samples: int, entries: int) -> int:
    return -(-samples * entries // 8)


def _rice_bytes(count: int, total: int, parameter: int) -> int:
    """The bytes of ``count`` gaps whose quotients add up to ``total``."""
    return -(-count * parameter // 8) - (-(count + total) // 8)


def _parameters(entries: int, few: int) -> int:
    """How many Rice parameters make sense: up to the one that gives the mean gap no quotient."""
    return ((entries - few) // few).bit_length() + 1


def _plane(first: int, content: Bytes) -> Bytes:
    return np.concatenate([np.array([first], np.uint8), content])


def _gaps(kept: Integers, entries: int) -> Integers:
    """The number of entries before each position, since the one before or the start of the sample: (samples, few)."""
    gaps = np.empty(kept.shape, np.min_scalar_type(entries))
    gaps[:, 0] = kept[:, 0] - np.arange(kept.shape[0]) * entries
    np.subtract(kept[:, 1:], kept[:, :-1], out=gaps[:, 1:], casting="unsafe")
    gaps[:, 1:] -= 1
    return gaps


def _quotients(gaps: Integers, parameters: int) -> list[int]:
    """The sum of all gaps' quotients for each Rice parameter."""
    quotients, sums = gaps.copy(), []
    for _ in range(parameters):
        sums.append(int(quotients.sum(dtype=np.int64)))
        quotients >>= 1
    return sums


def _places(gaps: Integers, samples: int, entries: int) -> npt.NDArray[np.int64]:
    """The flat positions that these gaps lead to; strictly increasing, as gaps are not negative."""
    places = np.cumsum(gaps.reshape(samples, -1) + 1, axis=1, dtype=np.int64) - 1
    if places[:, -1].max() >= entries:
        raise FrameError(f"expected positions below {entries} in each sample, found {places[:, -1].max()}")
    places += np.arange(samples, dtype=np.int64)[:, None] * entries
    return places.reshape(-1)


def _marked(bitmap: Bytes, samples: int, entries: int, few: int) -> npt.NDArray[np.int64]:
    """The flat positions of the bits that are set."""
    if bitmap.size == _bitmap_bytes(samples, entries):
        mask = np.unpackbits(bitmap, bitorder="little").view(np.bool_)
        if np.count_nonzero(mask) == samples * few:  # the padding among them
            places = marked(mask).reshape(samples, few)
            starts = np.arange(samples, dtype=np.int64) * entries
            if (places[:, 0] >= starts).all() and (places[:, -1] < starts + entries).all():
                return places.reshape(-1)
    raise FrameError(f"expected a bitmap with {few} of {entries} bits set in each of {samples} samples")


def _rice(gaps: Integers, parameter: int, total: int) -> Bytes:
    """The low bits of the gaps, then their quotients, which add up to ``total``, in unary."""
    flat = gaps.reshape(-1)
    low = np.empty((parameter, flat.size), np.bool_)
    for place, row in enumerate(low):
        np.not_equal(flat & flat.dtype.type(1 << place), 0, out=row)
    unary = np.zeros(flat.size + total, np.bool_)
    steps = flat >> parameter
    steps += 1
    unary[np.cumsum(steps, dtype=np.int64) - 1] = True
    return np.concatenate([np.packbits(low, bitorder="little"), np.packbits(unary, bitorder="little")])


def _read_rice(content: Bytes, count: int, parameter: int) -> npt.NDArray[np.int64]:
    """The gaps again, flat."""
    border = -(-count * parameter // 8)
    low = np.unpackbits(content[:border], bitorder="little")
    unary = np.unpackbits(content[border:], bitorder="little").view(np.bool_)
    if low.size < count * parameter or low[count * parameter :].any():
        raise FrameError(f"expected {parameter} low bits of {count} gaps and no padding but zeros")
    found = int(np.count_nonzero(unary))
    ends = marked(unary) if found == count else np.empty(0, np.int64)
    if not ends.size or ends[-1] < unary.size - 8:
        raise FrameError(f"expected {count} gaps up to the last byte, found {found}")
    gaps: npt.NDArray[np.int64] = np.diff(ends, prepend=-1)
    gaps -= 1
    gaps <<= parameter
    for place, row in enumerate(low[: count * parameter].reshape(parameter, count)):
        gaps |= row.astype(np.int64) << place
    return gaps


def _spell(gaps: Integers) -> Bytes:
    """The gaps as bytes: 255 as often as it goes into the gap, then the rest."""
    flat = gaps.reshape(-1)
    rest = np.minimum(flat, ESCAPE).astype(np.uint8)
    long = np.flatnonzero(rest == ESCAPE)
    more, rest[long] = np.divmod(flat[long], ESCAPE)
    return np.insert(rest, np.repeat(long, more), ESCAPE)


def _read_spelt(spelt: Bytes, count: int) -> npt.NDArray[np.int64]:
    """The gaps again, flat."""
    last = spelt != ESCAPE
    found = int(np.count_nonzero(last))
    if found != count or not last[-1]:
        raise FrameError(f"expected the bytes of {count} gaps, found {found} and {int(not last[-1])} unfinished")
    gaps: npt.NDArray[np.int64] = np.diff(np.cumsum(spelt, dtype=np.int64)[last], prepend=0)
    return gaps


def _compressed(content: Bytes) -> Bytes:
    return np.frombuffer(zstandard.ZstdCompressor(level=LEVEL).compress(content.data), np.uint8)


def _estimate(content: Bytes) -> float:
    """About how many bytes ``_compressed`` will give, from a part of the content if that is long."""
    blocks = content.size // BLOCK
    if blocks < 2 * EVERY:
        return _compressed(content).size
    looked_at = content[: blocks * BLOCK].reshape(blocks, BLOCK)[::EVERY].reshape(-1)
    return _compressed(looked_at).size * content.size / looked_at.size


def _decompressed(content: Bytes, least: int, most: int) -> Bytes:
    """A zstd frame's content of at least and at most so many bytes; the library allocates whatever a frame states."""
    try:
        stated = zstandard.frame_content_size(content.data)
        if not least <= stated <= min(most, content.size * EXPANSION):
            raise FrameError(f"expected a zstd frame of {least} to {most} bytes of positions, found {stated} stated")
        return np.frombuffer(zstandard.ZstdDecompressor().decompress(content.data, allow_extra_data=False), np.uint8)
    except zstandard.ZstdError as error:
        raise FrameError(f"the zstd frame of the positions is damaged: {error}") from error
