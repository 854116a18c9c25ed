"""Imports run one way, and each front-end library has one place: read off the source, not off what happens to load."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import spliteasy
import spliteasy_plugins

CORE = Path(spliteasy.__file__).parent
PLUGINS = Path(spliteasy_plugins.__file__).parent
SOURCES = sorted(path for root in (CORE, PLUGINS) for path in root.rglob("*.py") if "notebooks" not in path.parts)

# From the bottom up: a layer may import those before it in the list, never one after it.
LAYERS = [
    "codecs", "wire", "server", "transport", "four_calls", "exchange", "connecting", "calibrating", "trainer",
    "profiling", "planning", "sweeping", "reproduce", "explorer", "teach", "demo", "cli",
]  # fmt: skip


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too; relative imports are not used in this package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(path: Path) -> str:
    """A file's path inside the package: ``server/app.py``."""
    root = CORE if path.is_relative_to(CORE) else PLUGINS.parent
    return path.relative_to(root).as_posix()


def uses(path: Path, library: str) -> bool:
    return any(name == library or name.startswith(f"{library}.") for name in imported(path))


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_imports_run_one_way(path: Path) -> None:
    if path.is_relative_to(PLUGINS):
        own = [name for name in imported(path) if name.split(".")[0] == "spliteasy"]
        assert all(name.startswith(("spliteasy.codecs", "spliteasy.errors")) for name in own), own
        return
    parts = path.relative_to(CORE).with_suffix("").parts
    assert not uses(path, "spliteasy_plugins"), "the core never names the plugins"
    if parts[0] in LAYERS:
        above = LAYERS[LAYERS.index(parts[0]) + 1 :]
        found = [name for name in imported(path) for layer in above if name.startswith(f"spliteasy.{layer}")]
        assert not found, f"{place(path)} reaches up to {found}"


@pytest.mark.parametrize(
    ("library", "places"),
    [
        ("flask", {"server/app.py"}),
        ("werkzeug", {"server/app.py"}),
        ("cheroot", {f"server/{name}.py" for name in ("connections", "encryption", "process", "waiting")}),
        ("ipywidgets", {"explorer/view.py", "explorer/view_controls.py"}),
        ("timm", {"models.py", "catalogue.py"}),
        ("matplotlib.pyplot", set()),
        ("pickle", set()),
        ("marshal", set()),
        ("shelve", set()),
    ],
)
def test_a_library_has_one_place(library: str, places: set[str]) -> None:
    assert {place(path) for path in SOURCES if uses(path, library)} <= places


def test_state_of_the_explorer_knows_no_front_end() -> None:
    for name in ("IPython", "ipywidgets", "matplotlib"):
        assert not uses(CORE / "explorer" / "state.py", name)


def test_session_knows_no_http() -> None:
    for name in ("flask", "http", "requests", "socket", "cheroot"):
        assert not uses(CORE / "server" / "session.py", name)


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_files_hold_one_idea(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 430, f"{place(path)} has {lines} lines: divide it"


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_public_names_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{place(path)} says nothing about itself"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{place(path)}: {node.name} has no docstring"
    text = path.read_text()
    assert "TODO" not in text and "FIXME" not in text
