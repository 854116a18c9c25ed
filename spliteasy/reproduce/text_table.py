"""A data frame as people read it: in a terminal with headings of several lines, in Markdown, and in HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

__all__ = ["as_html", "as_markdown", "as_text"]


def as_text(frame: pandas.DataFrame) -> str:
    """Aligned columns; a heading ``overall, paper`` stands in two lines; a name is not repeated below itself."""
    heads = [str(column).split(", ") for column in frame.columns]
    height = max(len(head) for head in heads)
    lines = [[""] * (height - len(head)) + head for head in heads]
    columns = _cells(frame)
    if columns and _is_text(frame, 0):
        columns[0] = _once(columns[0])
    widths = [max(map(len, [*head, *cells])) for head, cells in zip(lines, columns, strict=True)]
    left = [_is_text(frame, place) for place in range(len(columns))]

    def row(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(cells, widths, left, strict=True)
        ]
        return "  ".join(padded).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    head = [row(cells) for cells in zip(*lines, strict=True)]
    return "\n".join([*head, rule, *(row(cells) for cells in zip(*columns, strict=True))])


def as_markdown(frame: pandas.DataFrame) -> str:
    """A table of Markdown; numbers to the right."""
    heads = [_escaped(str(column)) for column in frame.columns]
    rule = ["---" if _is_text(frame, place) else "---:" for place in range(len(heads))]
    rows = [[_escaped(cell) for cell in row] for row in zip(*_cells(frame), strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])


def as_html(frame: pandas.DataFrame) -> str:
    """A table of HTML in the style of data frames."""
    heads = "".join(f"<th>{html.escape(str(column)).replace(', ', '<br>')}</th>" for column in frame.columns)
    aligned = ["left" if _is_text(frame, place) else "right" for place in range(len(frame.columns))]
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{to}">{html.escape(cell)}</td>' for cell, to in zip(row, aligned, strict=True)
        )
        + "</tr>"
        for row in zip(*_cells(frame), strict=True)
    )
    return f'<table class="dataframe"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _cells(frame: pandas.DataFrame) -> list[list[str]]:
    """The text of every cell, column by column; one number of decimals a column."""
    found = []
    for place in range(len(frame.columns)):
        values = frame.iloc[:, place].tolist()
        show = _number_format(values)
        found.append([_shown(value, show) for value in values])
    return found


def _number_format(values: Sequence[Any]) -> Callable[[float], str]:
    numbers = [abs(value) for value in values if isinstance(value, float) and value == value]
    largest = max(numbers, default=0.0)
    decimals = 0 if largest >= 1000 else 1 if largest >= 100 else 2 if largest >= 0.1 else 4
    return lambda value: f"{value:,.{decimals}f}"


def _shown(value: Any, show: Callable[[float], str]) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return show(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_text(frame: pandas.DataFrame, place: int) -> bool:
    values = [value for value in frame.iloc[:, place].tolist() if value is not None and value == value]
    return all(isinstance(value, str | bool) for value in values)


def _once(cells: Sequence[str]) -> list[str]:
    return [cell if not place or cells[place - 1] != cell else "" for place, cell in enumerate(cells)]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
