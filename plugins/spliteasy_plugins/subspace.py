"""Principal subspaces of many samples with many entries: by whichever of the two there is less of.

A matrix of n samples with d entries is first replaced by a factor R of its second moment, R^T R = X^T X / n, which has
min(n, d) rows; what is asked of the moment is then an eigenproblem of that size. So d may be 100,000 with a few hundred
samples, and n a million with a few hundred channels. Where both are large, R is a sketch of the leading directions by
randomized subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1). Everything is
summed in float64 and gives the same result every time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spliteasy.errors import CodecError

__all__ = ["factor", "leading", "mean_of", "product", "upright", "weighted_sum"]

LARGEST = 2048
"""The largest eigenproblem that is solved exactly: a few seconds on one core."""

OVERSAMPLING = 512
"""Directions that a sketch has beside those asked for."""

BLOCK = 1 << 22
"""Elements converted to float64 at a time."""


def mean_of(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean over all rows: shape (d,), float64. ``rows``: matrices (n_i, d)."""
    total = sum(part.sum(0, dtype=torch.float64) for part in rows)
    mean: torch.Tensor = torch.as_tensor(total) / sum(len(part) for part in rows)
    return mean


def factor(rows: Sequence[torch.Tensor], mean: torch.Tensor | None, components: int) -> torch.Tensor:
    """R of shape (r, d), R^T R being the second moment of all rows around ``mean`` (around zero if None).

    r is min(n, d) at most. If that is above ``LARGEST``, R holds the leading 2 ``components`` + 512 directions.
    """
    count, entries = sum(len(part) for part in rows), rows[0].shape[1]
    if count > entries and entries <= LARGEST:
        moment = torch.zeros(entries, entries, dtype=torch.float64)
        for part in rows:
            for block in torch.split(part, max(1, BLOCK // entries)):
                centered = block.double() if mean is None else block.double() - mean
                moment += centered.T @ centered
        values, vectors = _eigenvectors(moment / count)
        root: torch.Tensor = values.clamp(min=0).sqrt()[:, None] * vectors.T
        return root
    matrix = torch.cat([part if mean is None else (part.double() - mean).to(part.dtype) for part in rows])
    if min(count, entries) > LARGEST:
        matrix = _sketch(matrix, min(2 * components + OVERSAMPLING, count, entries))
    return torch.div(matrix, count**0.5)


def product(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``one @ other.T`` for (a, d) and (b, d): shape (a, b), float64."""
    width = max(1, BLOCK // max(len(one), len(other), 1))
    total = torch.zeros(len(one), len(other), dtype=torch.float64)
    for left, right in zip(torch.split(one, width, 1), torch.split(other, width, 1), strict=True):
        total += left.double() @ right.double().T
    return total


def weighted_sum(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``weights @ rows`` for (k, n) and (n, d): shape (k, d), float64."""
    width = max(1, BLOCK // max(len(rows), 1))
    return torch.cat([weights.double() @ block.double() for block in torch.split(rows, width, 1)], 1)


def leading(symmetric: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` largest eigenvalues, descending, and their eigenvectors as rows (count, n)."""
    values, vectors = _eigenvectors((symmetric + symmetric.T) / 2)
    return values.flip(0)[:count].clamp(min=0), vectors.flip(1)[:, :count].T


def upright(rows: torch.Tensor) -> torch.Tensor:
    """1 or -1 for every row, so that its largest entry becomes positive: the sign of an eigenvector is nobody's choice
    otherwise."""
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(rows.dtype)


def _eigenvectors(symmetric: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ascending eigenvalues, and eigenvectors as columns. Raises ``CodecError`` where squares have left the range."""
    try:
        values, vectors = torch.linalg.eigh(symmetric)
    except RuntimeError as error:
        raise CodecError(f"expected calibration tensors whose squares are finite, found larger ones: {error}") from None
    return values, vectors


def _sketch(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """Q^T X for an orthonormal Q (n, size) whose columns span the leading left singular vectors of X (n, d)."""
    drawn = torch.randn((matrix.shape[1], size), generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    found, _ = torch.linalg.qr(matrix @ drawn)
    for _ in range(2):
        back, _ = torch.linalg.qr(matrix.T @ found)
        found, _ = torch.linalg.qr(matrix @ back)
    sketched: torch.Tensor = found.T @ matrix
    return sketched
