"""The installed codecs as text: what ``spliteasy codecs`` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from spliteasy.codecs.registry import CodecRow

__all__ = ["as_markdown", "as_text"]


def as_text(rows: Sequence[CodecRow], width: int = 100) -> str:
    """Columns as wide as what stands in them, and under each codec what it does and after whom, within ``width``
    characters (at least 60, at most 120)."""
    heads = ("name", "kind", "keeps", "example", "origin")
    cells = [(row.name, row.kind, _keeps(row), row.example, row.origin) for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [_columns(heads, widths)]
    for row, cell in zip(rows, cells, strict=True):
        text = f"{row.summary} [{row.citation}]" if row.citation else row.summary
        indent = " " * 4
        lines.append(_columns(cell, widths))
        lines += textwrap.wrap(
            text, max(60, min(width, 120)), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
    return "\n".join(lines)


def as_markdown(rows: Iterable[CodecRow]) -> str:
    """A table for a document."""
    heads = ("name", "kind", "keeps", "example", "what it does", "after", "origin")
    lines: list[Sequence[str]] = [heads, ["---"] * len(heads)]
    for row in rows:
        example = f"`{row.example}`" if row.example else ""
        cells = (f"`{row.name}`", row.kind, _keeps(row), example, row.summary, row.citation, row.origin)
        lines.append([cell.replace("|", "\\|") for cell in cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _columns(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _keeps(row: CodecRow) -> str:
    """``lossless``, ``lossy``, or nothing for a codec that does not load."""
    return "" if row.kind == "broken" else "lossless" if row.lossless else "lossy"
