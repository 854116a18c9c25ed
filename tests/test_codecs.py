"""Faulty codecs are found; the registry; fp16 and zstd in particular."""

import math
import re
from collections.abc import Iterator
from importlib import metadata
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zstandard

from spliteasy.codecs import (
    BytesCodec,
    Context,
    PlaneBound,
    TensorCodec,
    TensorSpec,
    codec,
    list_codecs,
    register,
    registry,
)
from spliteasy.codecs.base import Planes
from spliteasy.codecs.finite import all_finite
from spliteasy.codecs.raw import Raw
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins.lossless import Zstd


@pytest.fixture
def clean_registry() -> Iterator[None]:
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


class Same(TensorCodec):
    """A faultless codec, the ground for faulty ones."""

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        return {"values": x.clone()}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        return planes["values"].clone().view(spec.shape or ())

    def out(self, spec: TensorSpec) -> TensorSpec:
        return spec

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        return {"values": PlaneBound(spec.dtype, spec.max_numel)}


class Writes(Same):
    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        return {"values": x.add_(1)}


class Forgets(Same):
    def __repr__(self) -> str:
        return "raw"


class Random(Same):
    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        return {"values": torch.randn(x.shape).to(x.dtype)}


class Hides(Same):
    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        return torch.nan_to_num(planes["values"])


class Wasteful(Same):
    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        torch.empty(spec.max_numel + (1 << 26), dtype=torch.uint8)
        return planes["values"].clone()


class Claimed(Same):
    lossless = True

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        return planes["values"] * (1 if spec.dtype is torch.bool else 2)


class Larger(Same):
    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        return {"values": torch.cat([x.reshape(-1), x.reshape(-1)])}


class Drifts(Same):
    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        self.calls = getattr(self, "calls", 0) + 1
        return {"values": x * self.calls}


class Trusting(BytesCodec):
    def encode(self, array: npt.NDArray[Any]) -> bytes:
        return zstandard.compress(array.tobytes())

    def decode(self, data: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        return np.frombuffer(zstandard.decompress(data), dtype, count)


@pytest.mark.usefixtures("clean_registry")
@pytest.mark.parametrize(
    ("faulty", "complaint"),
    [
        (Writes, "changed its input"),
        (Forgets, "reads back"),
        (Random, "two different frames"),
        (Hides, "finite numbers"),
        (Wasteful, "bytes were allocated"),
        (Claimed, "elements changed"),
        (Larger, "values"),
        (Drifts, "two different frames"),
        (Trusting, "expected a FrameError"),
    ],
)
def test_faulty_codecs_are_found(faulty: type[TensorCodec], complaint: str) -> None:
    register(faulty.__name__.lower(), faulty)
    with pytest.raises((AssertionError, CodecError), match=complaint):
        check_codec(faulty())


@pytest.mark.usefixtures("clean_registry")
def test_a_codec_from_a_notebook_works_like_an_installed_one() -> None:
    register("same", Same)
    check_codec("same")
    assert "same" in list_codecs() and repr(codec("same | zstd(1)")) == "same | zstd(1)"

    again = type("Same", (Same,), {"__module__": Same.__module__, "__qualname__": Same.__qualname__})
    register("same", again)  # its cell was run twice
    assert registry.get("same") is again


@pytest.mark.usefixtures("clean_registry")
@pytest.mark.parametrize(
    ("name", "cls", "complaint"),
    [
        ("raw", type("Another", (Same,), {}), r"two codecs are named 'raw'.*spliteasy.*Another"),
        ("fp16", type("Another", (Same,), {}), r"two codecs are named 'fp16'.*spliteasy.*Another"),
        ("not a name", Same, "letters, digits"),
        ("lambda", Same, "which no notation can hold"),
        ("half", type("Half", (TensorCodec,), {}), "lacks bounds, decode, encode, out"),
        ("number", int, "subclass of TensorCodec or BytesCodec"),
        ("other", type("Named", (Same,), {"name": "else"}), "calls itself 'else'"),
    ],
)
def test_registering_what_cannot_be_a_codec(name: str, cls: Any, complaint: str) -> None:
    with pytest.raises(CodecError, match=complaint):
        register(name, cls)


def _installed(
    monkeypatch: pytest.MonkeyPatch, *others: tuple[str, str, str], requires: list[str] | None = None
) -> None:
    """As if distributions with these (name, target, distribution) had been installed beside ours."""
    entries = list(metadata.entry_points(group=registry.GROUP))
    for name, value, distribution in others:
        entry = EntryPoint(name, value, registry.GROUP)
        vars(entry).update(dist=SimpleNamespace(name=distribution, version="1.0", requires=requires))
        entries.append(entry)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: entries)


def test_a_duplicate_name_raises_and_names_both_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, ("topk", "elsewhere:TopK", "elsewhere"))
    for look in (list_codecs, lambda: codec("topk(0.1)"), registry.describe_codecs):
        with pytest.raises(CodecError, match=r"two codecs are named 'topk': one of spliteasy \S+ and one of elsewhere"):
            look()


def test_nobody_else_may_be_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, ("raw", "elsewhere:Raw", "elsewhere"))
    with pytest.raises(CodecError, match="one of spliteasy itself and one of elsewhere"):
        list_codecs()


def test_a_codec_that_does_not_load_says_so_and_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, ("broken", "no_such_module:Codec", "elsewhere"), ("odd", "math:pi", "elsewhere"))
    assert repr(codec("fp16")) == "fp16" and {"broken", "odd"} < set(list_codecs())
    with pytest.raises(CodecError, match=r"'broken' of elsewhere 1.0 does not load.*no_such_module"):
        codec("broken")
    with pytest.raises(CodecError, match=r"'odd' of elsewhere 1\.0: expected a subclass"):
        codec("odd")
    rows = {row.name: row for row in registry.describe_codecs()}
    assert rows["broken"].kind == rows["odd"].kind == "broken" and "no_such_module" in rows["broken"].summary
    assert rows["fp16"].kind == "tensor" and rows["zstd"].lossless and rows["zstd"].origin.startswith("spliteasy")


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("no_such_library", r"pip install 'elsewhere\[fast\]' brings it"),
        ("no_such_module", "install the package that provides the module 'no_such_module'"),
        ("json:nothing", "look for the error in json"),
    ],
)
def test_a_codec_that_lacks_a_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str, advice: str
) -> None:
    value = module if ":" in module else f"{module}:Codec"
    _installed(
        monkeypatch, ("lacking", value, "elsewhere"), requires=["numpy>=1", "no.such-library>=2; extra == 'fast'"]
    )
    (row,) = [row for row in registry.describe_codecs() if row.name == "lacking"]
    assert row.kind == "broken" and re.search(advice, row.summary), row.summary


def test_the_core_ships_raw_alone_and_lists_it_first() -> None:
    names = list_codecs()
    assert names[0] == "raw" and {"fp16", "topk", "zstd"} <= set(names)
    assert all(registry.get(name).__module__.startswith("spliteasy_plugins.") for name in ("fp16", "topk", "zstd"))


def test_context_generators_agree_on_both_sides_and_differ_elsewhere() -> None:
    def drawn(**facts: Any) -> float:
        return float(torch.rand(1, generator=Context(**facts).generator))

    assert drawn() == drawn() and drawn(step=1, message="outputs") == drawn(step=1, message="outputs")
    different: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"step": 1},
        {"message": "outputs"},
        {"tensor": 1},
        {"stage": 1},
    ]
    assert len({drawn(**facts) for facts in different}) == len(different)


def test_specs_count_and_permute() -> None:
    spec = TensorSpec.of((2, 3, 4, 5), torch.bfloat16)
    assert (spec.numel, spec.nbytes, spec.channel_axis) == (120, 240, 1)
    assert spec.permuted((0, 2, 3, 1)) == TensorSpec((2, 4, 5, 3), torch.bfloat16, 3)
    assert TensorSpec.of((2, 7, 5), torch.float32).channel_axis == 2 and TensorSpec.of((), torch.float32).numel == 1
    flat = TensorSpec(None, torch.int8, max_numel=9)
    assert flat.nbytes == 9
    for misuse in (lambda: flat.numel, lambda: flat.permuted((0,)), lambda: TensorSpec(None, torch.int8)):
        with pytest.raises(CodecError):
            misuse()
    with pytest.raises(CodecError, match="channel_axis 2"):
        TensorSpec((2, 3), torch.int8, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_element_is_found(dtype: torch.dtype, value: float) -> None:
    x = torch.full((50, 50), 60000.0).to(dtype)  # the sum of these overflows float16
    assert all_finite(x) and all_finite(torch.full((3,), torch.finfo(dtype).max, dtype=dtype))
    x[31, 7] = value
    assert not all_finite(x)
    x[31, 8] = -value
    assert not all_finite(x)
    assert all_finite(torch.arange(3)) and all_finite(torch.empty(0, dtype=dtype))
    assert not all_finite(torch.tensor([complex(0, value)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-7, 1.0, 1e5, 1e30, math.inf])
def test_fp16_is_as_exact_at_any_size(dtype: torch.dtype, size: float) -> None:
    x = torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (x / x.abs().max() * min(size, torch.finfo(dtype).max)).to(dtype)
    decoded = codec("fp16").decode(codec("fp16").encode(x))
    error = (decoded.double() - x.double()).abs()
    assert bool((error <= x.double().abs() * 2**-11 + float(x.double().abs().max()) * 2**-39).all())
    assert dtype is not torch.bfloat16 or torch.equal(decoded, x)


def test_fp16_keeps_what_would_be_subnormal() -> None:
    gradients = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 1e-7
    plain = (gradients.half().float() - gradients).norm() / gradients.norm()
    scaled = (codec("fp16").decode(codec("fp16").encode(gradients)) - gradients).norm() / gradients.norm()
    assert plain > 0.05 and scaled < 3e-4


def test_fp16_scale_is_a_power_of_two_near_the_top() -> None:
    for largest in (0.7, 3.0, 1e-20, 1e20):
        planes, _ = codec("fp16").encode_planes(torch.tensor([[largest, -largest / 3]]))
        assert math.frexp(planes["0.scale"].item())[0] == 0.5
        assert 2**14 <= float(planes["0.values"].abs().max()) <= 2**15
    for empty in (torch.zeros(3, 4), torch.empty(0, 4)):
        assert codec("fp16").encode_planes(empty)[0]["0.scale"].item() == 1.0
    bad = torch.tensor([math.nan, 1.0, math.inf, -math.inf, -2.0])
    assert torch.equal(codec("fp16").decode(codec("fp16").encode(bad)).nan_to_num(7), bad.nan_to_num(7))


@pytest.mark.parametrize("scale", [[0.0], [-1.0], [3.0], [math.nan], [math.inf], [], [1.0, 1.0]])
def test_fp16_refuses_scales_that_lie(scale: list[float]) -> None:
    spec = TensorSpec.of((2, 2), torch.float32)
    planes = {"0.values": torch.zeros(4, dtype=torch.float16), "0.scale": torch.tensor(scale)}
    with pytest.raises(FrameError, match="scale"):
        codec("fp16").decode_planes(planes, {}, spec)


def test_fp16_passes_float16_without_a_copy() -> None:
    x = torch.randn(3, 4).half()
    planes, notes = codec("fp16").encode_planes(x)
    assert planes["0.values"].data_ptr() == x.data_ptr()
    decoded = codec("fp16").decode_planes(planes, notes, TensorSpec.of((3, 4), torch.float16))
    assert decoded.data_ptr() == x.data_ptr()
    with pytest.raises(FrameError, match="scale 1"):
        codec("fp16").decode_planes(
            {**planes, "0.scale": torch.tensor([2.0])}, {}, TensorSpec.of((3, 4), torch.float16)
        )


@pytest.mark.parametrize("level", [0, 23, -8, 1.0, "1", None, True])
def test_zstd_levels_are_checked(level: Any) -> None:
    with pytest.raises(CodecError, match="zstd level"):
        Zstd(level)


def test_zstd_believes_no_stated_size() -> None:
    zstd = Zstd()
    content = np.zeros(1000, np.float32)
    honest = bytes(zstd.encode(content))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(content.tobytes())
    bomb = bytearray(zstandard.compress(bytes(1 << 22)))
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + honest
    for lie in (b"", b"zstd", unsized, bytes(bomb), honest + b"\0", honest + honest, honest[:-1], skippable):
        with pytest.raises(FrameError):
            zstd.decode(memoryview(lie), content.dtype, 1000)
    with pytest.raises(FrameError, match="expected a zstd frame"):
        zstd.decode(memoryview(bomb), np.dtype(np.uint8), 1 << 40)
    assert np.array_equal(zstd.decode(memoryview(honest), content.dtype, 1000), content)


def test_raw_is_a_codec_like_any_other() -> None:
    x, spec = torch.randn(2, 3), TensorSpec.of((2, 3), torch.float32)
    planes = Raw().encode(x, Context())
    assert Raw().decode(planes, spec, Context()) is x and Raw().out(spec) == spec
    assert Raw().bounds(spec) == {"values": PlaneBound(torch.float32, 6)} and repr(Raw()) == "raw"
