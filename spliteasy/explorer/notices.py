"""What the explorer says about itself, as HTML: errors, what is going on, how far it is."""

from __future__ import annotations

import traceback
from html import escape

from spliteasy.errors import SplitEasyError

__all__ = ["code", "progress_bar", "status", "told"]


def told(error: Exception) -> str:
    """An error as the view shows it: ours as they are, others with their traceback folded away."""
    if isinstance(error, SplitEasyError):
        text = str(error.args[0]) if error.args else type(error).__name__
        return f'<div class="spliteasy"><div class="se-problem" role="alert">{escape(text)}</div></div>'
    trace = escape("".join(traceback.format_exception(error)))
    return (
        f'<div class="spliteasy"><div class="se-problem" role="alert"><b>{type(error).__name__}</b>: '
        f"{escape(str(error))}<details><summary>where</summary><pre>{trace}</pre></details></div></div>"
    )


def status(text: str, busy: bool = False) -> str:
    """A few words; ``busy`` while something can still be cancelled."""
    return (
        f'<div class="spliteasy{" se-busy" if busy else ""}" role="status">'
        f'<div class="se-told">{escape(text)}</div></div>'
    )


def progress_bar(fraction: float, doing: str) -> str:
    """How much is done, from 0 to 1, and what is being done."""
    return (
        f'<div class="spliteasy se-busy" role="progressbar" aria-valuenow="{100 * fraction:.0f}">'
        f'<div class="se-told"><span class="se-done"><span style="width:{100 * fraction:.0f}%"></span></span>'
        f"{escape(doing)}</div></div>"
    )


def code(text: str) -> str:
    """Code to copy: a click selects all of it."""
    return (
        '<div class="spliteasy"><div class="se-dim">click, then copy</div>'
        f'<pre class="se-code" tabindex="0">{escape(text)}</pre></div>'
    )
