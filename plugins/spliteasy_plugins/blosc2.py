"""Blosc2, a blocking meta-compressor with filters; needs the extra ``spliteasy[blosc2]``."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from spliteasy.codecs import BytesCodec
from spliteasy.errors import CodecError, FrameError

try:
    import blosc2
except ImportError as error:
    raise CodecError('blosc2 needs its library: pip install "spliteasy[blosc2]"') from error

__all__ = ["Blosc2"]

CODECS = {
    "blosclz": (blosc2.Codec.BLOSCLZ, 0),
    "lz4": (blosc2.Codec.LZ4, 1),
    "lz4hc": (blosc2.Codec.LZ4HC, 1),
    "zlib": (blosc2.Codec.ZLIB, 3),
    "zstd": (blosc2.Codec.ZSTD, 4),
}
"""The codecs, and the number of the format that each writes."""

FILTERS = {
    None: blosc2.Filter.NOFILTER,
    "shuffle": blosc2.Filter.SHUFFLE,
    "bitshuffle": blosc2.Filter.BITSHUFFLE,
}

HEADER = 32
"""Bytes of a chunk's header."""

COPIED = 0x02
"""The flag of a chunk whose content is not compressed; its format may be 0, whatever the codec."""

SPECIAL = (0, 1, 3)
"""Kinds of chunks that compressing makes: ordinary, all zero, one value throughout. Not among them is the kind that
leaves memory as it was."""


class Blosc2(BytesCodec):
    """One Blosc2 chunk: ``codec`` (blosclz, lz4, lz4hc, zlib or zstd) at a ``level`` from 0 to 9 behind ``filter``
    (shuffle, bitshuffle or None), one thread.

    Raises ``CodecError`` for anything else.
    """

    name = "blosc2"
    summary = "Blosc2: shuffle or bitshuffle and a compressor, block by block"
    citation = "Blosc2 (Alted et al.); python-blosc2"
    example = 'blosc2("zstd", 1, "shuffle")'

    def __init__(self, codec: str = "zstd", level: int = 1, filter: str | None = "shuffle") -> None:
        if not isinstance(codec, str) or codec not in CODECS or filter not in list(FILTERS):
            names = f"{', '.join(CODECS)}, and a filter, one of {', '.join(map(repr, FILTERS))}"
            raise CodecError(f"expected for blosc2 a codec, one of {names}; found {codec!r} and {filter!r}")
        if type(level) is not int or not 0 <= level <= 9:
            raise CodecError(f"expected a blosc2 level from 0 to 9, found {level!r}")
        self.codec = codec
        self.level = level
        self.filter = filter

    def encode(self, array: npt.NDArray[Any]) -> bytes:
        """One chunk. Raises ``CodecError`` for more bytes than a chunk holds."""
        if array.nbytes > blosc2.MAX_BUFFERSIZE:
            raise CodecError(f"a blosc2 chunk holds at most {blosc2.MAX_BUFFERSIZE} bytes, found {array.nbytes}")
        chunk: bytes = blosc2.compress2(
            array.view(np.uint8),
            codec=CODECS[self.codec][0],
            clevel=self.level,
            typesize=array.itemsize,
            filters=[FILTERS[self.filter]],
            filters_meta=[0],
            nthreads=1,
        )
        return chunk

    def decode(self, data: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """The array again. The chunk must state exactly the sizes that are there, and nothing but the codec and the
        filter of this configuration: others, of plugins too, are loaded by the library as a chunk asks for them."""
        expected = count * dtype.itemsize
        header = bytes(data[:HEADER])
        if len(header) < HEADER or not self._wrote(header, dtype.itemsize):
            raise FrameError(f"expected a chunk of {self!r}, found one of another kind")
        stated, _, size = struct.unpack_from("<III", header, 4)  # of the content, of a block, of the chunk
        if (stated, size) != (expected, len(data)):
            raise FrameError(
                f"expected a blosc2 chunk of {expected} bytes in {len(data)}, found one that states {stated} in {size}"
            )
        array = np.empty(count, dtype)
        if count:
            try:
                blosc2.decompress2(bytes(data), dst=array.view(np.uint8), nthreads=1)
            except (RuntimeError, ValueError) as error:
                raise FrameError(f"the blosc2 chunk of {expected} bytes is damaged: {error}") from error
        return array

    def _wrote(self, header: bytes, size: int) -> bool:
        """Whether a chunk with this header can be of this configuration (Blosc2 chunk format, bytes 2, 3 and 16 to
        31)."""
        filters = bytes([FILTERS[self.filter].value, 0, 0, 0, 0, 0])
        formats = (CODECS[self.codec][1], 0) if header[2] & COPIED else (CODECS[self.codec][1],)
        return (
            header[2] >> 5 in formats
            and header[3] == size
            and header[16:22] == filters
            and header[24:31] == bytes(7)
            and header[31] & 0x8F == 0
            and header[31] >> 4 in SPECIAL
        )
