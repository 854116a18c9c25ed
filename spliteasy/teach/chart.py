"""Sequence charts: two life lines, device and server, time downwards, an arrow for each message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spliteasy.pictures import Picture
    from spliteasy.teach.framing import FrameNote
    from spliteasy.teach.recording import Call

__all__ = ["Moment", "chart_of", "draw_sequence", "moments_of"]

_DEVICE, _SERVER, _INK = "#2f7fd6", "#e8912d", "#444444"
_WORK = {  # what lies between two messages, by their names
    ("activations", "outputs"): "B forward",
    ("output_gradients", "input_gradients"): "B backward",
    ("activations", "input_gradients"): "B forward, loss,\nB backward",
    ("outputs", "output_gradients"): "C forward, loss,\nC backward",
    ("input_gradients", "activations"): "A backward, update;\nnext batch: A forward",
    ("", "activations"): "A forward",
}


@dataclass(frozen=True)
class Moment:
    """One thing that happens: ``kind`` is ``device`` or ``server`` (it works), ``up`` or ``down`` (a message), or
    ``notice`` (a word pushed by the server, without a call). ``seconds`` is None where nothing was measured."""

    kind: str
    label: str
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("device", "server", "up", "down", "notice"):
            raise ValueError(f"Expected the kind device, server, up, down or notice, found {self.kind!r}.")


def moments_of(calls: Sequence[Call], before: Call | None = None) -> list[Moment]:
    """Recorded calls as moments; ``before`` is the call that ended before the first of them, if any."""
    found: list[Moment] = []
    for call in calls:
        if before is not None:
            work = _WORK.get((_name(before.answer), _name(call.request)), "")
            found.append(Moment("device", work, call.request_began - before.answer_ended))
        asked, answered = _name(call.request) or call.name, _name(call.answer) or "answer"
        if call.request is not None and "labels" in call.request.planes:
            asked += " and labels"
        work = _WORK.get((_name(call.request), _name(call.answer)), "")
        found += [
            Moment("up", f"{asked} · {call.up:,} B", call.request_ended - call.request_began),
            Moment("server", work, call.answer_began - call.request_ended),
            Moment("down", f"{answered} · {call.down:,} B", call.answer_ended - call.answer_began),
        ]
        before = call
    return found


def chart_of(moments: Sequence[Moment], title: str) -> Picture:
    """The chart as a picture of its own, with its words."""
    from spliteasy.pictures import Picture

    picture = Picture(figsize=(8.5, max(2.2, 1.0 + 0.42 * len(moments))), layout="constrained")
    draw_sequence(picture.subplots(), moments, title)
    words = {"device": "the device works", "server": "the server works", "up": "device to server", "notice": "notice",
             "down": "server to device"}  # fmt: skip
    steps = [f"{words[moment.kind]}: {moment.label}".replace("\n", " ") for moment in moments if moment.label]
    picture.alt = f"Sequence chart, {title}. In order: " + "; ".join(steps) + "."
    return picture


def draw_sequence(axes: Any, moments: Sequence[Moment], title: str = "") -> None:
    """Draw moments on axes of matplotlib. Longer work is a longer bar, but not to scale: the shortest must be seen."""
    longest = max((moment.seconds or 0.0 for moment in moments if moment.kind in ("device", "server")), default=0.0)
    place = 0.6
    for moment in moments:
        if moment.kind in ("device", "server"):
            share = (moment.seconds or 0.0) / longest if longest else 0.5
            height = 0.55 + 0.9 * share**0.5
            _draw_work(axes, moment, place, height)
            place += height
        else:
            _draw_message(axes, moment, place)
            place += 0.75
    for side, color, name in ((0.0, _DEVICE, "device"), (1.0, _SERVER, "server")):
        axes.plot([side, side], [0, place + 0.2], color="#bbbbbb", linewidth=1.2, zorder=0)
        axes.text(side, -0.15, name, color=color, ha="center", va="bottom", fontweight="bold")
    axes.set_xlim(-0.52, 1.52)
    axes.set_ylim(place + 0.3, -0.75)
    axes.set_title(title, fontsize=11)
    axes.axis("off")


def _draw_work(axes: Any, moment: Moment, place: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    device = moment.kind == "device"
    side, color = (0.0, _DEVICE) if device else (1.0, _SERVER)
    axes.add_patch(Rectangle((side - 0.018, place), 0.036, height, facecolor=color, edgecolor="none"))
    text = "\n".join(part for part in (moment.label, _duration(moment.seconds)) if part)
    axes.text(
        side + (-0.035 if device else 0.035), place + height / 2, text,
        ha="right" if device else "left", va="center", fontsize=8, color=_INK, linespacing=1.15,
    )  # fmt: skip


def _draw_message(axes: Any, moment: Moment, place: float) -> None:
    start, end = (0.02, 0.98) if moment.kind == "up" else (0.98, 0.02)
    style = {"arrowstyle": "-|>", "color": _INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    style["linestyle"] = (0, (4, 3)) if moment.kind == "notice" else "-"
    axes.annotate("", xy=(end, place + 0.62), xytext=(start, place + 0.42), arrowprops=style)
    axes.text(0.5, place + 0.42, moment.label, ha="center", va="bottom", fontsize=8.5, color=_INK)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _name(note: FrameNote | None) -> str:
    return note.message if note is not None else ""
