"""Error feedback: nothing is lost between what was given, what was decoded and what is remembered."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import (
    Context,
    FittedCodec,
    PlaneBound,
    TensorCodec,
    TensorSpec,
    codec,
    register,
    registry,
    remember,
)
from spliteasy.codecs.base import Planes
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError
from spliteasy_plugins.feedback import ErrorFeedback, ErrorFeedbackWarning

GRADIENT = "input_gradients"


class Same(TensorCodec):
    """Values as they are."""

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        return {"values": x}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        return planes["values"]

    def out(self, spec: TensorSpec) -> TensorSpec:
        return spec

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        return {"values": PlaneBound(spec.dtype, spec.max_numel)}


class Noisy(Same):
    """Stochastic: rounds up or down; ``drawn`` has the first number of each call."""

    drawn: list[float]

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        noise = torch.rand(x.shape, generator=context.generator)
        self.drawn.append(float(noise.reshape(-1)[0]))
        return {"values": torch.floor(x + noise)}


class Growing(Same):
    """Both sides count the steps, and each call counts its own, so a decoder that is one behind decodes otherwise."""

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        context.state["sent"] = context.state.get("sent", 0) + 1
        context.pair["sent"] = context.pair.get("sent", 0) + 1
        context.count("seen", 1)
        return {"values": x / context.state["sent"]}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        context.state["received"] = context.state.get("received", 0) + 1
        context.pair["sent"] = context.pair.get("sent", 0) + 1
        return planes["values"] * context.state["received"] * context.pair["sent"]


class Centred(FittedCodec):
    """Fitted: the mean is left out, and rounding loses something."""

    def fit(self, tensors: Sequence[torch.Tensor]) -> "Centred":
        held = remember({"mean": torch.cat([tensor.reshape(-1) for tensor in tensors]).mean()})
        return Centred(fitted=held.digest)

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        return {"values": (x - self.parameters["mean"]).round()}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        return planes["values"] + self.parameters["mean"]

    out, bounds = Same.out, Same.bounds


class Axis(Same):
    """A side plane with a number for each channel, where there are channels."""

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        assert context.spec is not None
        return {"values": x, "axis": torch.zeros(self.bounds(context.spec)["axis"].max_numel)}

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        channels = 1 if spec.channel_axis is None or spec.shape is None else spec.shape[spec.channel_axis]
        return {**super().bounds(spec), "axis": PlaneBound(torch.float32, channels)}


@pytest.fixture(autouse=True)
def some_codecs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    for cls in (Same, Noisy, Growing, Centred, Axis):
        register(cls.__name__.lower(), cls)
    Noisy.drawn = []
    yield


def _tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def _stream(
    notation: str, tensors: Sequence[torch.Tensor], message: str = GRADIENT
) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, Any]]]:
    """Each tensor, what the other side decodes, and the encoder's state after that step."""
    chain, sent, received = codec(notation), dict[str, Any](), dict[str, Any]()
    for step, x in enumerate(tensors):
        sender = Context(message, step=step, state=copy.deepcopy(sent))
        receiver = Context(message, step=step, state=copy.deepcopy(received))
        decoded = chain.decode(chain.encode(x, sender), receiver)
        sent, received = sender.state, receiver.state
        yield x, decoded, sent.get("0", {})


@pytest.mark.parametrize("notation", ["ef('topk(0.1) | fp16')", "ef('powersgd(2)')", "ef('noisy')", "ef('growing')"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_memory_is_what_the_other_side_lacks(notation: str, dtype: torch.dtype) -> None:
    memory = torch.zeros(6, 5, 8, dtype=dtype)
    for x, decoded, state in _stream(notation, _tensors(*[(6, 5, 8)] * 5, dtype=dtype)):
        assert torch.equal(state["error"], (x + memory) - decoded)
        memory = state["error"]
        assert bool(memory.abs().max() > 0) or "growing" in notation


def test_the_other_side_keeps_no_memory() -> None:
    chain, receiver = codec("ef('topk(0.1)')"), Context(GRADIENT)
    chain.decode(chain.encode(torch.randn(3, 40), Context(GRADIENT)), receiver)
    assert receiver.state == {}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_what_was_given_was_decoded_or_is_remembered(sizes: list[int], dtype: torch.dtype) -> None:
    """Whatever the sizes of the batches; also what rounding to 16 bits loses is kept."""
    largest = max(sizes)
    given_in_all, decoded_in_all, memory = torch.zeros(3, largest, 9, dtype=torch.float64).unbind()
    for x, decoded, state in _stream("ef('topk(0.2)')", _tensors(*((size, 9) for size in sizes), dtype=dtype)):
        given_in_all[: len(x)] += x.double()
        decoded_in_all[: len(x)] += decoded.double()
        memory = state["error"].double()
    rows = len(memory)
    assert rows == largest and not (given_in_all - decoded_in_all)[rows:].any()
    exact = {torch.float64: 1e-12}.get(dtype, 1e-5)
    torch.testing.assert_close(decoded_in_all[:rows] + memory, given_in_all[:rows], rtol=exact, atol=exact)


def test_rows_of_another_shape_start_at_zero() -> None:
    *_, (x, decoded, state) = _stream("ef('topk(0.2)')", _tensors((4, 10), (4, 12)))
    assert torch.equal(state["error"], x - decoded)
    for first, second in (((4, 6), (4, 2, 3)), ((), (1,)), ((3,), ())):
        *_, (x, decoded, state) = _stream("ef('fp16')", _tensors(first, second))
        assert torch.equal(state["error"], x - decoded) and state["error"].shape == second


def test_every_entry_is_sent_in_the_end() -> None:
    """Top-k alone never sends the small entries of a constant gradient; with feedback their mean arrives."""
    x = torch.linspace(0.1, 1, 20).repeat(2, 1)
    steps = 400
    total = sum(decoded for _, decoded, _ in _stream("ef('topk(0.1)')", [x] * steps))
    torch.testing.assert_close(total / steps, x, rtol=0, atol=0.06)
    assert float(codec("topk(0.1)").decode(codec("topk(0.1)").encode(x))[0, 0]) == 0


def test_evaluation_neither_uses_nor_changes_the_memory() -> None:
    chain, (x, y) = codec("ef('topk(0.1) | fp16')"), _tensors((3, 40), (3, 40))
    context = Context(GRADIENT)
    chain.encode(x, context)
    state = copy.deepcopy(context.state)
    evaluating = Context(GRADIENT, training=False, state=context.state)
    planes, plain = chain.encode_planes(y, evaluating)[0], codec("topk(0.1) | fp16").encode_planes(y)[0]
    assert all(torch.equal(planes[name], plain[name.removeprefix("0.")]) for name in ("0.0.positions", "0.1.scale"))
    assert torch.equal(planes["0.values"], plain["1.values"])
    chain.decode_planes(planes, {}, TensorSpec.of((3, 40), torch.float32), evaluating)
    assert torch.equal(evaluating.state["0"]["error"], state["0"]["error"]) and len(evaluating.state["0"]) == 1


def test_planes_keep_their_names_behind_the_stage() -> None:
    planes, notes = codec("ef('topk(0.1) | fp16') | zstd(1)").encode_planes(torch.randn(3, 400), Context(GRADIENT))
    assert set(planes) == {"0.0.positions", "0.1.scale", "0.values"} and not notes.keys() - {"packed"}
    assert planes["0.values"].dtype is torch.float16


def test_dimensions_of_size_one_have_no_layout_inside() -> None:
    chain, x = codec("ef('fp16')"), torch.randn(5, 1).t()
    assert torch.equal(chain.decode(chain.encode(x, Context(GRADIENT))), codec("fp16").decode(codec("fp16").encode(x)))


def test_the_chain_inside_knows_which_dimension_is_the_channels() -> None:
    x = torch.randn(3, 40)
    planes, _ = codec("ef('axis')").encode_planes(x, Context(GRADIENT))
    assert planes["0.0.axis"].numel() == 40
    planes, notes = codec("topk(0.5) | ef('axis')").encode_planes(x, Context(GRADIENT))
    assert planes["1.0.axis"].numel() == 1  # top-k leaves no channels
    decoded = codec("topk(0.5) | ef('axis')").decode_planes(planes, notes, TensorSpec.of((3, 40), torch.float32))
    assert torch.equal(decoded, codec("topk(0.5)").decode(codec("topk(0.5)").encode(x)))


def test_stochastic_codecs_draw_other_numbers_at_every_place() -> None:
    x = torch.randn(3, 40)
    for notation in ("noisy | ef('noisy | noisy') | noisy", "ef(\"ef('noisy')\")", "noisy"):
        codec(notation).encode(x, Context(GRADIENT))
    assert len(Noisy.drawn) == 6 and len(set(Noisy.drawn[:5])) == 5
    assert Noisy.drawn[5] == Noisy.drawn[0]
    again = list(Noisy.drawn)
    Noisy.drawn = []
    codec("noisy | ef('noisy | noisy') | noisy").encode(x, Context(GRADIENT))
    assert Noisy.drawn == again[:4]


def test_looking_ahead_at_the_other_side_leaves_pair_and_counts_alone() -> None:
    context = Context(GRADIENT)
    codec("ef('growing')").encode(torch.randn(2, 3), context)
    assert context.pair == {"sent": 1} and context.counts == {"seen": 1}


def test_it_warns_where_the_memory_belongs_to_other_samples() -> None:
    x, chain = torch.randn(2, 30), codec("ef('topk(0.1)')")
    for message in ("activations", "outputs"):
        context = Context(message)
        with pytest.warns(ErrorFeedbackWarning, match=f"on {message}.*other samples"):
            chain.encode(x, context)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chain.encode(x, Context(message, step=1, state=context.state))
            chain.encode(x, Context(message, training=False))
            chain.encode(x, Context("output_gradients"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_sums_beyond_the_range_stay_finite(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    x = torch.full((2, 20), largest, dtype=dtype)
    for _, decoded, state in _stream("ef('topk(0.1)')", [x, x, -x, x]):
        assert bool(decoded.isfinite().all()) and bool(state["error"].isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(value: float) -> None:
    x = torch.ones(2, 4)
    x[1, 2] = value
    *_, (_, decoded, _) = _stream("ef('fp16')", [torch.ones(2, 4), x])
    assert not bool(decoded[1, 2].isfinite()) and bool(decoded[0].isfinite().all())


def test_it_is_a_value_made_from_notation_codecs_or_chains() -> None:
    chain = codec("topk(0.01) | fp16")
    made = ErrorFeedback(chain)
    assert made == ErrorFeedback("topk(0.01)|fp16") == codec(repr(made)).codecs[0]
    assert repr(made) == "ef('topk(0.01) | fp16')" and made.chain == "topk(0.01) | fp16"
    assert made != ErrorFeedback("topk(0.02) | fp16")


@pytest.mark.parametrize(
    ("notation", "complaint"),
    [
        ("ef('topk(0.1) | zstd(1)')", r"write ef\('topk\(0.1\)'\) \| zstd\(1\)"),
        ("ef('nothing')", "there is no codec 'nothing'"),
        ("ef(3)", "expected a chain"),
        ("ef", "wrong arguments"),
    ],
)
def test_what_it_cannot_stand_around(notation: str, complaint: str) -> None:
    with pytest.raises(CodecError, match=complaint):
        codec(notation)


def test_it_needs_a_shape() -> None:
    made, flat = ErrorFeedback("fp16"), TensorSpec(None, torch.float32, max_numel=9)
    with pytest.raises(CodecError, match="known shape"):
        made.encode(torch.ones(4), Context(GRADIENT, spec=flat))
    with pytest.raises(CodecError, match="known shape"):
        made.decode({"values": torch.ones(4)}, flat, Context(GRADIENT))


def test_fitting_reaches_inside_and_parameters_are_shipped() -> None:
    tensors = [tensor + 3 for tensor in _tensors((4, 6), (4, 6))]
    chain = codec("ef('centred | fp16') | zstd(1)").fit(tensors, GRADIENT)
    inner = codec("centred | fp16").fit(tensors)
    assert chain == codec(ErrorFeedback(inner)) | "zstd(1)" and codec(repr(chain)) == chain
    assert [held.digest for held in chain.shipped] == [held.digest for held in inner.shipped] and len(
        inner.shipped
    ) == 1
    assert chain.fit([tensor * 2 for tensor in tensors], GRADIENT) == chain  # fitted already
    x = tensors[0]
    torch.testing.assert_close(chain.decode(chain.encode(x, Context(GRADIENT))), x, rtol=0, atol=0.51)


@pytest.mark.filterwarnings("ignore::spliteasy_plugins.feedback.ErrorFeedbackWarning")
@pytest.mark.parametrize("notation", ["ef('c3(2) | powersgd(2) | fp16') | zstd(1)"])
def test_around_other_codecs_it_keeps_the_contract(notation: str) -> None:
    check_codec(notation)
