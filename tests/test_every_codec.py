"""What every installed codec must do, alone and in chains; codecs that are added later are gone over unasked."""

from __future__ import annotations

import pytest
import torch
from every_codec import CHAINS, COMBINED, EXAMPLES, KINDS, tensor_of, tensors
from harness import aligned
from hypothesis import given, settings

from spliteasy.codecs import TensorSpec, codec
from spliteasy.codecs.conversation import same
from spliteasy.codecs.finite import all_finite
from spliteasy.codecs.testing import check_codec, fitted
from spliteasy.wire import Codecs, Frame, Message, Streams


@pytest.mark.parametrize("notation", EXAMPLES + CHAINS)
def test_the_contract(notation: str) -> None:
    check_codec(notation)


@pytest.mark.slow
@pytest.mark.parametrize("notation", COMBINED)
def test_the_contract_in_a_chain(notation: str) -> None:
    check_codec(notation)


def comes_back(notation: str, tensor: torch.Tensor) -> None:
    """Shape, dtype, finiteness, and every bit if the chain is lossless; from any bytes-like; the input untouched."""
    chain = fitted(codec(notation), tensor)
    if chain is None:
        return
    before = tensor.clone(memory_format=torch.preserve_format)
    frame = bytes(chain.encode(tensor))
    assert same(tensor, before), "encoding changed its input"
    assert bytes(chain.encode(tensor)) == frame, "encoding twice gives two frames"
    decoded = chain.decode(frame)
    assert decoded.shape == tensor.shape and decoded.dtype is tensor.dtype
    assert all_finite(decoded), f"not finite: {decoded}"
    if chain.lossless or not tensor.is_floating_point():
        assert same(decoded, tensor)
    spec = TensorSpec.of(tuple(tensor.shape), tensor.dtype)
    for data in (bytearray(frame), memoryview(frame), memoryview(b"odd" + frame)[3:]):
        assert same(chain.decode(data, spec=spec), decoded)


@pytest.mark.parametrize("notation", EXAMPLES + CHAINS + COMBINED)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(tensor=tensors())
def test_any_tensor_comes_back(notation: str, tensor: torch.Tensor) -> None:
    comes_back(notation, tensor)


@pytest.mark.slow
@pytest.mark.parametrize("notation", EXAMPLES + CHAINS + COMBINED)
@settings(max_examples=1000, deadline=None)
@given(tensor=tensors(largest=9))
def test_any_tensor_comes_back_a_thousand_times(notation: str, tensor: torch.Tensor) -> None:
    comes_back(notation, tensor)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("notation", EXAMPLES)
def test_special_values_come_back(notation: str, kind: str) -> None:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for shape in ((4, 6, 5, 3), (4, 50), (2, 5, 12), (1, 1), (3, 700)):
            comes_back(notation, tensor_of(kind, shape, dtype, seed=1))


@pytest.mark.parametrize("notation", EXAMPLES + CHAINS + COMBINED)
def test_both_transports_give_the_same_in_training(notation: str) -> None:
    """Three steps of two messages with their gradients, two tensors each, between `Streams` on two sides. A second pair
    of sides hands the planes over without a socket. All agree to the bit, also when a step is given up and repeated."""
    shape = (4, 6, 5, 3)
    chain = fitted(codec(notation), torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert chain is not None
    codecs = Codecs(chain, chain, chain, chain)
    ends = {name: Streams(codecs, seed=3) for name in ("device", "server", "near device", "near server")}
    specs = [TensorSpec.of(shape, torch.float32), TensorSpec.of(shape, torch.bfloat16)]
    for step, committed in ((0, True), (1, False), (1, True), (2, True)):
        generator = torch.Generator().manual_seed(step)
        for end in ends.values():
            end.begin()
        order = [("activations", "device"), ("outputs", "server"), ("output_gradients", "device"),
                 ("input_gradients", "server")]  # fmt: skip
        for name, sender in order:
            receiver = "server" if sender == "device" else "device"
            made = [torch.randn(shape, generator=generator).relu_().to(spec.dtype) for spec in specs]
            frame = ends[sender].encode(Message(name, made), step)
            near = ends[f"near {sender}"].encode(Message(name, made), step)
            assert bytes(near) == bytes(frame)
            far = ends[receiver].decode(Frame.parse(aligned(bytes(frame))), name, step, specs).tensors
            here = ends[f"near {receiver}"].decode(near, name, step, specs).tensors
            for one, other, original in zip(far, here, made, strict=True):
                assert one is not None and other is not None and same(one, other), name
                assert not chain.lossless or same(one, original)
        for end in ends.values() if committed else ():
            end.commit()
