"""Exercises of notebook 04."""

from __future__ import annotations

from spliteasy.teach.exercise import Exercise

__all__ = ["EXERCISES"]

EXERCISES: tuple[Exercise, ...] = ()
