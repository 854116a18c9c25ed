"""What the header of a frame says, without decoding it: the first bytes of the body are enough."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from spliteasy.codecs.container import MAX_HEADER

__all__ = ["HEADER_BYTES", "FrameNote", "Plane", "note_of"]

HEADER_BYTES = 8 + MAX_HEADER
"""How much of a body the header of a frame can take."""


@dataclass(frozen=True)
class Plane:
    """A plane as the header describes it."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class FrameNote:
    """The header of a frame, or of another safetensors body (weights).

    ``message``, ``chain`` and ``step`` are empty where the body is no message of a step. ``header_bytes`` counts the
    eight bytes of length and the JSON; ``metadata`` is all that the frame says about itself.
    """

    message: str
    chain: str
    step: int | None
    header_bytes: int
    planes: dict[str, Plane] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> list[tuple[int, ...] | None]:
        """The shape of each tensor in the message, before the chain; None where one is missing."""
        return [tuple(entry["shape"]) if entry else None for entry in self.metadata.get("tensors", [])]

    @property
    def plane_bytes(self) -> int:
        """What the planes take together."""
        return sum(plane.nbytes for plane in self.planes.values())


def note_of(data: bytes | bytearray) -> FrameNote | None:
    """The note of a body that begins with these bytes; None if it is no safetensors container."""
    try:
        length = int.from_bytes(data[:8], "little")
        if not 2 <= length <= MAX_HEADER or len(data) < 8 + length:
            return None
        header = json.loads(bytes(data[8 : 8 + length]))
        about = header.pop("__metadata__", {})
        said = json.loads(about.get("spliteasy", "{}"))
        planes = {
            name: Plane(str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0])
            for name, entry in header.items()
        }
        return FrameNote(said.get("message", ""), said.get("chain", ""), said.get("step"), 8 + length, planes, said)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
