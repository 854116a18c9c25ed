"""A network so small that a step over HTTP is nearly all protocol; a server may build it with ``allow``."""

from __future__ import annotations

from torch import nn


def perceptron() -> nn.Module:
    """(B, 1, 8, 8) → (B, 10), three layers of 32."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


def wide() -> nn.Module:
    """(B, 1, 8, 8) → (B, 10), with 200,704 numbers a sample between its layers: messages of 6.4 MB with batch 8."""
    return nn.Sequential(
        nn.Upsample(scale_factor=56), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 10)
    )
