"""What networks are trained on here: CIFAR-100 where a folder with it is given, scikit-learn's digits otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from spliteasy import data
from spliteasy.errors import ReproduceError

__all__ = ["Images", "batches", "fitted", "images"]


@dataclass(frozen=True)
class Images:
    """Training and test images as tensors, for all runs the same: ``x`` (N, 3, 32, 32) and ``y`` (N)."""

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int

    def fitted_to(self, input_shape: Sequence[int]) -> Images:
        """The same images in the shape that a network takes."""
        (train, own), (test, other) = self.train, self.test
        return Images(self.name, (fitted(train, input_shape), own), (fitted(test, input_shape), other), self.classes)


def images(folder: str | os.PathLike[str] | None, train: int | None = None, test: int | None = None) -> Images:
    """The first ``train`` and ``test`` images (None: all) of CIFAR-100 in ``folder``, or, for None, of the digits at
    32 × 32 in three equal channels.

    Raises `ReproduceError` for a folder that is a file and counts below 1, `DataError` where no CIFAR-100 is.
    """
    for what, count in (("train", train), ("test", test)):
        if count is not None and (type(count) is not int or count < 1):
            raise ReproduceError(f"Expected {what} images as a whole number of 1 or more, found {count!r}.")
    if folder is None:
        parts: tuple[Dataset[Any], Dataset[Any]] = data.digits(size=32, channels=3)
        name, classes = "scikit-learn's digits", 10
    else:
        if Path(folder).is_file():
            raise ReproduceError(f"Expected the folder that holds cifar-100-python, found the file {folder}.")
        parts = data.cifar100(Path(folder))
        name, classes = "CIFAR-100", 100
    return Images(name, _tensors(parts[0], train), _tensors(parts[1], test), classes)


def _tensors(part: Dataset[Any], count: int | None) -> tuple[Tensor, Tensor]:
    """The first items as two tensors: read once, not once an epoch."""
    held: int = len(part)  # type: ignore[arg-type]
    items = [part[index] for index in range(held if count is None else min(count, held))]
    return torch.stack([x for x, _ in items]), torch.tensor([int(y) for _, y in items])


def fitted(x: Tensor, input_shape: Sequence[int]) -> Tensor:
    """Images (N, 3, 32, 32) in the shape that a network takes: resized, and grey for one channel."""
    channels, height, width = input_shape
    x = x if x.shape[1] == channels else x.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    same = tuple(x.shape[2:]) == (height, width)
    return x if same else interpolate(x, size=(height, width), mode="bilinear", antialias=height < x.shape[2])


def batches(x: Tensor, y: Tensor, batch: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch, in an order of seed and epoch alone; full ones, if there is one."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
    for rows in torch.split(order, batch):
        if len(rows) == min(batch, len(x)):
            yield x[rows], y[rows]
