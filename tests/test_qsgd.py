"""qsgd: unbiased, seeded, within one level; norms that never overflow."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import Context, TensorSpec, codec
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError, FrameError, NonFiniteError
from spliteasy_plugins.qsgd import QSGD

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def _round_trip(notation: str, x: torch.Tensor, step: int = 0) -> torch.Tensor:
    chain = codec(notation)
    return chain.decode(chain.encode(x, Context(step=step)))


@pytest.mark.parametrize("notation", ["qsgd(1, 5)", "topk(0.1) | qsgd(15, 64) | zstd(1)", "bf16 | qsgd(7)"])
def test_qsgd_keeps_the_contract_alone_and_in_chains(notation: str) -> None:
    check_codec(notation)


@pytest.mark.parametrize("levels", [1, 4, 127])
def test_the_mean_over_many_steps_is_the_tensor(levels: int) -> None:
    """The mean of n draws is within 6 standard deviations; one draw has at most (norm / levels)^2 / 4 of variance."""
    x = torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    steps = 500
    total = sum(_round_trip(f"qsgd({levels}, 100)", x, step) for step in range(steps))
    norms = x.view(3, 100).norm(dim=1).repeat_interleave(100)
    assert bool(((total / steps - x).abs() <= 6 * norms / levels / 2 / math.sqrt(steps)).all())


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 127),
    st.integers(1, 12),
    st.integers(0, 5),
    st.data(),
)
def test_a_value_moves_by_less_than_a_level_and_zeros_stay(
    dtype: torch.dtype, levels: int, bucket: int, step: int, data: st.DataObject
) -> None:
    limit = torch.finfo(dtype).max
    numbers = st.floats(-limit, limit, width=32 if dtype is torch.float32 else 64)
    x = torch.tensor(data.draw(st.lists(numbers, max_size=20)), dtype=dtype)
    decoded = _round_trip(f"qsgd({levels}, {bucket})", x, step)
    planes, _ = codec(f"qsgd({levels}, {bucket})").encode_planes(x, Context(step=step))
    norms = planes["0.norm"].double().repeat_interleave(bucket)[: len(x)]
    assert bool(decoded.isfinite().all()) and not decoded[x == 0].any()
    slack = torch.finfo(dtype).smallest_normal
    assert bool(((decoded.double() / 2 - x.double() / 2).abs() <= norms / levels / 2 * (1 + 1e-5) + slack).all())


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_norm_is_that_of_each_bucket_within_the_range_of_the_dtype(dtype: torch.dtype) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[512:] *= 1e-3
    planes, _ = codec("qsgd").encode_planes(x)
    expected = torch.stack([x[:512].double().norm(), x[512:].double().norm()])
    assert torch.allclose(planes["0.norm"].double(), expected, rtol=1e-6)
    limits = torch.finfo(dtype)
    for size in (limits.max, limits.tiny):
        planes, _ = codec("qsgd").encode_planes(torch.full((512,), size, dtype=dtype))
        norm = planes["0.norm"].double().item()
        assert norm == pytest.approx(min(limits.max, math.sqrt(512) * size), rel=1e-5)


def test_values_as_large_as_their_norm_are_exact() -> None:
    x = torch.tensor([0.0, 0, -3.7, 0, 0, 0, 0, 0, 0, 1e30, 0, 0])
    for step in range(20):
        assert torch.equal(_round_trip("qsgd(3, 4)", x, step), x)


def test_steps_draw_differently_and_a_retry_the_same() -> None:
    x = torch.randn(4, 500)
    chain = codec("qsgd(4)")
    frames = [bytes(chain.encode_planes(x, Context(step=step))[0]["0.values"].numpy()) for step in (1, 2, 1)]
    assert frames[0] == frames[2] != frames[1]


def test_many_blocks_and_one_bucket_larger_than_a_block() -> None:
    x = torch.randn(2, 150_000, generator=torch.Generator().manual_seed(2))
    for bucket in (512, 200_000):
        planes, _ = codec(f"qsgd(127, {bucket})").encode_planes(x)
        expected = torch.stack([part.norm() for part in x.view(-1).split(bucket)])
        assert torch.allclose(planes["0.norm"], expected, rtol=1e-4)
        error = (_round_trip(f"qsgd(127, {bucket})", x) - x).abs().view(-1)
        assert bool((error <= expected.repeat_interleave(bucket)[: len(error)] / 127 * 1.001).all())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_by_name(value: float) -> None:
    x = torch.randn(3, 8)
    x[1, 2] = value
    with pytest.raises(NonFiniteError, match="qsgd"):
        codec("qsgd").encode(x)


@pytest.mark.parametrize(
    ("name", "plane"),
    [
        ("0.values", torch.zeros(8, dtype=torch.int8)),
        ("0.values", torch.tensor([0] * 8 + [16], dtype=torch.int8)),
        ("0.values", torch.tensor([0] * 8 + [-128], dtype=torch.int8)),
        ("0.norm", torch.ones(2)),
        ("0.norm", torch.tensor([1, 1, math.nan])),
        ("0.norm", torch.tensor([1, 1, -1.0])),
    ],
)
def test_planes_that_lie(name: str, plane: torch.Tensor) -> None:
    chain = codec("qsgd(15, 4)")
    planes, notes = chain.encode_planes(torch.randn(3, 3))
    with pytest.raises(FrameError):
        chain.decode_planes({**planes, name: plane}, notes, TensorSpec.of((3, 3), torch.float32))


def test_small_messages_carry_little_header() -> None:
    x = torch.randn(1, 2048)
    planes, _ = codec("qsgd").encode_planes(x)
    payload = sum(plane.numel() * plane.itemsize for plane in planes.values())
    assert len(codec("qsgd").encode(x)) - payload <= 256


@pytest.mark.parametrize("arguments", [(0,), (128,), (1.5,), (True,), (None,), (4, 0), (4, -1), (4, 2.0), (4, True)])
def test_arguments_are_checked(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(CodecError, match="qsgd"):
        QSGD(*arguments)
