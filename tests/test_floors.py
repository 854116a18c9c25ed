"""How small a frame could be, and what each kind of floor means."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import Chain, Context, TensorCodec, codec
from spliteasy.codecs.base import PlaneBound, Planes, TensorSpec
from spliteasy.floors import floor, order0_bits
from spliteasy.measuring import measure


class Rounded(TensorCodec):
    """Whole numbers in a byte, and their scale: the least that a quantizer can be."""

    name = "rounded"

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        return {"values": x.float().round().clamp(-128, 127).to(torch.int8), "scale": torch.ones(1)}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        return planes["values"].to(spec.dtype)

    def out(self, spec: TensorSpec) -> TensorSpec:
        return spec.with_dtype(torch.int8)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        return {"values": PlaneBound(torch.int8, spec.max_numel), "scale": PlaneBound(torch.float32, 1)}


def entropy(p: float) -> float:
    """H(p) of a coin, in bits."""
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


@pytest.mark.parametrize("entries,k", [(8, 1), (12, 5), (60, 6)])
def test_positions_cost_the_logarithm_of_the_ways_to_choose_them(entries: int, k: int) -> None:
    x = torch.randn(3, entries)
    found = floor(codec(f"topk({k / entries})"), x)
    assert found is not None and found.kind == "side planes + 32-bit values"
    bits = 3 * (math.log2(math.comb(entries, k)) + 32 * k)
    assert found.nbytes == math.ceil(bits / 8 - 1e-9)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.25])
def test_the_floor_of_large_topk_is_d_times_h(fraction: float) -> None:
    samples, entries = 2, 100_000
    found = floor(codec(f"topk({fraction}) | fp16"), torch.randn(samples, entries))
    k = round(fraction * entries)
    expected = samples * (entries * entropy(fraction) + 16 * k) / 8 + 4  # the fp16 scale is a side plane of 4 bytes
    assert found is not None and found.kind == "side planes + 16-bit values"
    assert expected - 4 <= found.nbytes <= expected + 1  # the binomial is a few bits below d·H
    row = measure(f"topk({fraction}) | fp16", torch.randn(samples, entries), 1)
    assert row.floor_bytes == found.nbytes and row.floor_ratio == found.nbytes / row.frame_bytes <= 1


def test_no_frame_of_independent_data_is_below_the_floor_on_average() -> None:
    """Every set of positions once: the mean size of any code for them is at least the floor of the positions."""
    entries, k = 10, 3
    bits = floor(codec(f"topk({k / entries})"), torch.arange(1.0, entries + 1)[None])
    sets = len(list(itertools.combinations(range(entries), k)))
    assert bits is not None and bits.nbytes == math.ceil((math.log2(sets) + 32 * k) / 8)


def test_bytes_codecs_lower_the_floor_of_the_values() -> None:
    x = torch.randint(-3, 4, (4, 5000)).float()
    plain, coded = (floor(codec(chain), x) for chain in ("topk(0.1) | fp16", "topk(0.1) | fp16 | zstd(1)"))
    assert plain is not None and coded is not None and coded.kind == "side planes + order-0 entropy"
    assert coded.nbytes < plain.nbytes - 4 * 500 * 14 / 8  # two values are left, of 16 bits each


def test_integers_have_the_order_0_entropy_of_their_values_and_their_side_planes() -> None:
    x = torch.tensor([0.0, 0.0, 1.0, -1.0] * 256).view(4, 256)
    found = floor(Chain([Rounded()]), x)
    assert found is not None and found.kind == "order-0 entropy" and found.nbytes == 1024 * 1.5 / 8 + 4


def test_lossless_chains_have_the_order_0_entropy_of_the_tensor() -> None:
    x = torch.randn(3, 1000)
    found = floor(codec("zstd(3)"), x)
    assert found is not None and found.kind == "order-0 entropy"
    assert found.nbytes == math.ceil(order0_bits(x) / 8) < x.numel() * 4
    repeated = torch.arange(256, dtype=torch.uint8).repeat(100)  # neighbours tell all: no bound for zstd
    row = measure("zstd(3)", repeated, 1)
    assert row.floor_ratio is not None and row.floor_ratio > 10


@pytest.mark.parametrize("chain", ["raw", "fp16"])
def test_where_nothing_is_known_there_is_no_floor(chain: str) -> None:
    x = torch.randn(4, 100)
    assert floor(codec(chain), x) is None and floor(codec("zstd(1)"), torch.empty(0)) is None
    row = measure(chain, x, 1)
    assert (row.floor_bytes, row.floor_ratio, row.floor_kind) == (None, None, None)


def test_a_floor_changes_nothing_and_is_the_same_again() -> None:
    x = torch.randn(4, 500)
    before = x.clone()
    assert floor(codec("topk(0.1) | fp16 | zstd(1)"), x) == floor(codec("topk(0.1) | fp16 | zstd(1)"), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 0)])
def test_every_float_has_a_floor_or_none(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for chain in ("topk(0.5)", "topk(0.5) | fp16", "fp16 | zstd(1)", "zstd(1)"):
        found = floor(codec(chain), torch.ones(shape, dtype=dtype))
        assert (found is None) == (0 in shape) and (found is None or found.nbytes >= 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=300), st.sampled_from([torch.uint8, torch.int16, torch.int32]))
def test_order_0_is_shannons_entropy_of_the_counts(numbers: list[int], dtype: torch.dtype) -> None:
    counts = np.unique(numbers, return_counts=True)[1]
    expected = float(-(counts * np.log2(counts / len(numbers))).sum())
    assert order0_bits(torch.tensor(numbers, dtype=dtype)) == pytest.approx(expected, abs=1e-6)


def test_order_0_of_wide_elements_goes_by_byte_position() -> None:
    x = torch.tensor([0x0000, 0x0001, 0x0100, 0x0101], dtype=torch.int32)  # two independent bits in two bytes
    assert order0_bits(x) == pytest.approx(8)
    assert order0_bits(torch.tensor([0x0000, 0x0101] * 2, dtype=torch.int32)) == pytest.approx(8)  # seen as two, too
    assert order0_bits(torch.tensor([0x0000, 0x0101] * 2, dtype=torch.int16)) == pytest.approx(4)
    assert order0_bits(torch.empty(0)) == 0 and order0_bits(torch.ones(9)) == 0


def test_large_tensors_are_counted_in_blocks() -> None:
    x = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).repeat(40)
    assert order0_bits(x) == pytest.approx(16 * x.numel())
