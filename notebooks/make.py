"""Make the notebooks from their sources: run every cell in order, and keep what a reader should see.

    python notebooks/make.py               # all that are out of date
    python notebooks/make.py 03 04         # these, in any case
    python notebooks/make.py --check       # only say which differ from their sources

The sources in ``notebooks/sources`` are jupytext percent scripts, which read and review as Python; solutions lie in a
folder of their own. Widgets are left out of what is kept (without a kernel they would show an error); their static
pictures and tables stay.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
SOURCES = FOLDER / "sources"
WIDGET = "application/vnd.jupyter.widget-view+json"


def main() -> int:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="how the names begin, such as 03 or solutions/03")
    parser.add_argument("--check", action="store_true", help="make nothing; exit with 1 if any is out of date")
    options = parser.parse_args()
    stale = [source for source in sources() if not same_cells(source)]
    if options.check:
        print(
            "\n".join(f"out of date: {notebook_of(source).relative_to(FOLDER)}" for source in stale) or "all up to date"
        )
        return bool(stale)
    asked = [s for s in sources() if str(s.relative_to(SOURCES)).startswith(tuple(options.names))]
    for source in asked if options.names else stale:
        started = time.monotonic()
        make(source)
        print(f"{notebook_of(source).relative_to(FOLDER)}: {time.monotonic() - started:.1f} s", flush=True)
    return 0


def sources() -> Iterator[Path]:
    """Every source, those of the solutions last."""
    yield from sorted(SOURCES.glob("*.py"))
    yield from sorted((SOURCES / "solutions").glob("*.py"))


def notebook_of(source: Path) -> Path:
    """The notebook that is made of a source."""
    return FOLDER / source.relative_to(SOURCES).with_suffix(".ipynb")


def cells_of(notebook: Any) -> list[tuple[str, str]]:
    """Kind and text of every cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def same_cells(source: Path) -> bool:
    """Whether the notebook has the cells of its source."""
    path = notebook_of(source)
    return path.exists() and cells_of(nbformat.read(path, 4)) == cells_of(jupytext.read(source))


def make(source: Path) -> None:
    """Run a source in an empty folder and write its notebook."""
    notebook = jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=240, store_widget_state=False, resources={"metadata": {"path": folder}}
        )
        client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = {}, f"{source.stem[:2]}-{number:02d}"
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    target = notebook_of(source)
    target.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, target)


if __name__ == "__main__":
    sys.exit(main())
