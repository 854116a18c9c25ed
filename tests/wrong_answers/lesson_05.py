"""Wrong answers to the exercises of notebook 05."""

from __future__ import annotations

from typing import Any

WRONG: dict[str, list[Any]] = {}
