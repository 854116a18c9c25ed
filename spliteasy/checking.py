"""A batch, held against what the network takes, before anything is computed or sent."""

from __future__ import annotations

from typing import Any

import torch

from spliteasy.codecs.finite import all_finite
from spliteasy.errors import DataError, NonFiniteError
from spliteasy.splitting import Split

__all__ = ["check_batch"]

_CLASS_LOSSES = ("cross_entropy", "nll_loss")
_IGNORED = -100


def check_batch(split: Split, loss: Any, x: torch.Tensor, y: torch.Tensor) -> None:
    """Raise `DataError` for a batch that does not fit the network, `NonFiniteError` for one with NaN or infinity."""
    for name, value in (("inputs", x), ("labels", y)):
        if not isinstance(value, torch.Tensor):
            raise DataError(f"Expected {name} as a torch.Tensor, found {type(value).__name__}.")
    expected = f"(batch, {', '.join(map(str, split.input_shape))})"
    if x.ndim == 0 or tuple(x.shape[1:]) != split.input_shape:
        raise DataError(
            f"Expected inputs of shape {expected}, found {tuple(x.shape)}. Resize them, or split with another "
            "input_shape."
        )
    if len(x) == 0:
        raise DataError(f"Expected a batch of 1 or more samples of shape {expected}, found an empty one.")
    if x.dtype != split.input_dtype:
        raise DataError(f"Expected inputs of {split.input_dtype}, found {x.dtype}. Convert them with x.to(...).")
    if y.ndim and len(y) != len(x):
        raise DataError(f"Expected a label for each of the {len(x)} inputs, found {len(y)}.")
    if not all_finite(x):
        raise NonFiniteError("Expected finite inputs, found NaN or infinity in the batch. Look at how it was loaded.")
    if not all_finite(y):
        raise NonFiniteError("Expected finite labels, found NaN or infinity in the batch. Look at how they were made.")
    if loss in _CLASS_LOSSES and split.classes is not None and not y.is_floating_point():
        _check_labels(y, split.classes)


def _check_labels(y: torch.Tensor, classes: int) -> None:
    wrong = ((y < 0) | (y >= classes)) & (y != _IGNORED)
    if bool(wrong.any()):
        place = int(wrong.reshape(-1).nonzero()[0])
        raise DataError(
            f"Expected labels from 0 to {classes - 1}, found {int(y.reshape(-1)[place])} at position {place} of the "
            f"batch. Load the network with num_classes={int(y.max()) + 1}, or renumber the labels."
        )
