"""Exercises of notebook 06."""

from __future__ import annotations

from spliteasy.teach.exercise import Exercise

__all__ = ["EXERCISES"]

EXERCISES: tuple[Exercise, ...] = ()
