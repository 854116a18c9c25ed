"""Pictures of a study: accuracy against bytes, time against bandwidth, error against size; each title says the finding.

Colours are Okabe and Ito's (2008, "Color Universal Design"), which colour-blind readers can tell apart; every line and
point is named where it stands.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from spliteasy.errors import TrainingError
from spliteasy.sweeping.grid import RAW
from spliteasy.sweeping.labels import place_labels

if TYPE_CHECKING:
    import pandas

    from spliteasy.pictures import Picture
    from spliteasy.sweeping.result import Sweep

__all__ = ["crossing", "pareto", "plot_frontier", "plot_rate_error", "plot_time"]

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6000", "#5b3a8c")
_BLACK, _GREY, _LINE = "#000000", "#555555", "#bbbbbb"
_MARKS = "osD^vPX*"

_FAR = 20.0
"""Points of accuracy behind the best: chains that lose more, and that would press the others together, stand at the
lower edge of the picture with their accuracy in words."""


def pareto(sizes: Iterable[float], scores: Iterable[float]) -> list[int]:
    """The places, by size, of those that no other one beats: none is as small or smaller and as good or better."""
    found: list[int] = []
    best = -math.inf
    pairs = sorted(enumerate(zip(sizes, scores, strict=True)), key=lambda item: (item[1][0], -item[1][1]))
    for place, (_, score) in pairs:
        if score > best:
            found.append(place)
            best = score
    return found


def crossing(seconds: float, sent: float, raw_seconds: float, raw_sent: float) -> float:
    """The bandwidth in Mbit/s below which sending ``sent`` bytes with ``seconds`` of computing is faster than
    ``raw_sent`` with ``raw_seconds``: infinity where it always is, 0 where it never is."""
    if sent >= raw_sent:
        return math.inf if seconds < raw_seconds and sent == raw_sent else 0.0
    if seconds <= raw_seconds:
        return math.inf
    return min(8e-6 * (raw_sent - sent) / (seconds - raw_seconds), sys.float_info.max)


def plot_frontier(result: Sweep) -> Picture:
    """Test accuracy (mean, and the sample deviation over seeds as a bar) against bytes per sample, both ways summed.

    An arrow at the lower edge stands for a chain that lost more than 20 points; its accuracy is written beside it.
    """
    table = result.table
    figure, panels = _panels(table, width=7.4, height=4.6)
    told: list[str] = []
    counted = "HTTP bytes with headers" if table["counted"].iloc[0] == "http" else "frame bytes"
    for axes, (where, rows) in panels:
        rows = rows[np.isfinite(rows["test_accuracy"].astype(float))].reset_index(drop=True)
        if rows.empty:
            axes.set_title(f"{where}\nevery run diverged")
            told.append(f"{where}: every run diverged.")
            continue
        size, score = rows["bytes"].to_numpy(float), 100 * rows["test_accuracy"].to_numpy(float)
        points = ", ".join(f"{n} {b:,.0f} B {a:.1f} %" for n, b, a in zip(rows["chain"], size, score, strict=True))
        told.append(f"{where}: {_finding(result, rows)}. Bytes a sample and accuracy: {points}.")
        spread = 100 * rows["test_accuracy_sd"].fillna(0).to_numpy(float)
        front = pareto(size, score)
        names = [_short(chain) for chain in rows["chain"]]
        near = score >= score.max() - _FAR
        if not near.all():
            bottom, top = (score - spread)[near].min(), (score + spread)[near].max()
            edge = bottom - max(0.25 * (top - bottom), 1.0)
            names = [n if ok else f"{n}: {one:.0f} %" for n, ok, one in zip(names, near, score, strict=True)]
            score, spread = np.where(near, score, edge), np.where(near, spread, 0.0)
        colors = [_color(i) if i in front else _GREY for i in range(len(rows))]
        steps = [(size[front[0]], score[front[0]])]
        for before, place in pairwise(front):
            steps += [(size[place], score[before]), (size[place], score[place])]
        axes.plot(*zip(*steps, strict=True), color=_LINE, lw=1.5, zorder=1)
        for place, color in enumerate(colors):
            axes.errorbar(
                size[place], score[place], spread[place] if near[place] else None, ls="", color=color,
                marker=_MARKS[place % len(_MARKS)] if near[place] else "$\\downarrow$",
                ms=6 if near[place] else 9, capsize=2.5, lw=1, zorder=3,
                mfc=color if place in front or not near[place] else "white",
            )  # fmt: skip
        axes.set_xscale("log")
        low, high = size.min(), size.max()
        margin = max((high / low) ** 0.12, 1.6)
        axes.set_xlim(low / margin, high * margin)
        bottom, top = (score - spread).min(), (score + spread).max()
        room = max(0.22 * (top - bottom), 0.5)
        axes.set_ylim(bottom - room, top + room)
        axes.set(xlabel=f"bytes per sample, all messages ({counted})", ylabel="test accuracy, %")
        axes.set_title(f"{where}\n{_finding(result, rows)}", fontsize=10.5, loc="left")
        bars = [[(x, y - s), (x, y + s)] for x, y, s in zip(size, score, spread, strict=True) if s]
        place_labels(axes, list(zip(size, score, strict=True)), names, [steps, *bars])
    seeds = int(table["seeds"].max())
    figure.suptitle(
        f"Accuracy against bytes, {seeds} seed{'s' * (seeds > 1)}"
        + (", mean ± standard deviation" if seeds > 1 else "") + "; filled: on the frontier",
        fontsize=11,
    )  # fmt: skip
    figure.alt = f"Accuracy against bytes. {' '.join(told)}"
    return figure


def plot_time(result: Sweep, rtt_ms: float = 20.0) -> Picture:
    """Seconds of a step against bandwidth, the same both ways, for a round-trip time of ``rtt_ms`` milliseconds.

    Computing and codecs as measured on this machine; a circle marks where a chain crosses ``raw``.
    """
    table = result.table
    figure, panels = _panels(table, width=7.4, height=4.6)
    speeds = np.geomspace(0.1, 10_000, 400)  # Mbit/s
    told = []
    for axes, (where, rows) in panels:
        rows = rows.reset_index(drop=True)
        sent = (rows["bytes"] * rows["samples_per_step"]).to_numpy(float)
        busy = rows[["device_seconds", "server_seconds", "codec_seconds"]].sum(axis=1).to_numpy(float)
        idle = rows["calls_per_step"].to_numpy(float) * rtt_ms / 1e3
        raw = int(rows.index[rows["chain"] == RAW][0]) if (rows["chain"] == RAW).any() else None
        ends, marks = [], []
        for place in range(len(rows)):
            color = _BLACK if place == raw else _color(place)
            seconds = busy[place] + idle[place] + 8e-6 * sent[place] / speeds
            axes.plot(speeds, seconds, color=color, lw=2 if place == raw else 1.5, ls="--" if place == raw else "-")
            ends.append(color)
            if raw is not None and place != raw:
                below = crossing(busy[place], sent[place], busy[raw], sent[raw])
                if speeds[0] < below < speeds[-1]:
                    at = busy[place] + idle[place] + 8e-6 * sent[place] / below
                    axes.plot(below, at, "o", ms=6, mfc="white", color=color, zorder=4)
                marks.append((str(rows["chain"][place]), below))
        axes.set(xscale="log", yscale="log", xlabel="bandwidth each way, Mbit/s", ylabel="seconds of a step")
        axes.set_xlim(speeds[0], speeds[-1])
        axes.grid(True, which="major", color="#eeeeee")
        names = [f"{_short(chain)}{_words(chain, marks)}" for chain in rows["chain"]]
        order = sorted(range(len(rows)), key=lambda place: -sent[place])  # as the lines lie on the left
        _legend(axes, [names[place] for place in order], [ends[place] for place in order])
        axes.set_title(f"{where}\n{_advice(marks)}", fontsize=10.5, loc="left")
        told.append(f"{where}: {_advice(marks)}.")
    figure.suptitle(f"Time against the link, round trip {rtt_ms:g} ms; computing as measured here", fontsize=11)
    figure.alt = f"Seconds of a step against bandwidth. {' '.join(told)}"
    return figure


def plot_rate_error(rows: Any) -> Picture:
    """Relative L2 error against bits per element of the whole frame, both logarithmic; rows of `spliteasy.measure`.

    ``rows`` are `Measurement` objects, mappings, or a data frame with ``chain``, ``shape``, ``frame_bytes`` and
    ``relative_l2``. Lossless chains stand on the line at the bottom. Raises `TrainingError` for no rows.
    """
    from spliteasy.pictures import Picture

    records = _records(rows)
    if not records:
        raise TrainingError("Expected rows of se.measure to draw, found none.")
    bits = np.array([8 * r["frame_bytes"] / max(math.prod(r["shape"]), 1) for r in records])
    error = np.array([float(r["relative_l2"]) for r in records])
    lossy = error[(error > 0) & np.isfinite(error)]
    floor = 10 ** (math.floor(math.log10(lossy.min())) - 1) if len(lossy) else 1e-8
    shown = np.where(error > 0, error, floor)
    front = pareto(bits, -shown)
    figure = Picture(figsize=(7.4, 4.8), layout="constrained")
    axes = figure.subplots()
    colors = [_color(i) if i in front else _GREY for i in range(len(records))]
    steps = [(bits[front[0]], shown[front[0]])]
    for before, place in pairwise(front):
        steps += [(bits[place], shown[before]), (bits[place], shown[place])]
    axes.plot(*zip(*steps, strict=True), color=_LINE, lw=1.5, zorder=1)
    for place, color in enumerate(colors):
        fill = color if place in front else "white"
        axes.plot(bits[place], shown[place], _MARKS[place % len(_MARKS)], color=color, mfc=fill, ms=6, zorder=3)
    axes.set(xscale="log", yscale="log", xlabel="bits per element, whole frame", ylabel="relative L2 error")
    axes.set_xlim(bits.min() / 1.6, bits.max() * 1.6)
    axes.set_ylim(floor / 3, max(shown.max() * 4, floor * 10))
    if (error == 0).any():
        axes.axhline(floor, color=_LINE, lw=0.8, ls=":")
        axes.text(axes.get_xlim()[0] * 1.03, floor * 1.15, "lossless", fontsize=8.5, color=_GREY)
    small = int(np.argmin(bits))
    axes.set_title(
        f"{_short(records[small]['chain'])} is smallest: {bits[small]:.2g} bits an element, error {error[small]:.2g}",
        fontsize=10.5, loc="left",
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    place_labels(axes, list(zip(bits, shown, strict=True)), [_short(r["chain"]) for r in records], [steps])
    figure.alt = "Relative error against bits an element: " + ", ".join(
        f"{_short(r['chain'])} {b:.3g} bits, error {e:.2g}" for r, b, e in zip(records, bits, error, strict=True)
    )
    return figure


def _panels(table: pandas.DataFrame, width: float, height: float) -> tuple[Picture, Iterator[tuple[Any, Any]]]:
    """A figure with axes for each network and cut, at most two in a row."""
    from spliteasy.pictures import Picture

    groups = [(f"{model} at {cut}", rows) for (model, cut), rows in table.groupby(["model", "cut"], sort=False)]
    columns = min(2, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = Picture(figsize=(width * columns, height * lines + 0.4), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(groups) :]:
        axes.set_visible(False)
    return figure, zip(grid, groups, strict=False)


def _finding(result: Sweep, rows: Any) -> str:
    """What a reader should take home: the saving of the chain that validation would choose."""
    best = result.best(1.0)
    best = best[(best["model"] == rows["model"][0]) & (best["cut"] == rows["cut"][0]) & (best["chain"] != RAW)]
    if best.empty:
        return "no chain keeps validation accuracy within a point"
    row = best.iloc[0]
    spread = (
        f" ± {100 * row['test_difference_sd']:.1f}" if row["test_difference_sd"] == row["test_difference_sd"] else ""
    )
    saving = f"{row['saving']:,.0f}" if row["saving"] >= 10 else f"{row['saving']:.1f}"
    return f"{saving}× fewer bytes at {100 * row['test_difference']:+.1f}{spread} points: {_short(row['chain'])}"


def _words(chain: str, marks: list[tuple[str, float]]) -> str:
    """The crossing of a chain in words."""
    for name, below in marks:
        if name == chain:
            if below == 0:
                return ": never faster than raw"
            return ": always faster than raw" if below > 10_000 else f": faster below {_speed(below)}"
    return ""


def _advice(marks: list[tuple[str, float]]) -> str:
    """The finding: below which bandwidth some chain is worth its time."""
    highest = max((below for _, below in marks), default=0.0)
    if not marks or highest == 0:
        return "compression does not pay on any link"
    return "compress on every link" if highest > 10_000 else f"below {_speed(highest)}, compress"


def _speed(mbps: float) -> str:
    if mbps >= 1000:
        return f"{mbps / 1000:.2g} Gbit/s"
    return f"{mbps:.0f} Mbit/s" if mbps >= 10 else f"{mbps:.2g} Mbit/s"


def _legend(axes: Any, names: list[str], colors: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, lw=2, ls="--" if color == _BLACK else "-") for color in colors]
    axes.legend(handles, names, frameon=False, fontsize=8.5, loc="upper right")


def _records(rows: Any) -> list[Mapping[str, Any]]:
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        return list(rows.to_dict("records"))
    listed = [rows] if hasattr(rows, "relative_l2") or isinstance(rows, Mapping) else list(rows)
    return [row if isinstance(row, Mapping) else row.to_dict() for row in listed]


def _color(place: int) -> str:
    return _COLORS[place % len(_COLORS)]


def _short(text: Any) -> str:
    name = str(text)
    return name if len(name) <= 44 else f"{name[:42]}…"
