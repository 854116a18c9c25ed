"""All exercises of the course, by number: one module a notebook."""

from __future__ import annotations

from importlib import import_module

from spliteasy.errors import ExerciseError, suggest
from spliteasy.teach.exercise import Exercise, Verdict

__all__ = ["LESSONS", "check", "exercises"]

LESSONS = ("00", "01", "02", "03", "04", "05", "06", "07", "08", "09")
"""The numbers of the notebooks; the exercises of each are in the module ``lesson_NN``, as ``EXERCISES``."""


def exercises(lesson: str | None = None) -> dict[str, str]:
    """The questions by number: of one notebook (``"01"``), or of the whole course."""
    if lesson is not None and lesson not in LESSONS:
        raise ExerciseError(f"Expected the number of a notebook, one of {', '.join(LESSONS)}; found {lesson!r}.")
    lessons = LESSONS if lesson is None else (lesson,)
    return {item.name: item.question for number in lessons for item in _lesson(number)}


def check(name: str, answer: object) -> Verdict:
    """Whether ``answer`` is right for the exercise ``name``, such as ``"01.2"``; else a hint.

    A wrong answer, or none, raises nothing: the `Verdict` says so, and shows itself in a notebook. Raises
    `ExerciseError` for an exercise that does not exist.
    """
    if isinstance(name, str) and name[:2] in LESSONS:
        for item in _lesson(name[:2]):
            if item.name == name:
                return item.check(answer)
    known = list(exercises())
    raise ExerciseError(
        f"Expected the number of an exercise, from {known[0]} to {known[-1]}; found {name!r}."
        f"{suggest(str(name), known)}"
    )


def _lesson(number: str) -> tuple[Exercise, ...]:
    found: tuple[Exercise, ...] = import_module(f"spliteasy.teach.lesson_{number}").EXERCISES
    return found
