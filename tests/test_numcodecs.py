"""numcodecs through the adapter: what it takes and refuses, the same bytes as the library, and decoders that are
bounded whatever a stream claims."""

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from streams import check_damage, check_forged, refuses

from spliteasy.codecs import codec
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError
from spliteasy_plugins import numcodecs_adapter
from spliteasy_plugins.numcodecs_adapter import Numcodecs

COMPRESSORS = [
    'numcodecs("blosc")',
    'numcodecs("blosc", cname="zstd", clevel=3, shuffle=2)',
    'numcodecs("bz2")',
    'numcodecs("gzip")',
    'numcodecs("lz4", acceleration=3)',
    'numcodecs("lzma", preset=0)',
    'numcodecs("lzma", filters=[{"id": 33, "dict_size": 65536}])',
    'numcodecs("lzma", format=2, preset=1)',
    'numcodecs("lzma", format=3, filters=[{"id": 33, "dict_size": 65536}])',
    'numcodecs("zlib", level=1)',
    'numcodecs("zstd", level=3, checksum=True)',
]
FILTERS = [
    'numcodecs("adler32", location="end")',
    'numcodecs("base64")',
    'numcodecs("crc32")',
    'numcodecs("delta", dtype="<i4")',
    'numcodecs("delta", dtype="u1")',
    'numcodecs("fletcher32")',
    'numcodecs("jenkins_lookup3", initval=7, prefix=b"x")',
    'numcodecs("shuffle", elementsize=4)',
    'numcodecs("shuffle", elementsize=3)',
]
LIGHT = [one for one in COMPRESSORS if "filters" not in one]
SINGLE = np.dtype(np.uint8)


def _made(notation: str) -> Any:
    return codec(notation).bytes_codecs[0]


@pytest.mark.parametrize(
    "notation", ['numcodecs("delta", dtype="<i4")', 'numcodecs("lzma", preset=0)', 'numcodecs("gzip")']
)
def test_the_contract(notation: str) -> None:
    check_codec(notation)


@pytest.mark.parametrize("notation", COMPRESSORS + FILTERS)
@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float16, np.uint16, np.float32, np.int64, np.complex64])
def test_any_array_comes_back(notation: str, dtype: type[np.generic]) -> None:
    made, draw = _made(notation), np.random.default_rng(0)
    for count in (1, 3, 8, 1001):
        noise = draw.integers(0, 2 if dtype is np.bool_ else 256, count * np.dtype(dtype).itemsize, np.uint8)
        for content in (noise, noise * 0):
            array = content.view(dtype)
            before = array.tobytes()
            data = memoryview(made.encode(array)).cast("B")
            assert len(data) <= made.bound(array.nbytes) and array.tobytes() == before
            decoded = made.decode(data, array.dtype, count)
            assert decoded.dtype == array.dtype and decoded.tobytes() == before


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=1, max_size=300), st.sampled_from(COMPRESSORS + FILTERS))
def test_any_bytes_come_back(content: bytes, notation: str) -> None:
    made = _made(notation)
    data = memoryview(made.encode(np.frombuffer(content, np.uint8))).cast("B")
    assert made.decode(data, SINGLE, len(content)).tobytes() == content


# Its own decoder for filters in the XZ format raises.
@pytest.mark.parametrize("notation", [one for one in COMPRESSORS + FILTERS if 'lzma", filters' not in one])
def test_the_library_reads_what_is_written_and_writes_what_is_read(notation: str) -> None:
    made = _made(notation)
    theirs = numcodecs.get_codec({"id": made.codec, **made.arguments})
    array = np.repeat(np.arange(150, dtype=np.uint32), 4)
    assert bytes(memoryview(theirs.decode(bytes(made.encode(array)))).cast("B")) == array.tobytes()
    written = memoryview(np.asarray(theirs.encode(array)).tobytes())
    assert made.decode(written, array.dtype, array.size).tobytes() == array.tobytes()


def test_a_codec_is_a_value() -> None:
    made = Numcodecs("blosc", shuffle=2, cname="zstd")
    assert repr(made) == "numcodecs('blosc', cname='zstd', shuffle=2)"
    assert made == Numcodecs("blosc", cname="zstd", shuffle=2) and made != Numcodecs("blosc", shuffle=2)
    assert codec(repr(made)).codecs == (made,)


def test_gzip_tells_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made, array = Numcodecs("gzip"), np.arange(100)
    first = bytes(made.encode(array))
    later = time.time() + 1e6
    monkeypatch.setattr(time, "time", lambda: later)
    assert bytes(made.encode(array)) == first


def test_blosc_has_its_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, True):
        monkeypatch.setattr(blosc, "use_threads", before)
        made = Numcodecs("blosc")
        made.decode(memoryview(made.encode(np.arange(9))), np.dtype(np.int64), 9)
        assert blosc.use_threads is before


CONTENT = np.frombuffer(np.random.default_rng(2).bytes(200) + bytes(300), np.uint8)


@pytest.mark.parametrize("notation", COMPRESSORS + FILTERS)
def test_forged_streams(notation: str) -> None:
    check_forged(_made(notation), CONTENT)


@pytest.mark.parametrize("notation", COMPRESSORS + FILTERS)
def test_damage_gives_an_error_or_as_many_items(notation: str) -> None:
    check_damage(_made(notation), CONTENT)


BOMBS = """
import resource, sys
from pathlib import Path
import numpy as np
from spliteasy.codecs import codec
from spliteasy.errors import FrameError

streams = [(codec(line.split("\\t")[0]).bytes_codecs[0], Path(line.split("\\t")[1]).read_bytes())
           for line in Path(sys.argv[1]).read_text().splitlines()]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for made, bomb in streams:
    for count in (0, 1, 1000, 1 << 20):
        try:
            made.decode(memoryview(bomb), np.dtype(np.uint8), count)
        except FrameError:
            continue
        raise SystemExit(f"{made!r} decoded a bomb as {count} bytes")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is that of Linux")
def test_bombs_take_no_memory_that_tracemalloc_would_miss(tmp_path: Path) -> None:
    """32 MiB of zeros to each compressor, in a process whose peak is then looked at."""
    zeros, lines = np.zeros(1 << 25, np.uint8), []
    for place, notation in enumerate([*LIGHT, "zstd(1)", "lz4", "pcodec(0)", 'blosc2("lz4", 1, None)']):
        path = tmp_path / str(place)
        path.write_bytes(_made(notation).encode(zeros))
        assert path.stat().st_size < 1 << 20
        lines.append(f"{notation}\t{path}")
    (tmp_path / "streams").write_text("\n".join(lines))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 1 << 16, "in KiB"
    ran = subprocess.run(
        [sys.executable, "-c", BOMBS, str(tmp_path / "streams")], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 16 << 10, f"{ran.stdout} KiB"


def test_an_lzma_stream_with_a_large_dictionary_is_refused() -> None:
    import lzma

    content = np.arange(1000, dtype=np.uint8)
    hungry = lzma.compress(content.tobytes(), preset=9)
    refuses(Numcodecs("lzma", preset=1), hungry, SINGLE, 1000)
    assert Numcodecs("lzma", preset=9).decode(memoryview(hungry), SINGLE, 1000).tobytes() == content.tobytes()


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("quantize", {"digits": 3, "dtype": "f4"}, "loses information"),
        ("fixedscaleoffset", {"offset": 0, "scale": 1, "dtype": "f4"}, "loses information"),
        ("bitround", {"keepbits": 3}, "loses information"),
        ("astype", {"encode_dtype": "f2", "decode_dtype": "f4"}, "loses information"),
        ("delta", {"dtype": "f4"}, "loses information"),
        ("delta", {"dtype": "i4", "astype": "i1"}, "loses information"),
        ("packbits", {}, "booleans alone"),
        ("pickle", {}, "runs whatever code"),
        ("json2", {}, "Python objects"),
        ("vlen-bytes", {}, "Python objects"),
        ("pcodec", {}, r"pcodec\(8\)"),
        ("of_another_package", {}, "none whose decoder is known to be bounded"),
        (7, {}, "none whose decoder is known to be bounded"),
        ("zlib", {"level": 77}, "does not work"),
        ("zlib", {"levle": 1}, "does not work"),
        ("blosc", {"cname": "nothing"}, "does not work"),
        ("lzma", {"format": 0}, "does not work"),
        ("shuffle", {"elementsize": 0}, "elementsize from 1"),
        ("shuffle", {"elementsize": "4"}, "elementsize from 1"),
    ],
)
def test_what_is_refused_says_why(name: Any, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        Numcodecs(name, **arguments)


def test_every_codec_of_the_library_is_either_taken_or_refused_for_a_reason() -> None:
    known = {*numcodecs_adapter.DECODERS, *numcodecs_adapter.FILTERS, *numcodecs_adapter.REFUSED}
    assert set(numcodecs.registry.codec_registry) - known <= {"n5_wrapper"}
