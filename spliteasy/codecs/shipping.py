"""Fitted parameters on their way to the other side: planes of the file that opens a session, named
``fitted:DIGEST:NAME``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from spliteasy.codecs import container
from spliteasy.codecs.fitted import Parameters, remember
from spliteasy.errors import FrameError

__all__ = ["receive_shipped", "shipped_bytes", "shipped_planes"]

_PREFIX = "fitted"


def shipped_planes(held: Iterable[Parameters]) -> dict[str, torch.Tensor]:
    """All the tensors of ``held``, by the names under which they travel."""
    return {
        f"{_PREFIX}:{parameters.digest}:{name}": tensor
        for parameters in held
        for name, tensor in parameters.tensors.items()
    }


def shipped_bytes(held: Iterable[Parameters]) -> int:
    """What ``held`` takes on the wire, in bytes: the safetensors file of these planes, header included; 0 for none."""
    planes = shipped_planes(held)
    return sum(len(piece) for piece in container.write(planes, {})) if planes else 0


def receive_shipped(
    tensors: Mapping[str, torch.Tensor], digests: Sequence[str]
) -> tuple[tuple[Parameters, ...], dict[str, torch.Tensor]]:
    """The parameters that ``digests`` announce, in that order, and the tensors that are not theirs.

    Parameters can be found by their digest for as long as somebody holds them. Raises ``FrameError`` if the tensors do
    not have the digest that they came under.
    """
    received = []
    rest = dict(tensors)
    for digest in dict.fromkeys(digests):
        prefix = f"{_PREFIX}:{digest}:"
        own = {name.removeprefix(prefix): rest.pop(name) for name in tensors if name.startswith(prefix)}
        parameters = remember(own)
        if parameters.digest != digest:
            raise FrameError(
                f"expected fitted parameters of the digest {digest!r:.80}, found {parameters.digest!r}: they were "
                "damaged on the way, or are others; open the session again"
            )
        received.append(parameters)
    return tuple(received), rest
