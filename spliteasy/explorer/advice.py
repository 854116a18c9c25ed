"""The best cut in words, and a small picture of the step's time against the cut, as HTML. Pure functions."""

from __future__ import annotations

import math
from html import escape

from spliteasy.explorer.best_cut import BestCut
from spliteasy.explorer.budget import Part
from spliteasy.explorer.timeline import bar, legend
from spliteasy.explorer.wording import TIMES, bandwidth, duration, round_trips, size
from spliteasy.link import LINKS
from spliteasy.planning import Choice
from spliteasy.wire import MESSAGES, UPWARD

__all__ = ["best_cut_html", "choice_parts"]

_WIDE, _TALL = 300, 100
_SAME = 1e-9
_HEAD = (
    '<th></th><th class="se-left">cut after</th><th class="se-left">chains</th><th>sent</th><th>a step</th><th></th>'
)


def best_cut_html(found: BestCut | None, moved: bool = True) -> str:
    """Best, its time budget beside that of what was chosen before, the next two, and time against cut; nothing for no
    answer. ``moved`` says that the scissors went there."""
    if found is None:
        return ""
    question, link = found.question, LINKS[found.question.link]
    shown = [("best", found.best)] + ([("before", found.before)] if found.before is not None else [])
    budgets = [(name, choice_parts(choice)) for name, choice in shown]
    longest = max(choice.seconds for _, choice in shown)
    bars = "".join(bar(name, parts, longest) for name, parts in budgets)
    rows = "".join(_row(name, choice, found.best.seconds) for name, choice in _listed(found))
    where = (
        "" if moved else '<p class="se-note">The choice has changed meanwhile: the scissors stay where they are.</p>'
    )
    return (
        f'<div class="spliteasy se-advice"><h4>Best cut on {escape(link.name)} ({bandwidth(link, short=True)}), device '
        f"{escape(question.device)}</h4>"
        f'<p class="se-best">{_words(found)}</p>{where}'
        f'<div class="se-times" role="img" aria-label="{escape(_told(budgets))}">{bars}</div>'
        f"{legend([part for _, parts in budgets for part in parts])}"
        f'<div class="se-facts"><div>{_curve(found)}</div><div><div class="se-scroll"><table class="se-tight">'
        f"<thead><tr>{_HEAD}</tr></thead><tbody>{rows}</tbody></table></div></div></div>"
        f'<p class="se-note">{_note(found)}</p></div>'
    )


def choice_parts(choice: Choice) -> tuple[Part, ...]:
    """The seconds of a choice as the kinds of a budget."""
    seconds, letters = choice.parts, "A and C" if len(choice.cuts) == 2 else "A"
    up = sum(nbytes for message, nbytes in choice.nbytes.items() if message in UPWARD)
    trips = f"{round_trips(len(choice.cuts))} and the work of calls"
    return (
        Part("device", f"device computes {letters}", seconds["a"] + seconds["c"]),
        Part("codecs", "codecs encode and decode", seconds["encode"] + seconds["decode"]),
        Part("up", "bytes to the server", seconds["up"], up),
        Part("server", "server computes B", seconds["b"]),
        Part("down", "bytes to the device", seconds["down"], choice.bytes_total - up),
        Part("trips", trips, seconds["trips"] + seconds["calls"]),
    )


def _words(found: BestCut) -> str:
    best, before = found.best, found.before
    text = f"<b>{_cuts(best)}</b>: <b>{duration(best.seconds)}</b> a step, {size(best.bytes_total)} sent."
    if before is None:
        return text + " What was chosen before has chains that must be fitted first, so it cannot be compared."
    if before.seconds < best.seconds * (1 - _SAME):
        return text + f" What was chosen before takes {duration(before.seconds)}, but sends the input itself."
    gain = before.seconds / best.seconds
    if gain < 1.005:
        return text + " What was chosen before is as good."
    factor = f"{gain:.3g} times" if gain >= 1.1 else f"{100 * (gain - 1):.1f} % more than"
    return text + f" What was chosen before ({_cuts(before)}) takes {duration(before.seconds)}, {factor} that."


def _cuts(choice: Choice) -> str:
    names = " and ".join(f"<code>{escape(name)}</code>" for name in choice.cuts)
    return f"{choice.mode} split after {names}"


def _listed(found: BestCut) -> list[tuple[str, Choice]]:
    ranks = ["best", "second", "third"]
    listed = list(zip(ranks, (found.best, *found.plan.runners_up), strict=False))
    return listed + ([("before", found.before)] if found.before is not None else [])


def _row(name: str, choice: Choice, best: float) -> str:
    cuts = ", ".join(f"<code>{escape(cut)}</code>" for cut in choice.cuts)
    whole = "; ".join(
        f"{message}: {choice.codecs.chain(message)!r}" for message in MESSAGES if message in choice.nbytes
    )
    chains = list(dict.fromkeys(repr(choice.codecs.chain(message)) for message in choice.nbytes))
    brief = chains[0] if len(chains) == 1 else f"{chains[0]}, …"
    return (
        f'<tr{" class=se-new" if name == "best" else ""}><td>{name}</td><td class="se-left">{cuts}</td>'
        f'<td class="se-left" title="{escape(whole)}"><code>{escape(brief)}</code></td>'
        f"<td>{size(choice.bytes_total)}</td><td><b>{duration(choice.seconds)}</b></td>"
        f"<td>{choice.seconds / best:.3g}{TIMES}</td></tr>"
    )


def _curve(found: BestCut) -> str:
    """Seconds of a step by first cut, on a logarithmic axis: a line for each mode, a dot at the best."""
    lines = {curve.mode: curve.seconds.tolist() for curve in found.plan.curves}
    dots = [("se-was", found.before)] if found.before is not None else []
    dots.append(("se-is", found.best))
    finite = [value for values in lines.values() for value in values if math.isfinite(value)]
    finite += [choice.seconds for _, choice in dots]
    low, high = min(finite), max(finite)
    last = max(len(found.plan.cuts) - 1, 1)

    def at(number: int, seconds: float) -> str:
        share = math.log(seconds / low) / (math.log(high / low) or 1.0)
        return f"{_WIDE * number / last:.1f},{4 + (_TALL - 8) * (1 - share):.1f}"

    drawn = ""
    for mode, values in lines.items():
        points = " ".join(at(number, value) for number, value in enumerate(values) if math.isfinite(value))
        drawn += f'<polyline class="se-{mode}" points="{points}"/>'
    for name, choice in dots:
        point = at(choice.numbers[0], choice.seconds)
        drawn += f'<polyline class="{name}" points="{point} {point}"><title>{escape(_plain(choice))}</title></polyline>'
    modes = " and ".join(f"{mode} split{_DRAWN[mode]}" for mode in lines)
    told = (
        f"seconds a step by first cut, from {duration(low)} to {duration(high)}; least at cut {found.best.numbers[0]} "
        f"of {last}"
    )
    return (
        f'<div class="se-dim">a step\'s time by first cut, {modes}; large dot: the best, small: before</div>'
        f'<div class="se-curve se-log"><span>{duration(high)}</span><span>{duration(low)}</span>'
        f'<svg viewBox="-3 0 {_WIDE + 6} {_TALL}" preserveAspectRatio="none" role="img" aria-label="{told}">{drawn}'
        f'</svg></div><div class="se-ends se-dim"><span>{escape(found.plan.cuts[0])}</span>'
        f"<span>{escape(found.plan.cuts[-1])}</span></div>"
    )


_DRAWN = {"single": " (line)", "double": " (dashes, with its best second cut)"}


def _plain(choice: Choice) -> str:
    return f"{choice.mode} split after {' and '.join(choice.cuts)}: {duration(choice.seconds)}"


def _note(found: BestCut) -> str:
    question = found.question
    scaled = (
        "" if question.samples == question.batch else f", with {question.samples} samples, scaled to {question.batch}"
    )
    return (
        f"{found.plan.considered:,} choices were compared, by time alone: what a lossy chain does to accuracy is not "
        f"in it. The times are a prediction: every operation was timed on this machine{scaled}, every chain measured "
        "at a few cuts, and the server taken as fast as this machine. Inputs stay on the device. Without a split, all "
        f"on the device, a step takes {duration(found.whole)}."
    )


def _told(budgets: list[tuple[str, tuple[Part, ...]]]) -> str:
    return " ".join(
        f"{name}: {', '.join(f'{part.label} {duration(part.seconds)}' for part in parts)}." for name, parts in budgets
    )
