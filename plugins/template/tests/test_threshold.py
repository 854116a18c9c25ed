"""The contract of codecs, and what this codec promises beyond it."""

import pytest
import torch
from spliteasy_threshold import Threshold

from spliteasy.codecs import codec
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError


@pytest.mark.parametrize("chain", ["threshold(0.05)", "threshold(0)", "threshold(1) | fp16 | zstd(1)"])
def test_the_contract(chain: str) -> None:
    check_codec(chain)


def test_what_is_small_becomes_zero_and_the_rest_is_exact() -> None:
    chain = codec(Threshold(0.5))
    decoded = chain.decode(chain.encode(torch.tensor([4.0, -2.0, 1.9, 0.0, -3.0])))
    assert decoded.tolist() == [4.0, -2.0, 0.0, 0.0, -3.0]


def test_fractions_are_checked() -> None:
    for wrong in (-0.1, 1.1, True, "half"):
        with pytest.raises(CodecError, match="from 0 to 1"):
            Threshold(wrong)
