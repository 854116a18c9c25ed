"""The paper's tables and figures made again: what they say of themselves, how they are kept, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas
import pytest

import spliteasy as se
from spliteasy.errors import ReproduceError
from spliteasy.reproduce import paper_numbers
from spliteasy.reproduce.text_table import as_markdown, as_text


@pytest.fixture(scope="module")
def shapes() -> se.reproduce.Reproduction:
    """Table 2, the true one: it takes a second."""
    found: se.reproduce.Reproduction = se.reproduce.table2(progress=False)
    return found


def test_the_seven_shapes_are_the_papers(shapes: se.reproduce.Reproduction) -> None:
    assert shapes.table["equal"].all() and len(shapes.table) == 7
    assert list(shapes.table["ours"]) == [
        "149·149·32", "147·147·32", "147·147·64", "73·73·64", "73·73·80", "71·71·192", "35·35·192",
    ]  # fmt: skip
    assert "7 of 7" in shapes.title


def test_it_shows_itself(shapes: se.reproduce.Reproduction) -> None:
    text, page = repr(shapes), shapes._repr_html_()
    assert "149·149·32" in text and "What differs" in text and max(map(len, text.splitlines())) <= 120
    assert "<table" in page and 'alt="Megabytes' in page and shapes.picture.alt


def test_it_is_kept_in_whole_files(shapes: se.reproduce.Reproduction, tmp_path: Path) -> None:
    paths = shapes.save(tmp_path / "new" / "folder")
    assert sorted(path.name for path in paths) == ["table2.csv", "table2.md", "table2.png", "table2.svg"]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(p.name for p in paths)
    pandas.testing.assert_frame_equal(pandas.read_csv(paths[0]), shapes.to_pandas())
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in shapes.save(tmp_path / "new" / "folder")] == before
    assert all(line in paths[-1].read_text() for line in ("arXiv 2011.04232", "(table2.svg)", "## What differs"))


def test_a_full_disk_leaves_the_old_file(
    shapes: se.reproduce.Reproduction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes.save(tmp_path)
    before = (tmp_path / "table2.csv").read_bytes()

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ReproduceError, match="No space left"):
        shapes.save(tmp_path)
    assert (tmp_path / "table2.csv").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_that_is_a_file_is_refused(shapes: se.reproduce.Reproduction, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ReproduceError, match="taken"):
        shapes.save(tmp_path / "taken")
    with pytest.raises(ReproduceError, match="folder"):
        shapes.save(tmp_path / "taken" / "below")
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_unknown_table_of_a_reproduction_is_refused(shapes: se.reproduce.Reproduction) -> None:
    with pytest.raises(ReproduceError, match="'shapes'"):
        shapes.to_pandas("shape")


def test_tables_are_written_as_people_read_them() -> None:
    frame = pandas.DataFrame(
        {"network": ["a", "a", "b"], "overall, paper": [2.5, float("nan"), 10.25], "bits|x": [1, 20000, 3]}
    )
    lines = as_text(frame).splitlines()
    assert lines[0].strip() == "overall" and lines[1].split() == ["network", "paper", "bits|x"]
    assert lines[3].split() == ["a", "2.50", "1"] and lines[4].split() == ["–", "20,000"]
    assert "| network | overall, paper | bits\\|x |" in as_markdown(frame)


def test_the_papers_multiply_accumulates_are_those_of_the_tracer() -> None:
    cuts = se.find_cuts(se.load_model("resnet50"), (3, 224, 224))
    assert cuts[-1].macs_before == paper_numbers.MACS["ResNet50"]
    assert 352e9 < paper_numbers.SERVER_MACS_A_SECOND < 354e9


def test_the_package_loads_neither_pandas_nor_matplotlib() -> None:
    code = (
        "import sys, spliteasy; print([n for n in ('pandas', 'matplotlib', 'spliteasy.reproduce') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
