"""``spliteasy lab``: JupyterLab on copies of the notebooks, from any folder, with or without a browser."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import webbrowser
from pathlib import Path

from spliteasy.errors import SplitEasyError
from spliteasy.server.process import server_environment

__all__ = ["FIRST", "copy_notebooks", "lab", "notebooks_folder"]

FIRST = "index.ipynb"
"""The notebook that `lab` opens: the table of the lessons."""


def lab(folder: Path, port: int = 8888, browser: bool = True) -> int:
    """Copy the notebooks to ``folder`` (files that are there already are kept) and run JupyterLab on them.

    The address is printed, with its token; a browser is opened when there is one. The kernels start with the settings
    that make device and server good neighbours on one machine. Returns JupyterLab's exit status.
    """
    folder = folder.resolve()
    new = copy_notebooks(folder)
    port, token = _free_port(port), secrets.token_hex(16)
    address = f"http://127.0.0.1:{port}/lab/tree/{FIRST}?token={token}"
    command = [
        sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--LabApp.default_url=/lab/tree/{FIRST}", "--LabApp.news_url=None",  # asks no question before the first lesson
    ]  # fmt: skip
    has_browser = browser and _has_browser()
    if not has_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    print(f"notebooks: {folder} ({new} new)\naddress:   {address}", flush=True)
    if not has_browser:
        print("Open the address in a browser; Ctrl+C stops JupyterLab.", flush=True)
    if os.name == "posix":  # JupyterLab takes this process's place, so that whatever stops it stops JupyterLab
        os.execve(command[0], command, server_environment())
    return subprocess.run(command, env=server_environment(), check=False).returncode


def notebooks_folder() -> Path:
    """Where the notebooks lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if any(folder.glob("*.ipynb")):
            return folder
    raise SplitEasyError(f"Expected the notebooks in {package}, found none. Install the package again.")


def copy_notebooks(folder: Path) -> int:
    """Copy the notebooks that ``folder`` lacks, with their solutions; how many. Your changes are never overwritten."""
    source = notebooks_folder()
    try:
        (folder / "solutions").mkdir(parents=True, exist_ok=True)
        names = [path.relative_to(source) for part in ("*.ipynb", "solutions/*.ipynb") for path in source.glob(part)]
        new = [name for name in sorted(names) if not (folder / name).exists()]
        for name in new:
            shutil.copyfile(source / name, folder / name)
    except OSError as error:
        raise SplitEasyError(
            f"Expected to write the notebooks to {folder}, found {error}. Name another folder."
        ) from error
    return len(new)


def _free_port(first: int) -> int:
    """The first port from ``first`` on that is free on loopback."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SplitEasyError(f"Expected a free port from {first} on, found 100 taken ones. Name another --port.")


def _has_browser() -> bool:
    """Whether a browser with a screen can be opened from here."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True
