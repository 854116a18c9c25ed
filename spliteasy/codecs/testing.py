"""The checks that every codec must pass, for plugin authors and for our own tests.

from spliteasy.codecs.testing import check_codec

def test_mine():
    check_codec("mine(3)")
"""

from __future__ import annotations

import copy
import random
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from spliteasy.codecs.base import BytesCodec, Codec, Context, TensorSpec
from spliteasy.codecs.chain import Chain
from spliteasy.codecs.chain import codec as read
from spliteasy.codecs.container import bytes_of
from spliteasy.codecs.finite import all_finite
from spliteasy.codecs.state import flatten, unflatten
from spliteasy.errors import CodecError, FrameError, SplitEasyError

__all__ = ["check_codec", "example_tensors"]

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ALLOWED = 32 << 20
"""Bytes that decoding a small damaged frame may allocate."""


def check_codec(codec: str | Codec | Chain) -> None:
    """Try everything that the contract in ``spliteasy.codecs.base`` asks of a codec (or chain); takes seconds.

    It is a value whose notation reads back; it brings back shape, dtype and layout of every example tensor (elements
    too, if it is lossless or the tensor is not floating), the same way each time; it leaves its input alone; it keeps
    its promises on the size of planes; a stream with state can be retried; and damaged or lying frames give
    ``FrameError`` or a valid tensor, nothing else, in little memory. Raises ``AssertionError`` saying which of these
    failed, on what.
    """
    chain = read(codec)
    _check_value(chain)
    for stage in chain.bytes_codecs:
        _check_bytes_codec(stage)
    for label, tensor in example_tensors():
        _check_round_trip(chain, label, tensor)
    _check_not_hidden(chain)
    _check_stream(chain)
    generator = torch.Generator().manual_seed(3)
    for shape in ((3, 40), (2, 3, 8, 8), (1, 600)):
        for dtype in (torch.float32, torch.bfloat16, torch.int32):
            _check_damage(chain, (torch.randn(shape, generator=generator).relu_() * 9).to(dtype))


def example_tensors() -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of every kind that a chain must take, with a name for messages."""
    generator = torch.Generator().manual_seed(2)
    for shape in (
        (),
        (1,),
        (5,),
        (0,),
        (2, 0),
        (0, 3),
        (1, 1),
        (3, 7),
        (2, 3, 5),
        (2, 3, 4, 5),
        (2, 1, 3, 1),
        (1, 2, 2, 2, 3),
    ):
        for dtype in (*FLOATS, torch.int64, torch.int8, torch.uint8, torch.bool):
            yield f"{dtype} of {shape}", (torch.randn(shape, generator=generator) * 3).to(dtype)
    normal = torch.randn((4, 6, 10, 12), generator=generator)
    yield "channels-last tensor", normal.to(memory_format=torch.channels_last)
    yield "transposed tensor", normal.transpose(0, 3)
    yield "sliced tensor", normal[:, ::2, 1:, ::3]
    yield "expanded tensor", normal[:, :1].expand(4, 6, 10, 12)
    yield "tensor that requires a gradient", normal.clone().requires_grad_()
    yield "large tensor, half zeros", torch.randn((2, 40_000), generator=generator).relu_()
    for dtype in FLOATS:
        limits = torch.finfo(dtype)
        for name, value in (
            ("zero", 0.0),
            ("minus zero", -0.0),
            ("one", 1.0),
            ("largest", limits.max),
            ("tiny", limits.tiny),
        ):
            yield f"{dtype} of equal numbers, {name}", torch.full((3, 8), value, dtype=dtype)
        yield (
            f"{dtype} of all magnitudes",
            torch.tensor([[limits.max, -1.0, limits.tiny, limits.smallest_normal, 0.0]], dtype=dtype),
        )


def _check_value(chain: Chain) -> None:
    again = read(repr(chain))
    assert again == chain, f"{chain!r} reads back as {again!r}"
    assert hash(again) == hash(chain) and repr(again) == repr(chain), (
        f"{chain!r}: equal chains differ in hash or notation"
    )
    assert copy.deepcopy(chain) == chain, f"{chain!r} does not equal its copy"


def _check_bytes_codec(codec: BytesCodec) -> None:
    draw = np.random.default_rng(0)
    for dtype in (np.uint8, np.float16, np.float32, np.float64):
        for count in (1, 2, 7, 64, 5000):
            for array in (draw.bytes(count * np.dtype(dtype).itemsize), bytes(count * np.dtype(dtype).itemsize)):
                typed = np.frombuffer(array, dtype)
                data = memoryview(codec.encode(typed)).cast("B")
                assert len(data) <= codec.bound(typed.nbytes), (
                    f"{codec!r} exceeds its bound({typed.nbytes}): {len(data)}"
                )
                decoded = codec.decode(data, typed.dtype, count)
                assert decoded.dtype == typed.dtype and decoded.tobytes() == array, (
                    f"{codec!r} is not lossless on {typed.dtype}"
                )
                for wrong in (0, count - 1, count + 1, 1 << 40):
                    if wrong != count:
                        refused = partial(codec.decode, data, typed.dtype, wrong)
                        _expect_refusal(refused, f"{codec!r}: {wrong} items stated, {count} encoded")


def _check_round_trip(chain: Chain, label: str, tensor: torch.Tensor) -> None:
    original, where = tensor.detach().clone(), f"{chain!r}, {label}"
    frame = chain.encode(tensor)
    assert _same(tensor.detach(), original), f"{where}: encoding changed its input"
    assert bytes(chain.encode(tensor)) == bytes(frame), f"{where}: encoding twice gives two different frames"
    decoded = chain.decode(frame)
    assert decoded.shape == tensor.shape, f"{where}: shape {tuple(decoded.shape)} came back for {tuple(tensor.shape)}"
    assert decoded.dtype is tensor.dtype, f"{where}: {decoded.dtype} came back for {tensor.dtype}"
    if tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last):
        assert decoded.stride() == tensor.stride() or not tensor.numel(), f"{where}: the layout changed"
    if chain.lossless or not tensor.is_floating_point():
        assert _same(decoded, original), f"{where}: elements changed, though the chain is lossless here"
    assert all_finite(decoded), f"{where}: finite values came back as NaN or infinity"
    spec = TensorSpec.of(tuple(tensor.shape), tensor.dtype)
    for kind in (bytearray, memoryview):
        assert _same(chain.decode(kind(frame), spec=spec), decoded), f"{where}: a {kind.__name__} decodes differently"
    if tensor.numel():
        decoded.zero_()
        assert bytes(chain.encode(tensor)) == bytes(frame), f"{where}: the frame shares memory with the decoded tensor"


def _check_not_hidden(chain: Chain) -> None:
    """NaN and infinity are for the wire to refuse, which it cannot if a codec makes numbers of them."""
    for value in (float("nan"), float("inf")):
        x = torch.full((2, 30), value)
        try:
            decoded = chain.decode(chain.encode(x))
        except SplitEasyError:
            continue
        assert not all_finite(decoded), f"{chain!r} turned a tensor of {value} into finite numbers"


def _check_stream(chain: Chain) -> None:
    """Three steps of one stream; a retry from the committed state replays the frame."""
    generator = torch.Generator().manual_seed(4)
    committed: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for step in range(3):
        x = torch.randn((4, 50), generator=generator)
        for message in ("activations", "input_gradients"):
            attempts = []
            for _ in range(2):
                sender, receiver = (Context(message, step=step, state=copy.deepcopy(state)) for state in committed)
                frame = bytes(chain.encode(x, sender))
                attempts.append((frame, chain.decode(frame, receiver)))
            (first, decoded), (second, repeated) = attempts
            assert first == second and _same(decoded, repeated), f"{chain!r}: a retried step {step} differs"
            committed = (sender.state, receiver.state)
            for state in committed:
                _check_saved(chain, state)


def _check_saved(chain: Chain, state: dict[str, Any]) -> None:
    """State that was saved and loaded again is the same."""
    try:
        tensors, metadata = flatten(state)
    except CodecError as error:
        raise AssertionError(f"{chain!r} keeps state that cannot be saved: {error}") from None
    again, rest = flatten(unflatten(tensors, metadata))
    same = again.keys() == tensors.keys() and all(_same(again[name], tensors[name]) for name in tensors)
    assert same and rest == metadata, f"{chain!r}: state differs once saved and loaded"


def _check_damage(chain: Chain, tensor: torch.Tensor) -> None:
    """Bytes cut off, added and flipped; planes and notes that lie."""
    where = f"{chain!r}, {tensor.dtype} of {tuple(tensor.shape)}"
    frame = bytes(chain.encode(tensor))
    draw = random.Random(5)
    for length in sorted({0, 1, 7, 8, 9, len(frame) - 1, *(draw.randrange(len(frame)) for _ in range(20))}):
        _expect_refusal(partial(chain.decode, frame[:length]), f"{where}: cut to {length} bytes")
    _expect_refusal(partial(chain.decode, frame + b"\0"), f"{where}: one byte too many")
    for _ in range(200):
        damaged = bytearray(frame)
        place = draw.randrange(len(frame) * 8)
        damaged[place // 8] ^= 1 << place % 8
        _expect_valid(partial(chain.decode, damaged), f"{where}: bit {place} flipped")
    spec = TensorSpec.of(tuple(tensor.shape), tensor.dtype)
    planes, notes = chain.encode_planes(tensor)
    for lie, wrong in _lies(planes):
        _expect_valid(partial(chain.decode_planes, wrong, notes, spec), f"{where}: {lie}", spec)
    unfit: list[dict[str, Any]] = [{"layout": [0, 0]}, {"layout": 7}, {"packed": []}, {"more": 1}]
    for wrong_notes in (*unfit, {"packed": {"values": ["F32", 1 << 50]}}):
        _expect_refusal(partial(chain.decode_planes, planes, wrong_notes, spec), f"{where}: notes {wrong_notes}")
    for name, (dtype, *sizes) in notes.get("packed", {}).items():
        for note in ([dtype, 1 << 50, *sizes[1:]], [dtype, -1, *sizes[1:]], [dtype], ["C64", *sizes], None):
            lying = {**notes, "packed": {**notes["packed"], name: note}}
            _expect_refusal(partial(chain.decode_planes, planes, lying, spec), f"{where}: {name} noted as {note}")


def _lies(planes: dict[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Sets of planes that are not what was encoded."""
    draw = np.random.default_rng(6)
    yield "a plane too many", {**planes, "9.more": torch.zeros(1)}
    for name, plane in planes.items():
        yield f"no plane {name}", {key: other for key, other in planes.items() if key != name}
        size = plane.numel() * plane.dtype.itemsize
        for lie, data in (("zeros", bytes(size)), ("ones", b"\xff" * size), ("noise", draw.bytes(size))):
            if plane.dtype is not torch.bool and size:
                yield f"{name} of {lie}", {**planes, name: torch.frombuffer(bytearray(data), dtype=plane.dtype)}
        yield f"{name} one element short", {**planes, name: plane[:-1]}
        yield f"{name} one element long", {**planes, name: torch.cat([plane, plane[:1]])}
        yield f"{name} empty", {**planes, name: plane[:0]}
        yield f"{name} as bytes", {**planes, name: torch.tensor(bytearray(bytes_of(plane)), dtype=torch.uint8)}
        yield f"{name} as float64", {**planes, name: plane.double()}


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to the bit, NaN and the sign of zero included."""
    return (
        one.dtype is other.dtype
        and one.shape == other.shape
        and bytes_of(one.contiguous()) == bytes_of(other.contiguous())
    )


def _expect_refusal(call: Callable[[], object], where: str) -> None:
    assert _guarded(call, where) is None, f"{where}: expected a FrameError, but it was decoded"


def _expect_valid(call: Callable[[], torch.Tensor], where: str, spec: TensorSpec | None = None) -> None:
    found = _guarded(call, where)
    if spec is not None and isinstance(found, torch.Tensor):
        right = (tuple(found.shape), found.dtype) == (spec.shape, spec.dtype)
        assert right, f"{where}: {found.dtype} of {tuple(found.shape)} came back"


def _guarded(call: Callable[[], object], where: str) -> object:
    """What ``call`` returns, None if it refuses with ``FrameError``. It must do either within ``ALLOWED`` bytes of
    memory."""
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        with _Allocations() as allocations:
            return call()
    except FrameError:
        return None
    except Exception as error:
        raise AssertionError(f"{where}: expected a FrameError, found {type(error).__name__}: {error}") from error
    finally:
        largest = max(tracemalloc.get_traced_memory()[1] - before, allocations.largest)
        if not tracing:
            tracemalloc.stop()
        assert largest <= ALLOWED, f"{where}: {largest} bytes were allocated"


class _Allocations(TorchFunctionMode):
    """The largest storage among the tensors that PyTorch's functions return, which tracemalloc does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result
