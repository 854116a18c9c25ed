"""Pcodec, a codec for numbers (Loncaric et al., arXiv 2502.06112); needs the extra ``spliteasy[pcodec]``."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from spliteasy.codecs import BytesCodec
from spliteasy.errors import CodecError, FrameError

try:
    import pcodec
    from pcodec import wrapped
except ImportError as error:
    raise CodecError('pcodec needs its library: pip install "spliteasy[pcodec]"') from error

__all__ = ["Pcodec"]

CHUNK = 1 << 18
"""Items in a chunk; the last one has the rest. Both sides know it, so a frame need not state it."""


class Pcodec(BytesCodec):
    """Numbers by bins of their distribution and offsets within them, at a ``level`` from 0 (fast) to 12 (small).

    It should be the first bytes codec: behind another there are no numbers left to see. The frame is the number of
    items (uint64), pcodec's header, then for each chunk of ``CHUNK`` items its size in bytes (uint32) and, in pcodec's
    wrapped format, its metadata and one page.

    Raises ``CodecError`` for another level.
    """

    name = "pcodec"
    summary = "numbers by bins of their distribution; small, slow to encode"
    citation = "Loncaric et al., arXiv 2502.06112; pcodec"
    example = "pcodec(8)"

    def __init__(self, level: int = 8) -> None:
        if type(level) is not int or not 0 <= level <= 12:
            raise CodecError(f"expected a pcodec level from 0 to 12, found {level!r}")
        self.level = level

    def encode(self, array: npt.NDArray[Any]) -> bytes:
        """Number, header and chunks."""
        numbers, _ = _numbers(array)
        config = pcodec.ChunkConfig(
            compression_level=self.level,
            paging_spec=pcodec.PagingSpec.equal_pages_up_to(CHUNK),
            enable_8_bit=True,
        )
        file = wrapped.FileCompressor()
        pieces = [struct.pack("<Q", numbers.size), file.write_header()]
        for begin in range(0, numbers.size, CHUNK):
            chunk = file.chunk_compressor(numbers[begin : begin + CHUNK], config)
            content = chunk.write_meta() + chunk.write_page(0)
            pieces += [struct.pack("<I", len(content)), content]
        return b"".join(pieces)

    def decode(self, data: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """The numbers again. The frame must state as many as expected, have a chunk for each ``CHUNK`` of them, and
        be read to its end."""
        items = count * dtype.itemsize // _numbers(np.empty(0, dtype))[0].itemsize
        if len(data) < 8 or (stated := int.from_bytes(data[:8], "little")) != items or stated > len(data) * CHUNK:
            raise FrameError(f"expected a pcodec frame that states and can hold {items} numbers, found another")
        try:
            return self._decoded(bytes(data), np.empty(count, dtype))
        except (RuntimeError, TypeError, struct.error) as error:
            raise FrameError(f"the pcodec frame of {count} numbers is damaged: {error}") from error

    def _decoded(self, data: bytes, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """``array``, filled."""
        numbers, kind = _numbers(array)
        file, header = wrapped.FileDecompressor.new(data[8:72])
        place = 8 + header
        for begin in range(0, numbers.size, CHUNK):
            target = numbers[begin : begin + CHUNK]
            (size,) = struct.unpack_from("<I", data, place)
            content = data[place + 4 : place + 4 + size]
            chunk, page = file.chunk_decompressor(content, kind)
            progress, read = chunk.read_page_into(content[page:], target.size, target)
            if progress.n_processed != target.size or not progress.finished or page + read != size:
                raise FrameError(f"expected {target.size} numbers in a pcodec chunk of {size} bytes, found others")
            place += 4 + size
        if place != len(data):
            raise FrameError(f"expected {place} bytes of pcodec, found {len(data)}")
        return array


def _numbers(array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], str]:
    """The array as numbers that pcodec knows, and how it calls them."""
    if array.dtype.kind not in "fui":  # booleans, and pairs of floats
        array = array.view(np.uint8 if array.dtype.kind == "b" else np.float32)
    return array, f"{array.dtype.kind}{array.itemsize * 8}"
