"""Exercises of notebook 01."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from spliteasy.cuts import Cut, Cuts, find_cuts
from spliteasy.link import LINKS
from spliteasy.models import load_model
from spliteasy.teach.exercise import Exercise, Hint, exercise, expect, near, number

__all__ = ["EXERCISES"]

_NETWORKS = {"vgg11": (3, 224, 224), "densenet121": (3, 224, 224), "digits_cnn": (1, 8, 8)}


@cache
def _cuts(name: str, batch: int) -> Cuts:
    """The cuts of a network by name, which is built without memory for its weights."""
    with torch.device("meta"):
        model = load_model(name)
    return find_cuts(model, _NETWORKS.get(name, (3, 224, 224)), batch)


@exercise(
    "01.1",
    "DenseNet-121 is cut after features.pool0 in a single split, batch 16. How many MB (10⁶ bytes) cross the wire in "
    "one training step, both directions together, nothing compressed?",
)
def _megabytes(answer: Any) -> str:
    value, once = number(answer, "a number of MB"), _cuts("densenet121", 16)["features.pool0"].nbytes / 1e6
    right = 2 * once
    expect(abs(value - once) > 0.01, "That goes up. What comes down in the same step?")
    expect(abs(value - 2 * right) > 0.01, "That is for a batch of 32. This one has 16.")
    expect(abs(value - right / 16) > 0.01, "That is for one picture. The batch has 16.")
    expect(abs(value - right / 4) > 0.01, "You counted values. Each takes four bytes.")
    expect(value < 1e3 * right, "That is in bytes or in kilobytes. Give MB, millions of bytes.")
    near(value, right, "One cut of find_cuts(..., batch=16), .nbytes, and think of both directions.", within=1e-3)
    return "Right. Training sends every cut twice, as activations and as gradients; using the network sends it once."


@exercise(
    "01.2",
    "ResNet-50 is cut inside a block, after layer2.1.conv1. Which share of the bytes there belongs to the tensor that "
    "skips the block, as a number from 0 to 1?",
)
def _skipping(answer: Any) -> str:
    skips, inside = _cuts("resnet50", 1)["layer2.1.conv1"].tensors
    value, right = number(answer, "a share, from 0 to 1"), skips.nbytes / (skips.nbytes + inside.nbytes)
    expect(abs(value - (1 - right)) > 1e-3, "That is the block's own tensor, the smaller one. Which one skips?")
    expect(abs(value - 0.5) > 1e-3, "The two are not of equal size here: look at cut.tensors, one by one.")
    expect(abs(value - skips.nbytes / inside.nbytes) > 1e-2, "That is the one by the other. The share is of both.")
    expect(abs(value - 100 * right) > 0.1, "That is in percent. Give a share, from 0 to 1.")
    near(value, right, "find_cuts(...)['layer2.1.conv1'].tensors has two: each with .name and .nbytes.", within=1e-3)
    return "Right. A block narrows its own path and not the one around it, so its inside is a poor place to cut."


def _expected(cuts: Cuts, share: float, first: int = 1) -> Cut:
    """The cut that sends least if the device does at most a share of the work."""
    total = cuts[0].macs_after
    return min((cut for cut in cuts[first:] if cut.macs_before <= share * total), key=lambda cut: cut.nbytes)


@exercise(
    "01.3",
    "Write a function of (cuts, share) that returns the name of the cut that sends the fewest bytes while the device "
    "does at most that share of the multiply-accumulates; the input itself is not allowed.",
)
def _best(answer: Any) -> str:
    expect(callable(answer) and not isinstance(answer, type), "Give a function: answer = best_cut, without calling it.")
    for name, share in (("vgg11", 0.3), ("vgg11", 0.6), ("densenet121", 0.5), ("digits_cnn", 0.4), ("vgg11", 1.0)):
        cuts = _cuts(name, 4)
        found = _called(answer, cuts, share)
        expect(isinstance(found, str), f"Return the name of a cut, as text; yours returned {found!r}.")
        expect(found in cuts, f"Yours returned {found!r}, which is not the name of a cut of {name}.")
        best, cut, where = _expected(cuts, share), cuts[str(found)], f"{name}, share {share}:"
        work = cut.macs_before / (cut.macs_before + cut.macs_after)
        expect(cut.index > 0, f"{where} you cut at the input, so the pictures themselves would be sent.")
        expect(work <= share, f"{where} with {found!r} the device does {work:.0%} of the work.")
        expect(
            cut.nbytes <= best.nbytes,
            f"{where} {found!r} keeps to the rules, but another cut sends fewer bytes. Compare all, not the first or "
            "the last.",
        )
    return "Right, on three networks. With share = 1 it gives a cut where there is nothing left for the server to do."


def _called(function: Callable[..., Any], cuts: Cuts, share: float) -> object:
    try:
        return function(cuts, share)
    except Exception as error:
        raise Hint(f"Your function raised {type(error).__name__}: {error}") from error


@exercise(
    "01.4",
    "The link is se.LINKS['4g'], ResNet-50 is cut after maxpool in a single split, nothing is compressed. A step may "
    "spend 10 seconds on the link. How many pictures can a batch have at most?",
)
def _batch(answer: Any) -> str:
    link, one = LINKS["4g"], _cuts("resnet50", 1)["maxpool"].nbytes
    value = number(answer, "a whole number of pictures")

    def fits(up: float, down: float) -> int:
        return math.floor((10 - link.seconds(0, 0)) / (link.seconds(round(up), round(down)) - link.seconds(0, 0)))

    right = fits(one, one)
    expect(value == int(value), "Pictures are whole. Round so that the step stays within ten seconds.")
    expect(value != right + 1, "With that many the step takes longer than ten seconds: round down.")
    expect(value not in (fits(one, 0), fits(one, 0) + 1), "That counts the way up. The gradient comes back as well.")
    expect(
        not 7 * right <= value <= 9 * right + 8,
        "The link is given in megabits a second, the cut in bytes. A byte has eight bits.",
    )
    expect(value == right, "link.seconds(up_bytes=..., down_bytes=...) says what a batch takes; both directions count.")
    return f"Right: {right}. Smaller messages would allow a larger batch, which is what the next lesson is about."


EXERCISES: tuple[Exercise, ...] = (_megabytes, _skipping, _best, _batch)
