"""The cosine transform: what smooth maps lose (nothing), the nearest map, and the gradient of what was sent."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn

from spliteasy.codecs import Context, TensorSpec, codec
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError
from spliteasy_plugins.dct import DCT


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("notation", ["dct(1)", "dct(3) | int8", "dct(2) | topk(0.5) | fp16 | zstd(1)"])
def test_it_keeps_the_contract_alone_and_in_chains(notation: str) -> None:
    check_codec(notation)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_the_low_frequencies_are_those_of_scipy(rows: int, columns: int, size: int, seed: int) -> None:
    x = maps(2, 3, rows, columns, seed=seed)
    frequencies = dctn(x.numpy(), axes=(2, 3), norm="ortho")
    frequencies[:, :, size:] = frequencies[:, :, :, size:] = 0
    expected = torch.from_numpy(idctn(frequencies, axes=(2, 3), norm="ortho"))
    chain = codec(f"dct({size})")
    torch.testing.assert_close(chain.decode(chain.encode(x)), expected)
    planes, _ = chain.encode_planes(x)
    assert planes["0.values"].numel() == 6 * min(rows, size) * min(columns, size) or max(rows, columns) <= size


def test_a_smooth_map_comes_back() -> None:
    ramp = torch.cos(math.pi / 16 * (torch.arange(16, dtype=torch.float64) + 0.5))
    x = (1 + ramp[:, None] * ramp).expand(2, 3, 16, 16)
    chain = codec("dct(2)")
    torch.testing.assert_close(chain.decode(chain.encode(x)), x)


def test_the_gradient_is_that_of_what_was_sent() -> None:
    x, gradient = maps(2, 3, 8, 7).requires_grad_(), maps(2, 3, 8, 7, seed=1)
    rows, columns = (torch.from_numpy(dctn(torch.eye(n).double().numpy(), axes=(0,), norm="ortho"))[:3] for n in (8, 7))
    (rows.T @ (rows @ x @ columns.T) @ columns).backward(gradient)
    chain, context = codec("dct(3)"), Context("input_gradients")
    torch.testing.assert_close(chain.decode(chain.encode(gradient, context), context), x.grad)


def test_nothing_is_left_out_of_what_has_no_maps_or_only_small_ones() -> None:
    for shape in ((4, 30), (2, 9, 9), (2, 3, 4, 4), (7,), ()):
        x = maps(*shape, dtype=torch.float32)
        planes, _ = codec("dct(4)").encode_planes(x)
        assert torch.equal(planes["0.values"].view(shape), x)
    assert DCT(4).out(TensorSpec.of((2, 3, 5, 3), torch.float16)).shape == (2, 3, 4, 3)


def test_the_largest_numbers_are_cut_off_and_counted() -> None:
    largest = torch.finfo(torch.float32).max
    context = Context()
    decoded = codec("dct(2)").decode(codec("dct(2)").encode(torch.full((1, 2, 8, 8), largest), context))
    assert bool(decoded.isfinite().all()) and context.counts["saturated"] == 2  # 8 times the largest: one a map


def test_what_is_not_finite_cannot_be_missed() -> None:
    x = maps(1, 1, 8, 8)
    x[0, 0, 3, 3] = math.inf
    assert bool(codec("dct(2)").decode(codec("dct(2)").encode(x)).isnan().all())


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "4"])
def test_what_is_no_number_of_frequencies(size: object) -> None:
    with pytest.raises(CodecError, match="frequencies"):
        DCT(size)  # type: ignore[arg-type]
