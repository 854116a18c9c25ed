"""The template plugin as a student uses it: copied, installed, listed, checked, trained with over HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("template")  # its fixtures are made once

TEMPLATE = Path(__file__).resolve().parent.parent / "plugins" / "template"

TRAIN = """
import torch
import spliteasy as se

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
steps = [(torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8)) for _ in range(3)]
chain = "threshold(0.05) | fp16 | zstd(1)"

def losses(server):
    torch.manual_seed(0)
    split = se.split(se.load_model("digits_cnn"), at=("relu1", "relu3"), input_shape=(1, 8, 8))
    with se.Trainer(split, server=server, codecs=chain, optimizer={"name": "SGD", "lr": 0.05}) as trainer:
        made = [trainer.step(x, y).loss for x, y in steps]
        return made, {name: value.clone() for name, value in trainer.state_dict()["model"].items()}

here, model = losses(None)
with se.LocalServer() as server:
    there, trained = losses(server.url)
assert here == there and all(torch.equal(model[name], trained[name]) for name in model)
print("trained", len(there), "steps")
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template's folder."""
    folder = tmp_path_factory.mktemp("plugin") / "mine"
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    return folder


@pytest.fixture(scope="module")
def installed(copied: Path) -> Path:
    """A folder into which that copy was installed."""
    target = copied.parent / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index",
               "--no-deps", "--no-build-isolation", "--target", str(target), str(copied)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return target


def python(installed: Path, *arguments: str, cwd: Path | None = None) -> str:
    """What Python prints with that folder on its path."""
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run([sys.executable, *arguments], env=environment, cwd=cwd or installed, capture_output=True,
                            text=True, timeout=240, check=False)  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_it_is_a_distribution_of_its_own(installed: Path) -> None:
    assert (installed / "spliteasy_threshold" / "py.typed").exists()
    assert not (installed / "spliteasy").exists()
    project = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"spliteasy.codecs": {"threshold": "spliteasy_threshold:Threshold"}}


def test_codecs_lists_it_with_its_origin(installed: Path) -> None:
    lines = python(installed, "-m", "spliteasy", "codecs").splitlines()
    (found,) = [line.split() for line in lines if line.startswith("threshold ")]
    assert found == ["threshold", "tensor", "lossy", "threshold(0.05)", "spliteasy-threshold", "0.1.0"]


def test_its_own_tests_pass_where_it_was_copied_to(installed: Path, copied: Path) -> None:
    assert "passed" in python(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=copied)


@pytest.mark.slow
def test_training_with_it_over_http_needs_nothing_in_the_core(installed: Path) -> None:
    assert python(installed, "-c", TRAIN).strip() == "trained 3 steps"


def test_our_own_run_does_not_collect_it() -> None:
    root = TEMPLATE.parent.parent
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "plugins"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 5 and "no tests" in result.stdout, result.stdout + result.stderr
