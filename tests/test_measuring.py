"""What ``measure`` says about a chain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from harness import DOUBLE, SINGLE, batch, digits_split, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from sockets import Proxy

import spliteasy as se
from spliteasy.calls import call_bytes, call_frame
from spliteasy.codecs import Context, TensorCodec, codec
from spliteasy.codecs.base import PlaneBound, Planes, TensorSpec
from spliteasy.crossing import crossing_tensors
from spliteasy.errors import CodecError, FrameError, NonFiniteError, TrainingError
from spliteasy.gradients import gradient_cosine
from spliteasy.measuring import measure
from spliteasy.wire import MESSAGES, Codecs, Frame, Message, Streams


class Clipped(TensorCodec):
    """Halves what is above 1 in magnitude down to 1, and says how often: a codec that saturates."""

    name = "clipped"
    elementwise = True

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        context.count("saturated", int((x.abs() > 1).sum()))
        return {"values": x.clamp(-1, 1)}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        return planes["values"]

    def out(self, spec: TensorSpec) -> TensorSpec:
        return spec

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        return {"values": PlaneBound(spec.dtype, spec.max_numel)}


def test_a_lossless_chain_loses_nothing() -> None:
    x = torch.randn(4, 8, 16, 16)
    row = measure("zstd(1)", x, repeats=1)
    assert (row.relative_l2, row.cosine, row.max_error, row.bias, row.saturated) == (0.0, 1.0, 0.0, 0.0, 0)
    assert row.chain == "zstd(1)" and row.shape == (4, 8, 16, 16) and row.raw_bytes == 4 * x.numel()
    assert row.frame_bytes == len(codec("zstd(1)").encode(x)) and row.ratio == row.raw_bytes / row.frame_bytes
    assert row.encode_mb_per_s > 0 and row.decode_mb_per_s > 0 and row.threads == torch.get_num_threads()


def test_ratios_to_the_native_dtype_and_to_fp32() -> None:
    row = measure("raw", torch.randn(64, 64).half(), repeats=1)
    assert row.ratio == 2 * 4096 / row.frame_bytes and row.ratio_fp32 == 2 * row.ratio
    assert row.http_bytes > row.frame_bytes and row.http_ratio == row.raw_bytes / row.http_bytes


def test_errors_are_those_of_the_decoded_tensor() -> None:
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0, 12.0]])
    row = measure(codec("topk(0.2)"), x, repeats=1)
    assert row.relative_l2 == pytest.approx(5 / 13) and row.max_error == 4.0
    assert row.cosine == pytest.approx(12 / 13) and row.bias == pytest.approx(-7 / 19)
    huge = measure("fp16", torch.tensor([3e38, 1e38, -2.5e37]))
    assert 0 < huge.relative_l2 < 1e-3 and huge.cosine == pytest.approx(1) and abs(huge.bias) < 1e-3


def test_errors_on_both_sides_have_no_bias() -> None:
    assert measure("topk(0.5)", torch.tensor([[1.0, -1.0, 3.0, -3.0]]), repeats=1).bias == 0


def test_what_was_cut_off_is_counted() -> None:
    x = torch.tensor([0.5, -2.0, 3.0, 1.0])
    row = measure(Clipped(), x, repeats=3)
    assert row.saturated == 2 and row.max_error == 2.0


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
@pytest.mark.parametrize("message", MESSAGES)
def test_every_kind_of_tensor_can_be_measured(tensor: torch.Tensor, message: str) -> None:
    row = measure("topk(0.9) | fp16 | zstd(1)", tensor, repeats=1, message=message)
    assert (row.relative_l2, row.cosine, row.max_error, row.bias) == (0.0, 1.0, 0.0, 0.0) and math.isfinite(row.ratio)
    assert row.message == message and row.http_bytes > 0


def test_a_row_for_tables_text_and_notebooks() -> None:
    x = torch.randn(2, 3, 4, 5)
    row = measure("fp16 | zstd(1)", x, repeats=1)
    assert row.to_dict()["chain"] == "fp16 | zstd(1)" and list(row.to_dict())[:3] == ["chain", "shape", "raw_bytes"]
    assert "2·3·4·5" in str(row) and "480" in str(row) and "thread" in str(row)
    html = row._repr_html_()
    assert html.startswith("<table") and "fp16 | zstd(1)" in html and html.count("<th>") == html.count("<td>") == 18


def test_what_cannot_be_measured() -> None:
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        measure("fp16", torch.tensor([1.0, math.nan]))
    with pytest.raises(CodecError, match="at least 1 repeat"):
        measure("fp16", torch.ones(2), repeats=0)
    with pytest.raises(CodecError, match="expected a tensor"):
        measure("fp16", [1.0])  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="no codec 'nosuch'"):
        measure("nosuch", torch.ones(2))
    with pytest.raises(CodecError, match="expected a message, one of activations"):
        measure("fp16", torch.ones(2), message="gradients")
    with pytest.raises(CodecError, match=r"batch=\(x, y\) is missing"):
        measure("fp16", torch.ones(2), split=digits_split())
    with pytest.raises(CodecError, match="a single split has no outputs"):
        measure("fp16", torch.ones(2), message="outputs", split=digits_split(SINGLE), batch=batch())


# HTTP bytes


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with se.LocalServer() as server, Proxy(server.url) as between:
        yield between


@pytest.mark.parametrize("chain", ["raw", "zstd(1)"])
@pytest.mark.parametrize("size", [1, 8, 300])
def test_http_bytes_are_those_on_the_socket_of_a_session(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, chain: str, size: int
) -> None:
    """All four messages of step 0, each tensor as it was sent or received, up and down added up on the proxy."""
    seen: dict[str, torch.Tensor] = {}
    encode, decode = Streams.encode, Streams.decode

    def encoding(self: Streams, message: Message, *arguments: Any) -> Frame:
        seen[message.name] = message.tensors[0]  # type: ignore[assignment]
        return encode(self, message, *arguments)

    def decoding(self: Streams, *arguments: Any) -> Message:
        message = decode(self, *arguments)
        seen[message.name] = message.tensors[0]  # type: ignore[assignment]
        if message.name == "input_gradients":
            assert message.meta["gradient_error"] == 0
        return message

    with se.Trainer(digits_split(DOUBLE), server=proxy.url, codecs=chain) as trainer:
        monkeypatch.setattr(Streams, "encode", encoding)
        monkeypatch.setattr(Streams, "decode", decoding)
        up, down = len(proxy.up), len(proxy.down)
        record = trainer.step(*batch(0, size))
        up, down = len(proxy.up) - up, len(proxy.down) - down
        monkeypatch.undo()
    predicted = {}
    for message, tensor in seen.items():
        frame = call_frame(codec(chain), tensor, message)
        predicted[message] = call_bytes(frame, message, proxy.url.removeprefix("http://"))
        assert measure(chain, tensor, 1, message=message).http_bytes == call_bytes(frame, message)
    assert predicted == {name: record.bytes[name].http for name in predicted}
    assert predicted["activations"] + predicted["output_gradients"] == up
    assert predicted["outputs"] + predicted["input_gradients"] == down


# A's gradients


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
def test_the_cosine_of_gradients_is_one_for_lossless_chains(at: tuple[str, ...]) -> None:
    assert gradient_cosine(digits_split(at), "zstd(1)", *batch()) == 1.0


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
def test_the_cosine_of_gradients_is_that_of_autograd_through_the_codec(at: tuple[str, ...]) -> None:
    """Activations are replaced by decoded ones, and gradients go straight through: that is what split training does."""
    split, (x, y) = digits_split(at), batch()
    chain = codec("topk(0.05)")
    own = list(split.a.parameters())
    found = []
    for lossy in (False, True):
        torch.manual_seed(se.step_seed(0, 0))
        value = split.a(x)
        sent = chain.decode(chain.encode(value)) if lossy else value
        value = value + (sent - value).detach()
        for segment in split.segments[1:]:
            value = segment(value)
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(value, y), own)
        found.append(torch.cat([gradient.double().flatten() for gradient in gradients]))
    expected = float(torch.nn.functional.cosine_similarity(*found, dim=0))
    cosine = gradient_cosine(split, Codecs(activations=chain), x, y)
    assert cosine == pytest.approx(expected, abs=1e-6) and cosine < 0.99
    row = measure(chain, split.a(x), 1, split=split, batch=(x, y))
    assert row.gradient_cosine == cosine and f"{cosine:.4f}" in str(row)


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("training", [True, False])
def test_comparing_gradients_changes_nothing(at: tuple[str, ...], training: bool) -> None:
    split, (x, y) = digits_split(at), batch()
    split.train(training)
    frozen = next(module for module in split.model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    frozen.eval()
    for parameter in split.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before, random = snapshot(split.model), torch.get_rng_state()
    grads = {name: p.grad for name, p in split.model.named_parameters()}
    values = {name: p.grad.clone() for name, p in split.model.named_parameters() if p.grad is not None}
    modes = [module.training for module in split.model.modules()]
    gradient_cosine(split, "topk(0.1)", x, y)
    crossing_tensors(split, x, y)
    with pytest.raises(se.errors.DataError):
        gradient_cosine(split, "topk(0.1)", x, y + 100)
    assert all(torch.equal(before[name], now) for name, now in split.model.state_dict().items())
    assert all(p.grad is grads[name] for name, p in split.model.named_parameters())
    assert all(torch.equal(values[name], grad) for name, grad in grads.items() if grad is not None)
    assert [module.training for module in split.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
def test_asking_for_gradients_between_steps_leaves_the_run_as_it_is(at: tuple[str, ...]) -> None:
    splits = [digits_split(at) for _ in range(2)]
    with se.Trainer(splits[0], codecs="topk(0.5)") as plain, se.Trainer(splits[1], codecs="topk(0.5)") as asked:
        for number in range(3):
            plain.step(*batch(number))
            first = asked.gradients(*batch(number + 7))
            second = asked.gradients(*batch(number + 7))
            asked.step(*batch(number))
            assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(one, other) for one, other in zip(*(s.state_dict().values() for s in splits), strict=True))


def test_gradients_over_http_are_those_of_this_process(proxy: Proxy) -> None:
    splits = [digits_split() for _ in range(2)]
    with se.Trainer(splits[0]) as here, se.Trainer(splits[1], server=proxy.url) as there:
        for trainer in (here, there):
            trainer.step(*batch())
        one, other = here.gradients(*batch(1)), there.gradients(*batch(1))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        assert there.step(*batch(2)).loss == here.step(*batch(2)).loss


def test_gradients_that_cannot_be_compared() -> None:
    with pytest.raises(TrainingError, match="Nothing crosses a network that is whole"):
        gradient_cosine(se.split(se.load_model("digits_cnn"), (), (1, 8, 8)), "fp16", *batch())
    split = digits_split()
    for parameter in split.a.parameters():
        parameter.requires_grad = False
    with pytest.raises(TrainingError, match="parameters that learn in segment A"):
        gradient_cosine(split, "fp16", *batch())


@pytest.mark.parametrize(
    "at", [SINGLE, DOUBLE, ("layer1.0.relu", "layer1.1.bn1")], ids=["single", "double", "residual"]
)
def test_crossing_tensors_are_those_that_a_step_sends(at: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if at[0].startswith("layer"):
        torch.manual_seed(0)
        split = se.split(se.load_model("resnet18", num_classes=10), at, (3, 32, 32))
        x, y = torch.randn(2, 3, 32, 32), torch.arange(2)
    else:
        split, (x, y) = digits_split(at), batch()
    found = crossing_tensors(split, x, y)
    sent: dict[str, list[torch.Tensor | None]] = {}
    encode = Streams.encode

    def encoding(self: Streams, message: Message, *arguments: Any) -> Frame:
        sent[message.name] = [None if tensor is None else tensor.detach().clone() for tensor in message.tensors]
        return encode(self, message, *arguments)

    monkeypatch.setattr(Streams, "encode", encoding)
    se.Trainer(split).step(x, y)
    assert found.keys() == sent.keys()
    for message, tensors in found.items():
        for one, other in zip(tensors, sent[message], strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


# Saturation on the way


def test_what_the_other_side_counted_travels_in_its_frame() -> None:
    streams, x = Streams(Codecs(outputs=se.Chain([Clipped()])), 0), torch.tensor([[2.0, 0.5, -3.0]])
    for tensor, counts in ((x, {"saturated": 2}), (x / 10, {})):
        frame = streams.encode(Message("outputs", [tensor, tensor]), 0)
        received = streams.decode(
            Frame.parse(memoryview(bytes(frame))), "outputs", 0, [TensorSpec.of((1, 3), x.dtype)] * 2
        )
        assert frame.counts == received.counts == {name: 2 * number for name, number in counts.items()}


def test_a_step_says_what_was_saturated_by_message() -> None:
    chain = se.Chain([Clipped()])
    codecs = Codecs(activations=chain, outputs=chain)
    with se.Trainer(digits_split(), codecs=codecs) as trainer:
        tensors = crossing_tensors(trainer.split, *batch())
        record = trainer.step(*batch())
        (activations,) = tensors["activations"]
        assert activations is not None and record.saturated["activations"] == int((activations.abs() > 1).sum()) > 0
        assert record.saturated["outputs"] > 0 and record.saturated["input_gradients"] == 0
        table = trainer.log.to_pandas()
    assert list(table["saturated.activations"]) == [record.saturated["activations"]]
    assert list(table["saturated.output_gradients"]) == [0]


@settings(max_examples=30, deadline=None)
@given(lie=st.one_of(st.integers(), st.text(), st.lists(st.integers()), st.dictionaries(st.text(), st.floats())))
def test_counts_that_lie_are_refused(lie: Any) -> None:
    if lie == {}:
        return
    streams = Streams(Codecs(), 0)
    x = torch.ones(2, 3)
    frame = streams.encode(Message("outputs", [x], meta={"counts": lie}), 0)
    with pytest.raises(FrameError, match="counts"):
        streams.decode(frame, "outputs", 0, [TensorSpec.of((2, 3), torch.float32)])
