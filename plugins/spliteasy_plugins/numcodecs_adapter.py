"""The codecs of numcodecs (which Zarr uses), as far as they are lossless and can be decoded without trust.

Decoders of numcodecs allocate what a frame claims, or as much as it decompresses to. So each family is decoded here
in a way that the expected size bounds: by checking the size that its format states before the library sees it, or as a
stream into that many bytes and no more. A codec for which neither is possible, or which loses something, is refused
when it is constructed.
"""

from __future__ import annotations

import base64
import bz2
import lzma
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from spliteasy.codecs import BytesCodec
from spliteasy.codecs.base import BytesLike
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins.lossless import LZ4, Zstd

__all__ = ["Numcodecs"]

BLOSC_HEADER = 16
"""Bytes of the header of a Blosc chunk."""

BLOSC_EXPANSION = 1 << 15
"""More than any of Blosc's compressors can expand a chunk."""

DEFLATE_EXPANSION = 1032
"""The most a stream of zlib or gzip grows: two bits copy 258 bytes."""

BZ2_EXPANSION = 1 << 21
"""More than bzip2 grows: a block holds 900,000 bytes, of which five stand for 259 at most, in more than 22."""

LZMA_EXPANSION = 1 << 13
"""More than LZMA grows: 273 bytes take 14 decisions, of which each takes 0.022 bits at least."""

DICTIONARIES = (256, 1024, 2048, 4096, 4096, 8192, 8192, 16384, 32768, 65536)
"""KiB of dictionary that the presets 0 to 9 of LZMA take."""

LZMA_OVERHEAD = 1 << 20
"""Bytes that a decoder of LZMA takes beside its dictionary."""

PIECE = 1 << 18
"""Bytes of a stream that are decompressed at a time."""

FILTERS = ("delta", "shuffle")
"""What changes items in place, as it were: as many bytes out as in."""

LOSSY = "loses information"
OBJECTS = "codes Python objects, not numbers"
REFUSED = {
    "astype": LOSSY,
    "bitround": LOSSY,
    "fixedscaleoffset": LOSSY,
    "quantize": LOSSY,
    "zfpy": LOSSY,
    "packbits": "holds booleans alone, and loses all other bytes",
    "categorize": OBJECTS,
    "json2": OBJECTS,
    "msgpack2": OBJECTS,
    "vlen-array": OBJECTS,
    "vlen-bytes": OBJECTS,
    "vlen-utf8": OBJECTS,
    "pickle": "runs whatever code a frame holds",
    "pcodec": "allocates what a frame states; write pcodec(8), the codec of its own",
}
"""Why some codecs are refused."""

_single = threading.Lock()


class Numcodecs(BytesCodec):
    """``numcodecs("zlib", level=1)``: the numcodecs codec of that ``codec_id``, and its arguments.

    Taken are the compressors blosc, bz2, gzip, lz4, lzma, zlib and zstd; the filters delta (of integers) and shuffle;
    the checksums adler32, crc32, crc32c, fletcher32 and jenkins_lookup3; base64. What they write is what numcodecs
    writes, but that gzip leaves out the time of day, and that filters of items leave a rest that is no whole item, or
    pair of bytes, unchanged at the end.

    Raises ``CodecError`` for a codec that is unknown, loses something or cannot be decoded safely, and for arguments
    that it does not take.
    """

    name = "numcodecs"
    summary = "any lossless codec of numcodecs, by its name and arguments"
    citation = "numcodecs (Zarr)"
    example = 'numcodecs("zlib", level=1)'

    def __init__(self, codec: str, **arguments: Any) -> None:
        taken = sorted([*DECODERS, *FILTERS])
        if not isinstance(codec, str) or codec not in taken:
            reason = REFUSED.get(str(codec), "is none whose decoder is known to be bounded")
            raise CodecError(f"numcodecs({codec!r}) is refused, since it {reason}; taken are {', '.join(taken)}")
        self.codec = codec
        self.arguments = dict(sorted(arguments.items()))
        sample = np.arange(9, dtype=np.uint16)
        try:
            self._codec = numcodecs.get_codec({"id": codec, **arguments})
            self._size = _item_size(codec, self._codec)
            returned = self.decode(memoryview(self.encode(sample)), sample.dtype, sample.size)
        except CodecError:
            raise
        except Exception as error:  # whatever the library makes of arguments that it does not check
            raise CodecError(f"{self!r} does not work: {type(error).__name__}: {error}; see its arguments") from error
        if not np.array_equal(returned, sample):
            raise CodecError(f"{self!r} is refused, since it {LOSSY} with these arguments")

    def __repr__(self) -> str:
        arguments = [f"{name}={value!r}" for name, value in self.arguments.items()]
        return f"{self.name}({', '.join([repr(self.codec), *arguments])})"

    def encode(self, array: npt.NDArray[Any]) -> BytesLike:
        """What the codec writes. Compressors see the items; filters as many whole items of theirs as there are."""
        if self.codec in FILTERS:
            data = array.view(np.uint8)
            whole = data.size // self._size * self._size
            return b"".join([_bytes(self._codec.encode(data[:whole])) if whole else b"", data[whole:].data])
        with _one_thread():
            encoded = bytearray(_bytes(self._codec.encode(array)))
        if self.codec == "gzip":
            encoded[4:8] = bytes(4)  # the time of day, so that equal tensors give equal frames
        return encoded

    def decode(self, data: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        """The array again. Raises ``FrameError`` unless the data are those of exactly as many bytes."""
        expected = count * dtype.itemsize
        content: BytesLike
        try:
            if self.codec in FILTERS:
                _stated("filtered data", len(data), expected, len(data))
                whole = expected // self._size * self._size
                filtered = self._codec.decode(np.frombuffer(data[:whole], np.uint8)) if whole else b""
                content = b"".join([_bytes(filtered), data[whole:]])
            else:
                content = _bytes(DECODERS[self.codec](self._codec, data, expected))
        except Exception as error:  # libraries raise errors of many kinds for damaged data
            raise FrameError(f"{self!r} cannot decode {expected} bytes: {type(error).__name__}: {error}") from error
        if len(content) != expected:
            raise FrameError(f"expected {expected} bytes from {self!r}, found {len(content)}")
        return np.frombuffer(content, dtype)

    def bound(self, nbytes: int) -> int:
        """The most bytes for ``nbytes``: base64 takes 4 for 3."""
        return nbytes + nbytes // 3 + 4096 if self.codec == "base64" else super().bound(nbytes)


def _item_size(codec: str, made: Any) -> int:
    """The size of the items that a filter works on; 1 for all other codecs."""
    if codec == "delta":
        if made.dtype.kind not in "iu" or made.astype != made.dtype:
            raise CodecError(f"numcodecs('delta') {LOSSY} but for integers of one type; found {made!r}")
        return int(made.dtype.itemsize)
    if codec == "shuffle" and (type(made.elementsize) is not int or not 1 <= made.elementsize <= 256):
        raise CodecError(f"expected an elementsize from 1 to 256 for numcodecs('shuffle'), found {made.elementsize!r}")
    return made.elementsize if codec == "shuffle" else 1


def _bytes(content: Any) -> memoryview:
    """What a codec returned, as bytes."""
    if isinstance(content, np.ndarray):
        content = np.ascontiguousarray(content).reshape(-1).view(np.uint8).data
    return memoryview(content).cast("B")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Blosc with one thread: with more, the order of its blocks is a matter of chance."""
    with _single:
        before, blosc.use_threads = blosc.use_threads, False
        try:
            yield
        finally:
            blosc.use_threads = before


def _stated(what: str, found: int, expected: int, largest: int) -> None:
    """Check a size that the data state, or have, against the one expected and the largest possible."""
    if found != expected or expected > largest:
        raise FrameError(f"expected {what} of {expected} bytes, found {found}, of at most {largest} possible")


def _blosc(codec: Any, data: memoryview, expected: int) -> Any:
    nbytes, _, size = struct.unpack_from("<III", data, 4)
    _stated("a Blosc chunk", nbytes, expected, len(data) * BLOSC_EXPANSION)
    _stated("a Blosc chunk itself", size, len(data), len(data))
    with _one_thread():
        return codec.decode(data, out=np.empty(expected, np.uint8))


def _lz4(codec: Any, data: memoryview, expected: int) -> Any:
    (stated,) = struct.unpack_from("<i", data)
    _stated("an LZ4 block", stated, expected, len(data) * LZ4.EXPANSION)
    return LZ4().decode(data[4:], np.dtype(np.uint8), expected)


def _zstd(codec: Any, data: memoryview, expected: int) -> Any:
    return Zstd().decode(data, np.dtype(np.uint8), expected)


def _streamed(decompressor: Any, data: memoryview, expected: int, expansion: int) -> memoryview:
    """A stream of exactly ``expected`` bytes, which grow by ``expansion`` at most, piece by piece into one buffer: what
    comes out at once is collected in pieces and joined, which takes twice its size."""
    if expected > len(data) * expansion:
        raise FrameError(f"expected a stream of {expected} bytes, found {len(data)} bytes, which cannot hold it")
    content, filled, taken = np.empty(expected, np.uint8).data, 0, 0
    rest: BytesLike = b""
    while not decompressor.eof:
        if not rest and getattr(decompressor, "needs_input", True):
            rest, taken = data[taken : taken + PIECE], taken + PIECE
        piece = decompressor.decompress(rest, min(PIECE, expected - filled + 1))
        content[filled : filled + len(piece)] = piece[: expected - filled]
        filled += len(piece)
        if filled > expected or not (piece or rest):  # too much, or no more
            break
        rest = getattr(decompressor, "unconsumed_tail", b"")
    if filled != expected or not decompressor.eof or decompressor.unused_data or taken < len(data):
        raise FrameError(f"expected a stream of exactly {expected} bytes and nothing after it")
    return content


def _zlib(codec: Any, data: memoryview, expected: int) -> Any:
    return _streamed(zlib.decompressobj(), data, expected, DEFLATE_EXPANSION)


def _gzip(codec: Any, data: memoryview, expected: int) -> Any:
    return _streamed(zlib.decompressobj(16 + zlib.MAX_WBITS), data, expected, DEFLATE_EXPANSION)


def _bz2(codec: Any, data: memoryview, expected: int) -> Any:
    return _streamed(bz2.BZ2Decompressor(), data, expected, BZ2_EXPANSION)


def _lzma(codec: Any, data: memoryview, expected: int) -> Any:
    if codec.format == lzma.FORMAT_RAW:  # its filters, dictionaries too, are those of the arguments
        decompressor = lzma.LZMADecompressor(codec.format, filters=codec.filters)
    else:
        sizes = [(1 << 10) * DICTIONARIES[_preset(codec.preset)]]
        for step in codec.filters or ():
            sizes.append(step.get("dict_size", (1 << 10) * DICTIONARIES[_preset(step.get("preset"))]))
        decompressor = lzma.LZMADecompressor(codec.format, memlimit=max(sizes) + LZMA_OVERHEAD)
    return _streamed(decompressor, data, expected, LZMA_EXPANSION)


def _preset(preset: int | None) -> int:
    """The number of a preset, without the flag for the extreme ones."""
    return lzma.PRESET_DEFAULT if preset is None else preset & 31


def _checksum(codec: Any, data: memoryview, expected: int) -> Any:
    _stated("data and a checksum", len(data), expected + 4, len(data))
    return codec.decode(np.frombuffer(data, np.uint8))


def _base64(codec: Any, data: memoryview, expected: int) -> Any:
    _stated("base64", len(data), -(-expected // 3) * 4, len(data))
    return base64.b64decode(data, validate=True)


DECODERS: dict[str, Callable[[Any, memoryview, int], Any]] = {
    "adler32": _checksum,
    "base64": _base64,
    "blosc": _blosc,
    "bz2": _bz2,
    "crc32": _checksum,
    "crc32c": _checksum,
    "fletcher32": _checksum,
    "gzip": _gzip,
    "jenkins_lookup3": _checksum,
    "lz4": _lz4,
    "lzma": _lzma,
    "zlib": _zlib,
    "zstd": _zstd,
}
"""The codecs that are taken beside filters, and how each is decoded: (codec, data, bytes expected) to bytes."""
