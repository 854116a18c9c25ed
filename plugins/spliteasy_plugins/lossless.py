"""Bytes codecs: fewer bytes, the same bits.

Zstandard (RFC 8878), through python-zstandard.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from spliteasy.codecs import BytesCodec
from spliteasy.errors import CodecError, FrameError

__all__ = ["Zstd"]

EXPANSION = 1 << 15
"""The most a zstd frame can grow when it is decompressed: a block of at least 4 bytes holds at most 128 KiB (RFC
8878, 3.1.1.2)."""


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
