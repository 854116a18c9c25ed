"""The explorer's facts and measurements as HTML: pure functions, no widgets."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from spliteasy.cuts import Cut
from spliteasy.explorer.facts import Facts, SegmentShare
from spliteasy.explorer.trial import MessageTrial
from spliteasy.explorer.wording import TIMES, amount, arithmetic, share, size
from spliteasy.wire import Codecs

__all__ = ["facts_html", "trials_html"]

_HEADS = (
    ("se-left", "message"),
    ("se-left", "chain"),
    ("", "smaller by"),
    ("", "relative error"),
    ("", "cosine"),
    ("", "encode"),
    ("", "decode"),
)


def facts_html(facts: Facts) -> str:
    """B·R·C·F of each cut with its numbers filled in, and who computes what; made to stand beside the picture."""
    sums = "".join(_sum(facts, cut, number) for number, cut in enumerate(facts.at))
    return f'<div class="spliteasy">{sums}{_shares(facts)}</div>'


def trials_html(trials: Sequence[MessageTrial], facts: Facts, codecs: Codecs, photographs: int) -> str:
    """What was measured at the chosen cuts: ratio, error and speed of each chain on each message; those that are chosen
    now stand out."""
    if not trials:
        return (
            '<div class="spliteasy"><p class="se-note">Nothing measured at this cut yet. <b>Measure</b> runs one '
            f"training step on {photographs} photographs and tries the chains on what really crosses.</p></div>"
        )
    order = [message.name for message in facts.messages]
    chosen = codecs.to_dict()
    rows = "".join(
        _trial(trial, chosen[trial.message] == trial.chain)
        for trial in sorted(trials, key=lambda trial: order.index(trial.message))
    )
    head = "".join(f'<th class="{style}">{text}</th>' for style, text in _HEADS)
    return (
        f'<div class="spliteasy"><div class="se-scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f'<p class="se-note">Measured on {photographs} photographs in training mode, frames with their headers; '
        "weights of a network by name are random. Chains that are chosen now are shaded.</p></div>"
    )


def _sum(facts: Facts, cut: Cut, number: int) -> str:
    """The product of one cut. A tensor that stays on the device is alive there, yet does not cross."""
    name = ("activations", "outputs")[number]
    message = next(message for message in facts.messages if message.name == name)
    way = ("after A, to the server", "after B, back to the device")[number]
    staying = len(cut.tensors) - len(message.tensors)
    note = f' <span class="se-dim">({staying} more alive here stay on the device)</span>' if staying > 0 else ""
    if not cut.index:
        note += ' <span class="se-dim">(the inputs themselves leave the device)</span>'
    return (
        f'<div class="se-sum"><span class="se-dim">{way}: cut {cut.index}, after <code>{escape(cut.name)}</code> '
        f"({escape(cut.operation)})</span>{note}<br>"
        f'<span class="se-product">{_emphasised(arithmetic(message.tensors))}</span></div>'
    )


def _emphasised(product: str) -> str:
    """The terms kept whole where the line breaks, and the last one, the bytes, in bold."""
    *terms, result = escape(product).split(" = ")
    whole = "".join(f'<span class="se-term">{term} =</span> ' for term in terms)
    return f'{whole}<b class="se-term">{result}</b>'


def _shares(facts: Facts) -> str:
    rows = "".join(_segment(segment, facts) for segment in facts.segments)
    labels = (
        f"The labels ({size(facts.label_bytes)}) travel with the activations; inputs stay."
        if facts.label_bytes and facts.at[0].index
        else f"The labels ({size(facts.label_bytes)}) travel too."
        if facts.label_bytes
        else "Inputs and labels stay on the device."
    )
    return (
        "<h4>Who computes what</h4>"
        f"{_split('parameters', facts, 'params', facts.params)}"
        f"{_split('multiply-accumulates', facts, 'macs', facts.macs)}"
        '<div class="se-scroll"><table class="se-tight"><thead><tr><th></th><th>operations</th><th>parameters</th>'
        f"<th>MACs</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="se-note">The device keeps <b>{share(facts.device_params, facts.params)}</b> of '
        f"{amount(facts.params)} parameters and <b>{share(facts.device_macs, facts.macs)}</b> of {amount(facts.macs)} "
        f"multiply-accumulates (MACs) of a forward pass. {labels}</p>"
    )


def _split(noun: str, facts: Facts, field: str, whole: int) -> str:
    """A strip that shows how a total is divided among the segments."""
    pieces = "".join(
        f'<span class="se-{segment.letter.lower()}" style="width:{100 * getattr(segment, field) / max(whole, 1):.3f}%" '
        f'title="{segment.letter}: {share(getattr(segment, field), whole)} of the {noun}"></span>'
        for segment in facts.segments
    )
    return f'<div class="se-dim">{noun}</div><div class="se-split">{pieces}</div>'


def _segment(segment: SegmentShare, facts: Facts) -> str:
    return (
        f'<tr class="se-{segment.letter.lower()}"><td title="{segment.letter}, on the {segment.place}">'
        f'<span class="se-chip"></span>{segment.letter}</td><td>{segment.operations}</td>'
        f'<td title="{amount(segment.params)}">{share(segment.params, facts.params)}</td>'
        f'<td title="{amount(segment.macs)} a sample">{share(segment.macs, facts.macs)}</td></tr>'
    )


def _trial(trial: MessageTrial, chosen: bool) -> str:
    worst = f' title="the lowest of {trial.tensors} tensors"' if trial.tensors > 1 else ""
    return (
        f'<tr{" class=se-new" if chosen else ""}><td class="se-left"><code>{trial.message}</code></td>'
        f'<td class="se-left"><code>{escape(trial.chain)}</code></td><td><b>{trial.ratio:.3g}{TIMES}</b></td>'
        f"<td>{_error(trial.relative_l2)}</td><td{worst}>{trial.cosine:.4f}</td>"
        f"<td>{trial.encode_mb_per_s:,.0f} MB/s</td><td>{trial.decode_mb_per_s:,.0f} MB/s</td></tr>"
    )


def _error(relative: float) -> str:
    if relative == 0:
        return "none"
    return f"{100 * relative:.1f} %" if relative >= 0.1 else f"{100 * relative:.2g} %"
