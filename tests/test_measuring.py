"""What ``measure`` says about a chain."""

import math

import pytest
import torch

from spliteasy.codecs import codec
from spliteasy.errors import CodecError, NonFiniteError
from spliteasy.measuring import measure


def test_a_lossless_chain_loses_nothing() -> None:
    x = torch.randn(4, 8, 16, 16)
    row = measure("zstd(1)", x, repeats=1)
    assert (row.relative_l2, row.cosine, row.max_error) == (0.0, 1.0, 0.0)
    assert row.chain == "zstd(1)" and row.shape == (4, 8, 16, 16) and row.raw_bytes == 4 * x.numel()
    assert row.frame_bytes == len(codec("zstd(1)").encode(x)) and row.ratio == row.raw_bytes / row.frame_bytes
    assert row.encode_mb_per_s > 0 and row.decode_mb_per_s > 0


def test_errors_are_those_of_the_decoded_tensor() -> None:
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0, 12.0]])
    row = measure(codec("topk(0.2)"), x, repeats=1)
    assert row.relative_l2 == pytest.approx(5 / 13) and row.max_error == 4.0
    assert row.cosine == pytest.approx(12 / 13)
    huge = measure("fp16", torch.tensor([3e38, 1e38, -2.5e37]))
    assert 0 < huge.relative_l2 < 1e-3 and huge.cosine == pytest.approx(1)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4),
        torch.empty(0, 2),
        torch.tensor(2.0),
        torch.arange(5),
        torch.tensor([True, False]),
        torch.ones(3).to(torch.complex64),
    ],
    ids=str,
)
def test_every_kind_of_tensor_can_be_measured(tensor: torch.Tensor) -> None:
    row = measure("topk(0.9) | fp16 | zstd(1)", tensor, repeats=1)
    assert (row.relative_l2, row.cosine, row.max_error) == (0.0, 1.0, 0.0) and math.isfinite(row.ratio)


def test_a_row_for_tables_text_and_notebooks() -> None:
    row = measure("fp16 | zstd(1)", torch.randn(2, 3, 4, 5), repeats=1)
    assert row.to_dict()["chain"] == "fp16 | zstd(1)" and list(row.to_dict())[:3] == ["chain", "shape", "raw_bytes"]
    assert "2·3·4·5" in str(row) and "480" in str(row)
    html = row._repr_html_()
    assert html.startswith("<table") and "fp16 | zstd(1)" in html and html.count("<th>") == html.count("<td>") == 10


def test_what_cannot_be_measured() -> None:
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        measure("fp16", torch.tensor([1.0, math.nan]))
    with pytest.raises(CodecError, match="at least 1 repeat"):
        measure("fp16", torch.ones(2), repeats=0)
    with pytest.raises(CodecError, match="expected a tensor"):
        measure("fp16", [1.0])  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="no codec 'nosuch'"):
        measure("nosuch", torch.ones(2))
