"""Finished rows on disk: a journal of one JSON line a row, and a table made of it.

The journal is what a study goes on from. Its first line says what the study is; a row is added by one write of one
line that is synced before the next run starts, so a kill leaves at most one torn line at the end, which is cut off, and
that run is computed again. The table (Parquet or CSV) is made anew from the journal and put in place in one rename.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from spliteasy.errors import TrainingError
from spliteasy.replacing import replacing

if TYPE_CHECKING:
    import pandas

__all__ = ["FORMAT", "Store", "write_table"]

FORMAT = "spliteasy-sweep/1"
"""Name and version of the journal."""

_JOURNAL = "rows.jsonl"
_TABLES = (".parquet", ".csv")


class Store:
    """The rows of one study under a path, which is a table's (``results.parquet``, ``results.csv``) or a folder's.

    The journal lies beside the table, as ``results.parquet.rows.jsonl``, or in the folder, as ``rows.jsonl`` next to
    ``rows.csv``. While the store is open nobody else can open it (where the system has file locks).

    Raises `TrainingError` for a path that holds something else: another study, another version of this package or of
    PyTorch, or a table without its journal. Nothing is overwritten then.
    """

    def __init__(self, out: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.table = Path(out)
        if self.table.suffix in _TABLES:
            self.journal = self.table.with_name(f"{self.table.name}.{_JOURNAL}")
            if self.table.suffix == ".parquet":
                _require_parquet(self.table)
        else:
            if self.table.suffix or self.table.is_file():
                raise TrainingError(f"Expected out as a .parquet or .csv file or as a folder, found {out}.")
            self.journal, self.table = self.table / _JOURNAL, self.table / "rows.csv"
        self._identity = {"format": FORMAT, **json.loads(json.dumps(identity))}
        self.rows: dict[str, dict[str, Any]] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Store:
        if self.table.exists() and not self.journal.exists():
            raise TrainingError(
                f"Expected {self.table} to be new or this study's, found a file without its journal {self.journal}. "
                "Choose another name, or move it away."
            )
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.journal, "a+b", buffering=0)
        try:
            _lock(self._file, self.journal)
            self._read(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a finished row, on the disk when this returns. A run that is there already is not added again."""
        assert self._file is not None
        if row["run"] not in self.rows:
            self._write(row)
            self.rows[row["run"]] = dict(row)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        end = self._file.seek(0, os.SEEK_END)
        text = memoryview(json.dumps(line).encode() + b"\n")
        try:
            while text:
                text = text[self._file.write(text) :]
            os.fsync(self._file.fileno())
        except BaseException:  # a full disk, an interrupt: no torn line for the next row to be added to
            self._file.truncate(end)
            raise

    def _read(self, file: IO[bytes]) -> None:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if not whole:
            # New, or killed in the first write: only a beginning of our own first line may be replaced.
            if content and not json.dumps(self._identity).encode().startswith(content):
                raise TrainingError(f"Expected the journal of a study in {self.journal}, found something else.")
            file.truncate(0)
            self._write(self._identity)
            _sync_folder(self.journal.parent)
            return
        try:
            first, *lines = (json.loads(line) for line in content[:whole].splitlines())
            rows = {row["run"]: row for row in lines}
        except (ValueError, KeyError, TypeError):
            raise TrainingError(
                f"Expected the journal of a study in {self.journal}, found lines that cannot be read. Move it away."
            ) from None
        self._refuse_another(first)
        file.truncate(whole)
        self.rows = rows

    def _refuse_another(self, found: Any) -> None:
        if not isinstance(found, dict) or "format" not in found:
            raise TrainingError(f"Expected the journal of a study in {self.journal}, found another file. Move it away.")
        differing = sorted(
            key for key in self._identity.keys() | found.keys() if self._identity.get(key) != found.get(key)
        )
        if differing:
            details = "; ".join(
                f"{key}: {_short(found.get(key))} there, {_short(self._identity.get(key))} here" for key in differing
            )
            raise TrainingError(
                f"Expected {self.journal} to be of this study, found another one ({details}). Give the same arguments "
                "to go on with it, or another out= for a new study."
            )


def write_table(rows: pandas.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table as Parquet or CSV, by its suffix, in one piece: a reader sees the old one or the new one."""
    path = Path(path)
    if path.suffix not in _TABLES:
        raise TrainingError(f"Expected a file that ends in .parquet or .csv, found {path}.")
    if path.suffix == ".parquet":
        _require_parquet(path)
    with replacing(path) as file:
        if path.suffix == ".parquet":
            rows.to_parquet(file, index=False)
        else:
            rows.to_csv(file, index=False)
    _sync_folder(path.parent)


def _require_parquet(path: Path) -> None:
    try:
        import pyarrow  # noqa: F401 - pandas writes Parquet with it
    except ImportError:
        raise TrainingError(
            f"Parquet needs pyarrow, which is not installed, to write {path}. Install it "
            "(pip install 'spliteasy[parquet]'), or name a .csv file."
        ) from None


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise TrainingError(f"Another process is at work on {path}. Wait for it, or stop it.") from None


def _sync_folder(folder: Path) -> None:
    """A new name in a folder is on the disk only when the folder is."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
