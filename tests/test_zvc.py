"""Zero-value compression: what is stored, what is repeated, bit for bit; bitmaps that lie."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import TensorSpec, codec
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins.zvc import ZeroValue

REPEATS = [None, "previous", "above", "both"]
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int16,
    torch.uint8,
    torch.bool,
]


def _chain(repeats: str | None) -> Any:
    return codec(ZeroValue(repeats=repeats))


def _planes(x: torch.Tensor, repeats: str | None) -> dict[str, Any]:
    planes, _ = _chain(repeats).encode_planes(x)
    return {name.removeprefix("0."): plane for name, plane in planes.items()}


def _unpacked(bitmap: torch.Tensor, count: int) -> list[int]:
    return np.unpackbits(bitmap.numpy(), count=count, bitorder="little").tolist()


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype is other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


@pytest.mark.parametrize("repeats", [None, "previous", pytest.param("above", marks=pytest.mark.slow)])
def test_the_contract(repeats: str | None) -> None:
    check_codec(_chain(repeats))


@pytest.mark.parametrize(
    "notation",
    [
        "fp16 | zvc | shuffle | zstd(1)",
        pytest.param('zvc(repeats="both") | shuffle | zstd(1)', marks=pytest.mark.slow),
        pytest.param("zvc | fp16", marks=pytest.mark.slow),
        pytest.param("topk(0.3) | fp16 | zvc | lz4", marks=pytest.mark.slow),
    ],
)
def test_chains_before_and_after_others(notation: str) -> None:
    check_codec(notation)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 6), max_size=4),
    st.sampled_from(DTYPES),
    st.sampled_from(REPEATS),
    st.integers(1, 4),
    st.integers(0, 1000),
)
def test_every_tensor_comes_back(
    shape: list[int], dtype: torch.dtype, repeats: str | None, distinct: int, seed: int
) -> None:
    x = torch.randint(0, distinct, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    chain = _chain(repeats)
    assert torch.equal(chain.decode(chain.encode(x)), x)


@pytest.mark.parametrize("repeats", REPEATS)
@pytest.mark.parametrize("shape", [(300, 7), (300, 1), (1, 300), (3, 40, 50), (2, 3, 4, 5, 6)])
def test_long_runs_of_repeats(shape: tuple[int, ...], repeats: str | None) -> None:
    generator = torch.Generator().manual_seed(3)
    chain = _chain(repeats)
    columns = torch.randn(shape[-1:], generator=generator).expand(shape).contiguous()
    for x in (
        torch.ones(shape),
        torch.zeros(shape),
        columns,
        torch.where(torch.rand(shape, generator=generator) < 0.02, torch.zeros(()), columns),
        torch.where(torch.rand(shape, generator=generator) < 0.02, torch.full((), 7.0), torch.ones(())),
    ):
        assert torch.equal(chain.decode(chain.encode(x)), x)


@pytest.mark.parametrize("repeats", REPEATS)
def test_bits_that_compare_as_equal_or_as_nothing_stay_apart(repeats: str | None) -> None:
    quiet, payload = 0x7FC00000, 0x7F800001
    bits = [0, 1 << 31, 1 << 31, 0, quiet, quiet, payload, quiet - (1 << 32), 1, 1, -0x7FFFFFFF, 0x7F7FFFFF]
    bits = [(number + (1 << 31)) % (1 << 32) - (1 << 31) for number in bits]
    x = torch.tensor(bits, dtype=torch.int32).view(torch.float32).view(3, 4)
    chain = _chain(repeats)
    assert _same_bits(chain.decode(chain.encode(x)), x)
    assert _unpacked(_planes(x, repeats)["mask"], 12) == [0, 1, 1, 0, *[1] * 8], "minus zero is not zero"


def test_what_is_stored() -> None:
    x = torch.tensor([[0.0, 2, 2, 3], [5.0, 2, 0, 3], [5.0, 5, 4, 3]])
    assert _planes(x, None)["values"].tolist() == [2, 2, 3, 5, 2, 3, 5, 5, 4, 3]
    assert _planes(x, "previous")["values"].tolist() == [2, 3, 5, 2, 3, 5, 4, 3]
    assert _planes(x, "above")["values"].tolist() == [2, 2, 3, 5, 5, 4]
    both = _planes(x, "both")
    assert both["values"].tolist() == [2, 3, 5, 4]
    assert _unpacked(both["mask"], 12) == [0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1]
    assert _unpacked(both["above"], 12) == [0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 1]
    assert _unpacked(both["previous"], 6) == [0, 1, 0, 0, 1, 0]
    assert _planes(torch.ones(9), "both")["above"].numel() == 0, "a vector has no rows"


def test_pooling_with_overlapping_windows_leaves_each_maximum_about_once() -> None:
    x = torch.randn(2, 8, 64, 64, generator=torch.Generator().manual_seed(0)).relu_()
    pooled = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    stored = _planes(pooled, "both")["values"].numel()
    assert stored < 1.05 * len(torch.unique(pooled)) < 0.85 * pooled.numel()


def test_plain_zvc_takes_elements_in_the_order_of_memory() -> None:
    x = torch.randn(2, 3, 4, 5).relu_().to(memory_format=torch.channels_last)
    assert ZeroValue().elementwise and not ZeroValue(repeats="both").elementwise
    in_memory = x.permute(0, 2, 3, 1).reshape(-1)
    assert torch.equal(_planes(x, None)["values"], in_memory[in_memory != 0])
    by_shape = x.contiguous().reshape(-1)
    assert torch.equal(_planes(x, "above")["values"], by_shape[by_shape != 0])


SPEC = TensorSpec.of((3, 4), torch.float32)
TENSOR = torch.tensor([[0.0, 2, 2, 3], [5.0, 2, 0, 3], [5.0, 5, 4, 3]])


def _bits(*places: int, size: int = 12) -> torch.Tensor:
    marks = np.zeros(size, np.uint8)
    marks[list(places)] = 1
    return torch.from_numpy(np.packbits(marks, bitorder="little"))


@pytest.mark.parametrize(
    ("plane", "lie"),
    [
        ("mask", _bits(1, 2, 3, 4, 5, 7, 8, 9, 10)),
        ("mask", _bits(0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11)),
        ("mask", _bits(1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, size=16)),
        ("mask", _bits(size=8)),
        ("mask", _bits(size=24)),
        ("above", _bits(0, 5, 7, 8, 11)),
        ("above", _bits(3, 5, 7, 8, 11)),
        ("above", _bits(5, 6, 7, 8, 11)),
        ("above", _bits(5, 7, 8)),
        ("above", _bits(5, 7, 8, 11, 15, size=16)),
        ("above", torch.zeros(0, dtype=torch.uint8)),
        ("previous", _bits(0, 1, size=6)),
        ("previous", _bits(1, size=6)),
        ("previous", _bits(1, 4, 7, size=8)),
        ("previous", _bits(size=16)),
        ("previous", torch.zeros(0, dtype=torch.uint8)),
        ("values", torch.ones(3)),
        ("values", torch.ones(5)),
        ("values", torch.ones(0)),
    ],
)
def test_planes_that_lie(plane: str, lie: torch.Tensor) -> None:
    chain = _chain("both")
    planes, notes = chain.encode_planes(TENSOR)
    with pytest.raises(FrameError):
        chain.decode_planes({**planes, f"0.{plane}": lie}, notes, SPEC)


def test_values_that_a_cast_made_zero_are_no_lie() -> None:
    x = torch.tensor([[1e-30, 1.0, 0.0, 1e30]])
    chain = codec("zvc | fp16")
    assert torch.equal(chain.decode(chain.encode(x))[0, :3], torch.zeros(3))


@pytest.mark.parametrize("repeats", ["", "left", 1, True, ["above"]])
def test_repeats_are_checked(repeats: Any) -> None:
    with pytest.raises(CodecError, match="expected repeats of zvc"):
        ZeroValue(repeats=repeats)


def test_a_tensor_of_unknown_length_is_refused() -> None:
    with pytest.raises(CodecError, match="known shape"):
        codec("zvc | zvc").encode(torch.ones(3))
    assert math.prod(codec("zvc").out(SPEC).shape or (codec("zvc").out(SPEC).max_numel,)) == 12
