"""A study of a few seconds: a hundred digits, one epoch. Run as a program, it is what tests kill and resume."""

from __future__ import annotations

import sys
from typing import Any

from torch.utils.data import TensorDataset

import spliteasy as se

CHAINS = {"half": "fp16", "tenth": "forward=topk(0.1) | fp16; backward=fp16 | zstd(1)"}


def few_digits() -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """96 digits to train, 40 to validate, 40 to test."""
    images, labels = se.data.digits()[0].tensors
    first, second, third = ((images[a:b], labels[a:b]) for a, b in ((0, 96), (96, 136), (136, 176)))
    return TensorDataset(*first), TensorDataset(*second), TensorDataset(*third)


def study(**changes: Any) -> se.Sweep:
    """Three chains (raw, and two) × two seeds, at one double split, in one thread."""
    settings: dict[str, Any] = {
        "models": "digits_cnn", "cuts": ("pool", "flatten"), "chains": CHAINS, "data": few_digits,
        "seeds": 2, "epochs": 1, "batch": 32, "threads": 1, "progress": False,
    }  # fmt: skip
    return se.sweep(**{**settings, **changes})


if __name__ == "__main__":
    study(out=sys.argv[1], seeds=int(sys.argv[2]))
