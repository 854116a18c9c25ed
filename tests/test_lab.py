"""``spliteasy lab`` from an empty folder: a real JupyterLab, its address printed, the notebooks there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from spliteasy.errors import SplitEasyError
from spliteasy.lab import FIRST, copy_notebooks, notebooks_folder


def test_notebooks_are_found_and_copied_once(tmp_path: Path) -> None:
    assert (notebooks_folder() / FIRST).exists()
    mine, solution = tmp_path / "mine", Path("solutions") / "00_quickstart.ipynb"
    count = copy_notebooks(mine)
    assert count == sum(1 for _ in mine.rglob("*.ipynb")) >= 4
    assert (mine / solution).read_bytes() == (notebooks_folder() / solution).read_bytes()
    for name in (Path(FIRST), solution):
        (mine / name).write_text("my own changes")
    assert copy_notebooks(mine) == 0
    assert all((mine / name).read_text() == "my own changes" for name in (Path(FIRST), solution))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SplitEasyError, match="Name another folder"):
        copy_notebooks(tmp_path / "file")


def test_lab_serves_the_first_notebook_and_prints_its_address(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {f"JUPYTER_{name}": str(tmp_path / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    with (tmp_path / "log").open("w") as log:
        lab = subprocess.Popen(
            [sys.executable, "-m", "spliteasy", "lab", "--port", "8930"],
            cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        address = wait_for(lambda: re.search(r"address: +(http://\S+)", (tmp_path / "log").read_text()))[1]
        page, _, token = address.partition("?token=")
        assert page.endswith(f"/lab/tree/{FIRST}")
        contents = page.replace(f"/lab/tree/{FIRST}", "/api/contents")
        listing = wait_for(lambda: answered(contents, token))
        assert FIRST in {entry["name"] for entry in listing["content"]}
        assert requests.get(address, timeout=10).status_code == 200
        assert requests.get(contents, timeout=10).status_code == 403, "the token is needed"
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
        lab.wait(20)


def answered(url: str, token: str) -> dict | None:
    try:
        answer = requests.get(url, headers={"Authorization": f"token {token}"}, timeout=10)
    except requests.ConnectionError:
        return None
    return answer.json() if answer.ok else None


def wait_for(look, seconds: float = 60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError("nothing came in time")
