"""What a network is tried on: photographs to measure with, digits to train with, in the shape that it takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate

from spliteasy.data import digits, photos
from spliteasy.errors import DataError

__all__ = ["digit_batches", "photograph_labels", "photographs"]


def photographs(input_shape: Sequence[int], count: int, seed: int = 0) -> torch.Tensor:
    """The photographs of `spliteasy.data.photos` in the shape a network takes: (count, channels, height, width).

    Sides that differ are resized to; for other than three channels the grey picture is repeated. Raises `DataError`
    for a shape that no picture has.
    """
    if len(input_shape) != 3:
        raise DataError(
            f"Expected inputs of (channels, height, width) to measure on photographs, found {tuple(input_shape)}. "
            "Use se.measure(chain, tensor) with a tensor of your own."
        )
    channels, height, width = input_shape
    batch = photos(count, size=max(height, width), seed=seed)
    if height != width:
        batch = interpolate(batch, size=(height, width), mode="bilinear", antialias=True)
    return batch if channels == 3 else batch.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1)


def photograph_labels(count: int, classes: int) -> torch.Tensor:
    """Which of the two photographs each one is (`photos` takes turns), for a network of that many classes."""
    return torch.arange(count) % min(2, classes)


def digit_batches(
    input_shape: Sequence[int], classes: int, batch: int, count: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """That many batches of scikit-learn's digits in the shape a network takes; with fewer than ten classes, only those
    digits. Raises `DataError` for a shape that no picture has."""
    if len(input_shape) != 3:
        raise DataError(
            f"Expected inputs of (channels, height, width) to train on digits, found {tuple(input_shape)}. Train with "
            "se.Trainer and data of your own."
        )
    channels, height, width = input_shape
    data, _ = digits(size=max(height, width), channels=1)
    images, labels = data.tensors
    kept = labels < classes
    images, labels = images[kept], labels[kept]
    order = torch.arange(batch * count) % len(images)
    images, labels = images[order], labels[order]
    if height != width:
        images = interpolate(images, size=(height, width), mode="bilinear", antialias=True)
    pictures = images.expand(-1, channels, -1, -1).contiguous()
    return list(zip(torch.split(pictures, batch), torch.split(labels, batch), strict=True))
