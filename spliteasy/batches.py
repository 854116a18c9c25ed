"""Batches as they come from a loader: checked to be pairs, with a progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch

from spliteasy.errors import DataError
from spliteasy.runlog import RunLog

__all__ = ["Batch", "pair", "with_bar"]

Batch = tuple[torch.Tensor, torch.Tensor]


def pair(batch: Any) -> Batch:
    """A batch as inputs and labels. Raises `DataError` if it is no pair of tensors."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        count = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise DataError(f"Expected batches as pairs of inputs and labels, found {type(batch).__name__}{count}.")
    return batch[0], batch[1]


def with_bar(loader: Iterable[Batch], label: str, progress: bool, log: RunLog) -> Iterator[Batch]:
    """The batches, behind a bar that shows the last loss and the bytes of a step."""
    from tqdm.auto import tqdm

    total = None
    with contextlib.suppress(TypeError):  # a DataLoader has a length, also where its data set has none
        total = len(loader) if isinstance(loader, Sized) else None
    with tqdm(total=total, desc=label, unit="step", disable=not progress) as bar:
        for batch in loader:
            yield batch
            last = log.records[-1]
            sent = last.total.sent
            bar.set_postfix_str(f"loss {last.loss:.4f}, {sent / 1e6:.2f} MB a step", refresh=False)
            bar.update()
