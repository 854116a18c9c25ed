"""int8 and int4: half a step at most, zeros and constants exact, nothing overflows, planes that cannot lie."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spliteasy.codecs import Context, PlaneBound, TensorSpec, codec
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError, FrameError, NonFiniteError
from spliteasy_plugins.grids import BLOCK, Grid
from spliteasy_plugins.packing import pack, unpack
from spliteasy_plugins.quantize import Int4, Int8

BOUND = 0.5002
"""Steps that an element may be off by."""

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
QUANTIZERS = ["int8", "int4", "int8(5)", "int4(5)"]


def _round_trip(notation: str, x: torch.Tensor) -> torch.Tensor:
    chain = codec(notation)
    return chain.decode(chain.encode(x))


def _steps(notation: str, x: torch.Tensor) -> torch.Tensor:
    """The scale of every element, float64 in the shape of ``x``."""
    planes, _ = codec(notation).encode_planes(x)
    scale = planes["0.scale"].double().abs()
    if "(" in notation:
        group = int(notation.split("(")[1].rstrip(")"))
        return scale.repeat_interleave(group)[: x.numel()].view(x.shape)
    axis = TensorSpec.of(tuple(x.shape), x.dtype).channel_axis
    return scale.view([-1 if dim == axis else 1 for dim in range(x.ndim)]).expand(x.shape)


@pytest.mark.parametrize(
    "notation",
    [
        "int8(7) | zstd(1)",
        "int4",
        "topk(0.1) | int8",
        "topk(0.1) | int4(64) | zstd(1)",
        "bf16 | int4",
    ],
)
def test_quantizers_keep_the_contract_alone_and_in_chains(notation: str) -> None:
    check_codec(notation)


@settings(deadline=None, max_examples=60)
@given(
    notation=st.sampled_from(QUANTIZERS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    shape=st.sampled_from([(), (7,), (3, 5), (2, 3, 4), (2, 3, 4, 5)]),
    data=st.data(),
)
def test_an_element_is_off_by_half_a_step_at_most(
    notation: str, dtype: torch.dtype, shape: tuple[int, ...], data: st.DataObject
) -> None:
    limit = torch.finfo(dtype).max
    numbers = st.floats(-limit, limit, width=32 if dtype is torch.float32 else 64)
    size = math.prod(shape)
    x = torch.tensor(data.draw(st.lists(numbers, min_size=size, max_size=size)), dtype=dtype).view(shape)
    decoded = _round_trip(notation, x)
    steps = _steps(notation, x)
    assert bool(decoded.isfinite().all())
    assert bool(((decoded.double() / 2 - x.double() / 2).abs() <= steps / 2 * BOUND).all())
    assert not decoded[x == 0].any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("notation", QUANTIZERS)
@pytest.mark.parametrize("size", [1e-40, 1e-6, 1.0, 3e4, math.inf])
def test_the_step_is_the_range_by_the_number_of_levels(notation: str, dtype: torch.dtype, size: float) -> None:
    x = torch.randn(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (x / x.abs().max() * min(size, torch.finfo(dtype).max)).to(dtype)
    error = (_round_trip(notation, x).double() - x.double()).abs()
    half_precision = x.double().abs() * (2.0**-11 if dtype is torch.float16 else 2.0**-8)
    rounding = half_precision if dtype.itemsize == 2 else torch.zeros(())
    steps = _steps(notation, x)
    assert bool((error <= steps * BOUND + rounding + torch.finfo(dtype).tiny).all())
    levels = 255 if "8" in notation else 15
    assert float(steps.max()) <= max(2 * float(x.double().abs().max()) / levels * (1 + 1e-5), 2.0**-126)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("notation", QUANTIZERS)
def test_constant_channels_and_groups_are_exact(notation: str, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    for value in (0.0, -0.0, 1.0, -1 / 3, math.pi, limits.max, limits.min, limits.tiny, -limits.smallest_normal / 4):
        for shape in ((), (1,), (3, 1), (4, 3, 2, 2), (2, 30)):
            x = torch.full(shape, value, dtype=dtype)
            decoded = _round_trip(notation, x)
            assert (
                decoded.numpy(force=True).tobytes() == x.numpy().tobytes()
                if dtype is not torch.bfloat16
                else (torch.equal(decoded, x) and torch.equal(decoded.signbit(), x.signbit()))
            )
    x = torch.randn(4, 3, 5).to(dtype)
    x[..., 2] = 7  # one channel of five
    assert torch.equal(_round_trip("int8", x)[..., 2], x[..., 2])


@pytest.mark.parametrize("notation", QUANTIZERS)
def test_zeros_stay_zeros(notation: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for x in (torch.randn(8, 6, 9, 9, generator=generator).relu_(), torch.randn(4, 50, generator=generator)):
        x[x.abs() < 0.4] = 0
        assert not _round_trip(notation, x)[x == 0].any()


@pytest.mark.parametrize("levels", [255, 15])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 3.7])
def test_ties_at_both_ends_of_the_range_do_not_wrap_around(levels: int, scale: float) -> None:
    below = torch.linspace(0, levels, 4 * levels + 1, dtype=torch.float64)  # zero points fall between two levels
    x = torch.stack([-below, levels - below, torch.zeros_like(below)]) * scale
    bits = 8 if levels == 255 else 4
    for dtype in (torch.float32, torch.float64):
        by_channel = _round_trip(f"int{bits}", x.to(dtype))
        by_group = _round_trip(f"int{bits}(3)", x.T.to(dtype)).T
        for decoded in (by_channel, by_group):
            assert float((decoded.double() - x).abs().max()) <= scale * 0.501


def test_each_channel_has_a_scale_of_its_own_in_either_layout() -> None:
    x = (
        torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(2))
        * torch.tensor([1.0, 1e-6, 1e6, 0])[:, None, None]
    )
    planes, _ = codec("int8").encode_planes(x)
    assert planes["0.scale"].numel() == planes["0.zero"].numel() == 4
    last = x.to(memory_format=torch.channels_last)
    for notation in QUANTIZERS:
        assert torch.equal(_round_trip(notation, x), _round_trip(notation, last))
    relative = (_round_trip("int8", x) - x).flatten(2).norm(dim=(0, 2)) / x.flatten(2).norm(dim=(0, 2)).clamp(1e-30)
    assert float(relative.max()) < 0.02


def test_groups_run_along_memory_and_the_last_may_be_shorter() -> None:
    x = torch.arange(10.0).view(2, 5)
    planes, _ = codec("int8(4)").encode_planes(x)
    expected = np.array([3, 7, 9]) / 255
    assert np.allclose(planes["0.scale"].numpy(), expected, rtol=1e-5)
    for count in (1, 4, 5, 8, 11):
        for group in (1, 2, 4, 5, 100):
            x = torch.randn(count, generator=torch.Generator().manual_seed(count))
            planes, _ = codec(f"int4({group})").encode_planes(x)
            assert planes["0.scale"].numel() == -(-count // group)
            assert (
                planes["0.values"].numel() == -(-count // 2)
                and planes["0.zero"].numel() == -(-count // group) // -2 * -1
            )


def test_nibbles_stand_first_low_then_high() -> None:
    planes, _ = codec("int4").encode_planes(torch.tensor([0.0, 15.0, 3.0, 1.0, 7.0]))
    assert planes["0.values"].tolist() == [0xF0, 0x13, 0x07]


@pytest.mark.parametrize("shape", [(3, 2, 70, 1000), (2, 150_000), (1, 2, 400, 400), (70_000, 3), (7, 30, 7, 7)])
@pytest.mark.parametrize("notation", ["int8", "int4(1000)", "int8(200000)"])
def test_tensors_of_many_blocks_equal_one_computed_at_once(notation: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    steps = _steps(notation, x).float()
    error = (_round_trip(notation, x) - x).abs()
    assert bool((error <= steps * BOUND).all())


@pytest.mark.parametrize("numel", [0, 1, 6, 7, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("group", [1, 3, 7, BLOCK, 2 * BLOCK])
def test_blocks_cover_every_element_once_and_in_order(numel: int, group: int) -> None:
    if group == 1 and numel > BLOCK // 2:
        numel = 1000
    grid = Grid.of((numel,), None, group)
    reached = 0
    for elements, scales, shape in grid.blocks():
        assert elements.start == reached and math.prod(shape) == elements.stop - reached <= BLOCK
        assert scales.start == reached // group and scales.stop == (elements.stop - 1) // group + 1
        reached = elements.stop
    assert reached == numel


@pytest.mark.parametrize("notation", QUANTIZERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_by_name(notation: str, value: float) -> None:
    x = torch.randn(3, 8)
    x[1, 2] = value
    with pytest.raises(NonFiniteError, match="int"):
        codec(notation).encode(x)


def test_encoding_raises_no_saturation_and_outside_a_chain_the_shape_says_what_is_a_channel() -> None:
    context = Context()
    x = torch.randn(3, 8) * (torch.finfo(torch.float32).max / 10)
    planes = Int8().encode(x, context)
    assert not context.counts and planes["scale"].numel() == 8
    decoded = Int8().decode(planes, TensorSpec.of((3, 8), torch.float32), context)
    assert bool(((decoded - x).abs() <= planes["scale"] * BOUND).all())


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10])
def test_lengths_that_were_not_agreed_are_sent(count: int) -> None:
    spec = TensorSpec(None, torch.float32, max_numel=11)
    x = torch.randn(count, generator=torch.Generator().manual_seed(4))
    for quantizer in (Int4(), Int4(4), Int8(), Int8(4)):
        context = Context(spec=spec)
        planes = quantizer.encode(x, context)
        assert all(planes[name].numel() <= bound.max_numel for name, bound in quantizer.bounds(spec).items())
        assert quantizer.out(spec).shape is None
        decoded = quantizer.decode(planes, spec, context)
        assert decoded.shape == (count,) and torch.allclose(decoded, x, atol=float(x.abs().sum()) / 10)
    for lie in ([], [1], [0, 2], [5, 1, 0xFF]):
        with pytest.raises(FrameError):
            unpack(np.array(lie, np.uint8), 4, None)


@settings(deadline=None)
@given(st.lists(st.integers(0, 15), max_size=40), st.booleans(), st.sampled_from([1, 4]))
def test_packing_is_undone(codes: list[int], agreed: bool, bits: Any) -> None:
    array = np.array(codes, np.uint8) & (2**bits - 1)
    assert np.array_equal(unpack(pack(array, bits, agreed), bits, len(codes) if agreed else None), array)


SPEC = TensorSpec.of((3, 3), torch.float32)


@pytest.mark.parametrize(
    ("notation", "name", "plane"),
    [
        ("int8", "0.values", torch.zeros(8, dtype=torch.uint8)),
        ("int8", "0.scale", torch.ones(2)),
        ("int8", "0.scale", torch.tensor([1, math.nan, 1])),
        ("int8", "0.scale", torch.tensor([1, math.inf, 1])),
        ("int8", "0.zero", torch.zeros(2, dtype=torch.uint8)),
        ("int8", "0.zero", torch.zeros(0, dtype=torch.uint8)),
        ("int8", "0.zero", torch.zeros(3)),
        ("int8(4)", "0.scale", torch.ones(2)),
        ("int4", "0.values", torch.zeros(4, dtype=torch.uint8)),
        ("int4", "0.values", torch.tensor([0, 0, 0, 0, 0x10], dtype=torch.uint8)),
        ("int4", "0.scale", torch.tensor([1, 1, -math.inf])),
        ("int4", "0.zero", torch.zeros(1, dtype=torch.uint8)),
        ("int4", "0.zero", torch.tensor([0, 0x10], dtype=torch.uint8)),
    ],
)
def test_planes_that_lie(notation: str, name: str, plane: torch.Tensor) -> None:
    planes, notes = codec(notation).encode_planes(torch.randn(3, 3))
    assert name in planes
    with pytest.raises(FrameError):
        codec(notation).decode_planes({**planes, name: plane}, notes, SPEC)


def test_scales_that_would_overflow_give_the_largest_number() -> None:
    planes, notes = codec("int8").encode_planes(torch.randn(3, 3))
    wide = {**planes, "0.scale": torch.tensor([3e38, -3e38, 1.0])}
    assert bool(codec("int8").decode_planes(wide, notes, SPEC).isfinite().all())


def test_bounds_name_the_planes() -> None:
    spec = TensorSpec.of((2, 3, 5, 7), torch.float64)
    assert Int8().bounds(spec) == {
        "values": PlaneBound(torch.uint8, 210),
        "scale": PlaneBound(torch.float64, 3),
        "zero": PlaneBound(torch.uint8, 3),
    }
    assert Int4(100).bounds(spec) == {
        "values": PlaneBound(torch.uint8, 105),
        "scale": PlaneBound(torch.float64, 3),
        "zero": PlaneBound(torch.uint8, 2),
    }
    assert Int8().elementwise and not Int8(3).elementwise


@pytest.mark.parametrize("notation", ["int8", "int4", "int8(64)", "int4(64)", "topk(0.5) | int8"])
def test_small_messages_carry_little_header(notation: str) -> None:
    for shape in ((1, 2048), (2, 32, 32), (2, 16, 8, 8)):
        x = torch.randn(shape)
        planes, _ = codec(notation).encode_planes(x)
        payload = sum(plane.numel() * plane.itemsize for plane in planes.values())
        assert len(codec(notation).encode(x)) - payload <= 384


@pytest.mark.parametrize("group", [0, -1, 1.5, "8", True, [4]])
@pytest.mark.parametrize("cls", [Int8, Int4])
def test_groups_are_checked(cls: type[Int8] | type[Int4], group: Any) -> None:
    with pytest.raises(CodecError, match="consecutive values"):
        cls(group)


def test_the_notation_leaves_out_what_is_not_given() -> None:
    for notation in ("int8", "int4", "int8(128)", "int4(64)"):
        assert repr(codec(notation)) == notation
    assert codec("int8()") == codec("int8") != codec("int8(128)")
