"""Code that computes the explorer's numbers again, with public names only."""

from __future__ import annotations

from collections.abc import Sequence

from spliteasy.explorer.facts import Facts
from spliteasy.explorer.trial import FITTED_ON, REPEATS, SEED, TrialPlan

__all__ = ["snippet"]


def snippet(plan: TrialPlan, facts: Facts) -> str:
    """Python that lists the chosen cuts, the seconds of a step on the link, and measures the chains on photographs."""
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
        return ["# The chains are measured on photographs, which this network does not take."]
    learns = plan.classes is not None
    lines = [
        f"split = se.split(model, at={at}, input_shape={plan.input_shape})",
        "",
        *_photographs(plan.input_shape, plan.photographs),
        "",
        "images = photographs(seed=0)",
        f"labels = torch.arange({plan.photographs}) % {min(2, plan.classes or 1)}  # which of the two photographs",
        "codecs = se.Codecs(",
        *(f"    {message.name}={_quoted(repr(plan.codecs.chain(message.name)))}," for message in facts.messages),
        ")",
    ]
    if learns and any(plan.codecs.chain(message.name).unfitted for message in facts.messages):
        lines += [
            f"others = [(photographs(seed), labels) for seed in range(1, {1 + FITTED_ON})]",
            "codecs = se.calibrate(split, codecs, others, progress=False)",
        ]
    lines += [
        f"messages = se.crossing_tensors(split, images, labels{'' if learns else ', gradients=False'})",
        "for name, tensors in messages.items():",
        "    for tensor in tensors:",
        "        if tensor is not None and tensor.is_floating_point():",
        f"            print(name, se.measure(codecs.chain(name), tensor, repeats={REPEATS}, message=name))",
    ]
    if learns:
        lines += [
            "",
            "record = se.Trainer(split, codecs=codecs).step(images, labels)",
            "for name, size in record.bytes.items():",
            "    print(name, size.raw, 'bytes raw,', size.frame, 'in a frame')",
        ]
    return lines


def _quoted(chain: str) -> str:
    """A chain between double quotes where it can be, as people write it."""
    return f'"{chain}"' if '"' not in chain else repr(chain)


def _photographs(shape: Sequence[int], count: int) -> list[str]:
    """A function that makes photographs in the shape of the network."""
    channels, height, width = shape
    made = f"se.data.photos({count}, size={max(height, width)}, seed=seed)"
    if height == width and channels == 3:
        return ["def photographs(seed):", f"    return {made}"]
    lines = ["def photographs(seed):", f"    batch = {made}"]
    if height != width:
        lines.append(
            "    batch = torch.nn.functional.interpolate("
            f"batch, size=({height}, {width}), mode='bilinear', antialias=True)"
        )
    if channels != 3:
        lines.append(f"    batch = batch.mean(dim=1, keepdim=True).repeat(1, {channels}, 1, 1)")
    return [*lines, "    return batch"]
