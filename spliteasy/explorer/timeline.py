"""The budget of one training step as HTML: two bars of seconds, raw and compressed, and a row for each message."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from spliteasy.explorer.budget import KINDS, Budget, Part
from spliteasy.explorer.facts import Facts, Message
from spliteasy.explorer.wording import TIMES, bandwidth, duration, round_trips, size
from spliteasy.wire import Codecs

__all__ = ["bar", "budget_html", "legend"]

_NAMES = {
    "device": "device computes",
    "codecs": "codecs",
    "up": "upload",
    "server": "server computes",
    "down": "download",
    "trips": "round trips",
}
_DOES = {
    "activations": "what A computed",
    "outputs": "what B computed",
    "output_gradients": "the gradient for B",
    "input_gradients": "the gradient for A",
}


def budget_html(budget: Budget, facts: Facts, codecs: Codecs) -> str:
    """Where the time of a step goes on the chosen link, and what each message weighs, raw against compressed."""
    samples = f"{facts.batch} sample{'s' if facts.batch > 1 else ''}"
    longest = max(budget.raw_seconds, budget.sent_seconds or 0.0)
    bars = bar("raw", budget.raw, longest)
    if budget.sent is not None:
        bars += bar("with codecs", budget.sent, longest)
    else:
        names = ", ".join(name.replace("_", " ") for name in budget.missing)
        bars += (
            '<div class="se-time"><span class="se-dim">with codecs</span>'
            f'<span class="se-dim se-untold">not measured yet for {names}: press Measure</span></div>'
        )
    rows = "".join(_message(message, budget, codecs) for message in facts.messages)
    left = ("message", "way", "chain")
    columns = ("message", "way", "raw", "on the link", "chain", "sent", "smaller by", "on the link")
    heads = "".join(f"<th{' class=se-left' if name in left else ''}>{name}</th>" for name in columns)
    total = _total(budget, facts)
    return (
        f'<div class="spliteasy"><h4>One training step of {samples} on {escape(facts.link.name)}: '
        f"{bandwidth(facts.link)}</h4>"
        f'<div class="se-times" role="img" aria-label="{escape(_words(budget))}">{bars}</div>'
        f"{legend([*budget.raw, *(budget.sent or ())])}"
        f'<div class="se-scroll"><table class="se-tight"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}{total}</tbody></table></div>"
        f'<p class="se-note">{_note(budget, facts)}</p></div>'
    )


def legend(parts: Sequence[Part]) -> str:
    """The colours of the kinds that occur."""
    kinds = {part.kind for part in parts}
    chips = "".join(
        f'<span><span class="se-chip se-{kind}"></span>{_NAMES[kind]}</span>' for kind in KINDS if kind in kinds
    )
    return f'<div class="se-legend">{chips}</div>'


def bar(name: str, parts: Sequence[Part], longest: float) -> str:
    """The parts of a step as a bar, whole as wide as its share of ``longest`` seconds."""
    pieces = "".join(
        f'<span class="se-{part.kind}" style="width:{100 * part.seconds / (longest or 1):.3f}%" '
        f'title="{escape(part.label)}: {duration(part.seconds)}{_weight(part)}"></span>'
        for part in parts
    )
    whole = sum(part.seconds for part in parts)
    return (
        f'<div class="se-time"><span class="se-dim">{name}</span><span class="se-strip">{pieces}</span>'
        f"<b>{duration(whole)}</b></div>"
    )


def _weight(part: Part) -> str:
    return f", {size(part.nbytes)}" if part.nbytes else ""


def _message(message: Message, budget: Budget, codecs: Codecs) -> str:
    arrow = "↑ server" if message.up else "↓ device"
    nothing = "" if message.tensors else ' title="Nothing here depends on a parameter before the cut."'
    part = next((part for part in budget.sent or () if part.label == message.name), None)
    known = message.name not in budget.missing and part is not None and message.tensors
    cells = "<td></td><td></td><td></td>"
    if known and part is not None:
        smaller = f"{message.nbytes / part.nbytes:.3g}{TIMES}" if part.nbytes else "–"
        cells = f"<td><b>{size(part.nbytes)}</b></td><td><b>{smaller}</b></td><td>{duration(part.seconds)}</td>"
    return (
        f'<tr title="{_DOES[message.name]}"><td><code>{message.name}</code></td>'
        f'<td class="se-left">{message.sender} → {message.receiver} <span class="se-dim">{arrow}</span></td>'
        f"<td{nothing}>{size(message.nbytes) if message.tensors else 'none'}</td><td>{duration(message.seconds)}</td>"
        f'<td class="se-left"><code>{escape(repr(codecs.chain(message.name)))}</code></td>{cells}</tr>'
    )


def _total(budget: Budget, facts: Facts) -> str:
    link = sum(part.seconds for part in budget.raw if part.kind in ("up", "down", "trips"))
    cells = "<td></td><td></td><td></td>"
    if budget.sent is not None:
        sent = sum(part.nbytes for part in budget.sent)
        seconds = sum(part.seconds for part in budget.sent if part.kind in ("up", "down", "trips"))
        smaller = f"{facts.nbytes / sent:.3g}{TIMES}" if sent else "–"
        cells = f"<td>{size(sent)}</td><td>{smaller}</td><td>{duration(seconds)}</td>"
    return (
        f'<tr class="se-total"><td>one step</td><td class="se-left">with {round_trips(facts.calls)}</td>'
        f"<td>{size(facts.nbytes)}</td><td>{duration(link)}</td><td></td>{cells}</tr>"
    )


def _note(budget: Budget, facts: Facts) -> str:
    each = f"On the link that is {duration(facts.seconds / facts.batch)} a sample, uncompressed."
    if not budget.samples:
        return f"{each} Computing is not in it: <b>Measure</b> takes its time on this machine."
    scaled = "" if budget.samples == facts.batch else f", with {budget.samples} samples, scaled to {facts.batch}"
    return f"{each} Computing was measured on this machine{scaled}; a phone takes several times as long for its part."


def _words(budget: Budget) -> str:
    """The two bars in words."""

    def told(parts: tuple[Part, ...]) -> str:
        return ", ".join(f"{part.label} {duration(part.seconds)}" for part in parts)

    sent = f" With codecs {duration(budget.sent_seconds or 0.0)}: {told(budget.sent)}." if budget.sent else ""
    return f"Raw {duration(budget.raw_seconds)}: {told(budget.raw)}.{sent}"
