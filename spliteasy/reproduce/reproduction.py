"""One table or figure of the paper, made again: its numbers beside ours, a picture, and what differs and why."""

from __future__ import annotations

import base64
import html
import io
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spliteasy.errors import ReproduceError, suggest
from spliteasy.reproduce.paper_numbers import REFERENCE
from spliteasy.reproduce.text_table import as_html, as_markdown, as_text
from spliteasy.reproduce.whole_files import as_folder, write_whole

if TYPE_CHECKING:
    import pandas

    from spliteasy.pictures import Picture

__all__ = ["Reproduction"]

_WIDTH = 118


@dataclass(frozen=True, eq=False)
class Reproduction:
    """A table or figure of the paper beside ours. Prints as text; in a notebook it shows tables, picture and words.

    ``name`` as the command takes it, ``title`` a sentence, ``tables`` by name, the main one first, ``picture`` with its
    words for who cannot see it, ``differences`` plain sentences on what differs from the paper and why.
    """

    name: str
    title: str
    tables: Mapping[str, pandas.DataFrame]
    picture: Picture
    differences: tuple[str, ...] = field(default=())

    @property
    def table(self) -> pandas.DataFrame:
        """The main table."""
        return next(iter(self.tables.values()))

    def to_pandas(self, name: str | None = None) -> pandas.DataFrame:
        """A copy of a table, the main one unless named. Raises `ReproduceError` for a name that is none."""
        if name is None:
            return self.table.copy()
        if name not in self.tables:
            raise ReproduceError(
                f"Expected a table of {self.name}: {', '.join(self.tables)}; found {name!r}."
                f"{suggest(str(name), self.tables)}"
            )
        return self.tables[name].copy()

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write ``NAME.csv`` (``NAME-TABLE.csv`` for further tables), ``NAME.md``, ``NAME.svg`` and ``NAME.png`` into
        a folder, each in one piece; the paths. Raises `ReproduceError` where it cannot."""
        place = as_folder(folder)
        contents: dict[str, bytes] = {}
        for number, (name, table) in enumerate(self.tables.items()):
            own = f"{self.name}-{name.replace(' ', '-')}" if number else self.name
            contents[f"{own}.csv"] = table.to_csv(index=False).encode()
        contents[f"{self.name}.svg"], contents[f"{self.name}.png"] = self._drawn("svg"), self._drawn("png")
        contents[f"{self.name}.md"] = self.to_markdown().encode()
        for name, content in contents.items():
            write_whole(place / name, content)
        return [place / name for name in contents]

    def to_markdown(self) -> str:
        """Everything as Markdown; the picture is ``NAME.svg`` beside it."""
        parts = [f"# {self.title}", f"The paper: {REFERENCE}."]
        for number, (name, table) in enumerate(self.tables.items()):
            parts += ([f"## {name.capitalize()}"] if number else []) + [as_markdown(table)]
        parts += [f"![{self.picture.alt}]({self.name}.svg)"]
        parts += ["## What differs, and why", "\n".join(f"- {sentence}" for sentence in self.differences)]
        return "\n\n".join(parts) + "\n"

    def __repr__(self) -> str:
        lines = [self.title, ""]
        for number, (name, table) in enumerate(self.tables.items()):
            lines += [f"{name}:"] * bool(number) + [as_text(table), ""]
        lines += ["What differs, and why:"] if self.differences else []
        for sentence in self.differences:
            lines += textwrap.wrap(sentence, _WIDTH, initial_indent="- ", subsequent_indent="  ")
        return "\n".join(lines).rstrip()

    def _repr_html_(self) -> str:
        image = base64.b64encode(self._drawn("png")).decode()
        parts = [f"<p><b>{html.escape(self.title)}</b></p>"]
        for number, (name, table) in enumerate(self.tables.items()):
            parts += [f"<p><b>{html.escape(name)}</b></p>"] * bool(number) + [as_html(table)]
        parts += [
            f'<img src="data:image/png;base64,{image}" alt="{html.escape(self.picture.alt)}" style="max-width:100%">'
        ]
        sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.differences)
        return "".join(parts) + (f"<p>What differs, and why:</p><ul>{sentences}</ul>" if sentences else "")

    def _drawn(self, kind: str) -> bytes:
        """The picture as a file's bytes, the same for the same picture; white behind it, also on a dark page."""
        from matplotlib import rc_context

        file = io.BytesIO()
        about = {"Title": self.title, "Description": self.picture.alt} | ({"Date": None} if kind == "svg" else {})
        with rc_context({"svg.hashsalt": self.name}):
            self.picture.savefig(file, format=kind, dpi=120, facecolor="white", metadata=about)
        return file.getvalue()
