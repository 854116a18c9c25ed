"""Wrong answers to the exercises of notebook 09."""

from __future__ import annotations

from typing import Any

WRONG: dict[str, list[Any]] = {
    "09.1": [8 * 73 * 73 * 64 * 4, 2 * 73 * 73 * 64 * 4, 2 * 8 * 73 * 73 * 64, 73 * 73 * 64 * 4, 21.83, "22 MB"],
    "09.2": [16, 2048, 65536, 1 / 32768, 2, "sum"],
    "09.3": [0.682, 0.17, 0.438, 0.536, 0.39, "a third"],
    "09.4": [1.46, 8.4, 8.92, 14.9, 1 / 15.9, 20, 1.93],
    "09.5": [1, 3, 4, 0, 2.5, "two"],
}
