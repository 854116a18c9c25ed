"""Frames that are damaged or lie, by the hundred, for every installed codec: refused, or a valid tensor, in little
memory."""

from __future__ import annotations

import base64
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from every_codec import CHAINS, COMBINED, EXAMPLES, ROWS, tensor_of

from spliteasy.codecs import codec
from spliteasy.codecs.damage import mutations
from spliteasy.codecs.guard import expect_valid
from spliteasy.codecs.testing import fitted, fuzz

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))

WORKING = {*CHAINS, *(row.example for row in ROWS if row.kind != "broken")}

TENSORS = [
    tensor_of("half zeros", (2, 3, 8, 8), torch.float32, seed=1),
    tensor_of("few values", (4, 50), torch.bfloat16, seed=2),
    tensor_of("normal", (2, 3, 4, 4), torch.int64, seed=3),
    tensor_of("half zeros", (1, 3, 5, 7), torch.float64, seed=4, layout="channels last"),
]


@pytest.mark.parametrize("notation", EXAMPLES + CHAINS + COMBINED)
def test_damaged_frames_are_refused_or_valid(notation: str) -> None:
    for seed, tensor in enumerate(TENSORS):
        chain = fitted(codec(notation), tensor)
        if chain is not None:
            outcome = fuzz(chain, tensor, 60, seed=100 + seed)
            assert outcome["refused"] > 0
            fuzz(chain, tensor, 25, seed=200 + seed, message="input_gradients")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("notation", EXAMPLES + CHAINS + COMBINED)
def test_damaged_frames_are_refused_or_valid_20000_times(notation: str) -> None:
    for seed, tensor in enumerate(TENSORS):
        chain = fitted(codec(notation), tensor)
        if chain is not None:
            fuzz(chain, tensor, 4000, seed=seed)
            fuzz(chain, tensor, 1000, seed=seed, message="input_gradients")


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_corpus_is_refused_or_valid(path: Path) -> None:
    """Damaged frames that were refused each in another way, or decoded (`make_corpus.py`)."""
    corpus = json.loads(path.read_text())
    if corpus["chain"] not in WORKING:
        pytest.skip(f"{corpus['chain']} is not installed, or needs a library that is not")
    chain = codec(corpus["chain"])
    for number, (_, text) in enumerate(corpus["frames"]):
        expect_valid(partial(chain.decode, base64.b64decode(text)), f"{path.stem} {number}")


def test_mutations_follow_from_their_seed() -> None:
    frame = codec("topk(0.1) | zstd(1)").encode(TENSORS[0])
    first, again, other = (list(mutations(frame, 200, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len({kind for kind, _ in first}) == 10, "every kind of damage occurs"
    assert sum(damaged != frame for _, damaged in first) > 190, "nearly all of them change the frame"
