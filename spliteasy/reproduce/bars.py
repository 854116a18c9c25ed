"""Pictures of seconds: bars beside each other, one group a row, each divided into communication and computing.

Colours are Okabe and Ito's (2008, "Color Universal Design"), which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spliteasy.pictures import Picture

__all__ = ["COLORS", "PAPER_COLOR", "Bar", "draw_bars", "plot_bars"]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6000", "#5b3a8c")
PAPER_COLOR = "#777777"
"""Of the paper's own numbers, in every picture."""


@dataclass(frozen=True)
class Bar:
    """Seconds of one bar: ``overall``, and of it ``communication`` (None where the paper does not divide)."""

    label: str
    overall: float
    communication: float | None = None

    def __str__(self) -> str:
        divided = "" if self.communication is None else f", {self.communication:.2f} of it communication"
        return f"{self.label} {self.overall:.2f} s{divided}"


def plot_bars(title: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> Picture:
    """A group of level bars for each row, the dark part communication, the pale part computing."""
    from spliteasy.pictures import Picture

    count = sum(len(bars) for _, bars in groups)
    figure = Picture(figsize=(8.6, 1.3 + 0.2 * count + 0.15 * len(groups)), layout="constrained")
    draw_bars(figure.subplots(), groups, _labels(groups))
    figure.suptitle(title, fontsize=11)
    figure.alt = f"{title}. {described(groups)}"
    return figure


def draw_bars(axes: Any, groups: Sequence[tuple[str, Sequence[Bar]]], labels: Sequence[str]) -> None:
    """Draw into axes; ``labels`` decide the colours, so that panels beside each other agree."""
    longest = max((bar.overall for _, bars in groups for bar in bars), default=1.0)
    place, places, seen = 0.0, [], set()
    for _, bars in groups:
        start = place
        for bar in bars:
            color = _color(bar.label, labels)
            said = bar.label if bar.label not in seen else None
            seen.add(bar.label)
            spoken = 0.0 if bar.communication is None else bar.communication
            axes.barh(place, bar.overall, 0.84, color=color, alpha=0.38)
            axes.barh(place, bar.overall if bar.communication is None else spoken, 0.84, color=color, label=said)
            axes.text(bar.overall + 0.012 * longest, place, f"{bar.overall:.2f}", va="center", fontsize=8)
            place += 1
        places.append((start + place - 1) / 2)
        place += 0.8
    axes.set_yticks(places, [name for name, _ in groups])
    axes.set_ylim(place - 1.2, -0.8)  # the first on top
    axes.set_xlim(0, 1.12 * longest)
    axes.set_xlabel("seconds an image: strong colour communication, pale computing")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, fontsize=8.5, ncols=min(4, len(labels)), loc="lower left", bbox_to_anchor=(0, 1))


def described(groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """The bars in words."""
    return " ".join(f"{name}: {'; '.join(map(str, bars))}." for name, bars in groups)


def _labels(groups: Sequence[tuple[str, Sequence[Bar]]]) -> list[str]:
    return list(dict.fromkeys(bar.label for _, bars in groups for bar in bars))


def _color(label: str, labels: Sequence[str]) -> str:
    if label == "paper":
        return PAPER_COLOR
    return COLORS[[one for one in labels if one != "paper"].index(label) % len(COLORS)]
