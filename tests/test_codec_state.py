"""The life of a codec's state: proposed in a step, committed with it, left alone by failures and evaluation, saved."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from harness import DOUBLE, SINGLE, AppTransport, batch, batches, digits_split, on_app, problem, same, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

import spliteasy as se
from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec, container, register, registry
from spliteasy.codecs.base import Planes
from spliteasy.codecs.state import flatten, unflatten
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError, ConnectionLost, FrameError, NonFiniteError, SplitEasyError
from spliteasy.server.app import create_app
from spliteasy.server.process import LocalServer
from spliteasy.server.sessions import Sessions
from spliteasy.weights import load_tensors, save_tensors
from spliteasy.wire import Codecs, Frame, Message, Streams
from spliteasy_plugins.feedback import ErrorFeedback
from spliteasy_plugins.topk import TopK

INSTALLED = Codecs(forward="powersgd(2)", backward="ef('topk(0.2) | fp16') | zstd(1)")
"""Stateful codecs that another process has too."""

FEEDBACK = Codecs(backward="ef('topk(0.2)')")


class Dithered(TensorCodec):
    """Stochastic rounding to steps that get finer with every step of the stream. Both sides count on their own, and the
    decoder takes away noise that it draws itself, so one that is ahead or behind, or drew otherwise, decodes another
    tensor."""

    name = "dithered"

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        size = self._size(context)
        return {"values": (torch.floor(x / size + self._noise(x.shape, context))).to(x.dtype)}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        size, values = self._size(context), planes["values"]
        return ((values + 0.5 - self._noise(values.shape, context)) * size).to(spec.dtype)

    def out(self, spec: TensorSpec) -> TensorSpec:
        return spec

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        return {"values": PlaneBound(spec.dtype, spec.max_numel)}

    def _size(self, context: Context) -> float:
        context.state["calls"] = context.state.get("calls", 0) + 1
        context.state["seen"] = {"of": [context.message], "total": torch.tensor(context.state["calls"])}
        return 0.01 / float(context.state["calls"])

    def _noise(self, shape: tuple[int, ...], context: Context) -> torch.Tensor:
        return torch.rand(shape, generator=context.generator)


MIXED = Codecs(
    activations=Dithered() | "fp16",
    outputs=Dithered(),
    output_gradients=ErrorFeedback(TopK(0.3) | Dithered()),
    input_gradients="powersgd(2) | fp16",
)
"""Stochastic and stateful on both sides, alone and nested."""


@pytest.fixture(autouse=True)
def dithered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register("dithered", Dithered)
    yield


def trained(
    at: tuple[str, ...], codecs: Codecs, server: str | None, meddle: Callable[[se.Trainer, int], None] | None = None
) -> tuple[list[float], dict[str, Any]]:
    """The losses of three steps, the second of a smaller batch, and the state at the end. ``meddle`` comes before each
    step."""
    optimizer = {"name": "SGD", "lr": 0.05, "momentum": 0.9}
    with se.Trainer(digits_split(at), server=server, codecs=codecs, optimizer=optimizer, seed=3) as trainer:
        losses = []
        for number, size in enumerate((8, 5, 8)):
            if meddle is not None:
                meddle(trainer, number)
            losses.append(trainer.step(*batch(number, size)).loss)
        return losses, trainer.state_dict()


def equal(one: Any, other: Any) -> bool:
    """Equal to the bit, all the way down."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype is other.dtype and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> list[AppTransport]:
    """Trainers with a server talk to an app in this process; their transports."""
    return on_app(monkeypatch, create_app(Sessions()))


# The same wherever the server is


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
def test_stochastic_and_stateful_codecs_train_alike_over_http_bodies(at: tuple[str, ...], app: Any) -> None:
    here, there = trained(at, MIXED, None), trained(at, MIXED, "app")
    assert here[0] == there[0] and equal(here[1], there[1]) and "codecs" in here[1]
    assert here[0] != trained(at, INSTALLED, None)[0]


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
def test_stateful_codecs_train_alike_on_a_server(at: tuple[str, ...], server: LocalServer) -> None:
    here, there = trained(at, INSTALLED, None), trained(at, INSTALLED, server.url)
    assert here[0] == there[0] and equal(here[1], there[1])


def test_state_is_kept_by_side_message_and_slot(app: Any) -> None:
    _, state = trained(DOUBLE, MIXED, "app")
    device, server = state["codecs"]["device"], state["codecs"]["server"]
    messages = ["activations", "input_gradients", "output_gradients", "outputs"]
    assert sorted(server) == messages and sorted(device) == ["activations", "output_gradients", "outputs"]
    assert device["activations"]["0"]["0"]["calls"] == server["activations"]["0"]["0"]["calls"] == 3
    assert server["input_gradients"]["0"]["0"]["q"].shape[1] == 2  # the encoder's alone
    inside = device["output_gradients"]["0"]["0"]
    assert inside["encoder"]["1"]["calls"] == inside["decoder"]["1"]["calls"] == 3 and len(inside["error"]) == 8
    assert equal(inside["decoder"], server["output_gradients"]["0"]["0"]["decoder"])


@pytest.mark.parametrize("server", [None, "app"])
@pytest.mark.parametrize("codecs", [Codecs(), Codecs(forward="topk(0.5) | fp16 | zstd(1)")])
def test_without_state_nothing_is_saved(server: str | None, codecs: Codecs, app: Any) -> None:
    assert trained(DOUBLE, codecs, server)[1].keys() == {"model", "optimizer"}
    whole = se.Trainer(digits_split(()), codecs=codecs)
    whole.step(*batch())
    assert whole.state_dict().keys() == {"model", "optimizer"}


# Failures


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("server", [None, "app"])
def test_a_batch_of_nan_advances_nothing(at: tuple[str, ...], server: str | None, app: Any) -> None:
    def meddle(trainer: se.Trainer, step: int) -> None:
        if step:
            with pytest.raises(SplitEasyError):
                x, y = batch(step)
                trainer.step(x * float("nan"), y)

    undisturbed, disturbed = trained(at, MIXED, server), trained(at, MIXED, server, meddle)
    assert undisturbed[0] == disturbed[0] and equal(undisturbed[1], disturbed[1])


@pytest.mark.parametrize("server", [None, "app"])
def test_a_loss_of_nan_advances_nothing(server: str | None, app: Any) -> None:
    """In a double split the device finds it after activations and outputs went through their codecs."""

    def meddle(trainer: se.Trainer, step: int) -> None:
        if step:
            loss, trainer.loss = trainer.loss, lambda output, y: output.sum() * float("nan")
            with pytest.raises(NonFiniteError):
                trainer.step(*batch(step))
            trainer.loss = loss

    undisturbed, disturbed = trained(DOUBLE, MIXED, server), trained(DOUBLE, MIXED, server, meddle)
    assert undisturbed[0] == disturbed[0] and equal(undisturbed[1], disturbed[1])


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("server", [None, "app"])
@pytest.mark.parametrize("message", ["activations", "outputs", "output_gradients", "input_gradients"])
def test_an_exception_behind_any_codec_advances_nothing(
    at: tuple[str, ...], server: str | None, message: str, app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if at == SINGLE and message.startswith("output"):
        message = "input_gradients"
    failing: list[str] = []
    for name in ("encode", "decode"):
        plain = getattr(Streams, name)

        def wrapped(self: Streams, what: Any, *arguments: Any, plain: Any = plain, call: str = name) -> Any:
            result = plain(self, what, *arguments)
            if failing == [call] and message in (arguments[:1] if call == "decode" else [what.name]):
                raise FrameError("as if something had gone wrong right behind the codecs")
            return result

        monkeypatch.setattr(Streams, name, wrapped)

    def meddle(trainer: se.Trainer, step: int) -> None:
        for call in ("encode", "decode", "encode"):
            failing.append(call)
            with pytest.raises(FrameError, match="as if"):
                trainer.step(*batch(step))
            failing.clear()

    undisturbed, disturbed = trained(at, MIXED, server), trained(at, MIXED, server, meddle)
    assert undisturbed[0] == disturbed[0] and equal(undisturbed[1], disturbed[1])


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_lost_request_or_reply_advances_nothing(at: tuple[str, ...], phase: str, when: str, app: Any) -> None:
    """The server may have done the step that the device never hears of."""
    phase = "forward" if at == SINGLE else phase

    def meddle(trainer: se.Trainer, step: int) -> None:
        transport = trainer._transport
        assert isinstance(transport, AppTransport)
        plain = getattr(transport, phase)

        def lost(step: int, frame: Frame) -> Any:
            if when == "behind":
                plain(step, frame)
            raise ConnectionLost("as if the line had been cut")

        for _ in range(2):
            setattr(transport, phase, lost)
            with pytest.raises(ConnectionLost, match="as if"):
                trainer.step(*batch(step))
            setattr(transport, phase, plain)

    undisturbed, disturbed = trained(at, MIXED, "app"), trained(at, MIXED, "app", meddle)
    assert undisturbed[0] == disturbed[0] and equal(undisturbed[1], disturbed[1])


def test_a_step_that_is_retried_sends_the_same_frames(app: list[AppTransport]) -> None:
    def meddle(trainer: se.Trainer, step: int) -> None:
        update = trainer._updater.apply
        trainer._updater.apply = _failing  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="at the very last"):
            trainer.step(*batch(step, (8, 5, 8)[step]))
        trainer._updater.apply = update  # type: ignore[method-assign]

    trained(DOUBLE, MIXED, "app", meddle)
    for call in ("forward", "backward"):
        for step in range(3):
            first, second = (body for _, path, body in app[0].calls if path == f"/steps/{step}/{call}")
            assert first == second


def _failing(*_: Any) -> None:
    raise RuntimeError("at the very last")


# Evaluation


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("server", [None, "app"])
def test_evaluation_changes_no_state(at: tuple[str, ...], server: str | None, app: Any) -> None:
    def meddle(trainer: se.Trainer, step: int) -> None:
        before = trainer.state_dict()
        first = trainer.evaluate(batches(2, 5))
        assert trainer.evaluate(batches(2, 5)) == first
        assert equal(before, trainer.state_dict())

    undisturbed, disturbed = trained(at, MIXED, server), trained(at, MIXED, server, meddle)
    assert undisturbed[0] == disturbed[0] and equal(undisturbed[1], disturbed[1])


# Saved and loaded


def _frames(streams: Streams, steps: range, commit: bool = True) -> list[bytes]:
    generator, frames = torch.Generator().manual_seed(1), []
    for step in range(steps.stop):
        x = torch.randn((4, 3, 6, 6), generator=generator)
        if step in steps:
            streams.begin()
            frames.append(bytes(streams.encode(Message("output_gradients", [x, None, x * 2]), step)))
            streams.commit() if commit else None
    return frames


@pytest.mark.parametrize("chain", ["ef('topk(0.3) | dithered')", "powersgd(2)", "dithered"])
def test_streams_go_on_from_saved_state(chain: str) -> None:
    codecs, whole, first, second = Codecs(backward=chain), *(Streams(Codecs(backward=chain), 0) for _ in range(3))
    frames = _frames(whole, range(6))
    assert _frames(first, range(3)) == frames[:3]
    tensors, metadata = flatten(first.state())
    data = save_tensors(tensors, metadata)  # as a file would hold it
    second.load_state(unflatten(load_tensors(data), container.read(data)[1]))
    assert equal(second.state(), first.state()) and set(first.state()["output_gradients"]) == {"0", "2"}
    assert _frames(second, range(3, 6)) == frames[3:] != _frames(Streams(codecs, 0), range(3, 6))
    assert not equal(second.state(), first.state())  # which is its own


def test_what_is_saved_is_committed() -> None:
    streams = Streams(FEEDBACK, 0)
    _frames(streams, range(1), commit=False)
    assert streams.state() == {}
    streams.commit()
    before = streams.state()
    _frames(streams, range(1, 2), commit=False)
    assert equal(streams.state(), before)
    streams.load_state(before)
    streams.commit()  # the step that was under way is gone
    assert equal(streams.state(), before)
    streams.load_state({})
    assert streams.state() == {}


@pytest.mark.parametrize(
    "state",
    [
        {"gradients": {"0": {}}},
        {"outputs": {"x": {}}},
        {"outputs": {"0": 5}},
        {"outputs": 5},
        {"outputs": {"0": {"0": {"x": {1, 2}}}}},
    ],
)
def test_state_of_something_else_is_not_loaded(state: dict[str, Any]) -> None:
    streams = Streams(FEEDBACK, 0)
    _frames(streams, range(1))
    before = streams.state()
    with pytest.raises(CodecError, match="xpected"):
        streams.load_state(state)
    assert equal(streams.state(), before)


NAMES = st.text(st.characters(exclude_characters="|", codec="utf-8"), max_size=5)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(
    st.characters(codec="utf-8"), max_size=5
)  # fmt: skip
STATES = st.dictionaries(
    NAMES,
    st.recursive(
        LEAVES | st.lists(LEAVES, max_size=3) | st.lists(st.integers(-9, 9), max_size=4).map(torch.tensor),
        lambda inner: st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(STATES)
def test_state_becomes_tensors_and_json_and_back(state: dict[str, Any]) -> None:
    tensors, metadata = flatten(state)
    assert set(metadata) == {"state"}
    assert equal(unflatten(tensors, json.loads(json.dumps(metadata))), state)


@pytest.mark.parametrize(
    "state",
    [
        {1: "a"},
        {"a|b": 1},
        {"a": (1, 2)},
        {"a": {1, 2}},
        {"a": [torch.zeros(1)]},
        {"a": {"b": object()}},
        {"a": float("nan")},
        {"a": torch.zeros(2, dtype=torch.complex128)},
        {"a": torch.zeros(2).to_sparse()},
    ],
)
def test_what_state_may_not_hold(state: dict[str, Any]) -> None:
    with pytest.raises(CodecError, match="state"):
        flatten(state)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({}, {}),
        ({}, {"state": "nothing"}),
        ({}, {"state": "[]"}),
        ({}, {"state": "[" * 100_000}),
        ({"a|b": torch.zeros(1)}, {"state": "{}"}),
        ({"a|b": torch.zeros(1)}, {"state": '{"a":[1]}'}),
        ({"a|b": torch.zeros(1)}, {"state": '{"a":5}'}),
        ({"a": torch.zeros(1)}, {"state": '{"a":5}'}),
    ],
)
def test_state_that_lies_is_refused(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    with pytest.raises(FrameError, match="expected the state of codecs"):
        unflatten(tensors, metadata)


def test_a_codec_that_keeps_what_cannot_be_saved_is_told_in_the_first_step() -> None:
    class Hoarding(Dithered):
        def _size(self, context: Context) -> float:
            context.state["shapes"] = {(2, 3)}
            return 1.0

    Hoarding.name = "hoarding"
    register("hoarding", Hoarding)
    split = digits_split()
    before = snapshot(split.model)
    with pytest.raises(CodecError, match=r"found set at '0\|shapes'"):
        se.Trainer(split, codecs="hoarding").step(*batch())
    assert same(before, snapshot(split.model))
    with pytest.raises(AssertionError, match="cannot be saved"):
        check_codec("hoarding")


def test_the_route_gives_safetensors_to_whom_the_session_belongs(app: list[AppTransport]) -> None:
    with se.Trainer(digits_split(), server="app", codecs=FEEDBACK) as trainer:
        trainer.step(*batch())
        transport = app[0]
        assert transport.codec_state() == {}  # the step is not committed yet
        trainer.pull()
        answer = transport.send("GET", "/codecs")
        assert answer.status_code == 200 and answer.content_type == "application/octet-stream"
        tensors = load_tensors(answer.data)
        assert list(tensors) == ["input_gradients|0|0|error"]
        assert equal(unflatten(tensors, container.read(answer.data)[1]), transport.codec_state())
        token, transport.token = transport.token, "another"
        assert problem(transport.send("GET", "/codecs"), 404)["title"] == "SessionError"
        transport.token = token
