"""PowerSGD: near the best low rank there is after a few steps, and at ease with every matrix."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import Context, TensorSpec, codec
from spliteasy.errors import CodecError
from spliteasy_plugins.powersgd import PowerSGD

GRADIENT = "input_gradients"


def matrix(height: int, width: int, rank: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A random matrix of a rank."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn((size, rank), generator=generator, dtype=torch.float64) for size in (height, width))
    return (left @ right.T).to(dtype)


def steps(notation: str, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """What is decoded of each, in one stream."""
    chain, decoded = codec(notation), []
    state: dict[str, Any] = {}
    for step, x in enumerate(tensors):
        context = Context(GRADIENT, step=step, state=copy.deepcopy(state))
        frame, receiver = chain.encode(x, context), Context(GRADIENT, step=step)
        decoded.append(chain.decode(frame, receiver))
        assert not receiver.state
        state = context.state
    return decoded


def error(decoded: torch.Tensor, x: torch.Tensor) -> float:
    """Relative, in the 2-norm; divided by the largest magnitude first, since squares may leave the range."""
    largest = x.double().abs().max()
    return float((decoded.double() / largest - x.double() / largest).norm() / (x.double() / largest).norm())


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 3), st.integers(0, 9))
def test_a_matrix_of_the_rank_comes_back_at_once(height: int, width: int, rank: int, seed: int) -> None:
    x = matrix(height, width, rank, seed)
    (decoded,) = steps("powersgd(3)", [x])
    torch.testing.assert_close(decoded, x, rtol=1e-9, atol=1e-9)


def test_warm_starts_come_near_the_best_that_the_rank_allows() -> None:
    x = matrix(40, 60, 40) @ torch.diag(torch.linspace(1, 0, 60, dtype=torch.float64) ** 3)
    values = torch.linalg.svdvals(x)
    best = float(values[4:].square().sum().sqrt() / values.norm())
    first, *_, last = (error(decoded, x) for decoded in steps("powersgd(4)", [x] * 12))
    cold = error(codec("powersgd(4)").decode(codec("powersgd(4)").encode(x, Context(GRADIENT, step=11))), x)
    assert best <= last < 1.02 * best < 1.1 * best < min(first, cold)


def test_the_last_factor_is_the_state_and_evaluation_leaves_it() -> None:
    x = matrix(20, 30, 20, dtype=torch.float32)
    chain, context = codec("powersgd(2)"), Context(GRADIENT)
    planes, _ = chain.encode_planes(x, context)
    (q,) = context.state["0"].values()
    ratio = planes["0.values"][40:].view(30, 2) / q
    torch.testing.assert_close(ratio, ratio[:1].expand(30, 2), rtol=1e-6, atol=0)  # up to a scale for each column
    before = q.clone()
    evaluated = chain.encode(x, Context(GRADIENT, training=False, state=context.state))
    assert torch.equal(context.state["0"]["q"], before)
    again = chain.encode(x, Context(GRADIENT, step=0, state=copy.deepcopy(context.state)))
    assert evaluated == again  # it used the state, as training does


def test_another_width_starts_anew() -> None:
    x, y = matrix(20, 30, 2), matrix(20, 31, 2, seed=1)
    first, second, third = steps("powersgd(2)", [x, y, matrix(9, 31, 2, seed=2)])
    for decoded, given_ in ((first, x), (second, y), (third, matrix(9, 31, 2, seed=2))):
        torch.testing.assert_close(decoded, given_)


def test_a_poor_step_does_not_leave_the_stream_in_too_small_a_space() -> None:
    x = matrix(20, 30, 3)
    for poor in (torch.zeros_like(x), matrix(20, 30, 1, seed=4), torch.ones_like(x)):
        decoded = steps("powersgd(3)", [x, poor, x, x, x])
        torch.testing.assert_close(decoded[1], poor, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(decoded[-1], x, rtol=1e-6, atol=1e-6)


def test_zeros_come_back_as_zeros() -> None:
    for decoded in steps("powersgd(2)", [torch.zeros(9, 3, 4, 4)] * 3):
        assert not decoded.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", ["largest", "usual", "smallest"])
def test_any_magnitude_is_as_exact(dtype: torch.dtype, size: str) -> None:
    limits = torch.finfo(dtype)
    x = matrix(30, 40, 2)
    largest = {"largest": float(limits.max), "usual": 1.0, "smallest": limits.tiny / limits.eps}[size]
    x = (x / x.abs().max() * largest).to(dtype)
    (decoded,) = steps("powersgd(4)", [x])
    assert bool(decoded.isfinite().all()) and error(decoded, x) < 8 * limits.eps


def test_factors_of_a_tiny_gradient_stand_halving() -> None:
    """In one plane with one scale, P of size 1 beside Q of size 1e-9 would leave nothing of Q."""
    x = matrix(64, 100, 4, dtype=torch.float32)
    x[:, 50:] *= 1e-3
    for size in (1e-9, 1.0, 1e9):
        (decoded,) = steps("powersgd(4) | fp16", [x * size])
        assert error(decoded, x * size) < 3e-3


def test_columns_are_as_large_in_both_factors() -> None:
    x = matrix(30, 40, 30) @ torch.diag(torch.logspace(0, -6, 40, dtype=torch.float64)) * 1e-8
    planes, _ = codec("powersgd(4)").encode_planes(x, Context(GRADIENT))
    p, q = (part.view(-1, 4).abs().amax(0) for part in planes["0.values"].split([120, 160]))
    assert bool(((p / q).log2().abs() <= 2).all())


@pytest.mark.parametrize(
    ("shape", "notation", "size"),
    [
        ((8, 16, 10, 10), "powersgd(4)", 4 * (128 + 100)),  # 8 + 1600, 128 + 100, 1280 + 10
        ((8, 16, 10, 10), "powersgd(4, rows=1)", 4 * (8 + 1600)),
        ((8, 16, 10, 10), "powersgd(4, rows=3)", 4 * (1280 + 10)),
        ((8, 16, 10, 10), "powersgd(4, rows=9)", 12800),
        ((8, 64), "powersgd(8)", 512),
        ((8, 64), "powersgd(7)", 7 * 72),
        ((100,), "powersgd(1)", 100),
        ((), "powersgd(1)", 1),
        ((0, 5), "powersgd(1)", 0),
        ((4, 4, 4), "powersgd(1)", 4 + 16),
    ],
)
def test_sizes(shape: tuple[int, ...], notation: str, size: int) -> None:
    spec = TensorSpec.of(shape, torch.float32)
    bound = codec(notation).bounds(spec)["0.values"]
    assert bound.max_numel == size and codec(notation).out(spec).numel == size
    x = torch.randn(shape)
    if size == x.numel():
        assert codec(notation).out(spec) == spec
        assert torch.equal(codec(notation).decode(codec(notation).encode(x)), x)


def test_a_retry_starts_from_the_same_numbers_and_another_step_does_not() -> None:
    x, chain = matrix(20, 30, 20), codec("powersgd(2)")
    one, retried, other = (chain.encode_planes(x, Context(GRADIENT, step=step))[0]["0.values"] for step in (0, 0, 1))
    assert torch.equal(one, retried) and not torch.equal(one, other)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows_and_is_not_remembered(value: float) -> None:
    x, context = torch.ones(9, 20), Context(GRADIENT)
    x[3, 4] = value
    frame = codec("powersgd(2)").encode(x, context)
    assert not bool(codec("powersgd(2)").decode(frame).isfinite().any()) and not context.state


@pytest.mark.parametrize("arguments", [{"rank": 0}, {"rank": 1.0}, {"rank": True}, {"rows": 0}, {"rows": "1"}])
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(CodecError, match="of 1 or more for powersgd"):
        PowerSGD(**arguments)


def test_notation() -> None:
    assert repr(codec("powersgd")) == "powersgd(4)" and repr(codec("powersgd(2, rows=1)")) == "powersgd(2, rows=1)"
    with pytest.raises(CodecError, match="before codecs that leave a flat vector"):
        PowerSGD().out(TensorSpec(None, torch.float32, max_numel=9))
