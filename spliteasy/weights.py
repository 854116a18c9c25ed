"""Weights and optimizer states as safetensors, through the library; nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch

from spliteasy.errors import FrameError

__all__ = ["copy_weights", "flatten_state", "load_tensors", "save_tensors", "unflatten_state"]


def save_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors by name as the bytes of a safetensors file. Views of a larger storage are copied out of it."""
    return safetensors.torch.save({name: _alone(tensor) for name, tensor in tensors.items()}, dict(metadata or {}))


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
