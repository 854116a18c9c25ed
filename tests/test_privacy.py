"""What leaves the device, read off the wire: in a double split neither inputs nor labels."""

import itertools

import numpy as np
import pytest
import torch
from harness import DOUBLE, SINGLE, digits_split
from sockets import Proxy

import spliteasy as se
from spliteasy.server.process import LocalServer

CHAINS = ["raw", "fp16", "zstd(1)", "topk(0.5) | fp16 | zstd(1)"]


def _batch(seed: int, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of which no two numbers are equal, and labels in an order that nothing else would have."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((size, 1, 8, 8), generator=generator)
    y = torch.cat([torch.arange(10), torch.randint(10, (size - 10,), generator=generator)])
    return x, y[torch.randperm(size, generator=generator)]


def _patterns(tensor: torch.Tensor) -> dict[str, bytes]:
    """The bytes that a tensor could be recognized by, in any dtype that somebody may have sent it in."""
    array = tensor.numpy()
    kinds = ["<f4", "<f8", "<f2", ">f4"] + (["<i8", "<i4", "u1", "<i2", ">i8"] if array.dtype.kind == "i" else [])
    return {kind: np.ascontiguousarray(array.astype(kind)).tobytes() for kind in kinds}


def _found(needles: dict[str, bytes], *haystacks: bytes | bytearray) -> list[str]:
    return [kind for kind, needle in needles.items() if any(needle in haystack for haystack in haystacks)]


def _everything(x: torch.Tensor, y: torch.Tensor) -> dict[str, bytes]:
    """Patterns of the inputs: all of them, each sample, each row of an image, each pair of neighbours; of the labels:
    all of them, as numbers and as text, and one-hot."""
    patterns = {f"x {kind}": value for kind, value in _patterns(x).items()}
    for number, sample in enumerate(x):
        patterns |= {f"sample {number} {kind}": value for kind, value in _patterns(sample).items()}
        for row in range(8):
            patterns |= {f"row {number}.{row} {kind}": value for kind, value in _patterns(sample[0, row]).items()}
            patterns[f"pair {number}.{row}"] = _patterns(sample[0, row, :2])["<f4"]
    patterns |= {f"y {kind}": value for kind, value in _patterns(y).items()}
    patterns |= {f"one-hot {kind}": value for kind, value in _patterns(torch.nn.functional.one_hot(y, 10)).items()}
    numbers = [str(int(label)) for label in y]
    return patterns | {f"text {mark!r}": mark.join(numbers).encode() for mark in (",", ", ", " ", "")}


def test_the_search_finds_what_is_there() -> None:
    """Otherwise the tests below would prove nothing."""
    x, y = _batch(0)
    patterns = _everything(x, y)
    sent = b"head" + x.numpy().tobytes() + b"\0" + y.numpy().tobytes() + str(y.tolist()).encode()
    found = _found(patterns, sent)
    assert {"x <f4", "sample 3 <f4", "row 5.7 <f4", "pair 2.2", "y <i8", "text ', '"} <= set(found)
    assert not _found(patterns, b"\0" * 10_000)


@pytest.mark.parametrize("chain", CHAINS)
def test_in_a_double_split_neither_inputs_nor_labels_leave_the_device(server: LocalServer, chain: str) -> None:
    seen = [_batch(seed) for seed in range(4)]
    with (
        Proxy(server.url) as proxy,
        se.Trainer(digits_split(), server=proxy.url, codecs=chain, clip_norm=1.0) as trainer,
    ):
        for x, y in seen[:3]:
            trainer.step(x, y)
        trainer.evaluate(seen[2:])
        trainer.state_dict()
    assert len(proxy.up) > 50_000
    for x, y in seen:
        assert _found(_everything(x, y), proxy.up, proxy.down) == []


def test_in_a_single_split_labels_travel_and_inputs_do_not(server: LocalServer) -> None:
    with Proxy(server.url) as proxy, se.Trainer(digits_split(SINGLE), server=proxy.url) as trainer:
        x, y = _batch(0)
        trainer.step(x, y)
    found = _found(_everything(x, y), proxy.up, proxy.down)
    assert found == ["y <i8"] and _found({"y": _patterns(y)["<i8"]}, proxy.up) == ["y"]


def test_the_server_learns_no_weights_but_those_of_its_segment(server: LocalServer) -> None:
    with Proxy(server.url) as proxy:
        split = digits_split(DOUBLE)
        own = {name for name, _ in split.b.named_parameters()} if split.b is not None else set()
        before = {name: tensor.detach().clone() for name, tensor in split.model.named_parameters()}
        with se.Trainer(split, server=proxy.url) as trainer:
            trainer.step(*_batch(0))
    after = dict(split.model.named_parameters())
    for name, tensor in itertools.chain(before.items(), after.items()):
        if tensor.unique().numel() > 1:  # not the ones and zeros that a batch norm starts with
            sent = tensor.detach().numpy().tobytes() in proxy.up + proxy.down
            assert sent == (name in own), name
