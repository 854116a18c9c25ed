"""A batch, held against what the network takes, before anything is computed or sent."""

from __future__ import annotations

import math
from typing import Any

import torch

from spliteasy.codecs.finite import all_finite
from spliteasy.errors import DataError, NonFiniteError, TrainingError, suggest
from spliteasy.link import Link
from spliteasy.parts import MOST_PARTS
from spliteasy.splitting import Split

__all__ = ["PROTOCOLS", "check_batch", "check_settings"]

PROTOCOLS = ("two-call", "four-call")
"""How the messages of a step are carried: one call for a message and its answer, or, as in the paper, one for each."""

_CLASS_LOSSES = ("cross_entropy", "nll_loss")
_IGNORED = -100


def check_settings(
    split: Any,
    server: Any,
    link: Any,
    seed: Any,
    clip_norm: Any,
    timeout: Any,
    retry: Any,
    protocol: Any,
    pipeline: Any,
) -> None:
    """Raise `TrainingError` for settings of a trainer that are of another kind than they must be."""
    if not isinstance(split, Split):
        raise TrainingError(f"Expected a split made by se.split(model, at=...), found {type(split).__name__}.")
    if server is not None and not isinstance(server, str):
        raise TrainingError(f"Expected server as an address such as LocalServer().url, or None; found {server!r:.80}.")
    if link is not None and not isinstance(link, Link):
        raise TrainingError(f"Expected link as se.Link(...), one of se.LINKS, or None; found {link!r:.80}.")
    if type(seed) is not int:
        raise TrainingError(f"Expected seed as a whole number, found {seed!r:.80}.")
    if clip_norm is not None and not _is_positive(clip_norm):
        raise TrainingError(f"Expected clip_norm as a number above zero, or None; found {clip_norm!r:.80}.")
    if not _is_positive(timeout):
        raise TrainingError(f"Expected timeout as seconds above zero, found {timeout!r:.80}.")
    if retry != 0 and not _is_positive(retry):
        raise TrainingError(f"Expected retry as seconds, 0 or more, found {retry!r:.80}.")
    if protocol not in PROTOCOLS:
        hint = suggest(protocol, PROTOCOLS) if isinstance(protocol, str) else ""
        raise TrainingError(f"Expected protocol as one of {', '.join(PROTOCOLS)}; found {protocol!r:.80}.{hint}")
    if type(pipeline) is not int or not 1 <= pipeline <= MOST_PARTS:
        raise TrainingError(
            f"Expected pipeline as a number of micro-batches, 1 to {MOST_PARTS}; found {pipeline!r:.80}."
        )
    if pipeline > 1 and protocol != "two-call":
        raise TrainingError(
            f"Expected the two-call protocol with pipeline={pipeline}, found {protocol!r}: four calls wait for "
            "each other. Leave out one of the two."
        )


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


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
    if isinstance(loss, str) and loss in _CLASS_LOSSES and split.classes is not None:
        _check_classes(y, len(x), split.classes, loss)


def _check_classes(y: torch.Tensor, batch: int, classes: int, loss: str) -> None:
    """Labels as numbers of classes, for an output of shape (batch, classes)."""
    if loss == "cross_entropy" and y.is_floating_point() and tuple(y.shape) == (batch, classes):
        return  # a probability for each class
    if tuple(y.shape) != (batch,) or y.dtype not in (torch.int64, torch.uint8):
        raise DataError(
            f"Expected labels of shape ({batch},) and torch.int64 for {loss}, found {tuple(y.shape)} {y.dtype}. Give "
            "the number of each sample's class, y.long()."
        )
    wrong = ((y < 0) | (y >= classes)) & (y != _IGNORED)
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        highest = int(y.max())
        advice = f"Load the network with num_classes={highest + 1}, or renumber" if highest >= classes else "Renumber"
        raise DataError(
            f"Expected labels from 0 to {classes - 1}, found {int(y[place])} at position {place} of the batch. "
            f"{advice} the labels."
        )
