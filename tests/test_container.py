"""The container, held against the safetensors library, and against damage."""

import json
import struct
import tracemalloc
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from spliteasy.codecs import container
from spliteasy.errors import CodecError, FrameError

DTYPES = [dtype for dtype in container.DTYPES.values() if "float8" not in str(dtype)]
METADATA = {"chain": "raw", "note": 'quotes " and ünïcode \u2028', "": ""}


def _planes() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    planes = {f"{i}.{dtype}": (torch.rand(i + 1, generator=generator) * 2).to(dtype) for i, dtype in enumerate(DTYPES)}
    return {
        **planes,
        "shaped": torch.randn((2, 3, 4), generator=generator),
        "empty": torch.empty(0),
        "none": torch.empty(3, 0),
    }


def _joined(planes: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    return b"".join(container.write(planes, metadata or {}))


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype is other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(one[name], other[name])
        for name in one
    )


def test_the_library_reads_what_we_write() -> None:
    assert _equal(load(_joined(_planes(), METADATA)), _planes())


def test_we_read_what_the_library_writes() -> None:
    planes, metadata = container.read(save(_planes(), METADATA))
    assert _equal(planes, _planes()) and metadata == METADATA
    assert _equal(container.read(save(_planes()))[0], _planes()) and container.read(save({})) == ({}, {})


def test_we_read_what_we_write() -> None:
    planes, metadata = container.read(_joined(_planes(), METADATA))
    assert _equal(planes, _planes()) and metadata == METADATA
    assert container.read(_joined({}, {})) == ({}, {})


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_travel(dtype: torch.dtype) -> None:
    plane = torch.tensor([0.5, -2.0, 16.0]).to(dtype)
    assert torch.equal(container.read(_joined({"p": plane}))[0]["p"].float(), plane.float())
    assert torch.equal(load(_joined({"p": plane}))["p"].float(), plane.float())


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)),
        min_size=1,  # of no planes but metadata, safetensors 0.8 writes a header that is not JSON
        max_size=5,
    ),
    st.dictionaries(
        st.text(max_size=5).filter(str.isprintable), st.text(max_size=20).filter(str.isprintable), max_size=3
    ),
)
def test_anything_goes_both_ways(shapes: dict[str, tuple[torch.dtype, list[int]]], metadata: dict[str, str]) -> None:
    planes = {name: torch.ones(shape).to(dtype) for name, (dtype, shape) in shapes.items()}
    ours = _joined(planes, metadata)
    assert (
        _equal(load(ours), planes) and _equal(container.read(ours)[0], planes) and container.read(ours)[1] == metadata
    )
    assert _equal(container.read(save(planes, metadata))[0], planes)


def test_planes_are_aligned_views_and_nothing_is_copied() -> None:
    planes = _planes()
    pieces = container.write(planes, METADATA)
    assert len(pieces[0]) % 8 == 0
    assert len(container.write({"large": torch.zeros(1 << 14)}, METADATA)[0]) % 64 == 0
    wide = planes["6.torch.int32"]
    assert any(
        torch.frombuffer(piece, dtype=torch.uint8).data_ptr() == wide.data_ptr() for piece in map(_writable, pieces[1:])
    )
    buffer = bytearray(b"".join(pieces))
    start = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
    for plane in container.read(buffer)[0].values():
        assert plane.numel() == 0 or start < plane.data_ptr() < start + len(buffer)
        assert (plane.data_ptr() - start) % plane.dtype.itemsize == 0
    container.read(buffer)[0]["shaped"].fill_(7)
    assert bool((container.read(buffer)[0]["shaped"] == 7).all())


def test_planes_of_one_element_and_of_none_have_bytes_whatever_their_strides() -> None:
    assert bytes(container.bytes_of(torch.arange(4.0)[::2][:1])) == bytes(4)
    assert len(container.bytes_of(torch.arange(4.0)[::2][:0])) == 0


def _writable(piece: bytes | memoryview) -> memoryview:
    assert isinstance(piece, memoryview)
    return piece


def test_misaligned_and_read_only_buffers_read_without_a_warning() -> None:
    frame = _joined(_planes(), METADATA)
    shifted = memoryview(b"x" + frame)[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for buffer in (
            frame,
            shifted,
            bytearray(frame),
            memoryview(frame),
            torch.frombuffer(bytearray(frame), dtype=torch.uint8).numpy(),
        ):
            assert _equal(container.read(buffer)[0], _planes())  # type: ignore[arg-type]


def test_strided_planes_are_made_dense() -> None:
    x = torch.arange(12.0).view(3, 4).requires_grad_()
    assert torch.equal(container.read(_joined({"x": x.t()[::2]}))[0]["x"], x.detach().t()[::2])


def test_what_the_format_lacks() -> None:
    for planes in ({"x": torch.zeros(1, dtype=torch.complex128)}, {"__metadata__": torch.zeros(1)}):
        with pytest.raises(CodecError, match="a frame cannot hold"):
            container.write(planes, {})
    with pytest.raises(CodecError, match="shorten the metadata"):
        container.write({}, {"x": "y" * container.MAX_HEADER})


def _file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _plane(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "header longer than the file": _file({}, length=3),
    "header as long as a disk": _file({}, length=1 << 63),
    "header over the limit": _file(b"{}" + b" " * container.MAX_HEADER),
    "not JSON": _file(b"{"),
    "not UTF-8": _file(b'{"\xff":1}'),
    "a list": _file([]),
    "space before the header": _file(b" {}"),
    "deep": _file(b'{"a":' + b"[" * 200_000),
    "deep and closed": _file(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "long number": _file(b'{"a":{"dtype":"U8","shape":[' + b"9" * 9000 + b'],"data_offsets":[0,0]}}'),
    "big number": _file({"a": _plane("U8", [10**4000], [0, 10**4000])}),
    "twice": _file(
        b'{"a":' + json.dumps(_plane()).encode() + b',"a":' + json.dumps(_plane()).encode() + b"}", bytes(8)
    ),
    "twice in a plane": _file(b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "metadata of numbers": _file({"__metadata__": {"a": 1}}),
    "metadata of text": _file({"__metadata__": "a"}),
    "plane of text": _file({"a": "b"}),
    "no dtype": _file({"a": {"shape": [0], "data_offsets": [0, 0]}}),
    "more keys": _file({"a": {**_plane(), "more": 1}}, bytes(8)),
    "unknown dtype": _file({"a": _plane("F99")}, bytes(8)),
    "dtype of another kind": _file({"a": _plane(["F32"])}, bytes(8)),
    "negative size": _file({"a": _plane(shape=[-2])}, bytes(8)),
    "fractional size": _file({"a": _plane(shape=[2.0])}, bytes(8)),
    "boolean size": _file({"a": _plane("U8", [True], [0, 1])}, bytes(1)),
    "shape is a number": _file({"a": _plane(shape=2)}, bytes(8)),
    "three offsets": _file({"a": _plane(offsets=[0, 8, 8])}, bytes(8)),
    "too many dimensions": _file({"a": _plane(shape=[1] * 100 + [2])}, bytes(8)),
    "huge but empty": _file({"a": _plane(shape=[0, 1 << 62, 1 << 62], offsets=[0, 0])}),
    "shape smaller than its place": _file({"a": _plane(shape=[1])}, bytes(8)),
    "backwards": _file({"a": _plane(offsets=[8, 0])}, bytes(8)),
    "beyond the end": _file({"a": _plane()}, bytes(7)),
    "bytes left over": _file({"a": _plane()}, bytes(9)),
    "bytes and no planes": _file({}, bytes(1)),
    "a gap": _file({"a": _plane(), "b": _plane(offsets=[16, 24])}, bytes(24)),
    "a gap at the start": _file({"a": _plane(offsets=[8, 16])}, bytes(16)),
    "an overlap": _file({"a": _plane(), "b": _plane(offsets=[4, 12])}, bytes(12)),
    "the same place": _file({"a": _plane(), "b": _plane()}, bytes(8)),
    "a boolean of 2": _file({"a": _plane("BOOL", [1], [0, 1])}, b"\x02"),
}


@pytest.mark.parametrize("lie", LIES)
def test_files_that_lie(lie: str) -> None:
    with pytest.raises(FrameError):
        container.read(LIES[lie])


@pytest.mark.parametrize(
    "thing", ["text", 7, None, memoryview(bytes(64))[::2]], ids=["text", "a number", "nothing", "every other byte"]
)
def test_what_is_no_run_of_bytes(thing: Any) -> None:
    with pytest.raises(FrameError, match="expected a frame"):
        container.read(thing)


def _read_or_refused(data: bytes | bytearray) -> None:
    """A frame or a ``FrameError``; the planes are views, so whatever is allocated is for the header."""
    tracemalloc.start()
    try:
        planes, _ = container.read(data)
        assert sum(plane.numel() * plane.dtype.itemsize for plane in planes.values()) <= len(data)
    except FrameError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1 << 20


def test_every_truncation_is_refused() -> None:
    frame = _joined(_planes(), METADATA)
    for length in range(0, len(frame), 3):
        with pytest.raises(FrameError):
            container.read(frame[:length])


def test_every_flipped_bit_of_the_header_is_survived() -> None:
    frame = _joined({"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.bool)}, {"k": "v"})
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        _read_or_refused(damaged)


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=50), st.booleans())
def test_noise_is_survived(text: bytes, data: bytes, framed: bool) -> None:
    _read_or_refused(_file(text, data) if framed else text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "U8", "BOOL", "dtype"]),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), children)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), JSON), st.binary(max_size=16))
def test_headers_of_any_content_are_survived(header: dict[str, Any], data: bytes) -> None:
    _read_or_refused(_file(header, data))


def test_bytes_that_are_no_whole_number_of_elements() -> None:
    with pytest.raises(FrameError, match="whole number of 4-byte elements, found 7"):
        container.tensor_of(bytes(7), torch.float32)
    assert container.tensor_of(b"", torch.bfloat16).shape == (0,)
