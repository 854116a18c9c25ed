"""Exercises of notebook 08: the best cut, computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from spliteasy.cuts import Cuts, find_cuts
from spliteasy.link import LINKS, Link
from spliteasy.models import load_model
from spliteasy.planning import Constraints
from spliteasy.seeding import preserved
from spliteasy.teach.exercise import Exercise, Hint, choice, exercise, expect, near, number

__all__ = ["EXERCISES"]

_SHAPE, _BATCH = (3, 64, 64), 8
_SECONDS_A_MAC = 6e-10


@cache
def _cuts() -> Cuts:
    with preserved():
        return find_cuts(load_model("resnet18", num_classes=10), input_shape=_SHAPE, batch=_BATCH)


def _step(a: float, b: float, size: float, link: Link, device: float, server: float = 1.0, calls: int = 1) -> float:
    """A step of a single split with the chain raw: computing, bytes both ways, and the round trip."""
    return a / device + b / server + link.seconds(int(size), int(size), calls)


@exercise(
    "08.1",
    "How many seconds does a step take: A 0.03 s and B 0.09 s here, device 5 times slower, server twice as fast, raw "
    "at layer2.1.relu_1, batch 8, on 20 Mbit/s up, 50 down, 40 ms?",
)
def _by_hand(answer: Any) -> str:
    found, link, size = number(answer, "a number of seconds"), Link(20, 50, 40), _cuts()["layer2.1.relu_1"].nbytes
    right = _step(0.03, 0.09, size, link, 0.2, 2.0)
    up, down = link.seconds(size, 0, 0), link.seconds(0, size, 0)
    mistakes = {
        right - down: "That is the way up. What comes back to A, and how large is it?",
        right - 0.04: "Device and server talk once a step. What does a call cost beside its bytes?",
        right + 0.04: "A single split needs one call a step; only a double split needs two.",
        right - 0.15 + 0.03: "A computes on the slow device, not on this machine.",
        right - 0.15 + 0.03 / 5: "A device that is five times slower takes five times as long.",
        right - 0.045 + 0.09: "The server is twice as fast as this machine.",
        right - 0.045 + 0.18: "A server that is twice as fast takes half as long.",
        right - 7 / 8 * (up + down): "A byte has eight bits, and bandwidths are in megabits.",
        right - up - down - 0.04: "That is the computing. What does the link take?",
        up + down + 0.04: "That is the link. Who computes what, and how long?",
        right - down + up: "The way down has a bandwidth of its own.",
        right
        - 7 / 8 * (up + down)
        - 0.04
        + 0.04 * _BATCH: "All sizes are for a batch; the round trip comes once a step.",
        right - up - down + (up + down) / _BATCH: "That is the size for one image. The batch has eight.",
        1000 * right: "That is in milliseconds. Give seconds.",
    }
    for mistake, hint in mistakes.items():
        expect(abs(found - mistake) > 0.005 * mistake, hint)
    near(
        found, right, "Five terms: A on the device, B on the server, bytes up, bytes down, one round trip.", within=0.01
    )
    return "Five terms, and only two of them know the network. The others are where and with whom you train."


@cache
def _cases() -> tuple[tuple[list[float], float, list[int], Link, float], ...]:
    """Networks that do not exist, whose best cuts differ from those that the usual mistakes find."""
    generator, cases = np.random.default_rng(8), []
    for count, link, device in [
        (12, Link(18, 120, 15), 0.1), (40, Link(5, 50, 30), 0.5), (40, Link(400, 20, 5), 0.2),
        (25, Link(8, 8, 300), 1.0), (30, Link(400, 8, 10), 0.2), (30, Link(2, 200, 10), 0.3),
    ]:  # fmt: skip
        times = generator.uniform(0.001, 0.02, count)
        sizes = (2e6 * np.exp(-np.cumsum(generator.uniform(0, 0.4, count)))).astype(int).tolist()
        cases.append(((np.cumsum(times) - times).tolist(), float(times.sum()), sizes, link, device))
    return tuple(cases)


def _least(before: Sequence[float], total: float, sizes: Sequence[int], link: Link, device: float) -> int:
    steps = [_step(a, total - a, size, link, device) for a, size in zip(before, sizes, strict=True)]
    return int(np.argmin(steps))


@exercise(
    "08.2", "Write my_plan(before, total, nbytes, link, device): the number of the best cut of a single split, raw."
)
def _planner(answer: Any) -> str:
    expect(callable(answer), f"Give a function of five arguments; found {answer!r:.80}.")
    for before, total, sizes, link, device in _cases():
        try:
            found = answer(list(before), total, list(sizes), link, device)
        except Exception as error:
            raise Hint(f"Your function raised {type(error).__name__}: {error!s:.120}.") from None
        expect(found is not ... and found is not None, "Your function returns nothing yet.")
        whole = isinstance(found, int | np.integer) and not isinstance(found, bool)
        expect(
            whole,
            f"Return the number of a cut, from 0 to {len(before) - 1}; your function returned {found!r:.60}. "
            "Seconds are for comparing; which place has the least?",
        )
        expect(0 <= found < len(before), f"There are cuts 0 to {len(before) - 1}; your function returned {found}.")
        right = _least(before, total, sizes, link, device)
        if found != right:
            raise Hint(_what_went_wrong(int(found), before, total, sizes, link, device))
    return "A planner in three lines. `se.plan` adds chains, second cuts, limits and memory; the idea is this sum."


def _what_went_wrong(
    found: int, before: Sequence[float], total: float, sizes: Sequence[int], link: Link, device: float
) -> str:
    def places(seconds: Any) -> int:
        return int(np.argmin([seconds(a, size) for a, size in zip(before, sizes, strict=True)]))

    def away(a: float, size: int) -> float:
        return link.seconds(size, size, 1)

    mistakes = {
        places(lambda a, size: a * device + total - a + away(a, size)): "A slower device takes longer: speed divides.",
        places(lambda a, size: a / device + total - a + link.seconds(size, 0, 1)): "What comes back down to A?",
        places(away): "That is the cut with the cheapest link. What does the device compute until there?",
        places(lambda a, size: a / device + total - a): "That leaves out the link.",
        places(lambda a, size: -(a / device + total - a + away(a, size))): "That is the worst cut.",
        places(lambda a, size: a / device + away(a, size)): "The server computes what the device does not.",
        places(lambda a, size: (a + total - a) / device + away(a, size)): "Only A computes on the device; B does not.",
    }
    general = "Some other cut takes less. The sum: A by the device's speed, B, bytes up, bytes down, one round trip."
    return mistakes.get(found, general)


_CHANGES = (
    "a faster link", "a slower device", "a faster device", "a longer round trip",
    "a slower server and a slower device, both by the same factor",
)  # fmt: skip


@cache
def _moves(change: str) -> int:
    """How many cuts the best one moves towards the output, computing taken as proportional to multiply-accumulates."""
    cuts = list(_cuts())[1:]
    total = (cuts[-1].macs_before + cuts[-1].macs_after) * _SECONDS_A_MAC
    link, device, server = LINKS["lte"], 0.1, 1.0

    def best(link: Link, device: float, server: float) -> int:
        steps = [
            _step(a, total - a, cut.nbytes, link, device, server)
            for cut in cuts
            for a in [_SECONDS_A_MAC * cut.macs_before]
        ]
        return int(np.argmin(steps))

    changed = {
        "a faster link": (Link(20 * link.up_mbps, 20 * link.down_mbps, link.rtt_ms), device, server),
        "a slower device": (link, device / 20, server),
        "a faster device": (link, 10 * device, server),
        "a longer round trip": (Link(link.up_mbps, link.down_mbps, 20 * link.rtt_ms), device, server),
        _CHANGES[-1]: (link, device / 20, server / 20),
    }
    return best(*changed[change]) - best(link, device, server)


@exercise(
    "08.3",
    "Which change moves the best cut of a single split towards the output: a faster link, a slower device, a faster "
    "device, a longer round trip, or a slower server and a slower device?",
)
def _towards_the_output(answer: Any) -> str:
    found = choice(answer, _CHANGES)
    hints = {
        "a faster link": "Then bytes are cheap. Do you still pay with computing to send fewer of them?",
        "a slower device": "Then each operation in A is dear. Would you give it more of them?",
        "a longer round trip": "Every single split has one round trip. At which cut would it have fewer?",
        _CHANGES[-1]: "Then computing on the slow device is dearer still, beside bytes that cost the same.",
    }
    expect(_moves(found) > 0, hints.get(found, "Look at the picture of best cuts by link and device."))
    return "Computing on the device has become cheap beside the bytes, so more of it is worth it to send less."


@exercise(
    "08.4", "Write limits: labels stay on the device, A has at least three operations, at most half a megabyte a step."
)
def _wish(answer: Any) -> str:
    expect(isinstance(answer, Constraints), f"Give limits, se.Constraints(...); found {answer!r:.80}.")
    expect(answer.labels_on_device, "With these limits the labels may go to the server.")
    expect(answer.min_operations > 0 or answer.min_macs == 0, "Operations are not multiply-accumulates.")
    expect(answer.min_macs == 0, "Nobody asked for a number of multiply-accumulates.")
    expect(answer.min_operations == 3, f"A has {answer.min_operations:g} operations at least with these limits.")
    expect(answer.max_bytes < math.inf, "With these limits a step may send any number of bytes.")
    expect(answer.max_bytes not in (500, 0.5), "`max_bytes` is in bytes, not in kilobytes or megabytes.")
    expect(answer.max_bytes != 4_000_000, "`max_bytes` is in bytes; half a megabyte is no half megabit.")
    expect(answer.max_bytes != 250_000, "The limit is for the whole step, both ways together.")
    near(answer.max_bytes, 500_000, f"These limits allow {answer.max_bytes:,} bytes a step.", within=0.05)
    return "Say what must hold, and let the plan find what is best among the rest: it also tells you the price."


_LISTED, _OFF = (0.400, 0.415, 0.428, 0.439, 0.445, 0.470), 0.05


@exercise("08.5", "How many of six choices, predicted within 5 % either way, could turn out to be the fastest?")
def _could_be_fastest(answer: Any) -> str:
    found, best = number(answer, "a number of choices"), min(_LISTED)
    right = sum(seconds * (1 - _OFF) <= best * (1 + _OFF) for seconds in _LISTED)
    narrow = sum(seconds <= best * (1 + _OFF) for seconds in _LISTED)
    hints = {
        1: "Only if predictions were exact.",
        narrow: "You let the others be faster, or the first be slower. Both may happen at once.",
        right - 1: "The first of the list can be the fastest too.",
        len(_LISTED): "The last would have to be 5 % faster, and the first 5 % slower. Compare those two numbers.",
        right + 1: "Nearly. Take the fastest that this one can be, and the slowest that the first can be.",
    }
    expect(
        abs(found - right) < 1e-9,
        hints.get(int(found), "Compare the fastest that each can be with the slowest of the first."),
    )
    return "So these are equal as far as anyone can say. Choose among them by what else you want, or measure."


EXERCISES: tuple[Exercise, ...] = (_by_hand, _planner, _towards_the_output, _wish, _could_be_fastest)
"""In the order in which the notebook asks them."""
