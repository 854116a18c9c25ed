"""The notebooks: they are what their sources say, they run, they are small, and what is committed is what a reader
should see."""

from __future__ import annotations

import re
import time
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from spliteasy.lab import notebooks_folder
from spliteasy.teach.lessons import LESSONS

FOLDER = notebooks_folder()
LESSON = sorted(FOLDER.glob("0*.ipynb"))
ALL = [*LESSON, FOLDER / "index.ipynb", *sorted((FOLDER / "solutions").glob("*.ipynb"))]


@pytest.fixture(params=ALL, ids=lambda path: path.relative_to(FOLDER).with_suffix("").as_posix())
def notebook(request: pytest.FixtureRequest) -> Path:
    return request.param


LONG = ("02", "04", "05", "06", "07", "08", "09")
"""The lessons that train or measure for more than half a minute of a slow machine: they are run with ``-m slow``."""


def test_every_lesson_is_there_with_its_solutions() -> None:
    assert [path.name[:2] for path in LESSON] == list(LESSONS)
    assert [path.name for path in ALL[len(LESSON) + 1 :]] == [path.name for path in LESSON]


def test_is_made_of_its_source(notebook: Path) -> None:
    source = jupytext.read(FOLDER / "sources" / notebook.relative_to(FOLDER).with_suffix(".py"))
    made = nbformat.read(notebook, 4)
    assert [(c.cell_type, c.source) for c in made.cells] == [(c.cell_type, c.source) for c in source.cells]


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.name[:2] in LONG)) for path in LESSON],
)
def test_runs(notebook: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    client = NotebookClient(
        nbformat.read(notebook, 4),
        timeout=240,
        resources={"metadata": {"path": str(tmp_path)}},
        store_widget_state=False,
    )
    client.execute()
    print(f"{notebook.stem}: {time.monotonic() - started:.1f} s")


def test_is_small_and_clean(notebook: Path) -> None:
    text = notebook.read_text()
    assert notebook.stat().st_size < 1_000_000
    content = nbformat.read(notebook, 4)
    nbformat.validate(content)
    assert "widgets" not in content.metadata, "widget state is not committed"
    assert "widget-view" not in text, "a widget without its kernel shows an error"
    assert not re.search(r"""["' (](/(home|root|tmp|work|usr)/|[A-Z]:\\\\)""", text), "no absolute path"
    for cell in content.cells:
        assert all(output.output_type != "error" for output in cell.get("outputs", []))


def test_pictures_have_words(notebook: Path) -> None:
    for cell in nbformat.read(notebook, 4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                assert re.search(r'<img [^>]*alt="[^"]{20,}"', data.get("text/html", "")), cell.source[-200:]
        assert not re.search(r"!\[\]|<img(?![^>]*alt=)", cell.source)


def test_was_executed_in_order(notebook: Path) -> None:
    counts = [cell.execution_count for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize("notebook", LESSON, ids=lambda path: path.stem)
def test_opens_with_what_you_will_learn_and_closes_with_a_reference(notebook: Path) -> None:
    cells = nbformat.read(notebook, 4).cells
    assert cells[0].cell_type == "markdown" and "you will learn" in cells[0].source.lower()
    assert re.search(r"\bminutes\b", cells[0].source), "says how long it takes"
    assert "what you have seen" in cells[-1].source.lower() and "2011.04232" in cells[-1].source
    text = "\n".join(cell.source for cell in cells)
    assert "**Predict" in text and "**Explain" in text
