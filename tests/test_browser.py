"""The explorer in a real browser: JupyterLab and Notebook on loopback, driven by mouse and keyboard in Chromium.

Screenshots go to the folder that SPLITEASY_SCREENSHOTS names, else to pytest's temporary one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from spliteasy.cuts import Cuts, find_cuts
from spliteasy.models import load_model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: install one to test in a real browser"),
]

EXPLORER = ".spliteasy-explorer"
PROMPT = "document.querySelectorAll('.jp-CodeCell')[cell].querySelector('.jp-InputPrompt').textContent.trim()"
STARTED = f"([cell, before]) => ![before, '[ ]:'].includes({PROMPT})"
FINISHED = f"([cell, before]) => /\\d/.test({PROMPT}) && {PROMPT} !== before"


class Server:
    """A Jupyter server on a free loopback port with settings, data and configuration of its own."""

    def __init__(self, folder: Path, theme: str) -> None:
        self.folder = folder
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": f"JupyterLab {theme}"}))
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
        where = f"lab/tree/{path.name}?reset" if app == "lab" else f"notebooks/{path.name}"
        self.page.goto(server.url + where)
        self.page.wait_for_selector(".jp-CodeCell", timeout=60_000)
        self.page.wait_for_selector(".jp-NotebookPanel-toolbar", timeout=60_000)

    def _asked(self, url: str) -> None:
        if not re.match(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:", url):
            self.elsewhere.append(url)

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
        yield found
        found.close()


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("light"), "Light")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def dark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("dark"), "Dark")
    yield server
    server.stop()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SPLITEASY_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


SHOW = "import spliteasy as se\nexplorer = se.explore({})\nexplorer"


def test_the_explorer_by_mouse(browser: Any, light: Server, pictures: Path) -> None:
    notebook = Notebook(browser, light, [SHOW.format("'resnet18', at='maxpool'")], "lab", 1280)
    page = notebook.page
    notebook.run(0)
    view = notebook.explorer()
    cuts = _cuts("resnet18", 32)
    _says(view, ".se-flag", "after maxpool · 25.7 MB")
    _says(view, ".se-product", "B·R·C·F = 32·56·56·64 = 6,422,528 values = 25.7 MB")

    for cut in (30, 3, 61, 68, 0):
        notebook.drag(view, 0, cut, len(cuts))
        _says(view, ".se-flag", f"after {cuts[cut].name} · ")
        assert view.locator("input[type=number]:visible").nth(2).input_value() == str(cut)
        _handle_is_under_its_bar(view, 0)

    field = view.get_by_placeholder("a name")
    field.fill("digits_cnn")
    field.press("Enter")
    _says(view, ".se-title", "digits_cnn: bytes at each of its 13 cuts")
    cuts = _cuts("digits_cnn", 32)
    view.get_by_role("button", name="double").click()
    _says(view, ".se-legend", "C on the device")
    notebook.drag(view, 1, 11, len(cuts))
    notebook.drag(view, 0, 7, len(cuts))
    _says(view, ".se-flags", "after pool · 65.5 kB")
    _says(view, ".se-flags", "after dropout · 131 kB")
    for handle in (0, 1):
        _handle_is_under_its_bar(view, handle)
    page.screenshot(path=pictures / "double.png")
    notebook.drag(view, 0, 12, len(cuts))  # over the other handle
    _says(view, ".se-flags", "after dropout")
    _says(view, ".se-flags", "after classifier")

    view.get_by_role("button", name="Measure").click()
    _says(view, ".se-told", "measured in")
    first = view.locator("table", has_text="relative error").inner_text()
    view.locator("select").nth(1).select_option("topk(0.1) | fp16 | zstd(1)")
    view.get_by_role("button", name="Measure").click()
    page.wait_for_function(
        "before => document.querySelector('.se-new code')?.textContent.includes('topk')", arg=first, timeout=60_000
    )
    rows = view.locator("table", has_text="relative error").inner_text()
    assert "fp16 | zstd(1)" in rows and "topk(0.1) | fp16 | zstd(1)" in rows and "MB/s" in rows
    page.screenshot(path=pictures / "measured.png")
    notebook.close()


def test_the_explorer_by_keyboard(browser: Any, light: Server) -> None:
    notebook = Notebook(browser, light, [SHOW.format("'resnet18', at='maxpool'")], "lab", 1100)
    notebook.run(0)
    view, cuts, page = notebook.explorer(), _cuts("resnet18", 32), notebook.page
    handle = view.locator(".noUi-handle:visible").first
    handle.focus()
    page.keyboard.press("ArrowRight")
    _says(view, ".se-flag", f"after {cuts[5].name} · ")
    page.keyboard.press("End")
    _says(view, ".se-flag", f"after {cuts[len(cuts) - 1].name} · ")
    page.keyboard.press("Home")
    _says(view, ".se-flag", "after input · ")
    number = view.locator("input[type=number]:visible").nth(2)
    number.fill("12")
    number.press("Enter")
    _says(view, ".se-flag", f"after {cuts[12].name} · ")
    name = view.get_by_placeholder("or type its name")
    name.first.fill("avgpool")
    name.first.press("Enter")
    _says(view, ".se-flag", "after avgpool · 65.5 kB")
    notebook.close()


def test_bad_input_is_told_in_the_view(browser: Any, light: Server, pictures: Path) -> None:
    notebook = Notebook(browser, light, [SHOW.format("'resnet18', at='maxpool'")], "lab", 1100)
    notebook.run(0)
    view = notebook.explorer()
    batch = view.locator("input[type=number]").first
    for control, bad, message in (
        (view.get_by_placeholder("a name"), "resnet5", "Did you mean"),
        (batch, "0", "1 or more samples, found 0"),
        (view.get_by_placeholder("topk"), "zstd(1) | fp16", "fp16 | zstd(1)"),
    ):
        control.fill(bad)
        control.press("Enter")
        _says(view, ".se-problem", message)
        _says(view, ".se-flag", "after maxpool · 25.7 MB")
    notebook.page.screenshot(path=pictures / "problem.png")
    batch.fill("16")
    batch.press("Enter")
    _says(view, ".se-flag", "after maxpool · 12.8 MB")
    assert view.locator(".se-problem").count() == 0
    notebook.close()


def test_a_moved_cut_answers_at_once(browser: Any, light: Server) -> None:
    notebook = Notebook(browser, light, [SHOW.format("'densenet121', at='features.pool0'")], "lab", 1280)
    notebook.run(0)
    view = notebook.explorer()
    view.locator(".noUi-handle:visible").first.focus()
    milliseconds = notebook.page.evaluate("""async () => {
        const taken = [];
        for (let step = 0; step < 15; step++) {
            const before = document.querySelector('.se-flag').textContent, start = performance.now();
            document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
            while (document.querySelector('.se-flag').textContent === before && performance.now() - start < 5000)
                await new Promise(requestAnimationFrame);
            taken.push(performance.now() - start);
        }
        return taken;
    }""")
    assert statistics.median(milliseconds) < 1000, milliseconds  # 40 ms alone; here other tests run beside it
    notebook.close()


def test_cancel_answers_while_a_cell_runs(browser: Any, light: Server) -> None:
    cells = [SHOW.format("'vgg19', at='classifier.4'"), "import time\nfor _ in range(300): time.sleep(0.1)"]
    notebook = Notebook(browser, light, cells, "lab", 1100)
    notebook.run(0)
    view, page = notebook.explorer(), notebook.page
    view.get_by_role("button", name="Measure").click()
    _says(view, ".se-told", "building")
    notebook.start(1)
    view.get_by_role("button", name="Cancel").click()
    _says(view, ".se-told", "Cancelled")
    assert "*" in page.locator(".jp-CodeCell").nth(1).locator(".jp-InputPrompt").inner_text()
    notebook.close()


def test_dark_theme_and_a_narrow_notebook_7(browser: Any, dark: Server, pictures: Path) -> None:
    notebook = Notebook(browser, dark, [SHOW.format("'densenet121'")], "notebook", 720)
    notebook.run(0)
    view = notebook.explorer()
    view.get_by_role("button", name="double").click()
    _says(view, ".se-legend", "C on the device")
    notebook.page.screenshot(path=pictures / "dark-narrow.png")
    ink = view.locator(".se-title").evaluate("element => getComputedStyle(element).color")
    paper = notebook.page.evaluate("() => getComputedStyle(document.body).getPropertyValue('--jp-layout-color1')")
    assert min(map(int, re.findall(r"\d+", ink)[:3])) > 150
    assert paper.strip().lower() not in ("white", "#fff", "#ffffff")
    assert view.evaluate("element => element.scrollWidth <= element.clientWidth + 1")
    _handle_is_under_its_bar(view, 0)
    notebook.close()


def test_running_a_cell_again_leaves_one_view(browser: Any, light: Server) -> None:
    count = "import ipywidgets\nlen(ipywidgets.widgets.widget._instances)"
    notebook = Notebook(browser, light, [SHOW.format("'digits_cnn'"), count], "lab", 1100)
    found = []
    for _ in range(3):
        notebook.run(0, 1)
        notebook.explorer()
        output = notebook.page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output").last
        found.append(output.inner_text())
    assert len(set(found)) == 1, found
    assert notebook.page.locator(EXPLORER).count() == 1
    notebook.close()


def _cuts(name: str, batch: int) -> Cuts:
    shape = (1, 8, 8) if name == "digits_cnn" else (3, 224, 224)
    return find_cuts(load_model(name), input_shape=shape, batch=batch)


def _says(view: Any, selector: str, words: str) -> None:
    """Wait until an element of the view contains the words."""
    view.locator(selector, has_text=words).first.wait_for(timeout=60_000)


def _handle_is_under_its_bar(view: Any, number: int) -> None:
    handle = view.locator(".noUi-handle:visible").nth(number).bounding_box()
    pole = view.locator(".se-pole").nth(number).bounding_box()
    assert abs(handle["x"] + handle["width"] / 2 - pole["x"] - pole["width"] / 2) < 2
