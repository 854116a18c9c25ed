"""fp16 and bf16: rounded once to the nearest, saturating and saying how often."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import Context, TensorSpec, codec
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins.halves import BFloat16, Float16

PLAIN = "fp16(scaled=False)"


def _round_trip(notation: str, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """What comes back, and how many elements were saturated."""
    chain, context = codec(notation), Context()
    return chain.decode(chain.encode(x, context)), context.counts.get("saturated", 0)


@pytest.mark.parametrize(
    "notation", [PLAIN, "bf16", "bf16 | zstd(1)", f"topk(0.2) | {PLAIN} | zstd(1)", "topk(0.5) | bf16"]
)
def test_halves_keep_the_contract_alone_and_in_chains(notation: str) -> None:
    check_codec(notation)


def test_the_plain_cast_is_the_plain_cast() -> None:
    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-12, 4, 40)
    decoded, saturated = _round_trip(PLAIN, x)
    assert torch.equal(decoded, x.half().float()) and saturated == 0
    planes, _ = codec(PLAIN).encode_planes(x)
    assert list(planes) == ["0.values"] and repr(codec(PLAIN)) == PLAIN
    assert Float16().scaled and repr(codec("fp16(scaled=True)")) == "fp16"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_plain_cast_saturates_and_counts(dtype: torch.dtype) -> None:
    numbers = [0.0, 65504.0, 65536.0, -65536.0, 1e30, -1e30, math.inf, -math.inf, math.nan, 65000.0]
    decoded, saturated = _round_trip(PLAIN, torch.tensor(numbers, dtype=dtype))
    assert decoded[2:6].tolist() == torch.tensor([65504.0, -65504.0] * 2).to(dtype).tolist()
    assert decoded[6:8].tolist() == [math.inf, -math.inf] and decoded[8].isnan()
    assert saturated == (4 if dtype is not torch.bfloat16 else 5)  # in bfloat16, 65504 is 65536


def test_saturation_begins_where_rounding_would_reach_infinity() -> None:
    for number, expected in ((65519.0, 0), (65520.0, 1), (-65520.0, 1)):
        decoded, saturated = _round_trip(PLAIN, torch.tensor([number]))
        assert (abs(decoded.item()), saturated) == (65504.0, expected)
    largest = torch.finfo(torch.bfloat16).max
    half = largest + 2.0**119
    for number, expected in ((math.nextafter(half, 0), 0), (half, 1), (-half, 1), (1e300, 1)):
        decoded, saturated = _round_trip("bf16", torch.tensor([number], dtype=torch.float64))
        assert (abs(decoded.item()), saturated) == (largest, expected)


def test_the_scaled_cast_saturates_only_at_the_end_of_the_range() -> None:
    top = torch.finfo(torch.float32).max
    decoded, saturated = _round_trip("fp16", torch.tensor([top, -top, top / 2, math.inf, 0.0]))
    assert saturated == 2 and decoded[:2].tolist() == [2.0**113 * 32752, -(2.0**113) * 32752]
    assert decoded[3] == math.inf
    assert _round_trip("fp16", torch.tensor([top / 2, 1e30]))[1] == 0


NEAR_TIES = st.integers(-4000, 4000).map(lambda count: 1 + count * 2.0**-12 + 2.0**-40)
"""Just above where fp16 and bfloat16 are halfway between two numbers, as float32 cannot tell."""


@settings(deadline=None, max_examples=200)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1e5, 1e5) | NEAR_TIES)
def test_float64_is_rounded_once(number: float) -> None:
    x = torch.tensor([number], dtype=torch.float64)
    for notation, bits, least, largest in (
        ("bf16", 8, -133, torch.finfo(torch.bfloat16).max),
        (PLAIN, 11, -24, 65504.0),
    ):
        exact = Fraction(number)
        unit = Fraction(2) ** max(math.frexp(number)[1] - bits, least)
        expected = min(max(round(exact / unit) * unit, -Fraction(largest)), Fraction(largest))
        assert Fraction(_round_trip(notation, x)[0].item()) == expected


@settings(deadline=None, max_examples=200)
@given(st.floats(width=32, allow_nan=False))
def test_bf16_of_float32_is_the_nearest(number: float) -> None:
    x = torch.tensor([number])
    decoded, saturated = _round_trip("bf16", x)
    plain = x.bfloat16().float()
    if math.isinf(plain.item()) and not math.isinf(number):
        assert saturated == 1 and abs(decoded.item()) == torch.finfo(torch.bfloat16).max
    else:
        assert saturated == 0 and torch.equal(decoded, plain)


def test_bf16_does_not_take_float16_beyond_its_range() -> None:
    x = torch.tensor([65504.0, -65504.0, 65376.0, 65440.0, 1.0, math.inf], dtype=torch.float16)
    decoded, saturated = _round_trip("bf16", x)
    assert decoded.tolist() == [65280.0, -65280.0, 65280.0, 65280.0, 1.0, math.inf] and saturated == 3


def test_bf16_shows_nan_and_passes_bfloat16_without_a_copy() -> None:
    assert _round_trip("bf16", torch.tensor([math.nan, 1.0], dtype=torch.float64))[0].isnan().tolist() == [True, False]
    x = torch.randn(3, 4).bfloat16()
    planes, _ = codec("bf16").encode_planes(x)
    assert planes["0.values"].data_ptr() == x.data_ptr() and BFloat16().elementwise


def test_many_blocks() -> None:
    x = torch.randn(3, 100_001, generator=torch.Generator().manual_seed(1))
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(_round_trip("bf16", x.to(dtype))[0], x.bfloat16().to(dtype))
        assert torch.equal(_round_trip(PLAIN, x.to(dtype))[0], x.half().to(dtype))


def test_values_that_a_later_codec_took_beyond_the_range_become_the_largest_number() -> None:
    for notation, dtype, number in (
        ("fp16", torch.float32, 65504.0),
        ("fp16", torch.float64, 65504.0),
        ("fp16", torch.bfloat16, 65504.0),
        ("bf16", torch.float16, 1e38),
    ):
        top = torch.finfo(dtype).max
        planes, notes = codec(notation).encode_planes(torch.full((4,), top, dtype=dtype))
        numbers = [number, -number, math.inf, math.nan]
        planes["0.values"] = torch.tensor(numbers, dtype=planes["0.values"].dtype)
        decoded = codec(notation).decode_planes(planes, notes, TensorSpec.of((4,), dtype))
        assert decoded[:3].tolist() == [top, -top, math.inf] and decoded[3].isnan()


def test_lengths_and_planes_are_checked() -> None:
    spec = TensorSpec.of((2, 2), torch.float32)
    for notation in ("bf16", PLAIN):
        planes, notes = codec(notation).encode_planes(torch.randn(2, 2))
        for lie in ({}, {"0.values": planes["0.values"][:3]}, {**planes, "0.scale": torch.ones(1)}):
            with pytest.raises(FrameError):
                codec(notation).decode_planes(lie, notes, spec)


@pytest.mark.parametrize("notation", ["fp16", PLAIN, "bf16"])
def test_small_messages_carry_little_header(notation: str) -> None:
    for shape in ((1, 2048), (2, 16, 8, 8)):
        x = torch.randn(shape)
        planes, _ = codec(notation).encode_planes(x)
        payload = sum(plane.numel() * plane.itemsize for plane in planes.values())
        assert len(codec(notation).encode(x)) - payload <= 256


@pytest.mark.parametrize("scaled", [1, None, "no"])
def test_scaled_is_a_boolean(scaled: Any) -> None:
    with pytest.raises(CodecError, match="scaled"):
        Float16(scaled=scaled)
