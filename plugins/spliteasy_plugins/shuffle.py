"""Filters that make nothing smaller, but what follows them more effective: bytes or bits of the same significance are
put together, so that the exponents of many floats stand side by side.

The byte shuffle is that of HDF5 and Blosc; the bit shuffle that of Masui et al. (arXiv 1503.00638), with all items in
one block. Both are exact for any number of items of any size, and leave the order of single bytes as it is.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from spliteasy.codecs import BytesCodec
from spliteasy.errors import FrameError

__all__ = ["BitShuffle", "Shuffle"]

Bytes: TypeAlias = npt.NDArray[np.uint8]

BLOCK = 1 << 17
"""Bytes whose bits are transposed at a time, which stay in a core's cache."""

SWAPS = ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0))
"""The three rounds that transpose a word as a matrix of 8 by 8 bits: which bits change places with those so many
places higher."""


class Shuffle(BytesCodec):
    """The first bytes of all items, then the second bytes, and so on. Single bytes pass as they are, a second bytes
    codec's input among them: put it first."""

    name = "shuffle"
    summary = "bytes of equal significance side by side; for zstd or lz4 to follow"
    citation = "HDF5's shuffle filter"

    def bound(self, nbytes: int) -> int:
        """As many bytes as before."""
        return nbytes

    def encode(self, array: npt.NDArray[Any]) -> memoryview:
        """The bytes, by their place in an item."""
        if array.itemsize == 1:
            return array.view(np.uint8).data
        return np.ascontiguousarray(_items(array).T).reshape(-1).data

    def decode(self, data: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """The items again. Raises ``FrameError`` unless there are exactly as many bytes as they take."""
        shuffled = _received(self, data, dtype, count)
        if dtype.itemsize == 1:
            return shuffled.view(dtype)
        items = np.empty((count, dtype.itemsize), np.uint8)
        for place, plane in enumerate(shuffled.reshape(dtype.itemsize, count)):
            items[:, place] = plane  # several times faster than a transposed copy
        return items.reshape(-1).view(dtype)


class BitShuffle(BytesCodec):
    """The lowest bits of the first bytes of all items, eight to a byte, then their second bits, and so on through all
    bytes. What is left of a multiple of 8 items stands unchanged at the end."""

    name = "bitshuffle"
    summary = "bits of equal significance side by side; for zstd or lz4 to follow"
    citation = "Masui et al., arXiv 1503.00638"

    def bound(self, nbytes: int) -> int:
        """As many bytes as before."""
        return nbytes

    def encode(self, array: npt.NDArray[Any]) -> memoryview:
        """The bits, by their place in an item."""
        shuffled = np.empty(array.nbytes, np.uint8)
        items, step = _items(array), _step(array.itemsize)
        planes, rest = _bit_planes(shuffled, array.itemsize)
        shuffled[rest:] = items.reshape(-1)[rest:]
        words, spare = np.empty((2, step * array.itemsize // 8), np.uint64)
        for begin in range(0, planes.shape[2] * 8, step):
            here = items[begin : min(begin + step, planes.shape[2] * 8)]
            block, word = _block(words, here.size)
            block.reshape(array.itemsize, -1)[:] = here.T
            _transpose(word, spare[: word.size])
            for bit in range(8):
                target = planes[:, bit, begin // 8 : begin // 8 + len(here) // 8]
                target[:] = block.reshape(array.itemsize, -1, 8)[:, :, bit]
        return shuffled.data

    def decode(self, data: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """The items again. Raises ``FrameError`` unless there are exactly as many bytes as they take."""
        shuffled = _received(self, data, dtype, count)
        items, step = np.empty((count, dtype.itemsize), np.uint8), _step(dtype.itemsize)
        planes, rest = _bit_planes(shuffled, dtype.itemsize)
        items.reshape(-1)[rest:] = shuffled[rest:]
        words, spare = np.empty((2, step * dtype.itemsize // 8), np.uint64)
        for begin in range(0, planes.shape[2] * 8, step):
            here = items[begin : min(begin + step, planes.shape[2] * 8)]
            block, word = _block(words, here.size)
            for bit in range(8):
                source = planes[:, bit, begin // 8 : begin // 8 + len(here) // 8]
                block.reshape(dtype.itemsize, -1, 8)[:, :, bit] = source
            _transpose(word, spare[: word.size])
            for place, plane in enumerate(block.reshape(dtype.itemsize, -1)):
                here[:, place] = plane
        return items.reshape(-1).view(dtype)


def _items(array: npt.NDArray[Any]) -> Bytes:
    """The bytes of each item: (count, item size), a view."""
    return array.view(np.uint8).reshape(array.size, array.itemsize)


def _received(codec: BytesCodec, data: memoryview, dtype: np.dtype[Any], count: int) -> Bytes:
    """The bytes that came, as many as ``count`` items take."""
    if len(data) != count * dtype.itemsize:
        raise FrameError(f"expected {count * dtype.itemsize} bytes from {codec!r}, found {len(data)}")
    return np.frombuffer(data, np.uint8)


def _step(size: int) -> int:
    """How many items are transposed at a time, a multiple of 8."""
    return max(8, BLOCK // size // 8 * 8)


def _bit_planes(shuffled: Bytes, size: int) -> tuple[Bytes, int]:
    """The planes of bits, (item size, 8, count // 8), a view; and where the items that are left over begin."""
    eights = shuffled.size // size // 8
    rest = eights * 8 * size
    return shuffled[:rest].reshape(size, 8, eights), rest


def _block(words: npt.NDArray[np.uint64], size: int) -> tuple[Bytes, npt.NDArray[np.uint64]]:
    """The first ``size`` bytes of a buffer, as bytes and as words."""
    part = words[: size // 8]
    return part.view(np.uint8), part


def _transpose(words: npt.NDArray[np.uint64], spare: npt.NDArray[np.uint64]) -> None:
    """Bit i of byte j of each word becomes bit j of byte i, in place (Warren, Hacker's Delight, 7-3)."""
    for shift, moved in SWAPS:
        np.right_shift(words, shift, out=spare)
        np.bitwise_xor(spare, words, out=spare)
        np.bitwise_and(spare, np.uint64(moved), out=spare)
        np.bitwise_xor(words, spare, out=words)
        np.left_shift(spare, shift, out=spare)
        np.bitwise_xor(words, spare, out=words)
