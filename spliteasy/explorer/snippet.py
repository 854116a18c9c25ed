"""Code that computes the explorer's numbers again, with public names only."""

from __future__ import annotations

from collections.abc import Sequence

from spliteasy.explorer.facts import Facts
from spliteasy.explorer.trial import REPEATS, SEED, TrialPlan

__all__ = ["snippet"]


def snippet(plan: TrialPlan, facts: Facts) -> str:
    """Python that lists the chosen cuts, the seconds of a step on the link, and measures the chain on photographs."""
    names = [cut.name for cut in facts.at]
    at = repr(names[0]) if len(names) == 1 else repr(tuple(names))
    link = facts.link
    up = sum(message.nbytes for message in facts.messages if message.up)
    down = sum(message.nbytes for message in facts.messages if not message.up)
    lines = [
        "import torch",
        "import spliteasy as se",
        "",
        *_model(plan),
        f"cuts = se.find_cuts(model, input_shape={plan.input_shape}, batch={facts.batch})",
        f"for name in {names!r}:",
        "    cut = cuts[name]",
        "    print(name, cut.shapes, cut.nbytes, cut.params_before, cut.macs_before)",
        "",
        f"link = se.Link(up_mbps={link.up_mbps!r}, down_mbps={link.down_mbps!r}, rtt_ms={link.rtt_ms!r})",
        f"print({link.name!r}, link.seconds(up_bytes={up}, down_bytes={down}, calls={facts.calls}), 'seconds a step')",
        "",
        *_trial(plan, facts, at),
    ]
    return "\n".join(lines) + "\n"


def _model(plan: TrialPlan) -> list[str]:
    if not isinstance(plan.network, str):
        return [f"model = ...  # your {type(plan.network).__name__}"]
    classes = f", num_classes={plan.num_classes}" if plan.num_classes else ""
    return [f"torch.manual_seed({SEED})", f"model = se.load_model({plan.network!r}{classes})"]


def _trial(plan: TrialPlan, facts: Facts, at: str) -> list[str]:
    if len(plan.input_shape) != 3:
        return ["# The chain is measured on photographs, which this network does not take."]
    lines = [
        f"split = se.split(model, at={at}, input_shape={plan.input_shape}).train()",
        *_pictures(plan.input_shape, plan.photographs),
        f"torch.manual_seed({SEED})",
    ]
    messages = {message.name: message for message in facts.messages}
    value = "photographs"
    for name, segment, cut in zip(("activations", "outputs"), "ab", facts.at, strict=False):
        alive = [tensor.name for tensor in cut.tensors]
        crossing = [tensor.name for tensor in messages[name].tensors]
        lines += [
            "with torch.no_grad():",
            f"    {name} = split.{segment}({value})",
            f"for tensor in {_selected(name, alive, crossing)}:",
            f"    print({name!r}, se.measure({plan.chain!r}, tensor, repeats={REPEATS}))",
        ]
        value = name
    return lines


def _selected(name: str, alive: Sequence[str], crossing: Sequence[str]) -> str:
    """The tensors of a message among those alive at its cut, as an expression."""
    if len(alive) == 1:
        return f"[{name}]"
    tensors = f"filter(torch.is_tensor, {name})"
    if list(alive) == list(crossing):
        return tensors
    places = tuple(alive.index(owner) for owner in crossing)
    return f"[tensor for place, tensor in enumerate({tensors}) if place in {places}]"


def _pictures(shape: Sequence[int], count: int) -> list[str]:
    channels, height, width = shape
    lines = [f"photographs = se.data.photos({count}, size={max(height, width)})"]
    if height != width:
        lines.append(
            "photographs = torch.nn.functional.interpolate("
            f"photographs, size=({height}, {width}), mode='bilinear', antialias=True)"
        )
    if channels != 3:
        lines.append(f"photographs = photographs.mean(dim=1, keepdim=True).repeat(1, {channels}, 1, 1)")
    return lines
