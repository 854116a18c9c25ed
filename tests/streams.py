"""Streams that are not what they say, and what decoding them may cost: for the tests of bytes codecs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from spliteasy.codecs import BytesCodec
from spliteasy.errors import FrameError

ALLOWED = 12 << 20
"""Bytes that refusing a small stream may take; LZMA's dictionary of 8 MiB is among them."""


def check_forged(codec: BytesCodec, content: npt.NDArray[np.uint8]) -> None:
    """Give ``codec`` streams that are not those of ``content``: they are refused. Those that are but for a word give as
    many items, or are refused. Either takes little memory."""
    honest, bomb = (bytes(codec.encode(array)) for array in (content, np.zeros(1 << 24, np.uint8)))
    for lie in _forged(honest, bomb):
        # To a filter without redundancy any bytes are content, if there are as many as expected.
        if len(lie) != len(honest) or len(honest) != len(content):
            refuses(codec, lie, content.dtype, content.size)
    for count in (0, content.size - 1, content.size + 1, 1 << 20, 1 << 40):
        refuses(codec, honest, content.dtype, count)
    for byte in (b"\0", b"\xff"):  # which a checksum may take for content
        check_valid(codec, byte * len(honest), content)
    for place in range(0, min(64, len(honest) - 4), 4):  # a word that says almost 2^31
        check_valid(codec, honest[:place] + (0x7FFFFF00).to_bytes(4, "little") + honest[place + 4 :], content)
    assert np.array_equal(codec.decode(memoryview(honest), content.dtype, content.size), content)


def check_damage(codec: BytesCodec, content: npt.NDArray[Any]) -> None:
    """Change bytes of a stream, more of its first ones than of others: it gives as many items, or is refused."""
    draw = np.random.default_rng(4)
    honest = np.frombuffer(memoryview(codec.encode(content)).cast("B"), np.uint8)
    for _ in range(200):
        damaged = honest.copy()
        places = draw.integers(min(48, damaged.size) if draw.random() < 0.5 else damaged.size, size=draw.integers(1, 4))
        damaged[places] ^= draw.integers(1, 256, size=places.size).astype(np.uint8)
        check_valid(codec, damaged.tobytes(), content)


def check_valid(codec: BytesCodec, data: bytes, content: npt.NDArray[Any]) -> None:
    """Check that ``data`` give items as many as ``content`` has, or a ``FrameError``, in little memory."""
    try:
        decoded = _bounded(lambda: codec.decode(memoryview(data), content.dtype, content.size))
    except FrameError:
        return
    assert decoded.dtype == content.dtype and decoded.size == content.size


def refuses(codec: BytesCodec, data: bytes, dtype: np.dtype[Any], count: int) -> None:
    """Check that ``codec`` decodes no ``count`` items from ``data``, in little memory."""
    with pytest.raises(FrameError):
        _bounded(lambda: codec.decode(memoryview(data), dtype, count))


def _forged(honest: bytes, bomb: bytes) -> list[bytes]:
    """Streams cut, lengthened, turned round, another's, nonsense."""
    return [
        b"",
        b"\0",
        honest[:1],
        honest[: len(honest) // 2],
        honest[:-1],
        honest + b"\0",
        honest + honest,
        honest[::-1],
        bomb,
        bomb[:-1],
        honest + bomb,
        b"nonsense" * 20,
    ]


def _bounded(call: Callable[[], Any]) -> Any:
    """What ``call`` returns, if it takes little memory."""
    tracemalloc.start()
    try:
        return call()
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= ALLOWED, f"{peak} bytes were allocated"
