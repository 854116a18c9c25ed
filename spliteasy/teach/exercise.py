"""What an exercise is: a question, and a function that finds out what is wrong with an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from spliteasy.seeding import preserved

__all__ = ["Exercise", "Hint", "Verdict", "choice", "exercise", "expect", "near", "number"]


class Hint(Exception):
    """Raised by an exercise's `examine` when an answer is not right: what to look at again, never the answer itself."""


@dataclass(frozen=True)
class Verdict:
    """What `check` found: ``right``, and ``words``, which praise in a line or give a hint. True where right."""

    name: str
    right: bool
    words: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return f"{'✔' if self.right else '✘'} {self.name}: {self.words}"

    def _repr_html_(self) -> str:
        color, mark = ("#2e7d32", "✔") if self.right else ("#c62828", "✘")
        return (
            f'<div role="status" style="border-left:4px solid {color};padding:4px 10px;margin:4px 0">'
            f'<b style="color:{color}">{mark} {escape(self.name)}</b>&ensp;{escape(self.words)}</div>'
        )


@dataclass(frozen=True)
class Exercise:
    """A question with its number (``"01.2"``), and ``examine``, which raises `Hint` for an answer that is not right and
    returns a line for one that is."""

    name: str
    question: str
    examine: Callable[[Any], str]

    def check(self, answer: object) -> Verdict:
        """Judge an answer. A stub (``...`` or None) counts as not answered; whatever an answer makes `examine` raise is
        an answer of the wrong kind. Random numbers that the notebook draws later are the same with and without."""
        if answer is ... or answer is None:
            return Verdict(self.name, False, f"Not answered yet: put your answer in place of the dots. {self.question}")
        try:
            with preserved():
                return Verdict(self.name, True, self.examine(answer))
        except Hint as hint:
            return Verdict(self.name, False, str(hint))
        except Exception as error:
            words = f"That cannot be looked at ({type(error).__name__}: {error}). {self.question}"
            return Verdict(self.name, False, words)


def exercise(name: str, question: str) -> Callable[[Callable[[Any], str]], Exercise]:
    """Make an `Exercise` of a function that examines an answer."""
    return lambda examine: Exercise(name, question, examine)


def expect(condition: object, hint: str) -> None:
    """Raise `Hint` unless the condition holds."""
    if not condition:
        raise Hint(hint)


def number(answer: object, what: str = "a number") -> float:
    """The answer as a number, also from a tensor or an array of one element. Raises `Hint`."""
    value = answer.item() if hasattr(answer, "item") and not isinstance(answer, type) else answer
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Hint(f"Give {what}, such as 42 or 0.5; found {answer!r}.")
    return float(value)


def near(answer: object, right: float, hint: str, within: float = 0.02, what: str = "a number") -> None:
    """Raise `Hint` unless the answer is a number within a share (2 % unless said) of the right one."""
    expect(abs(number(answer, what) - right) <= within * abs(right) + 1e-12, hint)


def choice(answer: object, options: Iterable[str]) -> str:
    """The answer as one of the options, without regard to case and spaces around. Raises `Hint`."""
    known = list(options)
    found = answer.strip().lower() if isinstance(answer, str) else answer
    for option in known:
        if found == option.lower():
            return option
    raise Hint(f"Give one of {', '.join(map(repr, known))}; found {answer!r}.")
