"""Make the README's picture: the explorer as JupyterLab shows it, after it was used.

    python docs/pictures.py            # docs/explorer.png

Real clicks in headless Chromium; needs the `test` extra and a Chromium on the PATH.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from jupyter_rig import SHOW, Notebook, Server, chromium

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """ResNet-50 in a double split, measured with the chains of a preset."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        server = Server(Path(folder), "Light")
        try:
            cell = SHOW.format("'resnet50', at=('maxpool', 'flatten')")
            notebook = Notebook(browser, server, [cell], "notebook", 1280)
            notebook.run(0)
            view = notebook.explorer()
            view.locator("select").nth(1).select_option("largest tenth")
            view.get_by_role("button", name="Measure").click()
            view.locator(".se-told", has_text="done in").wait_for(timeout=120_000)
            notebook.page.set_viewport_size({"width": 1280, "height": 1600})
            box = view.bounding_box()
            end = view.locator(".se-note", has_text="On the link").bounding_box()
            height = end["y"] + end["height"] - box["y"]
            clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": height}
            notebook.page.screenshot(path=FOLDER / "explorer.png", clip=clip)
        finally:
            server.stop()
    print(FOLDER / "explorer.png")


if __name__ == "__main__":
    main()
