"""The explorer's facts and measurements as HTML: pure functions, no widgets."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from spliteasy.cuts import Cut
from spliteasy.explorer.facts import Facts, Message, SegmentShare
from spliteasy.explorer.trial import MessageTrial
from spliteasy.explorer.wording import TIMES, amount, arithmetic, bandwidth, duration, share, size

__all__ = ["facts_html", "trials_html"]

_DOES = {
    "activations": "what A computed",
    "outputs": "what B computed",
    "output_gradients": "gradient for B",
    "input_gradients": "gradient for A",
}


def facts_html(facts: Facts) -> str:
    """B·R·C·F of each cut with its numbers filled in, what stays on the device, and the messages of one step."""
    sums = "".join(_sum(facts, cut, number) for number, cut in enumerate(facts.at))
    return (
        f'<div class="spliteasy">{sums}<div class="se-facts">'
        f"<div>{_shares(facts)}</div><div>{_messages(facts)}</div></div></div>"
    )


def trials_html(trials: Sequence[tuple[str, MessageTrial]], facts: Facts, photographs: int) -> str:
    """What was measured at the chosen cuts on that many photographs: ratio, error and speed of each chain, and what it
    makes of the message."""
    if not trials:
        return (
            '<div class="spliteasy"><p class="se-note">Nothing measured at this cut yet. <b>Measure</b> sends '
            f"{photographs} photographs through the network and tries the chain on what really crosses.</p></div>"
        )
    raw = {message.name: message for message in facts.messages}
    newest = trials[-1][0]
    rows = "".join(_trial(chain, trial, raw[trial.message], facts, chain == newest) for chain, trial in trials)
    scaled = "" if photographs == facts.batch else f", sizes scaled to the batch of {facts.batch}"
    heads = [
        ("se-left", "chain"),
        ("se-left", "message"),
        ("", "raw"),
        ("", "with the chain"),
        ("", "smaller by"),
        ("", "on the link"),
        ("", "relative error"),
        ("", "cosine"),
        ("", "encode"),
        ("", "decode"),
    ]
    head = "".join(f'<th class="{style}">{text}</th>' for style, text in heads)
    return (
        f'<div class="spliteasy"><div class="se-scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f'<p class="se-note">Measured on {photographs} photographs in training mode{scaled}; weights of a network by '
        "name are random. Gradients are messages too, and are not measured here.</p></div>"
    )


def _sum(facts: Facts, cut: Cut, number: int) -> str:
    """The product of one cut. A tensor that stays on the device is alive there, yet does not cross."""
    name = ("activations", "outputs")[number]
    message = next(message for message in facts.messages if message.name == name)
    letters = ("after A, to the server", "after B, back to the device")[number]
    staying = len(cut.tensors) - len(message.tensors)
    note = f' <span class="se-dim">({staying} more alive here stay on the device)</span>' if staying > 0 else ""
    if not cut.index:
        note += ' <span class="se-dim">(the inputs themselves leave the device)</span>'
    return (
        f'<div class="se-sum"><span class="se-dim">{letters}: cut {cut.index}, after <code>{escape(cut.name)}</code> '
        f"({escape(cut.operation)})</span>{note}<br>"
        f'<span class="se-product">{_emphasised(arithmetic(message.tensors))}</span></div>'
    )


def _emphasised(product: str) -> str:
    """The last term, the bytes, in bold."""
    head, equals, result = escape(product).rpartition(" = ")
    return f"{head}{equals}<b>{result}</b>"


def _shares(facts: Facts) -> str:
    rows = "".join(_segment(segment, facts) for segment in facts.segments)
    return (
        "<h4>Who computes what</h4>"
        f"{_split('parameters', facts, 'params', facts.params)}"
        f"{_split('multiply-accumulates', facts, 'macs', facts.macs)}"
        '<div class="se-scroll"><table><thead><tr><th>segment</th><th>operations</th><th>parameters</th>'
        f"<th>MACs a sample</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="se-note">The device keeps <b>{share(facts.device_params, facts.params)}</b> of '
        f"{amount(facts.params)} parameters and <b>{share(facts.device_macs, facts.macs)}</b> of {amount(facts.macs)} "
        "multiply-accumulates (MACs) of a forward pass.</p>"
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
        f'<tr class="se-{segment.letter.lower()}"><td><span class="se-chip"></span>{segment.letter}, on the '
        f"{segment.place}</td><td>{segment.operations}</td>"
        f"<td>{amount(segment.params)} · {share(segment.params, facts.params)}</td>"
        f"<td>{amount(segment.macs)} · {share(segment.macs, facts.macs)}</td></tr>"
    )


def _messages(facts: Facts) -> str:
    rows = "".join(_message(message) for message in facts.messages)
    trips = facts.calls * facts.link.rtt_ms / 1e3
    images = f"{facts.batch} sample{'s' if facts.batch > 1 else ''}"
    labels = (
        f" The labels ({size(facts.label_bytes)}) travel with the activations."
        if facts.label_bytes
        else " Inputs and labels stay on the device."
    )
    return (
        f"<h4>One training step of {images}, uncompressed</h4>"
        '<div class="se-scroll"><table><thead><tr><th>message</th><th class="se-left">way</th><th>bytes</th>'
        f"<th>on the link</th></tr></thead><tbody>{rows}"
        f"<tr><td>{facts.calls} round trip{'s' if facts.calls > 1 else ''}</td><td></td><td></td>"
        f"<td>{duration(trips)}</td></tr>"
        f'<tr class="se-total"><td>one step</td><td></td><td>{size(facts.nbytes)}</td>'
        f"<td>{duration(facts.seconds)}</td></tr></tbody></table></div>"
        f'<p class="se-note">Link {escape(facts.link.name)}: {bandwidth(facts.link)}. '
        f"That is {duration(facts.seconds / facts.batch)} a sample.{labels}</p>"
    )


def _message(message: Message) -> str:
    arrow = "↑ to the server" if message.up else "↓ to the device"
    nothing = "" if message.tensors else ' title="Nothing here depends on a parameter before the cut."'
    return (
        f'<tr title="{_DOES[message.name]}"><td><code>{message.name}</code></td>'
        f'<td class="se-left">{message.sender} → {message.receiver} <span class="se-dim">{arrow}</span></td>'
        f"<td{nothing}>{size(message.nbytes) if message.tensors else 'none'}</td>"
        f"<td>{duration(message.seconds)}</td></tr>"
    )


def _trial(chain: str, trial: MessageTrial, raw: Message, facts: Facts, new: bool) -> str:
    sent = raw.nbytes / trial.ratio
    rate = facts.link.up_mbps if raw.up else facts.link.down_mbps
    worst = f' title="the lowest of {trial.tensors} tensors"' if trial.tensors > 1 else ""
    return (
        f'<tr{" class=se-new" if new else ""}><td class="se-left"><code>{escape(chain)}</code></td>'
        f'<td class="se-left"><code>{trial.message}</code></td><td>{size(raw.nbytes)}</td><td><b>{size(sent)}</b></td>'
        f"<td><b>{trial.ratio:.3g}{TIMES}</b></td><td>{duration(raw.seconds)} → {duration(8e-6 * sent / rate)}</td>"
        f"<td>{_error(trial.relative_l2)}</td><td{worst}>{trial.cosine:.4f}</td>"
        f"<td>{trial.encode_mb_per_s:,.0f} MB/s</td><td>{trial.decode_mb_per_s:,.0f} MB/s</td></tr>"
    )


def _error(relative: float) -> str:
    if relative == 0:
        return "none"
    return f"{100 * relative:.1f} %" if relative >= 0.1 else f"{100 * relative:.2g} %"
