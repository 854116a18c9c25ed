"""What is installed: versions in one place, plugins found, a light import, and everything inside the wheel."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

import spliteasy

pytestmark = pytest.mark.xdist_group("wheel")  # its fixtures are made once

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENT: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text())


def test_conda_gives_python_and_pip_and_pyproject_gives_the_rest() -> None:
    assert ENVIRONMENT["name"] == PROJECT["project"]["name"] == "spliteasy"
    *from_conda, from_pip = ENVIRONMENT["dependencies"]
    assert from_conda == [f"python{PROJECT['project']['requires-python']}", "pip"]
    assert from_pip == {"pip": ["-e .[test]"]}
    assert "test" in PROJECT["project"]["optional-dependencies"]


def test_dependencies_have_lower_bounds_and_no_pins() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    for requirement in [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]:
        assert re.fullmatch(r"[a-z0-9-]+>=[0-9.]+", requirement), requirement


def test_the_version_is_written_once() -> None:
    assert metadata("spliteasy")["Version"] == spliteasy.__version__
    assert (
        "version" not in PROJECT["project"] and PROJECT["tool"]["hatch"]["version"]["path"] == "spliteasy/__init__.py"
    )


def test_the_license_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0" in text and "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_codecs_come_through_entry_points_and_raw_does_not() -> None:
    ours = {point.name: point.value for point in entry_points(group="spliteasy.codecs") if _is_ours(point)}
    assert ours == PROJECT["project"]["entry-points"]["spliteasy.codecs"]
    assert {"fp16", "topk", "zstd"} <= set(ours) and "raw" not in ours


def _is_ours(point: Any) -> bool:
    return point.dist is not None and point.dist.name == "spliteasy"


def test_the_merge_check_runs_the_command_of_the_readme() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == 'pip install ".[test]" && pytest'


def test_importing_the_package_is_light() -> None:
    heavy = ("timm", "flask", "ipywidgets", "matplotlib", "pandas", "sklearn", "IPython", "spliteasy_plugins")
    code = f"import sys, spliteasy; print(*(name for name in {heavy!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("spliteasy-*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_core_plugins_and_notebooks_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"spliteasy", "spliteasy_plugins", f"spliteasy-{spliteasy.__version__}.dist-info"}
    for package, source in (
        ("spliteasy", ROOT / "spliteasy"),
        ("spliteasy_plugins", ROOT / "plugins/spliteasy_plugins"),
    ):
        for file in source.rglob("*.py"):
            assert f"{package}/{file.relative_to(source).as_posix()}" in names
        assert f"{package}/py.typed" in names
    for notebook in (ROOT / "notebooks").rglob("*.ipynb"):
        assert f"spliteasy/{notebook.relative_to(ROOT).as_posix()}" in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_declares_its_command(wheel: zipfile.ZipFile) -> None:
    (declared,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "spliteasy = spliteasy.cli:main" in wheel.read(declared).decode()
