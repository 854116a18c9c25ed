"""Every installed codec by its example, chains of them, and tensors of every kind: what tests of all codecs go over."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from spliteasy.codecs import describe_codecs
from spliteasy.codecs.registry import CodecRow

ROWS = describe_codecs()

CHAINS = [
    "fp16 | zstd(3)",
    "topk(0.1) | fp16 | zstd(1)",
    "topk(0.5) | topk(0.5)",
    "topk(1.0)",
    "zstd(-3) | zstd(1)",
]
"""Chains that are checked as every codec alone is."""


def _chain(row: CodecRow) -> str:
    return f"{row.example} | zstd(1)" if row.kind == "tensor" else f"fp16 | {row.example}"


def _parameter(row: CodecRow, notation: str) -> Any:
    """A codec that does not load here (a library is missing) is skipped, and says why."""
    marks = pytest.mark.skip(reason=row.summary) if row.kind == "broken" else ()
    return pytest.param(notation, id=notation if row.kind != "broken" else row.name, marks=marks)


EXAMPLES = [_parameter(row, row.example) for row in ROWS]
"""The example of every installed codec, those that are merged or installed later included."""

COMBINED = [_parameter(row, _chain(row)) for row in ROWS if _chain(row) not in CHAINS]
"""Every installed codec with another one."""

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]

KINDS = ["normal", "half zeros", "zeros", "minus zeros", "subnormal", "largest", "extremes", "constant channels",
         "all magnitudes", "one spike", "few values"]  # fmt: skip


def tensor_of(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int, layout: str = "default"
) -> torch.Tensor:
    """A finite tensor; the special values are those of the dtype, for integers ordinary numbers."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if not dtype.is_floating_point:
        return _laid(normal.mul(5).abs().to(dtype), layout)
    limits = torch.finfo(dtype)
    made: torch.Tensor
    match kind:
        case "half zeros":
            made = normal.relu()
        case "zeros":
            made = torch.zeros(shape, dtype=torch.float64)
        case "minus zeros":
            made = torch.where(normal > 0, -0.0, 0.0).double()
        case "subnormal":
            made = normal * limits.smallest_normal * 0.1
        case "largest":
            made = normal.sign() * limits.max
        case "extremes":
            ends = torch.tensor([limits.max, limits.min, limits.tiny, -limits.tiny, 0.0, 1.0], dtype=torch.float64)
            made = ends[torch.randint(len(ends), shape, generator=generator)]
        case "constant channels":
            made = normal[:, :1].expand(shape) if len(shape) > 1 and shape[1] else torch.ones(shape).double()
        case "all magnitudes":
            low, high = math.log2(limits.tiny), math.log2(limits.max)
            exponent = torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low
            made = normal.sign() * torch.exp2(exponent - 1)
        case "one spike":
            made = normal * 1e-3
            made.view(-1)[:1] = limits.max / 2
        case "few values":
            made = normal.round()
        case _:
            made = normal
    return _laid(made.clamp(limits.min, limits.max).to(dtype), layout)


def _laid(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "channels last" and tensor.ndim == 4:
        return tensor.to(memory_format=torch.channels_last)
    if layout == "transposed" and tensor.ndim > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    return tensor.contiguous()


@functools.cache
def tensors(largest: int = 6) -> st.SearchStrategy[torch.Tensor]:
    """Finite tensors of up to five dimensions of up to ``largest``, in any layout."""
    shapes = st.one_of(
        st.lists(st.integers(0, largest), max_size=5),
        st.sampled_from([(1,), (3, 17), (2, 5, 4, 4), (4, 3, 7), (2, 300), (1, 1, 1, 1)]),
    )
    return st.builds(tensor_of, st.sampled_from(KINDS), shapes.map(tuple), st.sampled_from(DTYPES),
                     st.integers(0, 999), st.sampled_from(["default", "channels last", "transposed"]))  # fmt: skip
