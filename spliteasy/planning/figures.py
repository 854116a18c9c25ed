"""A picture of a plan: step time against the first cut.

Colours are Okabe and Ito's (2008, "Color Universal Design"), which colour-blind readers can tell apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spliteasy.pictures import Picture
    from spliteasy.planning.result import Plan

__all__ = ["plot_plan"]

_COLORS = {"single": "#0072b2", "double": "#d55e00", "none": "#555555"}
_LABELS = {"single": "single split", "double": "double split, best second cut", "none": "no split"}


def plot_plan(found: Plan) -> Picture:
    """The least seconds of a step over all chains by first cut, one line a mode, no split as a level line. The optimum
    is marked, and named in the title."""
    from spliteasy.pictures import Picture

    figure = Picture(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(found.cuts))
    for curve in found.curves:
        if not np.isfinite(curve.seconds).any():
            continue
        if curve.mode == "none":
            axes.axhline(float(curve.seconds.min()), color=_COLORS["none"], ls="--", lw=1.2, label=_LABELS["none"])
            continue
        shown = np.where(np.isfinite(curve.seconds), curve.seconds, np.nan)
        axes.plot(places, shown, color=_COLORS[curve.mode], lw=1.5, label=_LABELS[curve.mode])
    best = found.best
    if best.numbers:
        axes.plot([best.numbers[0]], [best.seconds], "*", ms=15, color="#000000", label=f"best: {best.cuts[0]}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:.2g}")
    axes.set(xlabel="first cut, in execution order", ylabel="seconds a step", title=str(best))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.legend(frameon=False, fontsize=9)
    figure.alt = _described(found)
    return figure


def _described(found: Plan) -> str:
    ranges = [
        f"{_LABELS[curve.mode]} from {curve.seconds[np.isfinite(curve.seconds)].min():.3g} to "
        f"{curve.seconds[np.isfinite(curve.seconds)].max():.3g} s"
        for curve in found.curves
        if np.isfinite(curve.seconds).any()
    ]
    return f"Step time of {found.network} by first cut of {len(found.cuts)}: {'; '.join(ranges)}. Best: {found.best}."
