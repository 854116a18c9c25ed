"""Answers that students give and that are not right, by exercise: each lesson in a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Made:
    """An answer that takes a moment to make: a trained network, a codec."""

    make: Callable[[], Any]
