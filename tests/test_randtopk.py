"""Randomized top-k: k entries a sample, drawn with the paper's weights in training, the largest in evaluation."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from spliteasy.codecs import Context, TensorSpec, codec
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError
from spliteasy_plugins.randtopk import RandTopK, _others

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def _values(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers without zeros, so that what was kept can be told."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 1e-9


def _round_trip(x: torch.Tensor, notation: str, **facts: Any) -> torch.Tensor:
    chain = codec(notation)
    return chain.decode(chain.encode(x, Context(**facts)), Context(**facts))


def test_it_keeps_the_contract_with_other_arguments() -> None:
    check_codec("randtopk(0.7, 0.5, reuse=True)")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 100), (3, 7, 9, 11), (2, 20_000)])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0])
def test_each_sample_keeps_k_entries_as_they_are(
    dtype: torch.dtype, shape: tuple[int, ...], fraction: float, alpha: float
) -> None:
    x = _values(*shape).to(dtype)
    x[x == 0] = 1
    decoded = _round_trip(x, f"randtopk({fraction}, {alpha})")
    kept = decoded != 0
    assert (kept.flatten(1).sum(1) == max(1, round(fraction * x[0].numel()))).all()
    assert torch.equal(decoded[kept], x[kept])


def test_it_draws_anew_each_step_and_the_same_in_a_retry() -> None:
    x = _values(3, 500)
    step = _round_trip(x, "randtopk(0.1)", step=1)
    assert torch.equal(step, _round_trip(x, "randtopk(0.1)", step=1))
    for facts in ({"step": 2}, {"step": 1, "seed": 1}, {"step": 1, "tensor": 1}):
        assert not torch.equal(step, _round_trip(x, "randtopk(0.1)", **facts))
    twice = _round_trip(x[:1].expand(3, -1), "randtopk(0.1)")
    assert not torch.equal(twice[0], twice[1]), "samples share their draws"


def test_in_evaluation_and_without_alpha_it_is_topk() -> None:
    x = _values(3, 500)
    plain = _round_trip(x, "topk(0.1)")
    assert torch.equal(_round_trip(x, "randtopk(0.1)", training=False), plain)
    assert torch.equal(_round_trip(x, "randtopk(0.1, 0)"), plain)
    assert not torch.equal(_round_trip(x, "randtopk(0.1)"), plain)


def test_the_receiver_draws_nothing() -> None:
    x = _values(3, 500)
    chain = codec("randtopk(0.1)")
    frame = chain.encode(x, Context(seed=1, step=2))
    assert torch.equal(chain.decode(frame, Context(seed=7)), chain.decode(frame))


def test_with_alpha_1_only_others_are_kept_as_far_as_they_go() -> None:
    x = _values(2, 100)
    assert not ((_round_trip(x, "randtopk(0.2, 1)") != 0) & (_round_trip(x, "topk(0.2)") != 0)).any()
    both = (_round_trip(x, "randtopk(0.7, 1)") != 0) & (_round_trip(x, "topk(0.7)") != 0)
    assert (both.sum(1) == 40).all()


@pytest.mark.parametrize(("k", "others", "alpha"), [(20, 380, 0.1), (50, 30, 0.4), (3, 7, 0.5), (1, 9, 0.2)])
def test_as_many_others_as_weighted_draws_without_replacement_give(k: int, others: int, alpha: float) -> None:
    draws = np.random.default_rng(0)
    counts = np.array([_others(k, others, alpha, draws) for _ in range(6000)])
    weights = torch.cat([torch.full((k,), (1 - alpha) / k), torch.full((others,), alpha / others)])
    chosen = torch.multinomial(weights.expand(6000, -1), k, generator=torch.Generator().manual_seed(0))
    wanted = (chosen >= k).sum(1).double().numpy()
    assert abs(counts.mean() - wanted.mean()) < 5 * math.sqrt((counts.var() + wanted.var()) / 6000)
    assert counts.std() == pytest.approx(wanted.std(), rel=0.06)


def test_all_of_the_others_are_equally_likely() -> None:
    x = torch.cat([torch.full((1500, 5), 9.0), torch.full((1500, 35), 1.0)], dim=1)
    kept = (_round_trip(x, "randtopk(0.125, 0.5)") != 0).double().mean(0)
    for group in (kept[:5], kept[5:]):
        mean = float(group.mean())
        assert (group - mean).abs().max() < 5 * math.sqrt(mean * (1 - mean) / 1500)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sample_with_nan_or_infinity_hides_nothing(value: float) -> None:
    x = _values(2, 100)
    x[0, 50] = value
    for step in range(20):
        decoded = _round_trip(x, "randtopk(0.05, 1)", step=step)
        assert not math.isfinite(decoded[0, 50].item()) and decoded[1].isfinite().all()


def test_its_gradient_stands_where_its_message_stood() -> None:
    chain, facts = codec("randtopk(0.1, reuse=True)"), {"step": 3}
    pair: dict[str, Any] = {}
    sent = chain.decode(chain.encode(_values(4, 300), Context(pair=pair, **facts)))
    planes, notes = chain.encode_planes(_values(4, 300, seed=1), Context("input_gradients", pair=pair, **facts))
    assert planes["0.positions"].numel() == 0
    spec = TensorSpec.of((4, 300), torch.float32)
    back = chain.decode_planes(planes, notes, spec, Context("input_gradients", pair=pair, **facts))
    assert torch.equal(back != 0, sent != 0)


def test_notation() -> None:
    assert repr(RandTopK(0.1)) == "randtopk(0.1, 0.1)"
    assert codec("randtopk(0.1, alpha=0.2, reuse=True)") == codec(RandTopK(0.1, 0.2, reuse=True))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan, "0.1", None, True])
def test_alpha_is_checked(alpha: Any) -> None:
    with pytest.raises(CodecError, match="expected alpha from 0 to 1"):
        RandTopK(0.1, alpha)
    with pytest.raises(CodecError, match="for randtopk"):
        RandTopK(0)
