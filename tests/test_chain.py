"""Chains: the notation, the order, and tensors of every kind through them."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import (
    Chain,
    Codec,
    Context,
    PlaneBound,
    TensorCodec,
    TensorSpec,
    codec,
    container,
    register,
    registry,
)
from spliteasy.codecs.base import Planes
from spliteasy.codecs.layout import default_layout, from_flat, layout_of, restore, to_flat
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins.halves import Float16
from spliteasy_plugins.topk import TopK


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("topk(0.1) | fp16 | zstd(1)", "topk(0.1) | fp16 | zstd(1)"),
        ("  topk( fraction = 0.10 )|fp16()|zstd", "topk(0.1) | fp16 | zstd(1)"),
        ("topk(1) | (fp16 | zstd(level=3))", "topk(1.0) | fp16 | zstd(3)"),
        ("zstd(-5)", "zstd(-5)"),
        ("raw", "raw"),
        ("raw | fp16 | raw", "fp16"),
    ],
)
def test_notation_reads_back(text: str, canonical: str) -> None:
    chain = codec(text)
    assert repr(chain) == canonical and codec(canonical) == chain and hash(codec(canonical)) == hash(chain)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("zstd(1) | fp16", r"tensor codecs before bytes codecs, found zstd\(1\) \| fp16; write 'fp16 \| zstd\(1\)'"),
        ("fp61", r"no codec 'fp61'. Did you mean 'fp16'.*Installed: raw, "),
        ("topk", "wrong arguments for codec 'topk'.*missing"),
        ("topk(0.1, 2)", "wrong arguments"),
        ("topk(fracion=0.1)", "wrong arguments"),
        ("topk(0)", "above 0 and at most 1.*found 0"),
        ("topk(True)", "found True"),
        ("topk('a')", "found 'a'"),
        ("topk(1e999)", "found inf"),
        ("topk(__import__('os'))", "not literals"),
        ("topk(*[1])", "not literals"),
        ("fp16 & zstd(1)", "cannot read"),
        ("fp16.x", "cannot read"),
        ("fp16 |", "cannot read"),
        ("", "cannot read"),
        ("'fp16'", "cannot read"),
        ("fp16\0", "cannot read"),
        ("fp16 | " * 200 + "fp16", "at most 1000 characters"),
        ("(" * 400 + "fp16" + ")" * 400, "cannot read"),
    ],
)
def test_what_is_no_chain(text: str, complaint: str) -> None:
    with pytest.raises(CodecError, match=complaint):
        codec(text)


def test_what_is_no_chain_at_all() -> None:
    wrong: list[Any] = [5, None, ["fp16"]]
    for thing in wrong:
        with pytest.raises(CodecError, match="expected a chain"):
            codec(thing)
    with pytest.raises(CodecError, match="expected codecs in a chain"):
        Chain(wrong)


@given(st.text(alphabet="topkfzsd16()|., 0raw_'=", max_size=60))
def test_any_text_is_a_chain_or_a_codec_error(text: str) -> None:
    try:
        chain = codec(text)
    except CodecError:
        return
    assert codec(repr(chain)) == chain


def test_bars_build_chains_from_every_kind() -> None:
    topk, fp16 = TopK(0.1), Float16()
    wanted = codec("topk(0.1) | fp16 | zstd(1)")
    assert topk | fp16 | "zstd(1)" == codec(topk) | fp16 | codec("zstd") == topk | (fp16 | codec("zstd(1)")) == wanted
    assert Chain([topk, fp16]) == topk | fp16 and Chain() == codec("raw") and codec(wanted) is wanted
    assert len({wanted, codec(repr(wanted)), Chain(wanted.codecs)}) == 1
    assert codec("zstd(1)").lossless and Chain().lossless and not wanted.lossless
    assert codec("topk(0.1)") != codec("topk(0.2)") and wanted != "topk(0.1) | fp16 | zstd(1)"


def test_a_frame_tells_any_reader_what_it_is() -> None:
    x = torch.randn(2, 3, 40, 5).relu().to(memory_format=torch.channels_last)
    planes, facts = container.read(codec("topk(0.5) | fp16 | zstd(1)").encode(x, Context(step=7)))
    assert set(planes) == {"0.positions", "1.scale", "1.values"}
    assert set(facts) == {"format", "chain", "shape", "dtype", "layout", "step"}
    assert facts["format"] == "spliteasy/1" and facts["chain"] == "topk(0.5) | fp16 | zstd(1)" and facts["step"] == "7"
    assert (facts["shape"], facts["dtype"], facts["layout"]) == ("[2,3,40,5]", "F32", "[0,2,3,1]")
    planes, facts = container.read(codec("topk(0.5) | fp16 | zstd(1) | zstd(1)").encode(torch.zeros(2, 9999)))
    assert isinstance(json.loads(facts["notes"]), dict)


@pytest.mark.parametrize("chain", ["raw", "zstd(1)", "fp16", "fp16 | zstd(1)", "topk(1.0)"])
def test_layouts_come_back(chain: str) -> None:
    base = torch.arange(2 * 8 * 6 * 4, dtype=torch.float32).view(2, 8, 6, 4)
    volume = torch.randint(9, (2, 3, 4, 5, 2)).float().to(memory_format=torch.channels_last_3d)
    for x in (base, base.to(memory_format=torch.channels_last), base.permute(3, 1, 0, 2), volume, base[:, :, 0, 0].t()):
        decoded = codec(chain).decode(codec(chain).encode(x))
        assert torch.equal(decoded, x)
        assert layout_of(decoded) == layout_of(x) and (not _dense(x) or decoded.stride() == x.stride())


def _dense(x: torch.Tensor) -> bool:
    return x.permute(layout_of(x)).is_contiguous()


@pytest.mark.parametrize(
    "shape", [(4, 1, 5, 5), (4, 6, 1, 1), (1, 6, 3, 3), (1, 1, 1, 1), (3, 2, 1, 5), (3, 1), (1, 3)]
)
def test_strides_of_dimensions_of_size_one_come_back(shape: tuple[int, ...]) -> None:
    """Kernels choose by them; both memory formats are written differently there."""
    x = torch.randn(shape)
    both = [x, x.to(memory_format=torch.channels_last)] if x.ndim == 4 else [x]
    for tensor in both:
        assert codec("raw").decode(codec("raw").encode(tensor)).stride() == tensor.stride()
        assert codec("topk(1.0)").decode(codec("topk(1.0)").encode(tensor)).stride() == tensor.stride()


@given(st.lists(st.integers(0, 4), max_size=5), st.randoms(use_true_random=False))
def test_layout_helpers_undo_each_other(shape: list[int], random: Any) -> None:
    order = random.sample(range(len(shape)), len(shape))
    x = torch.arange(float(torch.Size(shape).numel())).view(shape).permute(order)
    layout = layout_of(x)
    flat = to_flat(x, layout)
    assert flat.shape == (x.numel(),) and (not x.numel() or flat.data_ptr() == x.data_ptr())
    again = from_flat(flat, x.shape, layout)
    assert torch.equal(again, x) and layout_of(again) == layout
    assert torch.equal(restore(x, default_layout(x.ndim)), x) and restore(x, default_layout(x.ndim)).is_contiguous()


@pytest.mark.parametrize("chain", ["raw", "fp16", "fp16 | zstd(1)"])
def test_channels_last_costs_no_copy_on_the_way_out(chain: str) -> None:
    """Elementwise chains take the elements as they lie: the planes equal those of the permuted tensor."""
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    planes, notes = codec(chain).encode_planes(x)
    permuted, _ = codec(chain).encode_planes(x.permute(0, 2, 3, 1))
    assert notes["layout"] == [0, 2, 3, 1]
    assert all(torch.equal(planes[name], permuted[name]) for name in planes)
    if chain == "raw":
        assert planes["values"].data_ptr() == x.data_ptr()


def test_raw_planes_are_the_tensors_memory_both_ways() -> None:
    x = torch.randn(4, 5, requires_grad=True)
    planes, notes = Chain().encode_planes(x)
    assert notes == {} and planes["values"].data_ptr() == x.data_ptr() and not planes["values"].requires_grad
    decoded = Chain().decode_planes(planes, notes, TensorSpec.of((4, 5), torch.float32))
    assert decoded.data_ptr() == x.data_ptr() and torch.equal(decoded, x)


@pytest.mark.parametrize("chain", ["raw", "fp16", "zstd(1)"])
def test_decoded_tensors_have_memory_of_their_own(chain: str) -> None:
    x = torch.zeros(300)
    for frame in (codec(chain).encode(x), bytearray(codec(chain).encode(x))):
        kept = bytes(frame)
        codec(chain).decode(frame).add_(1)
        assert bytes(frame) == kept


@pytest.mark.parametrize("tensor", [torch.tensor([True, False, True]), torch.arange(9).view(3, 3), torch.tensor(5)])
@pytest.mark.parametrize("chain", ["fp16", "topk(0.1) | fp16 | zstd(1)", "zstd(1)", "raw"])
def test_lossy_codecs_leave_other_tensors_alone(chain: str, tensor: torch.Tensor) -> None:
    decoded = codec(chain).decode(codec(chain).encode(tensor))
    assert decoded.dtype is tensor.dtype and torch.equal(decoded, tensor)
    zeros = torch.zeros(1000, dtype=torch.int64)
    packed = "zstd" in chain
    assert (len(codec(chain).encode(zeros)) < 1000) == packed, "bytes codecs still apply"


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 6), max_size=4),
    st.sampled_from(
        [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.int16, torch.bool, torch.complex64]
    ),
    st.sampled_from(["raw", "zstd(1)", "topk(1.0)", "zstd(1) | zstd(1)"]),
    st.booleans(),
)
def test_lossless_chains_are_exact(shape: list[int], dtype: torch.dtype, chain: str, sparse: bool) -> None:
    x = (torch.randn(shape) * (0 if sparse else 5)).to(dtype)
    decoded = codec(chain).decode(codec(chain).encode(x))
    assert decoded.dtype is dtype and decoded.shape == x.shape and torch.equal(decoded, x)


def test_conjugated_and_negated_views_are_sent_as_what_they_show() -> None:
    x = torch.randn(3, 4, dtype=torch.complex64)
    assert torch.equal(Chain().decode(Chain().encode(x.conj())), x.conj())
    assert torch.equal(Chain().decode(Chain().encode(x.conj().imag)), x.conj().imag)


def test_planes_are_packed_only_if_that_helps() -> None:
    noise = torch.randint(-(2**31), 2**31 - 1, (500,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    assert codec("zstd(1)").encode_planes(noise)[1] == {}
    planes, notes = codec("zstd(1)").encode_planes(torch.zeros(500))
    assert notes == {} and planes["values"].dtype is torch.uint8, "500 floats that came as bytes: nothing to note"
    planes, notes = codec("zstd(1)").encode_planes(torch.zeros(500, dtype=torch.uint8))
    assert notes == {"packed": {"values": ["U8", 500]}}, "bytes that came as bytes"
    planes, notes = codec("zstd(1) | zstd(1)").encode_planes(torch.zeros(50_000))
    assert len(notes["packed"]["values"]) == 3, "the size in between is noted"


def test_the_notes_that_once_were_always_written_are_read() -> None:
    x = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)).relu()
    chain, spec = codec("fp16 | shuffle | zstd(1)"), TensorSpec.of((40, 50), torch.float32)
    planes, notes = chain.encode_planes(x)
    assert notes == {}
    noted = chain.decode_planes(planes, {"packed": {"0.values": ["F16", 2000, 4000]}}, spec)
    assert torch.equal(noted, chain.decode_planes(planes, {}, spec))


def test_what_no_frame_can_hold() -> None:
    wrong: list[Any] = [
        torch.zeros(2, dtype=torch.complex128),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, device="meta"),
        [1.0, 2.0],
    ]
    for thing in wrong:
        with pytest.raises(CodecError):
            codec("fp16").encode(thing)


def test_a_frame_cannot_ask_for_another_chain_or_tensor() -> None:
    frame = codec("fp16").encode(torch.randn(3, 4))
    with pytest.raises(FrameError, match=r"expected 'spliteasy/1' by 'zstd\(1\)', found 'spliteasy/1' by 'fp16'"):
        codec("zstd(1)").decode(frame)
    for spec in (TensorSpec.of((4, 3), torch.float32), TensorSpec.of((3, 4), torch.float64)):
        with pytest.raises(FrameError, match=r"the frame states torch.float32 of \(3, 4\)"):
            codec("fp16").decode(frame, spec=spec)
    wrong: list[Any] = ["text", 5, None, memoryview(b"12345678")[::2]]
    for thing in wrong:
        with pytest.raises(FrameError, match="expected a frame"):
            codec("fp16").decode(thing)
    with pytest.raises(CodecError, match="leaves open"):
        codec("fp16").decode_planes({}, {}, TensorSpec(None, torch.float32, max_numel=4))


def _with(frame: bytes, **changes: str | None) -> bytes:
    planes, facts = container.read(frame)
    changed = {**facts, **changes}
    return b"".join(container.write(planes, {key: text for key, text in changed.items() if text is not None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "spliteasy/9"},
        {"format": None},
        {"chain": None},
        *({key: None} for key in ("shape", "dtype", "step")),
        {"shape": "[3,50]"},
        {"shape": "[3,-4]"},
        {"shape": "[3,4.0]"},
        {"shape": "[true,12]"},
        {"shape": "12"},
        {"shape": "[" * 5000},
        {"shape": "[" + "1," * 60 + "12]"},
        {"shape": f"[3,4,{1 << 70}]"},
        {"shape": f"[0,{1 << 70}]"},
        {"shape": "[999999,999999]"},
        {"dtype": "F99"},
        {"dtype": "F16"},
        {"dtype": "I32"},
        {"layout": "[0,0]"},
        {"layout": "[0]"},
        {"layout": "{}"},
        {"notes": "[]"},
        {"notes": "{"},
        {"notes": '{"packed":{"values":["F32",12]}}'},
        {"notes": '{"packed":{"0.values":["F16",12]}}'},
        {"notes": '{"unknown":1}'},
        {"notes": '{"packed":{"0.values":["F16"]}}'},
        {"notes": '{"packed":{"0.values":' + "[" * 900 + "]" * 900 + "}}"},
        {"notes": '{"layout":' + "[" * 900 + "]" * 900 + "}"},
        {"step": "x"},
        {"step": "-1"},
    ],
    ids=lambda changes: str(changes)[:40],
)
@pytest.mark.parametrize("chain", ["fp16 | zstd(1)", "topk(0.1) | zstd(1)", "fp16"])
def test_metadata_that_lies(chain: str, changes: dict[str, str | None]) -> None:
    frame = codec(chain).encode(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    assert codec(chain).decode(_with(frame)).shape == (3, 4)
    with pytest.raises(FrameError):
        codec(chain).decode(_with(frame, **changes))


def test_sizes_are_checked_before_memory_is_taken() -> None:
    """2^39 bytes of zeros compress to little; without an agreed spec such a frame is refused by its stated size."""
    frame = codec("zstd(1)").encode(torch.zeros(1000))
    notes = json.dumps({"packed": {"values": ["F32", 1 << 37]}})
    with pytest.raises(FrameError, match="without a spec, at most"):
        codec("zstd(1)").decode(_with(frame, shape=f"[{1 << 37}]", layout="[0]", notes=notes))
    with pytest.raises(FrameError, match="expected a zstd frame of 67108864 bytes"):
        notes = json.dumps({"packed": {"values": ["F32", 1 << 24]}})
        codec("zstd(1)").decode(_with(frame, shape=f"[{1 << 24}]", layout="[0]", notes=notes))


class Nonzero(TensorCodec):
    """Packs what is not zero: a codec whose values have no length known beforehand, with state, pair and randomness."""

    lossless = True

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        context.state["calls"] = context.state.get("calls", 0) + 1
        context.pair["mask"] = mask = x.reshape(-1) != 0
        assert context.spec is not None and context.spec.dtype is x.dtype
        tag = torch.rand(1, generator=context.generator)
        return {"values": x.reshape(-1)[mask], "mask": mask, "tag": tag}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        mask = context.pair["mask"] = planes["mask"]
        assert torch.equal(planes["tag"], torch.rand(1, generator=context.generator)), "the generators differ"
        x = torch.zeros(mask.numel(), dtype=spec.dtype)
        x[mask] = planes["values"]
        return x.view(-1 if spec.shape is None else spec.shape)

    def out(self, spec: TensorSpec) -> TensorSpec:
        return TensorSpec(None, spec.dtype, max_numel=spec.max_numel)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        size = spec.max_numel
        return {
            "values": PlaneBound(spec.dtype, size),
            "mask": PlaneBound(torch.bool, size),
            "tag": PlaneBound(torch.float32, 1),
        }


@pytest.fixture
def nonzero() -> Any:
    before = dict(registry._registered)
    register("nonzero", Nonzero)
    yield
    registry._registered.clear()
    registry._registered.update(before)


@pytest.mark.usefixtures("nonzero")
@pytest.mark.parametrize(
    "chain", ["nonzero", "nonzero | fp16", "nonzero | nonzero | fp16 | zstd(1)", "topk(0.5) | nonzero"]
)
def test_values_of_unknown_length_and_the_context(chain: str) -> None:
    x = torch.randint(-3, 4, (4, 50), generator=torch.Generator().manual_seed(0)).relu().float()
    sender, receiver = Context(seed=3, step=2), Context(seed=3, step=2)
    made = codec(chain)
    planes, notes = made.encode_planes(x, sender)
    decoded = made.decode_planes(planes, notes, TensorSpec.of((4, 50), torch.float32), receiver)
    if not chain.startswith("topk"):
        assert torch.equal(decoded, x)
    places = [str(place) for place, name in enumerate(chain.split(" | ")) if name == "nonzero"]
    assert sender.state == {place: {"calls": 1} for place in places} and receiver.state == {}
    assert len(places) > 1 or torch.equal(sender.pair["mask"], receiver.pair["mask"])
    made.encode_planes(x, Context(state=sender.state))
    assert sender.state[places[0]] == {"calls": 2}


@pytest.mark.usefixtures("nonzero")
def test_topk_needs_samples() -> None:
    with pytest.raises(CodecError, match="put it before codecs that leave a flat vector"):
        codec("nonzero | topk(0.1)").encode(torch.ones(3, 4))


@pytest.mark.usefixtures("nonzero")
def test_whatever_a_codec_trips_over_is_a_frame_error() -> None:
    spec = TensorSpec.of((2, 2), torch.float32)
    planes = {"0.values": torch.ones(3), "0.mask": torch.ones(4, dtype=torch.bool), "0.tag": torch.zeros(1)}
    with pytest.raises(FrameError, match="nonzero cannot decode these planes"):
        codec("nonzero").decode_planes(planes, {}, spec)


def test_keyword_only_arguments_show_where_they_differ() -> None:
    class Shaped(Codec):
        name = "shaped"
        kind = "tensor"

        def __init__(self, size: int, *, fast: bool = True, note: str = "") -> None:
            self.size, self.fast, self.note = size, fast, note

    assert repr(Shaped(3)) == "shaped(3)" and repr(Shaped(3, fast=False)) == "shaped(3, fast=False)"
    assert Shaped(3) == Shaped(3, note="") != Shaped(3, note="a") and hash(Shaped(3)) == hash(Shaped(3))
