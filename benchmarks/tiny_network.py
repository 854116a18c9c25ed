"""A network so small that a step over HTTP is nearly all protocol; a server may build it with ``allow``."""

from __future__ import annotations

from torch import nn


def perceptron() -> nn.Module:
    """(B, 1, 8, 8) → (B, 10), three layers of 32."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
