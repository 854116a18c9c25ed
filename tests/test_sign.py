"""sign: one bit an element, times the mean magnitude of its channel."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import Context, TensorSpec, codec
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import FrameError, NonFiniteError
from spliteasy_plugins.sign import Sign

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def _round_trip(x: torch.Tensor) -> torch.Tensor:
    return codec("sign").decode(codec("sign").encode(x))


@pytest.mark.parametrize("notation", ["sign | zstd(1)", "topk(0.1) | sign"])
def test_sign_keeps_the_contract_alone_and_in_chains(notation: str) -> None:
    check_codec(notation)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("shape", "others"),
    [((6, 4), (0,)), ((3, 5, 4), (0, 1)), ((3, 4, 5, 6), (0, 2, 3)), ((2, 3, 2, 2, 2), (0, 2, 3, 4)), ((9,), (0,))],
)
def test_the_sign_times_the_mean_magnitude_of_the_channel(
    dtype: torch.dtype, shape: tuple[int, ...], others: tuple[int, ...]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.where(x < 0, -1.0, 1.0) * x.double().abs().mean(others, keepdim=True)
    single = expected if dtype is torch.float64 else expected.float()
    assert torch.allclose(_round_trip(x).double(), single.to(dtype).double(), rtol=1e-12)
    assert torch.equal(_round_trip(x), _round_trip(x.transpose(-1, 0).contiguous().transpose(-1, 0)))


def test_zeros_of_either_sign_are_sent_as_plus_unless_their_channel_is_zero() -> None:
    x = torch.tensor([[0.0, 0.0], [-0.0, -0.0], [-6.0, 0.0]])
    assert _round_trip(x).tolist() == [[2.0, 0.0], [2.0, 0.0], [-2.0, 0.0]]


@settings(deadline=None)
@given(st.floats(2.0**-140, 2.0**100, width=32), st.lists(st.booleans(), max_size=50))
def test_elements_of_equal_magnitude_are_exact(magnitude: float, negative: list[bool]) -> None:
    x = torch.tensor([-magnitude if bit else magnitude for bit in negative])
    assert torch.equal(_round_trip(x), x)


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_sum_overflows(dtype: torch.dtype) -> None:
    for size in (torch.finfo(dtype).max, torch.finfo(dtype).tiny):
        x = torch.full((40, 300), size, dtype=dtype)
        x[::2] *= -1
        assert torch.allclose(_round_trip(x).double() / 2, x.double() / 2, rtol=1e-6)


def test_bits_stand_lowest_first_and_the_planes_are_an_eighth() -> None:
    x = torch.tensor([1.0, -1, 1, 1, 1, 1, 1, 1, -1, -1])
    planes, _ = codec("sign").encode_planes(x)
    assert planes["0.values"].tolist() == [0b10, 0b11] and planes["0.scale"].tolist() == [1.0]
    frame = codec("sign").encode(torch.randn(4, 32, 56, 56))
    assert 31 < 4 * 32 * 56 * 56 * 4 / len(frame) < 32


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_lengths_that_were_not_agreed_are_sent(count: int) -> None:
    context = Context(spec=TensorSpec(None, torch.float32, max_numel=9))
    assert context.spec is not None
    x = torch.where(torch.arange(count) % 3 == 0, -2.0, 2.0)
    planes = Sign().encode(x, context)
    assert all(planes[name].numel() <= bound.max_numel for name, bound in Sign().bounds(context.spec).items())
    assert torch.equal(Sign().decode(planes, context.spec, context), x)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_by_name(value: float) -> None:
    x = torch.randn(3, 8)
    x[1, 2] = value
    with pytest.raises(NonFiniteError, match="sign"):
        codec("sign").encode(x)


@pytest.mark.parametrize(
    ("name", "plane"),
    [
        ("0.values", torch.zeros(1, dtype=torch.uint8)),
        ("0.values", torch.tensor([0, 2], dtype=torch.uint8)),
        ("0.scale", torch.ones(2)),
        ("0.scale", torch.tensor([1, math.nan, 1])),
    ],
)
def test_planes_that_lie(name: str, plane: torch.Tensor) -> None:
    planes, notes = codec("sign").encode_planes(torch.randn(3, 3))
    with pytest.raises(FrameError):
        codec("sign").decode_planes({**planes, name: plane}, notes, TensorSpec.of((3, 3), torch.float32))


def test_small_messages_carry_little_header() -> None:
    for shape in ((1, 2048), (2, 32, 32), (2, 16, 8, 8)):
        planes, _ = codec("sign").encode_planes(torch.randn(shape))
        payload = sum(plane.numel() * plane.itemsize for plane in planes.values())
        assert len(codec("sign").encode(torch.randn(shape))) - payload <= 256


def test_many_blocks() -> None:
    x = torch.randn(3, 2, 300, 301, generator=torch.Generator().manual_seed(1))
    expected = x.abs().mean((0, 2, 3), keepdim=True) * x.sign()
    assert torch.allclose(_round_trip(x), expected, rtol=1e-5)
