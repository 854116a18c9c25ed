"""How fast the explorer answers, measured in a browser: JupyterLab on loopback, headless Chromium, real key presses.

    python benchmarks/explorer.py [--moves 40] [--theme Light]

A moved cut: from the key press to the first frame that shows the new cut. Another network: from Enter to its title.
Cancel: from the click to the word "Cancelled", with a measurement of VGG-19 under way, and with another cell running.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from jupyter_rig import SHOW, Notebook, Server, chromium

NETWORKS = ("resnet50", "densenet201", "timm/inception_resnet_v2")

MOVE = """async moves => {
    const taken = [];
    for (let step = 0; step < moves; step++) {
        const before = document.querySelector('.se-flag').textContent, start = performance.now();
        document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
        while (document.querySelector('.se-flag').textContent === before && performance.now() - start < 10000)
            await new Promise(requestAnimationFrame);
        taken.push(performance.now() - start);
        await new Promise(done => setTimeout(done, 100));
    }
    return taken;
}"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=40, help="key presses for each network (default: 40)")
    parser.add_argument("--theme", choices=("Light", "Dark"), default="Light")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        server = Server(Path(folder), options.theme)
        try:
            for name in NETWORKS:
                moves(browser, server, name, options.moves)
            models(browser, server)
            cancels(browser, server)
        finally:
            server.stop()


def moves(browser: Any, server: Server, name: str, count: int) -> None:
    """Arrow keys on the handle."""
    notebook = Notebook(browser, server, [SHOW.format(f"{name!r}")], "lab", 1280)
    notebook.run(0)
    view = notebook.explorer()
    view.locator(".noUi-handle:visible").first.focus()
    taken = notebook.page.evaluate(MOVE, count)
    words = (
        f"{statistics.median(taken):.0f} ms median, {max(taken):.0f} ms at most (move {taken.index(max(taken)) + 1})"
    )
    print(f"{name}: a moved cut {words}", flush=True)
    notebook.page.close()


def models(browser: Any, server: Server) -> None:
    """Another network by name, each for the first time."""
    notebook = Notebook(browser, server, [SHOW.format("'resnet18'")], "lab", 1280)
    notebook.run(0)
    view, seconds = notebook.explorer(), {}
    field = view.get_by_placeholder("a name")
    for name in ("resnet50", "vgg19", "densenet201", "timm/inception_resnet_v2", "vit_b_16", "digits_cnn"):
        field.fill(name)
        started = time.perf_counter()
        field.press("Enter")
        view.locator(".se-title", has_text=f"{name}: ").wait_for(timeout=60_000)
        seconds[name] = time.perf_counter() - started
    print("another network: " + ", ".join(f"{name} {taken:.2f} s" for name, taken in seconds.items()), flush=True)
    notebook.page.close()


def cancels(browser: Any, server: Server) -> None:
    """Cancel at several moments of a measurement, alone and beside a cell that runs."""
    cells = [SHOW.format("'vgg19', at='features.4'"), "import time\nfor _ in range(600): time.sleep(0.1)"]
    notebook = Notebook(browser, server, cells, "lab", 1280)
    notebook.run(0)
    view = notebook.explorer()
    for beside in (False, True):
        if beside:  # what was used once before answers while a cell runs
            notebook.start(1)
        seconds = []
        for moment in (0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
            view.get_by_role("button", name="Measure").click()
            view.locator(".se-busy").first.wait_for(timeout=60_000)
            time.sleep(moment)
            started = time.perf_counter()
            view.get_by_role("button", name="Cancel").click()
            view.locator(".se-told", has_text="Cancelled").wait_for(timeout=60_000)
            seconds.append(time.perf_counter() - started)
        where = "beside a running cell" if beside else "alone"
        print(f"cancel {where}: {statistics.median(seconds):.2f} s median, {max(seconds):.2f} s at most", flush=True)
    notebook.page.close()


if __name__ == "__main__":
    main()
