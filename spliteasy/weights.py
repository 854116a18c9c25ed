"""Weights and optimizer states as safetensors, through the library; nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch

from spliteasy.codecs.layout import default_layout, is_layout, layout_of, restore
from spliteasy.errors import FrameError

__all__ = ["copy_weights", "flatten_state", "lay_out", "layouts_of", "load_tensors", "save_tensors", "unflatten_state"]


def save_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors by name as the bytes of a safetensors file. Views of a larger storage are copied out of it."""
    alone = {name: _alone(tensor) for name, tensor in tensors.items()}
    return safetensors.torch.save(alone, dict(metadata) if metadata else None)  # no tensors and {} make a broken file


def load_tensors(data: bytes | memoryview) -> dict[str, torch.Tensor]:
    """The inverse of `save_tensors`. Raises `FrameError` if it is not a safetensors file."""
    try:
        loaded: dict[str, torch.Tensor] = safetensors.torch.load(bytes(data))
    except safetensors.SafetensorError as error:
        raise FrameError(f"Expected tensors as safetensors, found something else ({error}).") from error
    return loaded


def copy_weights(weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    """Copy ``weights`` into ``own``, in place. Raises `FrameError`, with nothing copied, unless names, shapes and
    dtypes are the same."""
    if set(own) != set(weights):
        wrong = sorted(set(own) ^ set(weights))
        raise FrameError(f"Expected the weights of segment B, found other names: {', '.join(wrong[:5])}.")
    for name, tensor in own.items():
        found = weights[name]
        if tensor.shape != found.shape or tensor.dtype != found.dtype:
            raise FrameError(
                f"Expected weights '{name}' as {tuple(tensor.shape)} {tensor.dtype}, found {tuple(found.shape)} "
                f"{found.dtype}."
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def layouts_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    """The order of dimensions in memory of those tensors that do not have the default one (channels-last weights).
    Safetensors files hold none, and kernels choose by it."""
    found = {name: layout_of(tensor) for name, tensor in tensors.items()}
    return {name: list(order) for name, order in found.items() if order != default_layout(len(order))}


def lay_out(tensors: Mapping[str, torch.Tensor], layouts: Mapping[str, Any]) -> None:
    """Give tensors the memory layouts that `layouts_of` told. Raises `FrameError`, with nothing changed, for a name
    that is not there or an order that is none."""
    for name, order in layouts.items():
        if name not in tensors or not is_layout(order, tensors[name].ndim):
            raise FrameError(f"Expected orders of segment B's dimensions, found {order!r:.80} for {name[:80]!r}.")
    for name, order in layouts.items():
        tensors[name].data = restore(tensors[name].data, order)


def flatten_state(state: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """An optimizer's state by parameter as tensors named ``parameter|key``, and the numbers in it as metadata."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name, entries in state.items():
        numbers[name] = {key: value for key, value in entries.items() if not isinstance(value, torch.Tensor)}
        tensors |= {f"{name}|{key}": value for key, value in entries.items() if isinstance(value, torch.Tensor)}
    return tensors, {"numbers": json.dumps(numbers)}


def unflatten_state(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The inverse of `flatten_state`. Raises `FrameError` if it is not one."""
    try:
        state = {str(name): dict(entries) for name, entries in json.loads(metadata["numbers"]).items()}
        for key, tensor in tensors.items():
            name, _, entry = key.rpartition("|")
            state[name][entry] = tensor
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise FrameError(f"Expected an optimizer's state, found something else ({error!r}).") from error
    return state


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.dtype.itemsize else tensor.clone()
