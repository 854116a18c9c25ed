"""Frames are safetensors files: a reader and writer that copy nothing and believe nothing.

Eight bytes of header length (little endian), a JSON header that gives each plane's dtype, shape and place, the planes
without gaps. The format is that of https://github.com/huggingface/safetensors, whose library reads what is written
here and whose files are read here. The library itself is not used for frames: its ``save`` and ``load`` copy every
plane, and ``load`` drops the metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spliteasy.codecs.base import BytesLike
from spliteasy.errors import CodecError, FrameError

__all__ = ["DTYPES", "DTYPE_NAMES", "MAX_HEADER", "bytes_of", "read", "tensor_of", "write"]

MAX_HEADER = 1 << 20
"""The longest header accepted, in bytes; one of ours takes a few hundred."""

MAX_DIMENSIONS = 32
"""The most dimensions a plane may have."""

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""The names that safetensors gives to dtypes."""

DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
"""The same, the other way round."""

ALIGNMENT = 64
"""Planes of a large frame lie at multiples of this, so that they are computed with where they are."""

SMALL = 1 << 14
"""Bytes of planes below which a frame is not padded for alignment, but to the 8 that safetensors asks for."""


class _Unlocked:
    """Read-only memory, presented as writable: PyTorch has no read-only tensors and warns when it is given read-only
    memory."""

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        self.owner = array  # keeps the memory alive
        self.__array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": "|u1",
            "data": (array.__array_interface__["data"][0], False),
        }


def tensor_of(data: BytesLike, dtype: torch.dtype) -> torch.Tensor:
    """The bytes as a flat tensor: a view of them, or a copy where they are misaligned for ``dtype``.

    Read-only bytes must not be written to through the view. Raises ``FrameError`` if the length is no multiple of the
    item size or a boolean is neither 0 nor 1.
    """
    view = memoryview(data)
    if view.nbytes % dtype.itemsize:
        raise FrameError(f"expected a whole number of {dtype.itemsize}-byte elements, found {view.nbytes} bytes")
    if not view.nbytes:
        return torch.empty(0, dtype=dtype)
    array = np.frombuffer(view, dtype=np.uint8)
    flat = torch.from_numpy(array if array.flags.writeable else np.asarray(_Unlocked(array)))
    if flat.data_ptr() % dtype.itemsize:
        flat = flat.clone()
    if dtype is torch.bool and int(flat.max()) > 1:
        raise FrameError(f"expected booleans of 0 and 1, found a byte of {int(flat.max())}")
    return flat.view(dtype)


def bytes_of(plane: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, a view of its memory."""
    flat = plane.detach().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")  # an empty one has any stride


def write(planes: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """A frame in pieces, the header first: ``b"".join(pieces)`` is a safetensors file, and so is sending them one by
    one.

    The pieces are views of the planes' memory (planes that are not contiguous or not on the CPU are copied). Wide
    elements come first and the header of a large frame is padded to a multiple of 64 bytes, so that every plane is
    aligned if the frame is. Raises ``CodecError`` for a dtype or name that the format lacks.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    pieces: list[bytes | memoryview] = []
    place = 0
    for name, plane in sorted(planes.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        if plane.dtype not in DTYPE_NAMES or name == "__metadata__":
            known = ", ".join(map(str, DTYPE_NAMES))
            raise CodecError(f"a frame cannot hold a plane {name!r} of {plane.dtype}; expected one of {known}")
        end = place + plane.numel() * plane.dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[plane.dtype], "shape": list(plane.shape), "data_offsets": [place, end]}
        if end > place:
            pieces.append(bytes_of(plane.cpu().contiguous()))
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % (ALIGNMENT if place >= SMALL else 8))
    if len(text) > MAX_HEADER:
        raise CodecError(
            f"the header of a frame may have {MAX_HEADER} bytes, this one needs {len(text)}: shorten the metadata"
        )
    return [len(text).to_bytes(8, "little") + text, *pieces]


def read(buffer: BytesLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The planes of a frame, as views of ``buffer``, and its metadata.

    Views keep the buffer alive; if it is read-only, do not write to them. Raises ``FrameError`` for anything that is
    not exactly a safetensors file: lengths, places, gaps, overlaps, bytes left over, unknown dtypes, names that occur
    twice.
    """
    try:
        view = memoryview(buffer).cast("B")
    except TypeError:
        raise FrameError(f"expected a frame, one contiguous run of bytes; found {type(buffer).__name__}") from None
    if len(view) < 8:
        raise FrameError(f"expected a frame of at least 8 bytes, found {len(view)}: it was cut short")
    length = int.from_bytes(view[:8], "little")
    if length > min(MAX_HEADER, len(view) - 8):
        raise FrameError(
            f"the header claims {length} bytes, more than the {min(MAX_HEADER, len(view) - 8)} there can be"
        )
    header = _parse(bytes(view[8 : 8 + length]))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FrameError("expected the metadata to be a map of strings")
    data = view[8 + length :]
    planes: dict[str, torch.Tensor] = {}
    entries = [(*_entry(name, entry), name) for name, entry in header.items()]
    reached = 0
    for begin, end, shape, dtype, name in sorted(entries, key=lambda entry: entry[:2]):
        if begin != reached or end > len(data):
            raise FrameError(
                f"plane {name!r} lies at {begin}..{end}; expected it to start at {reached}, within {len(data)} bytes"
            )
        planes[name] = tensor_of(data[begin:end], dtype).view(shape)
        reached = end
    if reached != len(data):
        raise FrameError(f"the planes end at byte {reached}, but {len(data) - reached} more follow")
    return {name: planes[name] for name in header}, metadata


def _parse(text: bytes) -> dict[str, Any]:
    """The JSON header, with every key once."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise FrameError("a name occurs twice in the header")
        return found

    try:
        header = json.loads(text.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the header is not JSON: {error}") from None
    if not text.startswith(b"{") or not isinstance(header, dict):
        raise FrameError("expected the header to be a JSON object")
    return header


def _entry(name: str, entry: Any) -> tuple[int, int, list[int], torch.dtype]:
    """Begin, end, shape and dtype of a plane, agreeing with each other."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FrameError(f"expected dtype, shape and data_offsets for plane {name!r}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or any(type(number) is not int or number < 0 for number in numbers):
            raise FrameError(f"expected lists of integers for the shape and place of plane {name!r}")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise FrameError(f"plane {name!r} has an unknown dtype; expected one of {', '.join(DTYPES)}")
    if len(offsets) != 2 or len(shape) > MAX_DIMENSIONS or math.prod(size or 1 for size in shape) >= 1 << 62:
        raise FrameError(f"plane {name!r} has no valid shape and place")
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise FrameError(
            f"plane {name!r} takes {offsets[1] - offsets[0]} bytes, its shape needs {math.prod(shape) * dtype.itemsize}"
        )
    return offsets[0], offsets[1], shape, dtype
