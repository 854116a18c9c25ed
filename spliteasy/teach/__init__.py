"""Exercises for the course of notebooks: `check` an answer, and read a hint where it is not right yet.

    se.teach.check("01.2", answer)

The first two digits are the notebook's. What is right is computed from the package, not looked up, so that an exercise
stays true when a network or a codec changes.

`Recorder` stands between a trainer and its server and notes every call, for the lessons on what crosses the wire.
"""

from __future__ import annotations

from spliteasy.teach.exercise import Verdict
from spliteasy.teach.lessons import check, exercises
from spliteasy.teach.recording import Call, Recorder

__all__ = ["Call", "Recorder", "Verdict", "check", "exercises"]
