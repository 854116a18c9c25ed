"""Wrong answers to the exercises of notebook 06."""

from __future__ import annotations

from typing import Any

import torch


def _neighbours(own: Any, seen: Any) -> Any:
    return torch.cdist(seen.flatten(1), own.flatten(1))


WRONG: dict[str, list[Any]] = {
    "06.1": [
        "pool",
        ("pool", "classifier"),
        ("relu1", "flatten"),
        ("flatten", "pool"),
        ("input", "flatten"),
        ("relu3", "flatten"),
        ("pool", "fc"),
        ("pool",),
    ],
    "06.2": [
        lambda own, pictures, seen: pictures.mean(0).expand(len(seen), -1, -1, -1),
        lambda own, pictures, seen: pictures[_neighbours(own, seen).argmin(0)],
        lambda own, pictures, seen: pictures[_neighbours(own, seen).argmax(1)],
        lambda own, pictures, seen: pictures[: len(seen)],
        lambda own, pictures, seen: own[_neighbours(own, seen).argmin(1)],
        lambda own, pictures, seen: _neighbours(own, seen).argmin(1),
        lambda own, pictures, seen: pictures[torch.cdist(seen, own).argmin(1)],
        lambda own, pictures, seen: pictures[_neighbours(own[:, :1], seen[:, :1]).argmin(1)],
        lambda own, pictures: pictures,
    ],
    "06.3": ["int4", "bf16", "topk(0.002) | fp16", "raw", 2],
    "06.4": [
        lambda gradients: gradients.argmax(1),
        lambda gradients: gradients.argmin(0),
        lambda gradients: gradients < 0,
        lambda gradients: gradients.min(1).values,
        lambda gradients: gradients.min(1),
        lambda gradients: gradients.abs().argmin(1),
        lambda gradients: gradients.nonexistent(),
        [3, 1, 4],
    ],
    "06.5": [0.3146, 0.028, 0.29, 0.0804, 0.3706, 0.0673, 0.5558, 342.6, 1.286],
}
