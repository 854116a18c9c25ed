"""Exercises of notebook 05: does accuracy survive?"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from spliteasy.sweeping.figures import crossing
from spliteasy.teach.exercise import Exercise, Hint, choice, exercise, expect, number

__all__ = ["EXERCISES"]

_RAW = {0: 0.9610, 1: 0.9304, 2: 0.9526, 3: 0.9749, 4: 0.9415}
_CHAIN = {4: 0.9359, 2: 0.9443, 0: 0.9582, 1: 0.9331}
"""In another order than raw, and without the seed that diverged."""


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


@exercise(
    "05.1",
    "Which function f(chain, raw) returns the mean same-seed difference and its standard error, both in points?",
)
def _paired(answer: Any) -> str:
    if not callable(answer):
        raise Hint(f"Give a function f(chain, raw), its name without brackets; found {answer!r:.80}.")
    found = answer(dict(_CHAIN), dict(_RAW))
    if not isinstance(found, Iterable) or isinstance(found, str | bytes | Mapping):
        raise Hint(f"Return two numbers: the difference and its standard error. Found {found!r:.80}.")
    pair = list(found)
    expect(len(pair) == 2, f"Return two numbers: the difference and its standard error. Found {len(pair)}.")
    difference, error = (number(value, "two numbers") for value in pair)
    differences = [100 * (_CHAIN[seed] - _RAW[seed]) for seed in _CHAIN]
    mean, deviation = statistics.mean(differences), statistics.stdev(differences)
    heaps = 100 * (statistics.mean(_CHAIN.values()) - statistics.mean(_RAW.values()))
    expect(
        not _near(difference, mean / 100),
        "That difference is a share. A point is a hundredth: 0.95 against 0.94 is one point.",
    )
    expect(not _near(difference, -mean), "The sign is turned: a chain that loses accuracy has a difference below zero.")
    expect(
        not _near(difference, heaps),
        "The means of two heaps were subtracted, one of which has a seed more. Subtract seed by seed, then average.",
    )
    expect(
        _near(difference, mean),
        "The difference is not the mean of same-seed differences. Are seeds matched by number, not by place?",
    )
    root = len(differences) ** 0.5
    expect(
        not _near(error, deviation),
        "That is the standard deviation of the differences: how much one run varies. How sure is the mean of several?",
    )
    expect(
        not _near(error, statistics.pstdev(differences) / root),
        "The standard deviation was divided by n. Estimated from a sample it is divided by n − 1 (numpy: ddof=1).",
    )
    expect(not _near(error, deviation / root / 100), "The standard error is a share still; give it in points.")
    expect(
        _near(error, deviation / root),
        "The difference is right, the standard error is not: the standard deviation of the differences, by the root of "
        "how many there are.",
    )
    return f"Right: {mean:+.2f} ± {error:.2f} points on the examples. The first number alone would tell nothing."


_DEVIATION, _LOSS = 0.8, 0.25


@exercise(
    "05.2",
    "How many seeds make a loss of 0.25 points two standard errors, if same-seed differences deviate by 0.8 points?",
)
def _seeds(answer: Any) -> str:
    value = number(answer, "a whole number of seeds")
    right = (2 * _DEVIATION / _LOSS) ** 2
    expect(value >= 1, "A number of seeds is a whole number of 1 or more.")
    expect(
        abs(value - 2 * _DEVIATION / _LOSS) > 1,
        "The standard error falls with the root of the number of seeds. To halve it takes how many times more?",
    )
    expect(
        abs(value - (_DEVIATION / _LOSS) ** 2) > 1,
        "So many make one standard error of 0.25 points. The loss shall be two of them.",
    )
    expect(
        abs(value - 2 * right) > 3,
        "The differences are taken in pairs already: their deviation has the luck of both runs in it.",
    )
    expect(
        right - 0.01 <= value <= math.ceil(right),
        "Write down what two standard errors are with n seeds, set it equal to the loss, and solve for n (round up).",
    )
    return f"Right, {math.ceil(right)}: four times as many seeds for half the error. Small losses are dear to prove."


@functools.cache
def _best_of(count: int) -> float:
    """The mean of the largest of so many draws from the standard normal distribution, by its distribution function."""
    x = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    cumulative = (0.5 * (1 + torch.erf(x / 2**0.5))) ** count
    return float(((x[1:] + x[:-1]) / 2 * cumulative.diff()).sum())


_SPREAD, _TRIED = 0.5, 10


@exercise(
    "05.3",
    "How many points above the truth is the best of ten equal chains on average, if runs deviate by 0.5 points?",
)
def _luck(answer: Any) -> str:
    value = number(answer, "a number of points")
    right = _SPREAD * _best_of(_TRIED)
    expect(value > 0, "The best of several is above their mean: a number above 0.")
    expect(
        abs(value - _SPREAD / _TRIED**0.5) > 0.02,
        "That is how uncertain the mean of ten is. What is reported here is not the mean but the largest.",
    )
    expect(
        abs(value - _best_of(_TRIED)) > 0.05,
        "That is in standard deviations. How many points is one of them?",
    )
    expect(
        abs(value - right) <= 0.04 * right,
        "Draw ten numbers with this standard deviation, take the largest, repeat many times, and average.",
    )
    return (
        f"Right, about {right:.2f}: {_best_of(_TRIED):.2f} standard deviations, from nothing but choosing. It grows "
        "with every chain that is tried."
    )


@dataclass(frozen=True)
class _Row:
    """A chain in the table of exercise 05.4: bytes a sample, and points against raw."""

    chain: str
    size: int
    validation: float
    test: float


_TABLE = (
    _Row("raw", 12300, 0.0, 0.0),
    _Row("8 bits", 3100, -0.1, 0.1),
    _Row("4 bits", 1600, -0.4, -0.6),
    _Row("top 10 %", 700, -0.8, -1.3),
    _Row("PCA 16", 400, -1.4, -0.7),
    _Row("top 1 %", 120, -9.6, -9.1),
)


@exercise(
    "05.4",
    "Which chain of the table has the fewest bytes of those that lose at most 1.0 point, by the right column?",
)
def _chosen(answer: Any) -> str:
    found = choice(answer, [row.chain for row in _TABLE])
    taken = next(row for row in _TABLE if row.chain == found)
    right = min((row for row in _TABLE if row.validation >= -1), key=lambda row: row.size)
    expect(
        taken.size >= right.size or taken.validation >= -1 or taken.test >= -1, "Few bytes, and far below the limit."
    )
    expect(
        taken.validation >= -1,
        "By the test pictures, perhaps. Whoever chooses by them has none left to report an honest number on.",
    )
    expect(
        taken.chain != max(_TABLE, key=lambda row: row.test).chain and taken.chain != "raw",
        "It loses least, but the rule asks for the fewest bytes within a point.",
    )
    expect(
        taken.chain == right.chain,
        "Is there one with fewer bytes within the limit? If its test column put you off: that may not choose.",
    )
    return (
        f"Right, and you report {right.test} points, which the test pictures say, even though it is beyond the limit."
    )


_BATCH, _RAW_BYTES, _CHAIN_BYTES, _COMPUTING = 32, 12000, 2000, 0.004


@exercise("05.5", "Below which bandwidth, in Mbit/s, is the chain faster than raw?")
def _bandwidth(answer: Any) -> str:
    value = number(answer, "a number of Mbit/s")
    right = crossing(_COMPUTING, _CHAIN_BYTES * _BATCH, 0.0, _RAW_BYTES * _BATCH)
    share = value / right
    mistakes = (
        (1 / 8, "That is in megabytes a second: links are sold in bits."),
        (8, "Bits and bytes are mixed up: 8 bits make a byte, once."),
        (1 / _BATCH, "The bytes are for one sample, the seconds for a step. How many samples has a step?"),
        (_RAW_BYTES / (_RAW_BYTES - _CHAIN_BYTES), "The chain sends something too. What counts is what it saves."),
        (_CHAIN_BYTES / (_RAW_BYTES - _CHAIN_BYTES), "Not what the chain sends counts, but what it saves."),
        (2, "Up and down are in the bytes already: count them once."),
        (1 / 2, "Up and down are both sent at this bandwidth, one after the other: do not halve the bytes."),
        (1e-3, "That looks like Gbit/s, or like seconds in place of milliseconds."),
        (1e6, "That is in bits a second; give Mbit/s, a million times larger a unit."),
    )
    for factor, hint in mistakes:
        expect(abs(share - factor) > 0.01 * factor, hint)
    expect(
        abs(share - 1) <= 0.01,
        "At the limit, the seconds saved on the link equal the seconds lost on computing. Set them equal and solve.",
    )
    return f"Right, {right:,.0f} Mbit/s: far above most links to a device, so cheap chains nearly always pay there."


EXERCISES: tuple[Exercise, ...] = (_paired, _seeds, _luck, _chosen, _bandwidth)
