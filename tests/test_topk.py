"""Top-k: exactly k in each sample, ties to the lowest index, positions that cannot lie."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from harness import batches, digits_split
from hypothesis import given, settings
from hypothesis import strategies as st

import spliteasy as se
from spliteasy.codecs import Context, PlaneBound, TensorSpec, codec
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
    [((4, 100), 0.1, 27), ((4, 100), 0.5, 51), ((3, 10), 1.0, 0), ((30,), 0.1, 0), ((0, 9), 0.5, 0), ((), 0.1, 0)],
)
def test_bounds_name_what_is_written(shape: tuple[int, ...], fraction: float, positions: int) -> None:
    topk = TopK(fraction)
    spec = TensorSpec.of(shape, torch.float32)
    samples, k = topk.out(spec).shape or (0, 0)
    bounds = topk.bounds(spec)
    assert bounds["values"] == PlaneBound(torch.float32, samples * k)
    assert bounds["positions"].dtype is torch.uint8 and bounds["positions"].max_numel == positions
    planes, _ = codec(topk).encode_planes(torch.randn(shape))
    assert planes["0.positions"].dtype is torch.uint8 and planes["0.positions"].numel() <= positions


def test_values_stand_in_the_order_of_their_positions() -> None:
    x = torch.tensor([[0.0, 5, 0, -7, 0, 0, 6, 0], [9.0, 0, 0, 0, 0, 8, 7, 0]])
    planes, _ = codec("topk(0.375)").encode_planes(x)
    assert planes["0.values"].tolist() == [5, -7, 6, 9, 8, 7]
    assert planes["0.positions"].tolist() == [0, 0b01001010, 0b01100001]


@pytest.mark.parametrize("fraction", [0.01, 0.03, 0.1, 0.25])
def test_independent_numbers_cost_what_entropy_and_fp16_say(fraction: float) -> None:
    """The whole frame, header and all, within two percent of d·H(k/d) + 16 k bits a sample."""
    x = torch.randn(6, 64, 56, 56, generator=torch.Generator().manual_seed(0))
    entries = x[0].numel()
    share = round(fraction * entries) / entries
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    floor = len(x) * entries * (entropy + 16 * share) / 8
    assert floor / len(codec(f"topk({fraction}) | fp16").encode(x)) > 0.98


def test_clustered_numbers_cost_less() -> None:
    x = torch.randn(4, 8, 56, 56, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(x, 15, 1, 7)
    sizes = [codec("topk(0.1)").encode_planes(each)[0]["0.positions"].numel() for each in (smooth, x)]
    assert sizes[0] < 0.75 * sizes[1]


@pytest.mark.parametrize(
    ("shape", "fraction"), [((2, 100), 0.1), ((2, 70_000), 1e-5), ((3, 500), 0.5), ((2, 90), 0.97)]
)
def test_planes_of_the_wrong_length(shape: tuple[int, ...], fraction: float) -> None:
    spec, chain = TensorSpec.of(shape, torch.float32), codec(f"topk({fraction})")
    planes, notes = chain.encode_planes(torch.randn(shape))
    for name, plane in planes.items():
        for wrong in (plane[:-1], plane[:0], torch.cat([plane, plane[:1]])):
            with pytest.raises(FrameError):
                chain.decode_planes({**planes, name: wrong}, notes, spec)


def test_no_positions_where_all_are_kept() -> None:
    spec, chain = TensorSpec.of((2, 9), torch.float32), codec("topk(1.0)")
    planes, notes = chain.encode_planes(torch.randn(2, 9))
    with pytest.raises(FrameError):
        chain.decode_planes({**planes, "0.positions": torch.zeros(1, dtype=torch.uint8)}, notes, spec)


@pytest.mark.parametrize(("fraction", "digest"), [(0.01, "80e004aacfd6"), (0.1, "f65d51cdcbcd"), (0.9, "21478393756a")])
def test_frames_stay_readable_from_version_to_version(fraction: float, digest: str) -> None:
    """Golden bytes, of positions that zstd does not pack: what it writes differs from version to version."""
    index = torch.arange(6000)
    x = ((31 * index * index + 17 * index) % 6007 - 3003.0).view(2, 3, 20, 50)
    frame = codec(f"topk({fraction})").encode(x)
    assert hashlib.sha256(frame).hexdigest()[:12] == digest
    assert torch.equal(codec(f"topk({fraction})").decode(frame), _expected(x, fraction))


# A gradient at the positions of its message


REUSE = "topk(0.1, reuse=True)"


class Sides:
    """Sender and receiver of one step's messages, each with a store for pairs."""

    def __init__(self, **facts: Any) -> None:
        self.sender: dict[str, Any] = {}
        self.receiver: dict[str, Any] = {}
        self.facts = facts

    def send(self, chain: str, x: torch.Tensor, message: str = "activations") -> tuple[torch.Tensor, int]:
        """What arrives, and how many bytes its positions took."""
        one, other = self.sender, self.receiver
        if message.endswith("gradients"):
            one, other = other, one
        planes, notes = codec(chain).encode_planes(x, Context(message, pair=one, **self.facts))
        spec = TensorSpec.of(tuple(x.shape), x.dtype)
        decoded = codec(chain).decode_planes(planes, notes, spec, Context(message, pair=other, **self.facts))
        return decoded, sum(plane.numel() for name, plane in planes.items() if name.endswith("positions"))


@pytest.mark.parametrize("chain", [REUSE, f"{REUSE} | fp16 | zstd(1)", "topk(0.5, reuse=True) | topk(0.3, reuse=True)"])
@pytest.mark.parametrize("names", [("activations", "input_gradients"), ("outputs", "output_gradients")])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_gradient_keeps_the_positions_of_its_message(
    chain: str, names: tuple[str, str], layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(2)
    x, gradient = (torch.randn(4, 6, 10, 10, generator=generator) + 3 for _ in range(2))
    sides = Sides()
    sent, positions = sides.send(chain, x.to(memory_format=layout), names[0])
    back, again = sides.send(chain, gradient, names[1])
    assert positions > 0 and again == 0
    assert torch.allclose(back, torch.where(sent != 0, gradient, 0), rtol=1e-3)


def test_it_is_the_gradient_of_what_was_sent() -> None:
    """By automatic differentiation through the mask."""
    x = torch.randn(3, 200, generator=torch.Generator().manual_seed(0)).requires_grad_()
    sides = Sides()
    sent, _ = sides.send(REUSE, x.detach())
    masked = x * (sent != 0)
    received = masked.detach().requires_grad_()
    (received.sin() ** 2 + received * received.roll(1)).sum().backward()
    assert received.grad is not None
    masked.backward(received.grad)
    assert torch.equal(sides.send(REUSE, received.grad, "input_gradients")[0], x.grad)


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        ("topk(0.1)", REUSE),
        (REUSE, "topk(0.1)"),
        (REUSE, "topk(0.2, reuse=True)"),
        (REUSE, "topk(0.5, reuse=True) | topk(0.2, reuse=True)"),
        ("topk(1.0, reuse=True)", REUSE),
        ("raw", REUSE),
    ],
)
def test_without_positions_to_reuse_a_gradient_has_its_own(forward: str, backward: str) -> None:
    x, gradient = torch.randn(2, 3, 200, generator=torch.Generator().manual_seed(0))
    sides = Sides()
    sides.send(forward, x)
    back, positions = sides.send(backward, gradient, "input_gradients")
    plain = backward.replace(", reuse=True", "")
    assert positions > 0 and torch.equal(back, codec(plain).decode(codec(plain).encode(gradient)))


def test_positions_that_should_not_be_there_and_the_reverse_are_refused() -> None:
    x, gradient = torch.randn(2, 3, 200, generator=torch.Generator().manual_seed(0))
    spec, chain = TensorSpec.of((3, 200), torch.float32), codec(REUSE)
    pair: dict[str, Any] = {}
    chain.encode(x, Context(pair=pair))
    with_positions, notes = chain.encode_planes(gradient, Context("input_gradients"))
    without, _ = chain.encode_planes(gradient, Context("input_gradients", pair=pair))
    with pytest.raises(FrameError, match="expected no positions but those of the message"):
        chain.decode_planes(with_positions, notes, spec, Context("input_gradients", pair=pair))
    with pytest.raises(FrameError, match="bytes of positions, found 0"):
        chain.decode_planes(without, notes, spec, Context("input_gradients"))


def test_a_session_over_http_reuses_positions_as_one_in_process_does(server: se.LocalServer) -> None:
    runs = []
    for url in (None, server.url):
        codecs = se.Codecs(activations=REUSE, outputs=REUSE, output_gradients=REUSE, input_gradients=REUSE)
        with se.Trainer(digits_split(), server=url, codecs=codecs) as trainer:
            runs.append([trainer.step(x, y) for x, y in batches(2)])
    assert [record.loss for record in runs[0]] == [record.loss for record in runs[1]]
    for record in (*runs[0], *runs[1]):
        sizes = {name: size.frame for name, size in record.bytes.items()}
        assert sizes["input_gradients"] < sizes["activations"] and sizes["output_gradients"] < sizes["outputs"]


def test_reuse_is_checked_and_written_where_it_is_not_the_default() -> None:
    assert repr(TopK(0.1)) == "topk(0.1)" and repr(TopK(0.1, reuse=True)) == REUSE
    with pytest.raises(CodecError, match="reuse=True or False"):
        TopK(0.1, reuse=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, math.nan, math.inf, "0.1", None, True, [0.1]])
def test_fractions_are_checked(fraction: Any) -> None:
    with pytest.raises(CodecError, match="expected a fraction"):
        TopK(fraction)
