"""Top-k: exactly k in each sample, ties to the lowest index, positions that cannot lie."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import PlaneBound, TensorSpec, codec
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins.topk import TopK

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def _expected(x: torch.Tensor, fraction: float) -> torch.Tensor:
    """By sorting: largest magnitude first, then lowest index."""
    samples = x.shape[0] if x.ndim else 1
    rows = x.reshape(samples, math.prod(x.shape[1:]))
    k = min(rows.shape[1], max(1, round(fraction * rows.shape[1])))
    kept = torch.zeros_like(rows)
    for row, target in zip(rows, kept, strict=True):
        order = np.lexsort((np.arange(len(row)), -row.abs().double().numpy()))[:k].copy()
        target[order] = row[order]
    return kept.view(x.shape)


def _round_trip(x: torch.Tensor, fraction: float) -> torch.Tensor:
    chain = codec(f"topk({fraction})")
    return chain.decode(chain.encode(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(), (5,), (3, 7), (4, 3, 5, 5), (2, 16_383), (2, 16_384), (2, 70_000), (0, 4), (3, 0)]
)
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.9, 1.0])
def test_the_largest_of_each_sample(dtype: torch.dtype, shape: tuple[int, ...], fraction: float) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for kind in (x, x.relu(), (2 * x).round(), x * 0, -x.abs(), x * 1e-6, torch.sort(x)[0] if x.ndim else x):
        assert torch.equal(_round_trip(kind.to(dtype), fraction), _expected(kind.to(dtype), fraction))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=12, max_size=12), max_size=5), st.floats(0.01, 1.0))
def test_ties_go_to_the_lowest_index(rows: list[list[int]], fraction: float) -> None:
    x = torch.tensor(rows, dtype=torch.float32).view(len(rows), 12)
    assert torch.equal(_round_trip(x, fraction), _expected(x, fraction))


@pytest.mark.parametrize("fraction", [0.0001, 0.02, 0.3, 0.7])
def test_large_samples_with_many_ties_or_hidden_structure(fraction: float) -> None:
    generator = torch.Generator().manual_seed(1)
    index = torch.arange(50_000)
    for x in (
        torch.randint(0, 4, (50_000,), generator=generator).float(),
        (index % 61 == 0).float() * index,
        torch.where(index < 49_000, torch.zeros(()), index.float()),
        torch.where(index == 777, 1.0, 0.0),
        torch.ones(50_000),
        torch.rand(50_000, generator=generator) + (index == 3) * 1e30,
    ):
        rows = torch.stack([x, x.flip(0)])
        assert torch.equal(_round_trip(rows, fraction), _expected(rows, fraction))


def test_nothing_bad_is_hidden_and_the_sign_of_zero_is_kept() -> None:
    x = torch.tensor([[1.0, math.nan, 2.0, math.inf, -math.inf, 5.0, -0.0, 0.0, 0.0, 0.0]])
    assert _round_trip(x, 0.1).isnan().sum() == 1
    assert _round_trip(x, 0.3)[0, [1, 3, 4]].isfinite().sum() == 0
    assert math.copysign(1, _round_trip(torch.tensor([[-0.0, 0.0, 0.0, 0.0]]), 0.25)[0, 0].item()) == -1


@pytest.mark.parametrize(
    ("shape", "fraction", "positions"),
    [
        ((4, 100), 0.1, PlaneBound(torch.uint8, 50)),
        ((4, 1000), 0.01, PlaneBound(torch.uint16, 40)),
        ((1, 65_536), 0.0001, PlaneBound(torch.uint16, 7)),
        ((2, 65_537), 0.0001, PlaneBound(torch.int32, 14)),
        ((3, 10), 0.01, PlaneBound(torch.uint8, 4)),
        ((3, 10), 1.0, PlaneBound(torch.uint8, 0)),
        ((30,), 0.1, PlaneBound(torch.uint8, 0)),
    ],
)
def test_positions_are_written_the_shorter_way(shape: tuple[int, ...], fraction: float, positions: PlaneBound) -> None:
    topk = TopK(fraction)
    spec = TensorSpec.of(shape, torch.float32)
    samples, k = topk.out(spec).shape or (0, 0)
    assert topk.bounds(spec) == {"values": PlaneBound(torch.float32, samples * k), "positions": positions}
    planes, _ = codec(topk).encode_planes(torch.randn(shape))
    assert planes["0.positions"].numel() == positions.max_numel and planes["0.positions"].dtype is positions.dtype


def test_values_stand_in_the_order_of_their_positions() -> None:
    x = torch.tensor([[0.0, 5, 0, -7, 0, 0, 6, 0], [9.0, 0, 0, 0, 0, 8, 7, 0]])
    planes, _ = codec("topk(0.375)").encode_planes(x)
    assert planes["0.values"].tolist() == [5, -7, 6, 9, 8, 7]
    assert planes["0.positions"].tolist() == [0b01001010, 0b01100001]


def test_a_tenth_with_a_bitmap_costs_what_it_should() -> None:
    x = torch.randn(8, 64, 56, 56, generator=torch.Generator().manual_seed(0))
    frame = codec("topk(0.1) | fp16").encode(x)
    assert 12.2 < x.numel() * 4 / len(frame) < 12.4


SMALL = TensorSpec.of((2, 100), torch.float32)
WIDE = TensorSpec.of((2, 70_000), torch.float32)


def _bitmap(*rows: list[int]) -> torch.Tensor:
    bits = np.zeros((len(rows), 100), np.uint8)
    for row, columns in zip(bits, rows, strict=True):
        row[columns] = 1
    return torch.from_numpy(np.packbits(bits, bitorder="little"))


@pytest.mark.parametrize(
    ("fraction", "spec", "positions"),
    [
        (0.1, SMALL, _bitmap(list(range(9)), list(range(11)))),
        (0.1, SMALL, _bitmap(list(range(10)), list(range(9)))),
        (0.1, SMALL, _bitmap(list(range(10)), list(range(10)))[:-1]),
        (0.1, SMALL, torch.zeros(25, dtype=torch.uint8)),
        (0.1, SMALL, torch.full((25,), 255, dtype=torch.uint8)),
        (0.1, SMALL, torch.zeros(20, dtype=torch.uint16)),
        (0.02, SMALL, torch.tensor([3, 3, 5, 7], dtype=torch.uint16)),
        (0.02, SMALL, torch.tensor([5, 3, 5, 7], dtype=torch.uint16)),
        (0.02, SMALL, torch.tensor([3, 100, 5, 7], dtype=torch.uint16)),
        (0.02, SMALL, torch.tensor([3, 4, 5], dtype=torch.uint16)),
        (1e-5, WIDE, torch.tensor([-1, 3], dtype=torch.int32)),
        (1e-5, WIDE, torch.tensor([3, 70_000], dtype=torch.int32)),
        (1.0, SMALL, torch.zeros(1, dtype=torch.uint8)),
    ],
)
def test_positions_that_lie(fraction: float, spec: TensorSpec, positions: torch.Tensor) -> None:
    chain = codec(f"topk({fraction})")
    planes, notes = chain.encode_planes(torch.randn(spec.shape or ()))
    with pytest.raises(FrameError):
        chain.decode_planes({**planes, "0.positions": positions}, notes, spec)


def test_padding_bits_must_be_zero() -> None:
    spec = TensorSpec.of((1, 9), torch.float32)
    chain = codec("topk(0.5)")
    planes, notes = chain.encode_planes(torch.arange(9.0)[None])
    with pytest.raises(FrameError, match="bitmap"):
        chain.decode_planes(
            {**planes, "0.positions": planes["0.positions"] | torch.tensor([0, 128]).byte()}, notes, spec
        )


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, math.nan, math.inf, "0.1", None, True, [0.1]])
def test_fractions_are_checked(fraction: Any) -> None:
    with pytest.raises(CodecError, match="expected a fraction"):
        TopK(fraction)
