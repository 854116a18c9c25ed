"""The picture for papers and for readers without a kernel: a matplotlib Figure, made without pyplot."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from spliteasy.explorer.facts import Facts
from spliteasy.explorer.render import FEW, OWNERS
from spliteasy.explorer.skyline import Skyline
from spliteasy.explorer.style import SEGMENT_COLORS
from spliteasy.explorer.wording import amount, arithmetic, bandwidth, duration, round_trips, share, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spliteasy.pictures import Picture

__all__ = ["draw", "png", "static_html"]

_INK, _DIM, _LINE = "#212121", "#616161", "#d9d9d9"


def draw(picture: Skyline) -> Picture:
    """The skyline as a Figure of 10 by 4.2 inches, on white; a notebook shows it by itself."""
    from spliteasy.pictures import Picture

    figure = Picture(figsize=(10, 4.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    gap = 0.14 if picture.count <= FEW else 0.0
    axes.bar(
        [bar.first + gap / 2 for bar in picture.bars],
        [bar.nbytes for bar in picture.bars],
        width=[bar.last - bar.first + 1 - gap for bar in picture.bars],
        color=[_tint(SEGMENT_COLORS[bar.segment]) for bar in picture.bars],
        align="edge",
        linewidth=0,
        zorder=2,
    )
    if picture.axis.log:
        axes.set_yscale("log")
    room = 1.3 if not picture.axis.log else (picture.axis.high / picture.axis.low) ** 0.3
    axes.set_ylim(picture.axis.low, picture.axis.high * room)
    axes.set_xlim(0, picture.count)
    ticks = picture.axis.ticks
    axes.set_yticks(ticks, [size(tick, exact=False) for tick in ticks], fontsize=9, color=_DIM)
    axes.minorticks_off()
    axes.set_ylabel("bytes at the cut", color=_DIM, fontsize=10)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title(picture.title, loc="left", fontsize=11.5, color=_INK, fontweight="bold")
    _mark(axes, picture)
    _stages(axes, picture)
    _legend(axes, picture)
    figure.alt = picture.summary
    return figure


def png(picture: Skyline, dpi: int = 110) -> bytes:
    """The same as a PNG file."""
    buffer = io.BytesIO()
    draw(picture).savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def static_html(picture: Skyline, facts: Facts, image: bytes) -> str:
    """The picture and the facts for a page that strips styles and scripts, such as a notebook on GitHub."""
    source = base64.b64encode(image).decode()
    rows = "".join(
        f"<tr><td>{segment.letter}</td><td>{segment.place}</td><td>{segment.operations}</td>"
        f"<td>{amount(segment.params)} ({share(segment.params, facts.params)})</td>"
        f"<td>{amount(segment.macs)} ({share(segment.macs, facts.macs)})</td></tr>"
        for segment in facts.segments
    )
    messages = "".join(
        f"<tr><td>{message.name}</td><td>{message.sender}\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}{message.receiver}</td>"
        f"<td>{escape(arithmetic(message.tensors))}</td><td>{duration(message.seconds)}</td></tr>"
        for message in facts.messages
    )
    link = f"{escape(facts.link.name)}: {bandwidth(facts.link, short=True)}"
    return (
        f'<img src="data:image/png;base64,{source}" alt="{escape(picture.summary)}">'
        "<table><thead><tr><th>segment</th><th>runs on</th><th>operations</th><th>parameters</th>"
        f"<th>multiply-accumulates a sample</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<table><thead><tr><th>message</th><th>way</th><th>raw size</th><th>on {link}</th></tr></thead>"
        f"<tbody>{messages}<tr><td>one training step</td><td></td><td>{size(facts.nbytes)}</td>"
        f"<td>{duration(facts.seconds)}, {round_trips(facts.calls)} included</td></tr>"
        "</tbody></table>"
    )


def _tint(color: str) -> tuple[float, ...]:
    """Two thirds of a colour on white, opaque so that the grid does not show through."""
    from matplotlib.colors import to_rgb

    return tuple(1 - 0.66 * (1 - part) for part in to_rgb(color))


def _mark(axes: Axes, picture: Skyline) -> None:
    """The chosen cuts: solid bars, and a label above each with a line down to it."""
    least = max(0.86, picture.count / 300)
    top = axes.get_ylim()[1]
    for number, cut in enumerate(picture.at):
        middle = cut.index + 0.5
        axes.bar(middle, cut.nbytes, width=least, color=_INK, linewidth=0, zorder=3)
        right = middle > picture.count / 2
        height = 0.965 - 0.1 * number
        axes.axvline(middle, ymax=height, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
        axes.annotate(
            f"after {cut.name}: {size(cut.nbytes)}",
            xy=(middle, top),
            xycoords=("data", "data"),
            xytext=(middle, height),
            textcoords=("data", "axes fraction"),
            ha="right" if right else "left",
            va="center",
            fontsize=9.5,
            color=_INK,
            bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": _INK, "linewidth": 0.8},
            annotation_clip=False,
            zorder=4,
        )


def _stages(axes: Axes, picture: Skyline) -> None:
    """The parts of the network along the bottom, named where there is room, above the strip of the segments."""
    edges = [stage.first for stage in picture.stages] + [picture.count]
    axes.set_xticks(edges, [""] * len(edges))
    below = axes.get_xaxis_transform()
    for letter, (start, end) in picture.spans.items():
        axes.fill_between(
            [start, end], -0.015, -0.06, transform=below, color=SEGMENT_COLORS[letter], clip_on=False, linewidth=0
        )
        if (end - start) / picture.count > 0.03:
            axes.text(
                (start + end) / 2,
                -0.039,
                letter,
                transform=below,
                ha="center",
                va="center",
                fontsize=8.5,
                color="white",
                fontweight="bold",
            )
    for stage in picture.stages:
        part = (stage.last - stage.first + 1) / picture.count
        name = stage.label.rpartition(".")[2]
        if part > 0.0075 * len(name):
            middle = (stage.first + stage.last + 1) / 2
            axes.text(middle, -0.078, name, transform=below, ha="center", va="top", fontsize=8.5, color=_DIM)
            axes.plot([stage.first] * 2, [-0.065, -0.12], transform=below, color=_LINE, linewidth=0.8, clip_on=False)


def _legend(axes: Axes, picture: Skyline) -> None:
    from matplotlib.patches import Patch

    owners = [(letter, OWNERS[letter]) for letter in picture.spans]
    handles = [Patch(color=SEGMENT_COLORS[letter], label=f"{letter} on the {owner}") for letter, owner in owners]
    handles.append(Patch(color=_INK, label="chosen cut: what crosses there"))
    axes.text(
        1,
        -0.155,
        "operations, first to last →",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=8.5,
        color=_DIM,
    )
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, -0.13),
        ncols=len(handles),
        frameon=False,
        fontsize=9.5,
        borderaxespad=0,
        columnspacing=1.4,
        handlelength=1,
        handleheight=1,
        labelcolor=_INK,
    )
