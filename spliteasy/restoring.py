"""Trying something on a split and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from spliteasy.seeding import preserved
from spliteasy.segment import Buffers
from spliteasy.splitting import Split

__all__ = ["untouched"]


@contextmanager
def untouched(split: Split) -> Iterator[None]:
    """Put parameters' ``grad``, buffers, modes and the global generator back as they were, whatever happens inside."""
    modules = {id(module): module for part in (split.model, *split.segments) for module in part.modules()}
    modes = [(module, module.training) for module in modules.values()]
    buffers = [Buffers(segment) for segment in split.segments]
    gradients: list[tuple[nn.Parameter, torch.Tensor | None]] = [(p, p.grad) for p in split.model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with preserved():
            yield
    finally:
        for segment in buffers:
            segment.restore()
        for module, mode in modes:
            module.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient
