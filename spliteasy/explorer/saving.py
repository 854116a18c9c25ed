"""The picture as files: SVG for papers, PNG for slides."""

from __future__ import annotations

import re
from pathlib import Path

from spliteasy.errors import SplitEasyError
from spliteasy.explorer.figure import draw
from spliteasy.explorer.skyline import Skyline

__all__ = ["save_picture"]


def save_picture(picture: Skyline, name: str, folder: str | Path = ".") -> tuple[Path, Path]:
    """Write the picture as SVG and PNG into ``folder``; their paths. Files that are there stay: a number is added.

    Raises `SplitEasyError` where nothing can be written.
    """
    words = [name, *(cut.name for cut in picture.at)]
    stem = re.sub(r"[^\w.-]+", "-", "-".join(words)).strip("-")
    number, folder = 1, Path(folder)
    while True:
        base = stem if number == 1 else f"{stem}-{number}"
        paths = folder / f"{base}.svg", folder / f"{base}.png"
        if not any(path.exists() for path in paths):
            break
        number += 1
    figure = draw(picture)
    try:
        for path in paths:
            figure.savefig(path, dpi=200)
    except OSError as error:
        raise SplitEasyError(
            f"Expected to write the picture to {folder.resolve()}, found {error}. Change to a folder of yours "
            "(os.chdir), or use explorer.figure().savefig(path)."
        ) from error
    return paths
