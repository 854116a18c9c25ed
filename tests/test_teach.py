"""The exercises of the course: solutions are right; stubs, nonsense and known mistakes are not, and get a hint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import jupytext
import pytest
import torch
from wrong_answers import Made

import spliteasy as se
from spliteasy.codecs import registry
from spliteasy.errors import ExerciseError
from spliteasy.lab import notebooks_folder
from spliteasy.teach.lessons import LESSONS

SOURCES = notebooks_folder() / "sources"
QUESTIONS = se.teach.exercises()
NONSENSE = ["", "I do not know", float("nan"), float("inf"), -1, 1e30, [], {}, (), object(), print, b"", True, int]


def source_of(lesson: str, folder: Path = SOURCES) -> Path:
    (path,) = folder.glob(f"{lesson}_*.py")
    return path


def wrong_answers() -> Iterator[Any]:
    for lesson in LESSONS:
        for name, answers in import_module(f"wrong_answers.lesson_{lesson}").WRONG.items():
            for number, answer in enumerate(answers):
                yield pytest.param(name, answer, id=f"{name}-{number}")


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lessons set the number of threads and register codecs, as they may in a kernel of their own."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("lesson", LESSONS)
def test_each_lesson_has_numbered_questions(lesson: str) -> None:
    questions = se.teach.exercises(lesson)
    assert list(questions) == [f"{lesson}.{number}" for number in range(1, len(questions) + 1)]
    assert len(questions) >= 3
    assert all(len(question) > 20 and question[-1] in ".?)" for question in questions.values())


@pytest.mark.parametrize("stub", [..., None])
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_stub_is_not_an_answer(name: str, stub: object) -> None:
    verdict = se.teach.check(name, stub)
    assert not verdict.right and "Not answered yet" in verdict.words


@pytest.mark.parametrize("name", QUESTIONS)
def test_nonsense_is_never_right_and_raises_nothing(name: str) -> None:
    for answer in NONSENSE:
        verdict = se.teach.check(name, answer)
        assert not verdict.right and len(verdict.words) > 15, answer


@pytest.mark.parametrize(("name", "answer"), list(wrong_answers()))
def test_known_mistakes_get_a_hint(name: str, answer: Any) -> None:
    verdict = se.teach.check(name, answer.make() if isinstance(answer, Made) else answer)
    assert not verdict.right, verdict
    assert "Not answered yet" not in verdict.words and "cannot be looked at" not in verdict.words


def test_every_exercise_has_two_known_mistakes() -> None:
    given = {name: 0 for name in QUESTIONS}
    for lesson in LESSONS:
        for name, answers in import_module(f"wrong_answers.lesson_{lesson}").WRONG.items():
            given[name] += len(answers)
    assert [name for name, count in given.items() if count < 2] == []


@pytest.mark.parametrize("lesson", LESSONS)
def test_notebooks_ask_every_exercise_once_and_in_order(lesson: str) -> None:
    for folder in (SOURCES, SOURCES / "solutions"):
        asked = re.findall(r"""^se\.teach\.check\("([\d.]+)",""", source_of(lesson, folder).read_text(), re.MULTILINE)
        assert asked == list(se.teach.exercises(lesson)), folder
    stubs = re.findall(r"= \.\.\.", source_of(lesson).read_text())
    assert len(stubs) >= len(se.teach.exercises(lesson)), "an exercise begins as a stub"


@pytest.mark.parametrize("lesson", LESSONS)
def test_solutions_are_right(lesson: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    verdicts = []

    def check(name: str, answer: object) -> Any:
        verdicts.append(original(name, answer))
        return verdicts[-1]

    original = se.teach.check
    monkeypatch.setattr(se.teach, "check", check)
    path = source_of(lesson, SOURCES / "solutions")
    code = "\n\n".join(cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code")
    exec(compile(code, path.name, "exec"), {"__name__": "solution", "display": print})
    assert [verdict for verdict in verdicts if not verdict.right] == []
    assert [verdict.name for verdict in verdicts] == list(se.teach.exercises(lesson))


def test_a_verdict_shows_itself() -> None:
    name = next(iter(QUESTIONS))
    verdict = se.teach.check(name, ...)
    assert not verdict and repr(verdict).startswith(f"✘ {name}: ")
    assert name in verdict._repr_html_() and 'role="status"' in verdict._repr_html_()


def test_unknown_numbers_are_told() -> None:
    with pytest.raises(ExerciseError, match=r"found '1\.2'"):
        se.teach.check("1.2", 3)
    with pytest.raises(ExerciseError, match="one of 00, 01"):
        se.teach.exercises("99")
