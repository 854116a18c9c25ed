"""Bytes codecs: equal to the bit for any array, golden bytes for our own layouts, streams that state what they are not.
(zstd and the general contract are tested in test_codecs.)"""

import sys
from typing import Any

import lz4.block
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import check_damage, check_forged

from spliteasy.codecs import codec, registry
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins.lossless import LZ4
from spliteasy_plugins.shuffle import BitShuffle, Shuffle

DTYPES = [np.uint8, np.bool_, np.int16, np.uint16, np.float16, np.int32, np.float32, np.int64, np.float64, np.complex64]
NOTATIONS = [
    "lz4",
    "lz4(9)",
    "lz4(acceleration=50)",
    "shuffle",
    "bitshuffle",
    "pcodec(0)",
    "pcodec(8)",
    'blosc2("zstd", 1, "shuffle")',
    'blosc2("lz4", 0, "bitshuffle")',
    'blosc2("lz4hc", 9, None)',
    'blosc2("blosclz", 5, "bitshuffle")',
    'blosc2("zlib", 5, None)',
]
OURS = ["lz4", "shuffle", "bitshuffle", "pcodec", "blosc2"]


def _bytes_codec(notation: str) -> Any:
    return codec(notation).bytes_codecs[0]


def _round_trip(made: Any, array: np.ndarray[Any, Any]) -> None:
    before = array.tobytes()
    data = memoryview(made.encode(array)).cast("B")
    assert array.tobytes() == before and len(data) <= made.bound(array.nbytes)
    decoded = made.decode(data, array.dtype, array.size)
    assert decoded.dtype == array.dtype and decoded.shape == array.shape and decoded.tobytes() == before


@pytest.mark.parametrize("notation", ["lz4(9)", "lz4(acceleration=50)", 'blosc2("lz4", 5, "bitshuffle")'])
def test_the_contract(notation: str) -> None:
    check_codec(notation)


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_array_comes_back(notation: str, dtype: type[np.generic]) -> None:
    made, draw = _bytes_codec(notation), np.random.default_rng(0)
    for count in (1, 7, 8, 9, 15, 17, 1000, 40_001):
        size = count * np.dtype(dtype).itemsize
        noise = np.frombuffer(draw.bytes(size), np.uint8)
        if dtype is np.bool_:
            noise = noise & 1
        for array in (noise, noise * 0, np.sort(noise), noise * 0 + 1):
            _round_trip(made, np.frombuffer(array.tobytes(), dtype))


@settings(deadline=None, max_examples=100)
@given(
    st.binary(max_size=400), st.sampled_from([1, 2, 4, 8]), st.sampled_from(["shuffle", "bitshuffle", "lz4", "pcodec"])
)
def test_any_bytes_come_back(content: bytes, size: int, notation: str) -> None:
    array = np.frombuffer(content[: len(content) // size * size], f"u{size}")
    if array.size:
        _round_trip(_bytes_codec(notation), array)


def test_shuffle_puts_bytes_of_one_place_together() -> None:
    array = np.array([0x03020100, 0x13121110, 0x23222120], "<u4")
    assert bytes(Shuffle().encode(array)).hex() == "001020011121021222031323"
    assert bytes(Shuffle().encode(np.arange(5, dtype=np.uint8))) == bytes(range(5))


def test_bitshuffle_puts_bits_of_one_place_together() -> None:
    array = np.array([1, 0, 1, 1, 0, 0, 0, 1, 0x8000] + [0] * 7 + [0xABCD, 0x1234], "<u2")
    shuffled = bytes(BitShuffle().encode(array))
    planes = np.frombuffer(shuffled[:32], np.uint8).reshape(16, 2)  # from bit 0 to bit 15, two bytes of 8 items each
    assert planes[0].tolist() == [0b10001101, 0] and planes[15].tolist() == [0, 1] and not planes[1:15].any()
    assert shuffled[32:].hex() == "cdab3412", "what is left of a multiple of 8 stands as it was"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_bitshuffle_is_the_transpose_across_its_blocks(dtype: type[np.generic]) -> None:
    count = (1 << 17) // np.dtype(dtype).itemsize + 64
    array = np.frombuffer(np.random.default_rng(1).bytes(count * np.dtype(dtype).itemsize), dtype)
    bits = np.unpackbits(array.view(np.uint8), bitorder="little").reshape(count, -1)  # (items, bits)
    expected = np.packbits(bits.T.reshape(-1), bitorder="little")
    assert bytes(BitShuffle().encode(array)) == expected.tobytes()


def test_a_chain_keeps_only_what_the_end_made_smaller() -> None:
    x = torch.linspace(1, 2, 5000)
    planes, notes = codec("shuffle | zstd(1)").encode_planes(x)
    assert not notes and planes["values"].dtype is torch.uint8 and planes["values"].numel() < 15_000
    planes, notes = codec("shuffle").encode_planes(x)
    assert not notes and planes["values"].data_ptr() == x.data_ptr()


SINGLE = np.dtype(np.uint8)


CONTENT = np.frombuffer(np.random.default_rng(2).bytes(700) + bytes(300), np.uint8)


@pytest.mark.parametrize("notation", OURS)
def test_forged_streams(notation: str) -> None:
    check_forged(_bytes_codec(notation), CONTENT)


@pytest.mark.parametrize("notation", OURS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_damage_gives_an_error_or_as_many_items(notation: str, dtype: type[np.generic]) -> None:
    check_damage(_bytes_codec(notation), CONTENT.view(dtype))


def test_lz4_believes_no_length() -> None:
    stretched = b"\x1f\0\x01\0" + b"\xff" * 4000 + b"\0\x50abcde"  # a run of about a million zeros
    size = len(lz4.block.decompress(stretched, uncompressed_size=1 << 21))
    assert size > 250 * len(stretched)
    assert not LZ4().decode(memoryview(stretched), SINGLE, size)[:-5].any()
    for wrong in (size - 1, size + 1, 1 << 30):
        with pytest.raises(FrameError):
            LZ4().decode(memoryview(stretched), SINGLE, wrong)


def test_blosc2_loads_nothing_that_a_chunk_asks_for() -> None:
    made = _bytes_codec("blosc2")
    content = np.arange(4000, dtype=np.float32)
    honest = bytearray(made.encode(content))
    assert made.decode(memoryview(honest), content.dtype, 4000).tobytes() == content.tobytes()
    changes = {
        "a codec of a plugin": (2, honest[2] | 0xE0),
        "another codec": (2, honest[2] & 0x1F | 1 << 5),
        "another item size": (3, 8),
        "a filter of a plugin": (16, 160),
        "a second filter": (17, 1),
        "what a filter is told": (24, 1),
        "a dictionary": (31, honest[31] | 1),
        "a lazy chunk": (31, honest[31] | 8),
        "memory as it was": (31, 4 << 4),
        "NaN throughout": (31, 2 << 4),
    }
    for what, (place, value) in changes.items():
        lie = bytearray(honest)
        lie[place] = value
        assert lie != honest, what
        with pytest.raises(FrameError, match="another kind"):
            made.decode(memoryview(lie), content.dtype, 4000)


@pytest.mark.parametrize(
    ("notation", "complaint"),
    [
        ("lz4(13)", "lz4 level from 0"),
        ("lz4(-1)", "lz4 level from 0"),
        ("lz4(1.0)", "lz4 level from 0"),
        ("lz4(acceleration=0)", "lz4 acceleration"),
        ("lz4(3, acceleration=2)", "lz4 acceleration"),
        ("pcodec(13)", "pcodec level from 0 to 12"),
        ("pcodec('8')", "pcodec level from 0 to 12"),
        ("blosc2('snappy')", "codec, one of blosclz"),
        ("blosc2('zstd', 10)", "blosc2 level from 0 to 9"),
        ("blosc2('zstd', 1, 'delta')", "a filter, one of None"),
        ("blosc2([])", "codec, one of blosclz"),
        ("shuffle(4)", "wrong arguments"),
    ],
)
def test_arguments_are_checked(notation: str, complaint: str) -> None:
    with pytest.raises(CodecError, match=complaint):
        codec(notation)


@pytest.mark.parametrize("library", ["pcodec", "blosc2"])
def test_a_library_that_is_missing_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"spliteasy_plugins.{library}", raising=False)
    registry._load.cache_clear()
    try:
        with pytest.raises(CodecError, match=rf'pip install "spliteasy\[{library}\]"'):
            codec(library)
        (row,) = [row for row in registry.describe_codecs() if row.name == library]
        assert row.kind == "broken" and f'pip install "spliteasy[{library}]"' in row.summary
    finally:
        registry._load.cache_clear()
