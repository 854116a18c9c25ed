"""Wrong answers to the exercises of notebook 08."""

from __future__ import annotations

from typing import Any

import numpy as np

import spliteasy as se


def _planner(seconds: Any) -> Any:
    """A planner that takes the least of ``seconds`` (seconds before, all, bytes, link, speed of the device)."""
    return lambda before, total, nbytes, link, device: int(
        np.argmin([seconds(a, total, size, link, device) for a, size in zip(before, nbytes, strict=True)])
    )


def _both(size: int, link: Any) -> float:
    return link.seconds(size, size, 1)


WRONG: dict[str, list[Any]] = {
    "08.1": [0.3398, 0.3417, 0.4217, 0.2617, 0.2377, 0.4267, 0.5167, 0.2533, 0.195, 0.1868, 381.8, 0.4446],
    "08.2": [
        lambda before, total, nbytes, link, device: ...,
        lambda before, total, nbytes, link, device: 0.3,
        lambda before, total, nbytes, link, device: len(before),
        lambda before, total, nbytes, link: 0,
        lambda before, total, nbytes, link, device: nbytes.index(min(nbytes)),
        lambda before, total, nbytes, link, device: 0,
        _planner(lambda a, total, size, link, device: a * device + total - a + _both(size, link)),
        _planner(lambda a, total, size, link, device: a / device + total - a + link.seconds(size, 0, 1)),
        _planner(lambda a, total, size, link, device: a / device + total - a),
        _planner(lambda a, total, size, link, device: -(a / device + total - a + _both(size, link))),
        _planner(lambda a, total, size, link, device: a / device + _both(size, link)),
        _planner(lambda a, total, size, link, device: total / device + _both(size, link)),
        _planner(lambda a, total, size, link, device: a / device + (total - a) / device + _both(size, link)),
    ],
    "08.3": [
        "a faster link",
        "a slower device",
        "a longer round trip",
        "a slower server and a slower device, both by the same factor",
        "a codec",
    ],
    "08.4": [
        se.Constraints(min_operations=3, max_bytes=500_000),
        se.Constraints(labels_on_device=True, max_bytes=500_000),
        se.Constraints(labels_on_device=True, min_operations=3),
        se.Constraints(labels_on_device=True, min_operations=3, max_bytes=500),
        se.Constraints(labels_on_device=True, min_operations=3, max_bytes=0.5),
        se.Constraints(labels_on_device=True, min_operations=3, max_bytes=4_000_000),
        se.Constraints(labels_on_device=True, min_operations=3, max_bytes=250_000),
        se.Constraints(labels_on_device=True, min_macs=3, max_bytes=500_000),
        se.Constraints(),
        {"labels_on_device": True},
    ],
    "08.5": [1, 2, 3, 5, 6, 0.05],
}
