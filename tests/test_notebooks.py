"""The notebooks: they run, they are small, and what is committed is what a reader should see."""

from __future__ import annotations

import re
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from spliteasy.lab import notebooks_folder

NOTEBOOKS = sorted(notebooks_folder().glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_three() -> None:
    assert {"00_quickstart", "01_where_to_cut", "02_codecs"} <= {path.stem for path in NOTEBOOKS}


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
    assert not re.search(r'"/(home|root|tmp|work|usr)/', text), "no absolute path"
    for cell in content.cells:
        assert all(output.output_type != "error" for output in cell.get("outputs", []))


def test_was_executed_in_order(notebook: Path) -> None:
    counts = [cell.execution_count for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_opens_with_what_you_will_learn_and_closes_with_a_reference(notebook: Path) -> None:
    cells = nbformat.read(notebook, 4).cells
    assert cells[0].cell_type == "markdown" and "learn" in cells[0].source.lower()
    assert "2011.04232" in cells[-1].source
