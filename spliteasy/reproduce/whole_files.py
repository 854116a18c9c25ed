"""Where a reproduction is saved: what the disk refuses becomes an error that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

from spliteasy.errors import ReproduceError
from spliteasy.replacing import replacing

__all__ = ["as_folder", "write_whole"]


def as_folder(path: str | os.PathLike[str]) -> Path:
    """A folder to write into, made if it is not there. Raises `ReproduceError` for a file, or where none can be
    made."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ReproduceError(f"Expected a folder to save into, found the file {folder}. Name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReproduceError(
            f"Expected to make the folder {folder}, found {error.strerror or error}. Name a folder that you may write."
        ) from error
    return folder


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, sync, and rename over ``path``. Raises `ReproduceError` where the disk refuses; the old file is
    then still whole."""
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise ReproduceError(
            f"Expected to write {path}, found {error.strerror or error}. Free some space, or name another folder."
        ) from error
