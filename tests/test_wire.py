"""Messages to frames and back, and every lie that a frame can tell."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from harness import aligned, forged
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec, container
from spliteasy.codecs.base import Planes
from spliteasy.errors import CodecError, FrameError, NonFiniteError, SplitEasyError, TrainingError
from spliteasy.wire import MESSAGES, Bytes, Codecs, Frame, Message, Streams, as_codecs

SPECS = [TensorSpec.of((4, 3, 2, 2), torch.float32), TensorSpec.of((4, 5), torch.float32)]
CHAIN = "topk(0.5) | fp16 | zstd(1)"
ODD = ["007:values", "00:values", "\u0660:values", "-1:values", "+0:values", " 0:values", "0 :values", "1e0:values",
       "99999999999999999999:values", "0:", "0", ":values", ":", "", "values", "0:values:", "0:0:values"]  # fmt: skip


def _tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(spec.shape or (), generator=generator) for spec in SPECS]


def _message(name: str = "activations", **changes: Any) -> Message:
    return Message(name, _tensors(), (7, "text", None), {"labels": torch.arange(4)}, {"batch": 4, **changes})


def _sent(chain: str = "raw", message: Message | None = None, step: int = 2, training: bool = True) -> bytes:
    message = message or _message()
    return bytes(Streams(Codecs(**{message.name: chain}), 0).encode(message, step, training))


def _received(data: bytes, chain: str = "raw", name: str = "activations", **changes: Any) -> Message:
    arguments: dict[str, Any] = {
        "step": 2,
        "expected": SPECS,
        "training": True,
        "plain": ("labels", "norms"),
        **changes,
    }
    return Streams(Codecs(**{name: chain}), 0).decode(Frame.parse(aligned(data)), name, **arguments)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    def bits(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous().reshape(-1).view(torch.uint8)

    return one.shape == other.shape and one.dtype is other.dtype and torch.equal(bits(one), bits(other))


# Round trips


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("training", [True, False])
def test_a_message_comes_back_as_it_was(name: str, training: bool) -> None:
    message = _received(_sent(message=_message(name), training=training), name=name, training=training)
    assert message.name == name and message.scalars == [7, "text", None] and message.meta == {"batch": 4}
    assert all(_equal(sent, got) for sent, got in zip(_tensors(), message.tensors, strict=True) if got is not None)
    assert torch.equal(message.plain["labels"], torch.arange(4))


@pytest.mark.parametrize("missing", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("chain", ["raw", CHAIN])
def test_a_missing_tensor_stays_missing(missing: tuple[int, ...], chain: str) -> None:
    sent = Message("input_gradients", [None if slot in missing else t for slot, t in enumerate(_tensors())])
    got = _received(_sent(chain, sent), chain, "input_gradients")
    assert [tensor is None for tensor in got.tensors] == [slot in missing for slot in range(2)]
    assert got.scalars == [] and got.plain == {} and got.meta == {}


@pytest.mark.parametrize("dtype", container.DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4), (2, 0, 3), (2, 3, 1, 1)])
@pytest.mark.parametrize("chain", ["raw", "zstd(1)"])
def test_every_dtype_and_shape_travels(dtype: torch.dtype, shape: tuple[int, ...], chain: str) -> None:
    tensor = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2).to(dtype)
    message = Message("outputs", [tensor], (), {"labels": tensor.clone()})
    got = _received(_sent(chain, message), chain, "outputs", expected=[TensorSpec.of(shape, dtype)])
    assert got.tensors[0] is not None and _equal(got.tensors[0], tensor) and _equal(got.plain["labels"], tensor)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_lossy_chains_leave_integers_alone(dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    got = _received(_sent(CHAIN, Message("activations", [tensor])), CHAIN, expected=[TensorSpec.of((3, 4), dtype)])
    assert got.tensors[0] is not None and _equal(got.tensors[0], tensor)


def test_no_tensors_at_all() -> None:
    got = _received(_sent(message=Message("outputs", [], (), {}, {"loss": 1.5})), name="outputs", expected=[])
    assert got.tensors == [] and got.meta == {"loss": 1.5}


def test_the_layout_of_a_tensor_travels() -> None:
    tensor = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    got = _received(_sent(message=Message("outputs", [tensor])), name="outputs", expected=SPECS[:1]).tensors[0]
    assert got is not None and got.stride() == tensor.stride() and torch.equal(got, tensor)


@pytest.mark.parametrize("chain", ["raw", "fp16", "zstd(1)", CHAIN])
def test_received_tensors_lie_where_pytorch_would_put_them(chain: str) -> None:
    """The last bit of some matrix kernels depends on it."""
    odd = [torch.randn(3, 5), torch.randn(7), torch.randn(3, 5).double(), torch.randn(11).half(), torch.randn(2, 3)]
    expected = [TensorSpec.of(tuple(tensor.shape), tensor.dtype) for tensor in odd]
    data = _sent(chain, Message("activations", odd, (), {"labels": torch.arange(3, dtype=torch.uint8)}))
    for shift in (0, 1, 4):
        buffer = aligned(b"\0" * shift + data)[shift:]
        streams = Streams(Codecs(activations=chain), 0)
        got = streams.decode(Frame.parse(buffer), "activations", 2, expected, plain=("labels",))
        assert all(tensor is not None and tensor.data_ptr() % 64 == 0 for tensor in got.tensors)


def test_raw_tensors_are_sent_without_a_copy() -> None:
    tensor = torch.randn(1 << 20)
    frame = Streams(Codecs(), 0).encode(Message("activations", [tensor]), 0)
    assert frame.planes["0:values"].data_ptr() == tensor.data_ptr()
    assert frame.raw == tensor.nbytes and frame.nbytes == len(bytes(frame)) <= 1.001 * frame.raw


def test_bytes_add_up() -> None:
    assert Bytes(1, 2, 3) + Bytes(10, 20, 30) == Bytes(11, 22, 33)
    frame = Streams(Codecs(), 0).encode(_message(), 0)
    assert frame.raw == sum(tensor.nbytes for tensor in _tensors()) + 4 * 8


def test_frames_are_safetensors_that_any_language_reads() -> None:
    from safetensors.torch import load

    planes = load(_sent())
    assert set(planes) == {"0:values", "1:values", "labels"}
    assert torch.equal(planes["1:values"].view(4, 5), _tensors()[1])


# Lies


def _set(**values: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    return lambda header, planes: header.update(values)


def _without(key: str) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    return lambda header, planes: header.pop(key)


def _entry(**values: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    return lambda header, planes: header["tensors"][0].update(values)


LIES: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]] = {
    "another message": _set(message="outputs"),
    "no message": _without("message"),
    "a message that is a list": _set(message=["activations"]),
    "another step": _set(step=3),
    "a step that is a float": _set(step=2.0),
    "a step that is true": _set(step=True),
    "another mode": _set(training=False),
    "a mode that is 1": _set(training=1),
    "another chain": _set(chain="zstd(1)"),
    "a chain that does not exist": _set(chain="nothing(9)"),
    "another version": _set(version=2),
    "a version that is true": _set(version=True),
    "no version": _without("version"),
    "no tensors": _without("tensors"),
    "tensors that are a dict": _set(tensors={"0": {}}),
    "too few tensors": lambda header, planes: header["tensors"].pop(),
    "too many tensors": lambda header, planes: header["tensors"].append(header["tensors"][0]),
    "an entry that is a list": _set(tensors=[[], []]),
    "an entry that is a number": _set(tensors=[1, 2]),
    "an entry that is empty": _set(tensors=[{}, {}]),
    "an entry that is missing, with planes": lambda header, planes: header["tensors"].__setitem__(0, None),
    "another shape": _entry(shape=[4, 3, 4, 1]),
    "a shape as text": _entry(shape="4322"),
    "a larger batch": _entry(shape=[8, 3, 2, 2]),
    "a huge shape": _entry(shape=[1 << 62, 3, 2, 2]),
    "a negative shape": _entry(shape=[-4, 3, 2, 2]),
    "another dtype": _entry(dtype="F64"),
    "a dtype of the same size": _entry(dtype="I32"),
    "a dtype that is a list": _entry(dtype=["F32"]),
    "a layout with too few dimensions": _entry(layout=[0, 1]),
    "a layout with one twice": _entry(layout=[0, 1, 2, 2]),
    "a layout out of range": _entry(layout=[0, 1, 2, 4]),
    "a negative layout": _entry(layout=[-4, 1, 2, 3]),
    "a layout of floats": _entry(layout=[0.0, 1.0, 2.0, 3.0]),
    "a layout of text": _entry(layout="0123"),
    "a layout that is null": _entry(layout=None),
    "packed planes in a raw chain": _entry(packed={"values": ["F32", 48]}),
    "packed that is a list": _entry(packed=["values"]),
    "notes that nobody knows": _entry(more=1),
    "scalars that are a dict": _set(scalars={}),
    "scalars that are null": _set(scalars=None),
    "plain that was not agreed": _set(plain=["labels", "more"]),
    "plain that is text": _set(plain="labels"),
    "plain that is null": _set(plain=None),
    "plain that holds a list": _set(plain=[["labels"]]),
    "plain that is not there": _set(plain=["labels", "norms"]),
    "plain that is not named": _set(plain=[]),
    "a plane too few": lambda header, planes: planes.pop("1:values"),
    "a plane too many": lambda header, planes: planes.update({"1:more": torch.zeros(1)}),
    "a plane of a tensor that is not there": lambda header, planes: planes.update({"2:values": torch.zeros(1)}),
    "a plane that is too short": lambda header, planes: planes.update({"0:values": torch.zeros(47)}),
    "a plane that is too long": lambda header, planes: planes.update({"0:values": torch.zeros(49)}),
    "a plane of another dtype": lambda header, planes: planes.update({"0:values": torch.zeros(48).int()}),
    "a plane that is not flat": lambda header, planes: planes.update({"0:values": torch.zeros(4, 12)}),
    "a plane that is empty": lambda header, planes: planes.update({"0:values": torch.zeros(0)}),
    "a header of a megabyte": _set(message="x" * 500_000),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_the_header_is_refused(lie: str) -> None:
    with pytest.raises(FrameError) as caught:
        _received(forged(_sent(), LIES[lie]))
    assert 10 < len(str(caught.value)) < 1000


@pytest.mark.parametrize("lie", [lie for lie in LIES if "plane" not in lie])
def test_a_lie_is_refused_behind_a_chain_too(lie: str) -> None:
    with pytest.raises(FrameError):
        _received(forged(_sent(CHAIN), LIES[lie]), CHAIN)


@pytest.mark.parametrize("name", ODD)
def test_a_slot_has_one_way_to_be_written(name: str) -> None:
    def instead(header: dict[str, Any], planes: dict[str, torch.Tensor]) -> None:
        planes[name] = planes.pop("0:values")

    def beside(header: dict[str, Any], planes: dict[str, torch.Tensor]) -> None:
        planes[name] = planes["0:values"] + 1  # would replace the plane, if it passed for it

    for change in (instead, beside):
        with pytest.raises(FrameError):
            _received(forged(_sent(), change))


def test_a_plane_twice_is_refused() -> None:
    data = _sent()
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].decode().rstrip()
    entry = json.dumps(json.loads(text)["0:values"])
    twice = f'{text[:-1]},"0:values":{entry}}}'.encode()
    with pytest.raises(FrameError, match="twice"):
        _received(len(twice).to_bytes(8, "little") + twice + data[8 + length :])


@pytest.mark.parametrize("depth", [2_000, 100_000])
@pytest.mark.parametrize("inner", [True, False])
def test_deep_json_is_refused(depth: int, inner: bool) -> None:
    deep = "[" * depth + "]" * depth
    if inner:
        data = b"".join(container.write({}, {"spliteasy": deep}))
    else:
        text = f'{{"__metadata__":{{}},"a":{deep}}}'.encode()
        data = len(text).to_bytes(8, "little") + text
    with pytest.raises(FrameError):
        _received(data)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "1", '"text"', "{", "{}", "NaN", '{"a":' + "9" * 5000 + "}", "\ud800"]
)
def test_a_header_that_is_none_is_refused(text: str) -> None:
    with pytest.raises((FrameError, UnicodeEncodeError)):
        _received(b"".join(container.write({}, {"spliteasy": text})))
    with pytest.raises(FrameError):
        _received(b"".join(container.write({}, {})))


def test_a_frame_cannot_ask_for_another_chain() -> None:
    with pytest.raises(FrameError, match=r"chain 'raw', as agreed; found 'zstd\(1\)'"):
        _received(_sent("zstd(1)"), "raw")


def test_what_a_frame_claims_is_not_allocated() -> None:
    """A small frame that says it holds gigabytes."""

    def gigabytes(header: dict[str, Any], planes: dict[str, torch.Tensor]) -> None:
        header["tensors"][0]["shape"] = [1 << 32]
        header["tensors"][0]["packed"] = {"1.values": ["F16", 1 << 40], "0.positions": ["U8", 1 << 40]}

    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            _received(forged(_sent(CHAIN), gigabytes), CHAIN)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# NaN and infinity


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_nan_and_infinity_are_not_sent(value: float, dtype: torch.dtype) -> None:
    tensor = torch.ones(3, 4, dtype=dtype)
    tensor[1, 2] = value
    for chain in ("raw", "zstd(1)"):
        with pytest.raises(NonFiniteError, match="activations, found 1 NaN or infinite of 12 in tensor 0"):
            _sent(chain, Message("activations", [tensor]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("chain", ["raw", "zstd(1)", "topk(0.5)"])
def test_nan_and_infinity_are_not_received(value: float, chain: str) -> None:
    stream = Streams(Codecs(activations=chain), 0)
    tensors = _tensors()
    planes, notes = stream.codecs.chain("activations").encode_planes(tensors[1].fill_(value))

    def poison(header: dict[str, Any], own: dict[str, torch.Tensor]) -> None:
        for key in [key for key in own if key.startswith("1:")]:
            del own[key]
        own.update({f"1:{key}": plane for key, plane in planes.items()})
        entry = {key: header["tensors"][1][key] for key in ("shape", "dtype")}
        header["tensors"][1] = {**entry, **notes}

    with pytest.raises(NonFiniteError):
        _received(forged(_sent(chain), poison), chain)


# Damage


@settings(max_examples=150, deadline=None)
@given(data=st.data(), chain=st.sampled_from(["raw", CHAIN]))
def test_damage_gives_errors_of_ours_only(data: st.DataObject, chain: str) -> None:
    frame = bytearray(_sent(chain))
    kind = data.draw(st.sampled_from(["cut", "flip", "insert", "random"]))
    place = data.draw(st.integers(0, len(frame) - 1))
    if kind == "cut":
        del frame[place:]
    elif kind == "flip":
        for _ in range(data.draw(st.integers(1, 4))):
            frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "insert":
        frame[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        frame = bytearray(data.draw(st.binary(max_size=200)))
    try:
        message = _received(bytes(frame), chain)
    except SplitEasyError:
        return
    for spec, tensor in zip(SPECS, message.tensors, strict=True):  # what got through is at least what was agreed
        assert tensor is None or (tuple(tensor.shape) == spec.shape and tensor.dtype is spec.dtype)


def test_a_frame_cut_anywhere_is_a_frame_error() -> None:
    data = _sent(CHAIN)
    for length in range(len(data)):
        with pytest.raises(FrameError):
            _received(data[:length], CHAIN)


# The state of codecs


class Counting(TensorCodec):
    """Adds the number of committed steps on this stream: both ends must count alike."""

    name = "counting"
    lossless: ClassVar[bool] = False

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        context.state["count"] = context.state.get("count", 0) + 1
        return {"values": x + context.state["count"]}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        context.state["count"] = context.state.get("count", 0) + 1
        return planes["values"] - context.state["count"]

    def out(self, spec: TensorSpec) -> TensorSpec:
        return spec

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        return {"values": PlaneBound(spec.dtype, spec.max_numel)}


class Pairing(Counting):
    """Scales a gradient by what it remembers of the activations."""

    name = "pairing"

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        if context.message in ("activations", "outputs"):
            context.pair["scale"] = float(x.reshape(-1)[0])
            return {"values": x}
        return {"values": x * context.pair["scale"]}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        if context.message in ("activations", "outputs"):
            context.pair["scale"] = float(planes["values"].reshape(-1)[0])
            return planes["values"]
        return planes["values"] / context.pair["scale"]


SPEC = [TensorSpec.of((2, 2), torch.float32)]


def _through(one: Streams, other: Streams, x: torch.Tensor, step: int, training: bool = True) -> float:
    """How far a tensor is off after it went from one side to the other."""
    frame = one.encode(Message("activations", [x]), step, training)
    (got,) = other.decode(frame, "activations", step, SPEC, training).tensors
    assert got is not None
    return float((got - x).abs().max())


def test_codec_state_is_kept_only_by_a_commit() -> None:
    one, other = (Streams(Codecs(activations=Counting()), 0) for _ in range(2))
    x = torch.zeros(2, 2)
    for step in range(3):
        for _ in range(3):  # repeated: the frame is the same, and it is understood
            one.begin()
            other.begin()
            assert float(one.encode(Message("activations", [x]), step).planes["0:0.values"][0]) == step + 1
            one.begin()
            assert _through(one, other, x, step) == 0
        assert _through(one, other, x, -1, training=False) == 0  # evaluation proposes nothing
        one.commit()
        other.commit()


def test_a_side_that_did_not_commit_is_out_of_step() -> None:
    one, other = (Streams(Codecs(activations=Counting()), 0) for _ in range(2))
    assert _through(one, other, torch.zeros(2, 2), 0) == 0
    one.commit()
    one.begin()
    other.begin()
    assert _through(one, other, torch.zeros(2, 2), 1) == 1


def test_each_message_and_tensor_has_its_own_state() -> None:
    streams = Streams(Codecs(activations=Counting(), input_gradients=Counting()), 0)
    x = torch.zeros(1)
    for step in range(2):
        streams.begin()
        frames = [streams.encode(Message("activations", [x, x if step == 0 else None]), step)]
        frames.append(streams.encode(Message("input_gradients", [x]), step))
        assert [float(frame.planes["0:0.values"]) for frame in frames] == [step + 1] * 2
        streams.commit()
    streams.begin()
    assert float(streams.encode(Message("activations", [None, x]), 2).planes["1:0.values"]) == 2


@pytest.mark.parametrize("there,back", [("activations", "input_gradients"), ("outputs", "output_gradients")])
def test_a_message_shares_a_store_with_its_gradient_for_one_step(there: str, back: str) -> None:
    one, other = (Streams(Codecs(**{there: Pairing(), back: Pairing()}), 0) for _ in range(2))
    x, gradient = torch.full((2, 2), 4.0), torch.randn(2, 2)
    other.decode(one.encode(Message(there, [x]), 0), there, 0, SPEC)
    frame = other.encode(Message(back, [gradient]), 0)
    assert torch.equal(frame.planes["0:0.values"].view(2, 2), gradient * 4)
    assert torch.equal(one.decode(frame, back, 0, SPEC).tensors[0] * 1.0, gradient)  # type: ignore[operator]
    one.begin()
    with pytest.raises(FrameError, match="scale"):  # the next step starts with an empty store
        one.decode(frame, back, 0, SPEC)


def test_the_two_cuts_do_not_share_a_store() -> None:
    streams = Streams(Codecs(activations=Pairing(), output_gradients=Pairing()), 0)
    streams.encode(Message("activations", [torch.ones(2, 2)]), 0)
    with pytest.raises(KeyError):
        streams.encode(Message("output_gradients", [torch.ones(2, 2)]), 0)


# Chains by message


def test_codecs_from_what_a_trainer_takes() -> None:
    assert as_codecs(None) == Codecs() and as_codecs(Codecs(outputs="fp16")) == Codecs(outputs="fp16")
    assert as_codecs("fp16").to_dict() == dict.fromkeys(MESSAGES, "fp16")
    assert Codecs.from_dict(as_codecs(CHAIN).to_dict()) == as_codecs(CHAIN)
    for wrong in (3, {"activations": "raw"}, ["raw"]):
        with pytest.raises(TrainingError, match=r"se\.Codecs"):
            as_codecs(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "chains", [{"weights": "raw"}, {"activations": 3}, {"activations": "nothing"}, {"outputs": ""}]
)
def test_codecs_that_cannot_be_agreed(chains: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        Codecs.from_dict(chains)
