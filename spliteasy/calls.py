"""What one call of a step puts on the socket for one tensor and one chain, to the byte, without a server."""

from __future__ import annotations

import math
from typing import Any

import torch

from spliteasy.answers import stated
from spliteasy.codecs.chain import Chain
from spliteasy.heads import CALL, FRAME_TYPE, Call, answer_head, authorization, request_head, session_path, step_path
from spliteasy.server.session import Commit
from spliteasy.server.store import IDENTIFIER_BYTES, TOKEN_BYTES
from spliteasy.wire import Codecs, Frame, Message, Streams

__all__ = ["ADDRESS", "call_bytes", "call_frame", "step_meta"]

ADDRESS = "127.0.0.1:8765"
"""Host and port of `spliteasy serve` where nothing else is said; they stand in a request's head."""

_PHASES = {"activations": "forward", "output_gradients": "backward"}


def call_frame(chain: Chain, tensor: torch.Tensor, message: str) -> Frame:
    """The frame of a ``message`` of one tensor in the first step of a double split, as the wire writes it."""
    meta = step_meta(message, 1, len(tensor) if tensor.ndim else 1)
    return Streams(Codecs(**{message: chain}), seed=0).encode(Message(message, [tensor], meta=meta), step=0)


def step_meta(message: str, tensors: int = 1, batch: int = 1) -> dict[str, Any]:
    """What stands in the header of a message beside its ``tensors``, as in the first step of a double split."""
    metas: dict[str, dict[str, Any]] = {
        "activations": {"batch": batch, "commit": Commit().to_dict(), "needs_gradient": [True] * tensors},
        "outputs": {"needs_gradient": [True] * tensors, "seconds": stated({"b_forward": 0.0})},
        "output_gradients": {},
        "input_gradients": {"gradient_error": 0.0, "seconds": stated({"b_backward": 0.0})},
    }
    return metas[message]


def call_bytes(frame: Frame, message: str, address: str = ADDRESS) -> int:
    """The frame with the head of the request that carries it (activations, output gradients) or of the answer
    (outputs, input gradients).

    Equal to what is counted on the socket in step 0. Later steps state their number and the learning rate in a few
    bytes more. A single split sends its labels along, and a network that drew random numbers the generator's state;
    neither is counted here.
    """
    call = {CALL: str(Call(1, "d" * 22))}
    if message not in _PHASES:
        return frame.nbytes + len(answer_head("200 OK", FRAME_TYPE, frame.nbytes, call))
    path = step_path(session_path("s" * _characters(IDENTIFIER_BYTES)), 0, _PHASES[message])
    head = request_head("PUT", path, address, frame.nbytes, authorization("t" * _characters(TOKEN_BYTES)) | call)
    return frame.nbytes + len(head)


def _characters(count: int) -> int:
    """The length of ``count`` bytes in base64 without padding."""
    return math.ceil(count * 4 / 3)
