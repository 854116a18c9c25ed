"""Wrong answers to the exercises of notebook 05."""

from __future__ import annotations

from typing import Any

import numpy as np

Runs = dict[int, float]


def _differences(chain: Runs, raw: Runs) -> Any:
    return 100 * np.array([chain[seed] - raw[seed] for seed in chain])


def _right(chain: Runs, raw: Runs) -> tuple[float, float]:
    differences = _differences(chain, raw)
    return float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)


def _by_place(chain: Runs, raw: Runs) -> tuple[float, float]:
    differences = 100 * np.array([one - other for one, other in zip(chain.values(), raw.values(), strict=False)])
    return float(differences.mean()), float(differences.std(ddof=1) / len(differences) ** 0.5)


def _heaps(chain: Runs, raw: Runs) -> tuple[float, float]:
    one, other = 100 * np.array(list(chain.values())), 100 * np.array(list(raw.values()))
    error = (one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)) ** 0.5
    return float(one.mean() - other.mean()), float(error)


def _heaps_of_same_seeds(chain: Runs, raw: Runs) -> tuple[float, float]:
    return _right(chain, raw)[0], _heaps(chain, {seed: raw[seed] for seed in chain})[1]


WRONG: dict[str, list[Any]] = {
    "05.1": [
        lambda chain, raw: tuple(value / 100 for value in _right(chain, raw)),
        lambda chain, raw: _right(raw | {}, chain) if len(raw) == len(chain) else (-_right(chain, raw)[0], 1.0),
        lambda chain, raw: (_right(chain, raw)[0], float(_differences(chain, raw).std(ddof=1))),
        lambda chain, raw: (_right(chain, raw)[0], float(_differences(chain, raw).std() / len(chain) ** 0.5)),
        lambda chain, raw: (_right(chain, raw)[0], _right(chain, raw)[1] / 100),
        lambda chain, raw: _right(chain, raw)[0],
        _by_place,
        _heaps,
        _heaps_of_same_seeds,
        (0.1, 0.2),
    ],
    "05.2": [7, 6.4, 10.24, 11, 82, 0.25, 30],
    "05.3": [0.5, 0.5 / 10**0.5, 1.54, 5.0, 0.05, -0.77],
    "05.4": ["raw", "8 bits", "4 bits", "PCA 16", "top 1 %", "int8"],
    "05.5": [80, 5120, 20, 768, 128, 1280, 320, 0.64, 640e6, 10],
}
