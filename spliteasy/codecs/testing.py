"""The checks that every codec must pass, for plugin authors and for our own tests.

from spliteasy.codecs.testing import check_codec

def test_mine():
    check_codec("mine(3)")
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from spliteasy.codecs.base import BytesCodec, Codec, Context, TensorSpec
from spliteasy.codecs.chain import Chain
from spliteasy.codecs.chain import codec as read
from spliteasy.codecs.conversation import check_conversation, check_random_numbers, same
from spliteasy.codecs.damage import fuzz
from spliteasy.codecs.finite import all_finite
from spliteasy.codecs.guard import expect_refusal
from spliteasy.codecs.lies import check_lies
from spliteasy.errors import CodecError, SplitEasyError

__all__ = ["check_codec", "example_tensors", "fitted", "fuzz"]

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

FITTABLE = ((4, 50), (4, 6, 10, 12), (2, 3, 8, 8))
"""Shapes on which a fitted codec must be able to find its parameters."""

CALIBRATION = 8
"""Tensors that codecs are fitted on."""


def check_codec(codec: str | Codec | Chain) -> None:
    """Try everything that the contract in ``spliteasy.codecs.base`` asks of a codec (or chain); takes seconds.

    It is a value whose notation reads back. It brings back shape, dtype and layout of every example tensor (elements
    too, if it is lossless or the tensor is not floating), for every message, in training and in evaluation, the same
    way each time; it leaves its input alone, and hides no NaN. It keeps its promises on the size of planes. Two sides
    that talk as the wire lets them understand each other: pairs, state, retries, random numbers. Damaged or lying
    frames give ``FrameError`` or a valid tensor, nothing else, in little memory. A codec with parameters to fit refuses
    to work without them, and is fitted on tensors of each shape for the rest. Raises ``AssertionError`` saying which of
    these failed, on what.
    """
    chain = read(codec)
    _check_value(chain)
    _check_fitting(chain)
    for stage in chain.bytes_codecs:
        _check_bytes_codec(stage)
    for label, tensor in example_tensors():
        if (ready := fitted(chain, tensor)) is not None:
            _check_round_trip(ready, label, tensor)
    generator = torch.Generator().manual_seed(3)
    flat, images = (4, 50), (4, 6, 5, 3)
    for shape, dtype in ((flat, torch.float32), (images, torch.float32), (images, torch.bfloat16)):
        if (ready := fitted(chain, torch.randn(shape, generator=generator).to(dtype))) is not None:
            check_conversation(ready, dtype, shape)
            _check_not_hidden(ready, shape)
            check_random_numbers(ready, shape)
            _check_messages(ready, torch.randn(shape, generator=generator).to(dtype))
    for shape in ((3, 40), (2, 3, 8, 8), (1, 600)):
        for dtype in (torch.float32, torch.bfloat16, torch.int32):
            tensor = (torch.randn(shape, generator=generator).relu_() * 9).to(dtype)
            if (ready := fitted(chain, tensor)) is not None:
                _check_cut(ready, tensor)
                check_lies(ready, tensor)
                fuzz(ready, tensor, 60)
                fuzz(ready, tensor, 20, message="input_gradients")


def fitted(chain: Chain, tensor: torch.Tensor) -> Chain | None:
    """``chain`` itself if it has nothing to fit; else fitted on noise of its shape and dtype, or None where
    that does not suffice (``CodecError``), as a scalar may not."""
    if not _is_to_fit(chain):
        return chain
    try:
        return chain.fit(_like(tuple(tensor.shape), tensor.dtype))
    except CodecError:
        return None


def _like(shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    """Calibration tensors."""
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(CALIBRATION)]


@functools.lru_cache
def _is_to_fit(chain: Chain) -> bool:
    """Whether fitting changes the chain, also where the codec to fit stands within another one."""
    return chain.fit(_like(FITTABLE[0], torch.float32)) != chain


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


def _check_fitting(chain: Chain) -> None:
    """Without parameters nothing works; with them the notation holds their digest, and the same data gives the same."""
    if not _is_to_fit(chain):
        return
    assert chain.shipped == (), f"{chain!r} ships parameters before it was fitted"
    x = torch.randn((4, 50), generator=torch.Generator().manual_seed(1))
    for use in (lambda: chain.encode(x), lambda: chain.decode_planes({}, {}, TensorSpec.of((4, 50), x.dtype))):
        try:
            use()
        except SplitEasyError:
            continue
        raise AssertionError(f"{chain!r} works though it is not fitted")
    for shape in FITTABLE:
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        one, other = fitted(chain, tensor), fitted(chain, tensor.clone())
        assert one is not None and other is not None, f"{chain!r} cannot be fitted on tensors of {shape}"
        assert one.shipped and one == other, f"{chain!r}: fitted twice on the same tensors, the parameters differ"
        assert all(held.digest in repr(one) for held in one.shipped), f"{one!r} does not name its parameters"
        _check_value(one)


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
                for changed in (bytes(data) + b"\0", bytes(data[:-1]), b""):
                    refused = partial(codec.decode, memoryview(changed), typed.dtype, count)
                    expect_refusal(refused, f"{codec!r}: {len(changed)} bytes instead of {len(data)}")
                for wrong in (0, count - 1, count + 1, 1 << 40):
                    if wrong != count:
                        refused = partial(codec.decode, data, typed.dtype, wrong)
                        expect_refusal(refused, f"{codec!r}: {wrong} items stated, {count} encoded")


def _check_round_trip(chain: Chain, label: str, tensor: torch.Tensor) -> None:
    original, where = tensor.detach().clone(), f"{chain!r}, {label}"
    frame = chain.encode(tensor)
    assert same(tensor.detach(), original), f"{where}: encoding changed its input"
    assert bytes(chain.encode(tensor)) == bytes(frame), f"{where}: encoding twice gives two different frames"
    decoded = chain.decode(frame)
    assert decoded.shape == tensor.shape, f"{where}: shape {tuple(decoded.shape)} came back for {tuple(tensor.shape)}"
    assert decoded.dtype is tensor.dtype, f"{where}: {decoded.dtype} came back for {tensor.dtype}"
    if tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last):
        assert decoded.stride() == tensor.stride() or not tensor.numel(), f"{where}: the layout changed"
    if chain.lossless or not tensor.is_floating_point():
        assert same(decoded, original), f"{where}: elements changed, though the chain is lossless here"
    assert all_finite(decoded), f"{where}: finite values came back as NaN or infinity"
    spec = TensorSpec.of(tuple(tensor.shape), tensor.dtype)
    for kind in (bytearray, memoryview):
        assert same(chain.decode(kind(frame), spec=spec), decoded), f"{where}: a {kind.__name__} decodes differently"
    if tensor.numel():
        decoded.zero_()
        assert bytes(chain.encode(tensor)) == bytes(frame), f"{where}: the frame shares memory with the decoded tensor"


def _check_not_hidden(chain: Chain, shape: tuple[int, ...]) -> None:
    """NaN and infinity are for the wire to refuse, which it cannot if a codec makes numbers of them."""
    for value in (float("nan"), float("inf"), -float("inf")):
        everywhere, once = torch.full(shape, value), torch.ones(shape)
        once.view(-1)[once.numel() // 2] = value
        for where, x in (("a tensor of", everywhere), ("one element of", once)):
            try:
                decoded = chain.decode(chain.encode(x))
            except SplitEasyError:
                continue
            assert not all_finite(decoded), f"{chain!r} turned {where} {value} into finite numbers"


def _check_messages(chain: Chain, tensor: torch.Tensor) -> None:
    """Every message alone, in training and in evaluation: a gradient may come without its forward message."""
    for message in ("activations", "outputs", "output_gradients", "input_gradients"):
        for training in (True, False):
            frame = chain.encode(tensor, Context(message, training))
            decoded = chain.decode(frame, Context(message, training), TensorSpec.of(tuple(tensor.shape), tensor.dtype))
            where = f"{chain!r}, {message}, training={training}"
            assert all_finite(decoded), f"{where}: finite values came back as NaN or infinity"
            assert not chain.lossless or same(decoded, tensor), f"{where}: elements changed"


def _check_cut(chain: Chain, tensor: torch.Tensor) -> None:
    """A frame that ends early, or late."""
    where, frame = f"{chain!r}, {tensor.dtype} of {tuple(tensor.shape)}", bytes(chain.encode(tensor))
    for length in sorted({0, 1, 7, 8, 9, len(frame) - 1, *range(10, len(frame), len(frame) // 20 + 1)}):
        expect_refusal(partial(chain.decode, frame[:length]), f"{where}: cut to {length} bytes")
    expect_refusal(partial(chain.decode, frame + b"\0"), f"{where}: one byte too many")
