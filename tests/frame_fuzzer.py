"""Frames found by what code they reach: a program that gives bytes of libFuzzer's, through atheris, to the decoder of
messages. Arguments are libFuzzer's own; anything but a message or a `FrameError` ends it with another status than 0."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(
    include=["spliteasy.wire", "spliteasy.codecs", "spliteasy_plugins", "spliteasy.strides"]
):
    import torch

    from spliteasy.codecs.base import TensorSpec
    from spliteasy.errors import FrameError, NonFiniteError
    from spliteasy.wire import Codecs, Frame, Message, Streams

CHAINS = ("raw", "topk(0.3) | fp16 | zstd(1)", "int8 | lz4")
SHAPE = (2, 3, 4)
SPEC = TensorSpec.of(SHAPE, torch.float32)


def seeds() -> list[bytes]:
    """A frame of every chain, each with its number before it."""
    tensor = torch.linspace(-1, 1, 24).reshape(SHAPE)
    made = [Streams(Codecs(activations=chain), 0).encode(Message("activations", [tensor]), 0) for chain in CHAINS]
    return [bytes([number]) + bytes(frame) for number, frame in enumerate(made)]


def decode(data: bytes) -> None:
    """The message in ``data`` behind its first byte, which chooses the chain."""
    chain = CHAINS[data[0] % len(CHAINS)] if data else CHAINS[0]
    try:
        frame = Frame.parse(memoryview(bytearray(data[1:])))
        message = Streams(Codecs(activations=chain), 0).decode(frame, "activations", 0, [SPEC], plain=("labels",))
    except (FrameError, NonFiniteError):
        return
    (tensor,) = message.tensors
    assert tensor is None or (tuple(tensor.shape) == SHAPE and tensor.dtype == torch.float32)


if __name__ == "__main__":
    torch.set_num_threads(1)
    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()
