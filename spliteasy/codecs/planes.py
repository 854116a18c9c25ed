"""The planes of a tensor between codecs and frame: compressed where it helps, and believed only after every size was
checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from spliteasy.codecs.base import BytesCodec, Context, PlaneBound, Planes, TensorCodec, TensorSpec
from spliteasy.codecs.container import DTYPE_NAMES, bytes_of, tensor_of
from spliteasy.errors import CodecError, FrameError, SplitEasyError

__all__ = ["VALUES", "fits", "join", "needs_note", "pack", "receive", "shaped", "split"]


VALUES = "values"
"""The plane that the next tensor codec takes onward."""

NOTE = 40
"""About what the note of a compressed plane takes in a frame's header: a plane that saves less stays as it is."""


def fits(plane: torch.Tensor, bound: PlaneBound) -> bool:
    """Whether a plane has the type and at most the size that was agreed."""
    return plane.dtype is bound.dtype and plane.numel() <= bound.max_numel


def split(codec: TensorCodec, encoded: Planes, spec: TensorSpec) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What ``codec`` made of a tensor of ``spec``: the values, contiguous and in their shape, and the flat side planes.

    Raises ``CodecError`` if the codec broke its own promises, ``out`` and ``bounds``.
    """
    bounds, after = codec.bounds(spec), codec.out(spec)
    if encoded.keys() != bounds.keys() or not all(fits(encoded[name], bounds[name]) for name in bounds):
        found = {name: (plane.dtype, plane.numel()) for name, plane in encoded.items()}
        raise CodecError(f"{codec!r} made the planes {found}, but its bounds({spec}) are {bounds}")
    values = encoded[VALUES].contiguous()
    if values.dtype is not after.dtype or (after.shape is not None and values.numel() != after.numel):
        raise CodecError(f"{codec!r} made {values.numel()} values of {values.dtype}, but its out({spec}) is {after}")
    side = {name: plane.reshape(-1) for name, plane in encoded.items() if name != VALUES}
    return values.view(-1 if after.shape is None else after.shape), side


def join(codec: TensorCodec, values: torch.Tensor, side: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
    """The tensor of ``spec`` that ``codec`` decodes. Whatever a codec trips over in planes that lie is a
    ``FrameError``."""
    after = codec.out(spec)
    own = {**side, VALUES: values if after.shape is None else shaped(values, after)}
    try:
        return codec.decode(own, spec, context)
    except SplitEasyError:
        raise
    except Exception as error:
        raise FrameError(f"{codec!r} cannot decode these planes: {type(error).__name__}: {error}") from error


def shaped(value: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """``value`` in the shape of ``spec``, a view. Raises ``FrameError`` if the number of elements or the dtype
    differs."""
    if value.numel() != spec.numel or value.dtype is not spec.dtype:
        raise FrameError(f"expected {spec.numel} values of {spec.dtype}, found {value.numel()} of {value.dtype}")
    return value.reshape(spec.shape or ())


def pack(plane: torch.Tensor, codecs: Sequence[BytesCodec]) -> tuple[torch.Tensor, list[Any]] | None:
    """A flat plane through the bytes codecs, and the note that undoes it; None if the frame would not get smaller.

    The note holds dtype and number of elements, then the size in bytes after every codec but the last.
    """
    raw = bytes_of(plane)
    if not raw.nbytes:
        return None
    data: np.ndarray[Any, Any] = np.frombuffer(raw, _array_dtype(plane.dtype))
    sizes: list[int] = []
    for codec in codecs:
        found = np.frombuffer(memoryview(codec.encode(data)).cast("B"), np.uint8)
        if found.size > codec.bound(data.nbytes):
            return None
        sizes.append(found.size)
        data = found
    if data.nbytes + NOTE >= raw.nbytes:
        return None
    return tensor_of(data.data, torch.uint8), [DTYPE_NAMES[plane.dtype], plane.numel(), *sizes[:-1]]


def needs_note(note: Sequence[Any], bound: PlaneBound, codecs: Sequence[BytesCodec]) -> bool:
    """Whether a compressed plane has to say what it was: not if it comes as bytes where other items were agreed, and
    had the largest size before every bytes codec, as the values of a tensor have."""
    return bound.dtype is torch.uint8 or list(note) != _largest(bound, codecs)


def _largest(bound: PlaneBound, codecs: Sequence[BytesCodec]) -> list[Any]:
    """The note of a plane with as many items as it may have, which stays as large as it may until the last codec."""
    sizes = [bound.max_numel * bound.dtype.itemsize]
    for codec in codecs[:-1]:
        sizes.append(codec.bound(sizes[-1]))
    return [DTYPE_NAMES[bound.dtype], bound.max_numel, *sizes[1:]]


def receive(
    planes: Planes, packed: Mapping[str, Any], bounds: Mapping[str, PlaneBound], codecs: Sequence[BytesCodec]
) -> dict[str, torch.Tensor]:
    """The planes, decompressed, each of the type that ``bounds`` names and no larger. Raises ``FrameError``
    otherwise."""
    if planes.keys() != bounds.keys() or not packed.keys() <= bounds.keys():
        raise FrameError(f"expected the planes {sorted(bounds)}, found {sorted(planes)}, packed {sorted(packed)}")
    received: dict[str, torch.Tensor] = {}
    for name, plane in planes.items():
        if plane.ndim != 1:
            raise FrameError(f"expected plane {name!r} to be flat, found shape {tuple(plane.shape)}")
        unnoted = bool(codecs) and plane.dtype is torch.uint8 and bounds[name].dtype is not torch.uint8
        if name in packed or unnoted:
            note = packed[name] if name in packed else _largest(bounds[name], codecs)
            plane = _unpack(name, plane, note, bounds[name], codecs)
        if not fits(plane, bounds[name]):
            raise FrameError(
                f"expected at most {bounds[name].max_numel} elements of {bounds[name].dtype} in plane {name!r}, "
                f"found {plane.numel()} of {plane.dtype}"
            )
        received[name] = plane
    return received


def _unpack(name: str, plane: torch.Tensor, note: Any, bound: PlaneBound, codecs: Sequence[BytesCodec]) -> torch.Tensor:
    """One plane out of its bytes. Every size in the note is checked before any codec sees it."""
    if (
        not isinstance(note, list | tuple)
        or not codecs
        or len(note) != len(codecs) + 1
        or any(type(number) is not int or number < 0 for number in note[1:])
        or note[0] != DTYPE_NAMES[bound.dtype]
        or note[1] > bound.max_numel
    ):
        expected = f"{DTYPE_NAMES[bound.dtype]!r}, at most {bound.max_numel} elements"
        raise FrameError(f"plane {name!r} is not noted as {expected}, and a size for each bytes codec but the last")
    sizes = [note[1] * bound.dtype.itemsize, *note[2:]]
    if plane.dtype is not torch.uint8 or plane.numel() >= sizes[0]:
        raise FrameError(
            f"expected plane {name!r} as fewer than {sizes[0]} bytes, found {plane.numel()} of {plane.dtype}"
        )
    if any(after > codec.bound(before) for codec, before, after in zip(codecs, sizes, sizes[1:], strict=False)):
        raise FrameError(f"plane {name!r} is noted with sizes {sizes}, which these codecs cannot have made")
    data = bytes_of(plane)
    for place, codec in reversed(list(enumerate(codecs))):
        dtype = np.dtype(np.uint8) if place else _array_dtype(bound.dtype)
        try:
            array = codec.decode(data, dtype, sizes[place] // dtype.itemsize)
        except SplitEasyError:
            raise
        except Exception as error:
            raise FrameError(f"{codec!r} cannot decode plane {name!r}: {type(error).__name__}: {error}") from error
        if array.dtype != dtype or array.nbytes != sizes[place]:
            raise FrameError(f"{codec!r} gave {array.nbytes} bytes of plane {name!r}; expected {sizes[place]}")
        data = array.reshape(-1).view(np.uint8).data
    return tensor_of(data, bound.dtype)


def _array_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The NumPy dtype of a plane's items; unsigned integers for the floats that NumPy lacks."""
    name = str(dtype).removeprefix("torch.")
    return np.dtype({"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}.get(name, name))
