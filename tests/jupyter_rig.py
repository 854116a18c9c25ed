"""JupyterLab on loopback and Chromium without a window: what the browser tests, the timings and the pictures share."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

__all__ = ["CHROMIUM", "EXPLORER", "SHOW", "Notebook", "Server", "chromium"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

EXPLORER = ".spliteasy-explorer"
SHOW = "import spliteasy as se\nexplorer = se.explore({})\nexplorer"

PROMPT = "document.querySelectorAll('.jp-CodeCell')[cell].querySelector('.jp-InputPrompt').textContent.trim()"
STARTED = f"([cell, before]) => ![before, '[ ]:'].includes({PROMPT})"
FINISHED = f"([cell, before]) => /\\d/.test({PROMPT}) && {PROMPT} !== before"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that finds no host but this machine."""
    from playwright.sync_api import sync_playwright

    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
        yield browser
        browser.close()


class Server:
    """A Jupyter server on a free loopback port with settings, data and configuration of its own."""

    def __init__(self, folder: Path, theme: str, subshells: str = "perCommTarget") -> None:
        self.folder = folder
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": f"JupyterLab {theme}"}))
        kernels = {"commsOverSubshells": subshells, "kernelInfoTimeout": 60_000}
        (settings / "kernels-settings.jupyterlab-settings").write_text(json.dumps(kernels))
        quiet = {"fetchNews": "false", "checkForUpdates": False}
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
        places = {f"JUPYTER_{kind}_DIR": folder / kind.lower() for kind in ("CONFIG", "DATA", "RUNTIME")}
        places |= {"JUPYTERLAB_SETTINGS_DIR": folder / "settings", "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces"}
        places |= {"IPYTHONDIR": folder / "ipython", "HOME": folder}
        with (folder / "server.log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "jupyter",
                    "lab",
                    "--allow-root",
                    "--no-browser",
                    "--port=0",
                    "--ServerApp.ip=127.0.0.1",
                    f"--ServerApp.root_dir={folder}",
                    "--IdentityProvider.token=",
                    "--LabApp.expose_app_in_browser=True",
                    "--LabApp.news_url=None",
                    "--LabApp.extension_manager=readonly",
                ],
                cwd=folder,
                env={**os.environ, **{name: str(path) for name, path in places.items()}},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.url = self._address()

    def _address(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            for path in (self.folder / "runtime").glob("jpserver-*.json"):
                if (text := path.read_text()).endswith("}"):
                    return str(json.loads(text)["url"])
            time.sleep(0.1)
        raise RuntimeError((self.folder / "server.log").read_text()[-2000:])

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Notebook:
    """One open notebook: its page, what it asked of other hosts, and the errors in its console."""

    def __init__(self, browser: Any, server: Server, cells: list[str], app: str, width: int) -> None:
        path = server.folder / f"notebook{time.monotonic_ns()}.ipynb"
        document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(document, path)
        self.page = browser.new_page(viewport={"width": width, "height": 1400})
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("request", lambda request: self._asked(request.url))
        self.dialogs: list[str] = []
        self.page.add_locator_handler(self.page.locator("dialog.jp-Dialog"), self._dialog)
        where = f"lab/tree/{path.name}?reset" if app == "lab" else f"notebooks/{path.name}"
        self.page.goto(server.url + where)
        self.page.wait_for_selector(".jp-CodeCell", timeout=60_000)
        self.page.wait_for_selector(".jp-NotebookPanel-toolbar", timeout=60_000)

    def _asked(self, url: str) -> None:
        if not re.match(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:", url):
            self.elsewhere.append(url)

    def _dialog(self, dialog: Any) -> None:
        """JupyterLab asks something of its own, as it does when a kernel starts slowly: agree and go on."""
        self.dialogs.append(dialog.first.inner_text())
        print("JupyterLab asks:", self.dialogs[-1])
        dialog.first.locator(".jp-mod-accept").click()

    def run(self, *cells: int) -> None:
        """Run cells by number, and wait until each has a new one in its prompt."""
        for cell in cells:
            place = self.page.locator(".jp-CodeCell").nth(cell)
            before = place.locator(".jp-InputPrompt").inner_text()
            self._start(cell, before.strip())
            self.page.wait_for_function(FINISHED, arg=[cell, before.strip()], timeout=90_000)

    def start(self, cell: int) -> None:
        """Run a cell, and wait only until it runs."""
        before = self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-InputPrompt").inner_text()
        self._start(cell, before.strip())

    def _start(self, cell: int, before: str) -> None:
        """Press the keys until they count: before the kernel is there, they may not."""
        from playwright.sync_api import TimeoutError as NotYet

        for _ in range(10):
            self.page.locator(".jp-CodeCell").nth(cell).locator(".cm-content").click()
            self.page.keyboard.press("Control+Enter")
            try:
                self.page.wait_for_function(STARTED, arg=[cell, before], timeout=5_000)
            except NotYet:
                continue
            return
        raise AssertionError(f"cell {cell} does not start")

    def explorer(self, number: int = 0) -> Any:
        view = self.page.locator(EXPLORER).nth(number)
        view.locator("svg").wait_for(timeout=60_000)
        return view

    def drag(self, view: Any, handle: int, cut: int, count: int) -> None:
        """Drag a handle of the visible slider under the bar of a cut, once both stand still."""
        view.locator(".noUi-handle:visible").nth(handle).hover()
        plot = view.locator(".se-plot").bounding_box()
        box = view.locator(".noUi-handle:visible").nth(handle).bounding_box()
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + box["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(plot["x"] + plot["width"] * (cut + 0.5) / count, y, steps=4)
        self.page.mouse.up()

    def close(self) -> None:
        self.page.close()
        assert self.elsewhere == []
        own = ("removeChild", "favicon", "Failed to load resource", "WebSocket", "sourcemap")
        assert [error for error in self.errors if not any(word in error for word in own)] == []
