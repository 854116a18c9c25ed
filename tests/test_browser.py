"""The explorer in a real browser: JupyterLab and Notebook on loopback, driven by mouse and keyboard in Chromium.

Screenshots go to the folder that SPLITEASY_SCREENSHOTS names, else to pytest's temporary one.
"""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_rig import CHROMIUM, EXPLORER, SHOW, Notebook, Server, chromium

from spliteasy.cuts import Cuts, find_cuts
from spliteasy.explorer.snippet import snippet
from spliteasy.explorer.state import ExplorerState
from spliteasy.explorer.trial import run_trial
from spliteasy.explorer.wording import duration, size
from spliteasy.link import LINKS
from spliteasy.models import load_model

expect = pytest.importorskip("playwright.sync_api").expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: install one to test in a real browser"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


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


@pytest.fixture(scope="module")
def without_subshells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("plain"), "Light", subshells="disabled")
    yield server
    server.stop()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SPLITEASY_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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

    notebook.close()


@pytest.mark.slow
def test_chains_are_measured_and_the_numbers_are_the_librarys(browser: Any, light: Server, pictures: Path) -> None:
    notebook = Notebook(browser, light, [SHOW.format("'digits_cnn', at=('pool', 'flatten'), batch=16")], "lab", 1280)
    notebook.run(0)
    view, page = notebook.explorer(), notebook.page
    table = view.locator("table", has_text="on the link")
    link, facts = LINKS["lte"], {name: _cuts("digits_cnn", 16)[name].nbytes for name in ("pool", "flatten")}
    for message, cut in (("activations", "pool"), ("output_gradients", "flatten")):
        row = table.locator("tr", has_text=message).first.inner_text()
        assert size(facts[cut]) in row and duration(link.seconds(facts[cut], 0, calls=0)) in row
    whole = link.seconds(sum(facts.values()), sum(facts.values()), calls=2)
    assert duration(whole) in table.locator(".se-total").inner_text()
    assert view.locator(".se-untold").count() == 1

    view.get_by_role("button", name="Measure").click()
    _says(view, ".se-told", "done in")
    state = ExplorerState("digits_cnn", at=("pool", "flatten"), batch=16)
    for row in run_trial(state.plan).messages:
        text = table.locator("tr", has_text=row.message).first.inner_text()
        assert size(row.frame_bytes) in text and f"{row.ratio:.3g}×" in text
    view.locator("select").nth(1).select_option("largest tenth")
    chain = view.get_by_placeholder("a chain")
    for place in range(4):
        expect(chain.nth(place)).to_have_value("topk(0.1) | fp16 | zstd(1)", timeout=60_000)
    chain.nth(3).fill("int8 | zstd(1)")
    chain.nth(3).press("Enter")
    view.get_by_role("button", name="Measure").click()
    page.wait_for_function(
        "() => document.querySelector('.se-new code') && !document.querySelector('.se-untold')", timeout=60_000
    )
    rows = view.locator("table", has_text="relative error").inner_text()
    assert "fp16 | zstd(1)" in rows and "topk(0.1) | fp16 | zstd(1)" in rows and "int8 | zstd(1)" in rows
    page.screenshot(path=pictures / "measured.png")
    notebook.close()


def test_a_few_steps_are_trained_the_picture_saved_and_the_code_shown(
    browser: Any, light: Server, pictures: Path
) -> None:
    notebook = Notebook(browser, light, [SHOW.format("'digits_cnn', at=('pool', 'flatten'), batch=16")], "lab", 1280)
    notebook.run(0)
    view = notebook.explorer()
    view.get_by_role("button", name="Train a few steps").click()
    _says(view, ".se-note", "step 10 of 10, 16 digits each, device and server are two processes")
    _says(view, ".se-told", "done in")
    assert len(view.locator(".se-curve polyline").get_attribute("points").split()) == 10
    assert view.locator(".se-message").count() == 4
    view.locator(".se-curve").screenshot(path=pictures / "training.png")

    view.get_by_role("button", name="Save picture").click()
    _says(view, ".se-told", "digits_cnn-pool-flatten.svg")
    assert (light.folder / "digits_cnn-pool-flatten.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (light.folder / "digits_cnn-pool-flatten.svg").read_text()

    view.get_by_role("button", name="Show code").click()
    code = view.locator("pre.se-code").inner_text()
    explorer = ExplorerState("digits_cnn", at=("pool", "flatten"), batch=16)
    assert code.strip() == snippet(explorer.plan, explorer.facts).strip()
    notebook.close()


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_best_cut_moves_the_scissors(
    browser: Any, theme: str, request: pytest.FixtureRequest, pictures: Path
) -> None:
    cell = SHOW.format("'digits_cnn', at=('pool', 'flatten'), batch=16")
    notebook = Notebook(browser, request.getfixturevalue(theme), [cell], "lab", 1000)
    notebook.run(0)
    view = notebook.explorer()
    view.get_by_label("in", exact=True).select_option("single and double")
    view.get_by_role("button", name="Best cut").click()
    _says(view, ".se-told", "done in")
    _says(view, ".se-best", "What was chosen before (double split after pool and flatten) takes")
    best = view.locator(".se-best code").first.inner_text()
    _says(view, ".se-flags", f"after {best} · ")
    _handle_is_under_its_bar(view, 0)
    row = view.locator(".se-advice tr.se-new")
    chain = row.locator("code").last.inner_text().removesuffix(", …")
    expect(view.get_by_placeholder("a chain").first).to_have_value(chain)
    view.locator(".se-advice").screenshot(path=pictures / f"best-cut-{theme}.png")
    view.screenshot(path=pictures / f"best-cut-whole-{theme}.png")
    view.get_by_role("button", name="Show code").click()
    _says(view, "pre.se-code", f"for name in ['{best}'")
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
    view.get_by_role("button", name="Measure").focus()
    page.keyboard.press("Enter")
    _says(view, ".se-told", "photographs")
    for name in ("Train a few steps", "Cancel"):  # the next ones in order
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.textContent").strip() == name
    page.keyboard.press("Enter")
    _says(view, ".se-told", "Cancelled")
    notebook.close()


@pytest.mark.slow
def test_bad_input_is_told_in_the_view(browser: Any, light: Server, pictures: Path) -> None:
    notebook = Notebook(browser, light, [SHOW.format("'resnet18', at='maxpool'")], "lab", 1100)
    notebook.run(0)
    view = notebook.explorer()
    batch = view.locator("input[type=number]").first
    for control, bad, message in (
        (view.get_by_placeholder("a name"), "resnet5", "Did you mean"),
        (batch, "0", "1 or more samples, found 0"),
        (view.get_by_placeholder("a chain").first, "zstd(1) | fp16", "fp16 | zstd(1)"),
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_without_subshells_cancel_answers_when_the_cell_ends(browser: Any, without_subshells: Server) -> None:
    cells = [SHOW.format("'vgg19', at='classifier.4'"), "import time\ntime.sleep(3)"]
    notebook = Notebook(browser, without_subshells, cells, "lab", 1100)
    notebook.run(0)
    view = notebook.explorer()
    number = view.locator("input[type=number]:visible").nth(2)
    number.fill("5")
    number.press("Enter")
    _says(view, ".se-flag", "✂ after features.4")
    view.get_by_role("button", name="Measure").click()
    _says(view, ".se-told", "building")
    notebook.start(1)
    view.get_by_role("button", name="Cancel").click()
    _says(view, ".se-told", "Cancelled")
    view.get_by_role("button", name="log").click()
    _says(view, ".se-tick", "MB")
    notebook.close()


@pytest.mark.slow
def test_two_views_at_once_are_two_explorers(browser: Any, light: Server) -> None:
    cells = [SHOW.format("'resnet18', at='maxpool'"), SHOW.format("'digits_cnn', at='pool'")]
    notebook = Notebook(browser, light, cells, "lab", 1100)
    notebook.run(0, 1)
    one, two = notebook.explorer(0), notebook.explorer(1)
    batch = two.locator("input[type=number]").first
    batch.fill("64")
    batch.press("Enter")
    _says(two, ".se-flag", "after pool · 131 kB")
    _says(one, ".se-flag", "after maxpool · 25.7 MB")
    notebook.close()


@pytest.mark.slow
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
    number = view.locator("input[type=number]:visible").nth(2)
    number.fill("9")
    number.press("Enter")
    _says(view, ".se-flag", f"after {_cuts('densenet121', 32)[9].name} · ")
    view.locator(".noUi-handle:visible").nth(0).focus()
    notebook.page.keyboard.press("PageUp")  # Notebook keeps the arrows for itself
    notebook.page.wait_for_function(
        "() => document.querySelectorAll('input[type=number]')[2].value !== '9'", timeout=60_000
    )
    notebook.close()


@pytest.mark.slow
def test_running_a_cell_again_leaves_one_view(browser: Any, light: Server) -> None:
    count = "import ipywidgets\nlen(ipywidgets.widgets.widget._instances)"
    notebook = Notebook(browser, light, [SHOW.format("'digits_cnn', at='pool'"), count], "lab", 1100)
    found = []
    for _ in range(3):
        notebook.run(0, 1)
        notebook.explorer()
        output = notebook.page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output").last
        found.append(output.inner_text())
    assert len(set(found)) == 1, found
    assert notebook.page.locator(EXPLORER).count() == 1

    view = notebook.explorer()
    batch = view.locator("input[type=number]").first
    batch.fill("64")
    batch.press("Enter")
    _says(view, ".se-flag", "after pool · 131 kB")
    notebook.run(0)
    _says(notebook.explorer(), ".se-flag", "after pool · 131 kB")  # what was chosen stays
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
