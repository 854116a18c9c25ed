"""Bytes codecs: fewer bytes, the same bits.

Zstandard (RFC 8878), through python-zstandard, and LZ4 blocks, written through python-lz4 and read through numcodecs:
python-lz4 decompresses into memory of its own and copies it, so that a block would take its content twice.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar

import lz4.block
import numpy as np
import numpy.typing as npt
import zstandard
from numcodecs import lz4 as lz4_into

from spliteasy.codecs import BytesCodec
from spliteasy.errors import CodecError, FrameError

__all__ = ["LZ4", "Zstd"]

EXPANSION = 1 << 15
"""The most a zstd frame can grow when it is decompressed: a block of at least 4 bytes holds at most 128 KiB (RFC
8878, 3.1.1.2)."""

EMPTY = b"\0"
"""An LZ4 block of no bytes."""


class Zstd(BytesCodec):
    """Zstandard at a ``level`` from -7 (fastest) to 22 (smallest), 0 left out; 1 is the one that keeps up with a fast
    link.

    Raises ``CodecError`` for another level.
    """

    name = "zstd"
    summary = "Zstandard; level 1 is fast, 19 is small"
    citation = "RFC 8878; python-zstandard"
    example = "zstd(1)"

    def __init__(self, level: int = 1) -> None:
        if type(level) is not int or level == 0 or not -7 <= level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise CodecError(
                f"expected a zstd level from -7 to {zstandard.MAX_COMPRESSION_LEVEL}, not 0; found {level!r}"
            )
        self.level = level

    def encode(self, array: npt.NDArray[Any]) -> bytes:
        """One zstd frame that states its content size."""
        return zstandard.ZstdCompressor(level=self.level).compress(array.view(np.uint8).data)

    def decode(self, data: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """The array again, read-only. The frame must state exactly the expected size, and a size it can have: the
        library allocates whatever a frame states."""
        expected = count * dtype.itemsize
        try:
            stated = zstandard.frame_content_size(data)
            if stated != expected or expected > len(data) * EXPANSION:
                raise FrameError(
                    f"expected a zstd frame of {expected} bytes, found {len(data)} bytes that state {stated}"
                )
            content = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise FrameError(f"the zstd frame is damaged: {error}") from error
        return np.frombuffer(content, dtype)


class LZ4(BytesCodec):
    """One LZ4 block. ``level`` 0 is the fast mode, in which a larger ``acceleration`` (1 to 65537) is faster and finds
    less; 1 to 12 are those of the slow, high-compression mode, which decodes as fast.

    Raises ``CodecError`` for another level or acceleration, and for acceleration in the slow mode.
    """

    name = "lz4"
    summary = "LZ4; little compression at great speed"
    citation = "LZ4 block format (Collet); python-lz4"

    EXPANSION: ClassVar[int] = 255
    """The most a block can grow: each further byte of a length adds at most 255."""

    LARGEST: ClassVar[int] = 0x7E000000
    """The most bytes that a block can hold."""

    def __init__(self, level: int = 0, *, acceleration: int = 1) -> None:
        if type(level) is not int or not 0 <= level <= 12:
            raise CodecError(f"expected an lz4 level from 0 (fast) to 12 (small); found {level!r}")
        if type(acceleration) is not int or not 1 <= acceleration <= (1 if level else 65537):
            raise CodecError(
                f"expected an lz4 acceleration from 1 to 65537, and 1 above level 0; found {acceleration!r}"
            )
        self.level = level
        self.acceleration = acceleration

    def encode(self, array: npt.NDArray[Any]) -> bytes:
        """One block, without its size. Raises ``CodecError`` for more than ``LARGEST`` bytes."""
        if array.nbytes > self.LARGEST:
            raise CodecError(f"an lz4 block holds at most {self.LARGEST} bytes, found {array.nbytes}; use zstd")
        data = array.view(np.uint8).data
        block: bytes = (
            lz4.block.compress(data, mode="high_compression", compression=self.level, store_size=False)
            if self.level
            else lz4.block.compress(data, mode="fast", acceleration=self.acceleration, store_size=False)
        )
        return block

    def decode(self, data: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """The array again. The block must fill exactly the expected size, and be able to. Beside the array a copy of
        the compressed bytes is made, behind their size."""
        expected = count * dtype.itemsize
        if expected > min(len(data) * self.EXPANSION, self.LARGEST):
            raise FrameError(
                f"expected an lz4 block of {expected} bytes, found {len(data)} bytes, which cannot hold it"
            )
        array = np.empty(count, dtype)
        if not expected and data == EMPTY:  # the library takes a size of 0 for a lie
            return array
        try:
            lz4_into.decompress(b"".join([struct.pack("<i", expected), data]), array.view(np.uint8))
        except RuntimeError as error:
            raise FrameError(
                f"expected an lz4 block of {expected} bytes, found another or a damaged one: {error}"
            ) from error
        return array
