"""A codec's state as tensors by name and JSON, which is how a session saves it and sends it; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from spliteasy.codecs.container import DTYPE_NAMES
from spliteasy.errors import CodecError, FrameError

__all__ = ["flatten", "unflatten"]

BETWEEN = "|"
"""What stands between the names that lead to a tensor, and so in none of them."""

KEY = "state"
"""The metadata that holds all but the tensors."""


def flatten(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by the names that lead to them (``0|error``), and the rest as JSON under ``state``.

    Raises ``CodecError`` for a name that is no text or holds a bar, and for values that are neither tensors nor JSON.
    """
    tensors: dict[str, torch.Tensor] = {}
    rest = _without_tensors(state, "", tensors)
    return tensors, {KEY: json.dumps(rest, separators=(",", ":"))}


def unflatten(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The inverse of ``flatten``. Raises ``FrameError`` if it is not one."""
    try:
        state = json.loads(metadata[KEY])
        if not isinstance(state, dict):
            raise TypeError(f"{type(state).__name__} for a dict")
        for path, tensor in tensors.items():
            *names, last = path.split(BETWEEN)
            place = state
            for name in names:
                place = place[name]
            if not isinstance(place, dict) or last in place:
                raise KeyError(path)
            place[last] = tensor
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FrameError(f"expected the state of codecs, found something else ({error!r:.200})") from None
    return state


def _without_tensors(state: Mapping[str, Any], path: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The same without its tensors, which are put into ``tensors``."""
    rest: dict[str, Any] = {}
    for name, value in _checked(state, path):
        if isinstance(value, torch.Tensor):
            tensors[path + name] = value
        elif isinstance(value, Mapping):
            rest[name] = _without_tensors(value, f"{path}{name}{BETWEEN}", tensors)
        else:
            rest[name] = value
    return rest


def _checked(state: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if not isinstance(name, str) or BETWEEN in name:
            raise CodecError(f"expected names without {BETWEEN!r} in a codec's state, found {name!r} under {path!r}")
        if isinstance(value, torch.Tensor) and (value.layout is not torch.strided or value.dtype not in DTYPE_NAMES):
            raise CodecError(f"a codec's state cannot hold a {value.layout} tensor of {value.dtype}: {path + name!r}")
        if not isinstance(value, torch.Tensor | Mapping):
            _require_json(value, path + name)
        yield name, value


def _require_json(value: Any, path: str) -> None:
    """What JSON gives back as it was: tuples would come back as lists, NaN not everywhere."""
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        same = False
    if not same:
        raise CodecError(
            f"expected tensors, JSON values and dicts of these in a codec's state, found {type(value).__name__} at "
            f"{path!r}"
        )
