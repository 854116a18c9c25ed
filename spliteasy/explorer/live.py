"""Training as it goes, as HTML: the loss, step by step, and what each message sent. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from spliteasy.explorer.training import STEPS
from spliteasy.explorer.wording import TIMES, duration, size
from spliteasy.link import Link
from spliteasy.runlog import StepRecord
from spliteasy.volume import sent_both_ways
from spliteasy.wire import MESSAGES, UPWARD

__all__ = ["training_html"]

_WIDE, _TALL = 300, 120


def training_html(records: Sequence[StepRecord], link: Link, own: bool) -> str:
    """The steps so far. ``own`` says that both sides ran in this process, where there are frames and no HTTP."""
    if not records:
        return ""
    last = records[-1]
    raw = sum(size.raw for size in last.bytes.values())
    up, down = sent_both_ways(last)
    sent = up + down
    seconds = link.seconds(up, down, calls=max(1, len(last.bytes) // 2))
    where = "both sides in this process" if own else "device and server are two processes"
    words = (
        f"step {len(records)} of {STEPS}, {last.samples} digits each, {where}: loss <b>{last.loss:.4f}</b>; "
        f"<b>{size(sent)}</b> {'in frames' if own else 'on the socket'} a step, of {size(raw)} raw "
        f"({raw / sent:.3g}{TIMES}); that takes {duration(seconds)} on {escape(link.name)}"
    )
    return (
        f'<div class="spliteasy"><h4>Training</h4><div class="se-facts"><div>{_loss(records)}</div>'
        f'<div>{_bytes(last)}</div></div><p class="se-note">{words}.</p></div>'
    )


def _loss(records: Sequence[StepRecord]) -> str:
    """The loss as a line over the steps that there will be."""
    losses = [record.loss for record in records]
    finite = [loss for loss in losses if math.isfinite(loss)] or [0.0]
    low, high = min(finite), max(finite)
    span = high - low or 1.0

    def at(number: int, loss: float) -> str:
        x = _WIDE * number / max(STEPS - 1, 1)
        return f"{x:.1f},{4 + (_TALL - 8) * (1 - (min(max(loss, low), high) - low) / span):.1f}"

    points = [at(number, loss) for number, loss in enumerate(losses) if math.isfinite(loss)]
    points = points * 2 if len(points) == 1 else points  # a line of one point is drawn as a dot
    told = f"loss from {losses[0]:.4f} to {losses[-1]:.4f} in {len(losses)} steps"
    return (
        f'<div class="se-dim">loss, by step</div><div class="se-curve"><span>{high:.3g}</span><span>{low:.3g}</span>'
        f'<svg viewBox="-3 0 {_WIDE + 6} {_TALL}" preserveAspectRatio="none" role="img" aria-label="{told}">'
        f'<polyline points="{" ".join(points)}"/></svg></div>'
    )


def _bytes(record: StepRecord) -> str:
    """A bar for each message: the raw size, and filled what was sent."""
    most = max(size.raw for size in record.bytes.values()) or 1
    rows = []
    for name in MESSAGES:
        if name not in record.bytes:
            continue
        raw, sent = record.bytes[name].raw, record.bytes[name].sent
        kind = "up" if name in UPWARD else "down"
        rows.append(
            f'<div class="se-message"><code>{name}</code><span class="se-track"><span class="se-rest" '
            f'style="width:{100 * raw / most:.2f}%"></span><span class="se-{kind}" '
            f'style="width:{min(100, 100 * sent / most):.2f}%"></span></span>'
            f"<span>{size(sent)} of {size(raw)}</span></div>"
        )
    return f'<div class="se-dim">bytes of the last step: sent, of raw</div>{"".join(rows)}'
