"""The explorer's picture as HTML with SVG bars in it: pure functions from a `Skyline`, no widgets.

Bars are SVG, stretched to the width there is; words are HTML, which keeps its size, so that the picture can be narrow.
"""

from __future__ import annotations

from html import escape

from spliteasy.cuts import Cut
from spliteasy.explorer.skyline import Skyline
from spliteasy.explorer.wording import size, tooltip

__all__ = ["FEW", "OWNERS", "bars_html", "bars_svg", "foot_html", "picture_html"]

OWNERS = {"A": "device", "B": "server", "C": "device"}
"""Who runs each segment."""

FEW = 64
"""Up to this many bars stand apart; more touch each other."""

_TALL = 100
_FLAG_ROWS = (2, 27)
_POLES = (274, 249)


def bars_svg(picture: Skyline) -> str:
    """The bars as one SVG of ``picture.count`` by 100 units, meant to be stretched: one bar a cut (or group of cuts),
    each with a ``<title>``, coloured by segment, the chosen cuts solid. ``role="img"`` and an ``aria-label`` say what
    it shows."""
    gap = 0.14 if picture.count <= FEW else 0.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {picture.count} {_TALL}" preserveAspectRatio="none" '
        f'role="img" aria-label="{escape(picture.summary)}">'
    ]
    for tick in picture.axis.ticks:
        y = _y(picture, tick)
        parts.append(f'<line class="se-grid" x1="0" x2="{picture.count}" y1="{y:.2f}" y2="{y:.2f}"/>')
    for bar in picture.bars:
        width = bar.last - bar.first + 1
        parts.append(_bar(picture, bar.first, width, gap, bar.nbytes, f"se-{bar.segment.lower()}", bar.tooltip))
    least = max(1.0, picture.count / 300)  # a chosen cut can be seen however many there are
    for number, cut in enumerate(picture.at):
        owner = f"se-{'ab'[number]} se-cut"
        parts.append(_bar(picture, cut.index + 0.5 - least / 2, least, gap, cut.nbytes, owner, tooltip(cut)))
    return "".join([*parts, "</svg>"])


def picture_html(picture: Skyline) -> str:
    """The whole picture: `bars_html` with `foot_html` below it."""
    return bars_html(picture) + foot_html(picture)


def bars_html(picture: Skyline) -> str:
    """Title, legend, flags on the chosen cuts, axis and bars."""
    legend = "".join(
        f'<span class="se-{letter.lower()}"><span class="se-chip"></span><b>{letter}</b> on the {OWNERS[letter]}</span>'
        for letter in picture.spans
    )
    legend += (
        '<span><span class="se-chip" style="background:var(--se-ink)"></span>chosen cut: what crosses there</span>'
    )
    ticks = "".join(
        f'<span class="se-tick" style="bottom:{100 * picture.axis.height(tick):.2f}%">{size(tick, exact=False)}</span>'
        for tick in picture.axis.ticks
    )
    flags = "".join(_flag(picture, cut, number) for number, cut in enumerate(picture.at))
    poles = "".join(
        f'<span class="se-pole" style="left:{_middle(picture, cut):.3f}%;height:{_POLES[number]}px"></span>'
        for number, cut in enumerate(picture.at)
    )
    return (
        f'<div class="spliteasy"><div class="se-title">{escape(picture.title)}</div>'
        f'<div class="se-legend">{legend}</div>'
        f'<div class="se-picture"><div class="se-ylabel">bytes</div><div class="se-flags">{flags}</div>'
        f'<div class="se-plot">{bars_svg(picture)}{ticks}{poles}</div></div></div>'
    )


def foot_html(picture: Skyline) -> str:
    """What stands below the bars: whose operations they are, and the parts of the network."""
    band = []
    for letter, (start, end) in picture.spans.items():
        part = (end - start) / picture.count
        words = f"{letter} · {OWNERS[letter]}" if part > 0.1 else letter if part > 0.015 else ""
        band.append(
            f'<span class="se-{letter.lower()}" style="width:{100 * part:.4f}%" '
            f'title="{letter}, on the {OWNERS[letter]}">{words}</span>'
        )
    return (
        f'<div class="spliteasy"><div class="se-picture"><div class="se-band">{"".join(band)}</div>'
        f'<div class="se-stages">{_stages(picture)}</div>'
        '<div class="se-xlabel">operations, in the order they run →</div></div></div>'
    )


def _stages(picture: Skyline) -> str:
    spans = []
    for stage in picture.stages:
        part = (stage.last - stage.first + 1) / picture.count
        name = stage.label.rpartition(".")[2]
        fits = part > 0.008 * min(len(name), 4) + 0.006
        spans.append(
            f'<span style="width:{100 * part:.4f}%" title="{escape(stage.label)}"'
            f"{'' if fits else ' class=se-thin'}>{escape(name) if fits else ''}</span>"
        )
    return "".join(spans)


def _flag(picture: Skyline, cut: Cut, number: int) -> str:
    """The label of a chosen cut; it hangs to the side where there is room."""
    middle = _middle(picture, cut)
    side = f"left:calc({middle:.3f}% - 8px)" if middle < 50 else f"right:calc({100 - middle:.3f}% - 8px)"
    words = f"✂ after <b>{escape(cut.name)}</b> · <b>{size(cut.nbytes)}</b>"
    return f'<span class="se-flag" style="{side};top:{_FLAG_ROWS[number]}px">{words}</span>'


def _bar(picture: Skyline, x: float, width: float, gap: float, nbytes: float, classes: str, told: str) -> str:
    y = _y(picture, nbytes)
    high = max(_TALL - y, 0.5) if nbytes else 0.0
    left, wide = f"{x + gap / 2:.3f}", f"{width - gap:.3f}"
    return (
        f'<g class="se-bar {classes}"><title>{escape(told)}</title>'
        f'<rect class="se-hit" x="{left}" y="0" width="{wide}" height="{_TALL}"/>'
        f'<rect class="se-full" x="{left}" y="{_TALL - high:.2f}" width="{wide}" height="{high:.2f}"/></g>'
    )


def _y(picture: Skyline, nbytes: float) -> float:
    return _TALL * (1 - picture.axis.height(nbytes))


def _middle(picture: Skyline, cut: Cut) -> float:
    """Where a cut's bar stands, in percent from the left."""
    return 100 * (cut.index + 0.5) / picture.count
