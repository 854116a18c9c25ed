"""Exercises of notebook 06: who sees what, and what it costs."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from spliteasy import data
from spliteasy.codecs import codec
from spliteasy.crossing import crossing_tensors
from spliteasy.cuts import Cuts, find_cuts
from spliteasy.link import LINKS
from spliteasy.models import load_model
from spliteasy.splitting import split
from spliteasy.teach.exercise import Exercise, Hint, choice, exercise, expect, near, number

__all__ = ["EXERCISES"]

_SHAPE = (1, 8, 8)


def _network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_model("digits_cnn")


@cache
def _cuts(batch: int) -> Cuts:
    return find_cuts(_network(0), input_shape=_SHAPE, batch=batch)


def _work(first: str, second: str) -> float:
    """The share of the work that A and C do together."""
    cuts = _cuts(32)
    whole = cuts["classifier"].macs_before
    return 1 - (cuts[second].macs_before - cuts[first].macs_before) / whole


def _bytes(first: str, second: str) -> int:
    return 2 * (_cuts(32)[first].nbytes + _cuts(32)[second].nbytes)


@exercise(
    "06.1",
    "Which two cuts send the fewest bytes, with pictures, labels and classifier on the device, which does at "
    "most 60 % of the work?",
)
def _cheapest_pair(answer: Any) -> str:
    names = [cut.name for cut in _cuts(32)]
    expect(
        not (isinstance(answer, str) and answer in names),
        "With one cut the loss is at the server. What must then be sent beside the activations?",
    )
    pair = isinstance(answer, list | tuple) and len(answer) == 2 and all(isinstance(name, str) for name in answer)
    expect(pair, f'Give a pair of names, such as ("relu1", "flatten"); found {answer!r:.80}.')
    for name in answer:
        expect(name in names, f"There is no cut {name!r:.40}. The names are {', '.join(names)}.")
    first, second = answer
    expect(names.index(first) < names.index(second), "The first cut comes before the second; B is between them.")
    expect(first != "input", "A cut at the input sends the input: the pictures.")
    expect(
        second != "classifier", "Behind that cut C is the loss alone, and the classifier's weights are at the server."
    )
    expect(_work(first, second) <= 0.6, f"Then A and C do {_work(first, second):.0%} of the work. B must do more.")
    valid = [
        (one, two)
        for place, one in enumerate(names[1:-1], 1)
        for two in names[place + 1 : -1]
        if _work(one, two) <= 0.6
    ]
    least = min(_bytes(one, two) for one, two in valid)
    expect(
        _bytes(first, second) <= least,
        "Everything that must stay stays, and the work is fair. But another such pair "
        "sends fewer bytes: look for a narrow place.",
    )
    return "Privacy and work set the limits, and bytes decide between what is left: first ask who may see what."


@cache
def _victims() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Activations and pictures that the server has itself, activations that it saw, and the pictures behind them."""
    pictures = data.digits()[1].tensors[0]
    with torch.no_grad():
        activations = split(_network(7), at="pool", input_shape=_SHAPE).eval().a(pictures)
    return activations[:180], pictures[:180], activations[180:], pictures[180:]


def _likeness(guess: Tensor, truth: Tensor, own: Tensor) -> float:
    mean = own.mean(0).flatten()
    cosine = torch.nn.functional.cosine_similarity(guess.flatten(1).float() - mean, truth.flatten(1) - mean)
    return float(cosine.mean())


@exercise(
    "06.2",
    "Write attack(own_activations, own_pictures, seen_activations): for each seen activation the own picture "
    "with the most similar one.",
)
def _nearest(answer: Any) -> str:
    own, pictures, seen, truth = _victims()
    expect(callable(answer), f"Give a function of three arguments; found {answer!r:.80}.")
    try:
        found = answer(own.clone(), pictures.clone(), seen.clone())
    except Exception as error:
        raise Hint(
            f"Your function raised {type(error).__name__}: {error!s:.120}. The activations have the shape "
            f"{tuple(seen.shape)}; `flatten(1)` makes one row of each."
        ) from None
    expect(isinstance(found, Tensor), f"Return a tensor of pictures; your function returned {type(found).__name__}.")
    expect(
        found.ndim > 0 and len(found) == len(seen),
        f"There are {len(seen)} seen activations, one picture for each; "
        f"your function returned shape {tuple(found.shape)}. Which dimension do you search along?",
    )
    expect(
        found.dtype.is_floating_point and found[0].numel() == truth[0].numel(),
        "These are no pictures of 8×8. Do you "
        "return the neighbour's number, or its activation, in place of its picture?",
    )
    expect(torch.isfinite(found).all(), "Some of these pixels are not numbers.")
    nearest = torch.cdist(seen.flatten(1), own.flatten(1)).argmin(1)
    score, needed = _likeness(found, truth, pictures), _likeness(pictures[nearest], truth, pictures)
    expect(
        score > 0.1,
        "These pictures are no more like the true ones than the mean digit is. Is it the *nearest* "
        "neighbour of each seen activation?",
    )
    expect(
        score > needed - 0.02,
        f"A likeness of {score:.2f}. The nearest neighbours reach more: compare all values of an activation.",
    )
    return "No fitting, two lines. A picture that is typical enough is found among others, wherever they come from."


_CHAINS = ("int4", "sign", "topk(0.002) | fp16", "bf16")


@cache
def _leak(notation: str) -> float:
    """The likeness that a linear decoder reaches behind a chain, at `pool`."""
    own, pictures, seen, truth = _victims()
    chain = codec(notation)
    known, received = (chain.decode(chain.encode(tensor)).flatten(1).double() for tensor in (own, seen))
    middle, base = known.mean(0), pictures.flatten(1).double().mean(0)
    centred = known - middle
    kernel = centred @ centred.T
    kernel += (0.1 * kernel.diagonal().mean() + 1e-9) * torch.eye(len(kernel), dtype=torch.float64)
    weights = centred.T @ torch.linalg.solve(kernel, pictures.flatten(1).double() - base)
    return _likeness((received - middle) @ weights + base, truth, pictures)


@exercise("06.3", "Which chain leaves the server with nothing at pool: int4, sign, topk(0.002) | fp16 or bf16?")
def _nothing_left(answer: Any) -> str:
    found = choice(answer, _CHAINS)
    hints = {
        "int4": "Four bits are few, but sixteen shades of each value. Try it with `through`.",
        "bf16": "That only rounds. Try it with `through`, and look at the numbers.",
        "topk(0.002) | fp16": "One value of 512 is kept. But which one it was is sent too. Try it with `fit_decoder`.",
    }
    least = min(_CHAINS, key=_leak)
    expect(found == least and _leak(found) < 0.05, hints.get(found, "Try it with `through` and `fit_decoder`."))
    return "Behind a rectifier no value is negative, so all signs are equal: nothing leaks, and B has nothing to learn."


@exercise(
    "06.4",
    "Write a function that takes output gradients (B × classes), where C is only the loss, and returns the labels.",
)
def _read_labels(answer: Any) -> str:
    pictures, labels = (tensor[:40] for tensor in data.digits()[1].tensors)
    expect(callable(answer), f"Give a function that takes a tensor of gradients; found {answer!r:.80}.")
    for seed in (0, 1):
        messages = crossing_tensors(
            split(_network(seed), at=("pool", "classifier"), input_shape=_SHAPE), pictures, labels
        )
        gradients = messages["output_gradients"][0]
        assert gradients is not None
        try:
            found = answer(gradients.clone())
        except Exception as error:
            raise Hint(f"Your function raised {type(error).__name__}: {error!s:.120}.") from None
        expect(
            not hasattr(found, "indices") or isinstance(found, Tensor),
            "`min` gives values and their places. Return one of the two.",
        )
        found = torch.as_tensor(found) if isinstance(found, list) else found
        expect(isinstance(found, Tensor), f"Return the labels as a tensor or a list; found {type(found).__name__}.")
        expect(
            found.shape == labels.shape,
            f"Expected {len(labels)} labels, one for each row; found the shape "
            f"{tuple(found.shape)}. Which dimension has the classes?",
        )
        expect(
            not torch.equal(found, gradients.argmax(1)),
            "The largest gradient is at the wrong class that the network "
            "finds most probable. What sign has the true class?",
        )
        expect(
            torch.equal(found.long(), labels),
            f"{int((found.long() == labels).sum())} of {len(labels)} are right. "
            "What does minus 1 at the true class do to (p − t)/B?",
        )
    return "With nothing but the loss on the device, a double split gives the labels away. Leave at least a layer in C."


@exercise(
    "06.5", "How many seconds more does a step of the double split take on LINKS['cable'], batch 8, pool and flatten?"
)
def _price(answer: Any) -> str:
    link, found = LINKS["cable"], number(answer, "a number of seconds")
    more, first = _cuts(8)["flatten"].nbytes, _cuts(8)["pool"].nbytes
    right = link.seconds(more, more, calls=1)
    mistakes = {
        link.seconds(
            more, more, calls=0
        ): "The double split makes a call more. What does a call cost beside its bytes?",
        link.seconds(0, 0, calls=1): "That is the round trip alone. Two messages more are sent as well.",
        link.seconds(more, 0, calls=1): "That is what goes up. What comes down?",
        link.seconds(0, more, calls=1): "That is what comes down. What goes up?",
        link.seconds(more, more, calls=2): "Two calls instead of one is one call more.",
        link.seconds(more // 8, more // 8, calls=1): "Megabits are not megabytes: a byte has eight bits.",
        link.seconds(
            first + more, first + more, calls=2
        ): "That is the whole step of the double split. How much more is it than the single split's?",
        link.seconds(4 * more, 4 * more, calls=1): "That is for a batch of 32.",
        1000 * right: "That is in milliseconds. Give seconds.",
    }
    for mistake, hint in mistakes.items():
        expect(abs(found - mistake) > 0.02 * mistake, hint)
    near(found, right, "One call more, and two messages more, both of the size at flatten: one up, one down.")
    return "Labels that stay cost a round trip and two messages. Compare it with what it is worth to you."


EXERCISES: tuple[Exercise, ...] = (_cheapest_pair, _nearest, _nothing_left, _read_labels, _price)
"""In the order in which the notebook asks them."""
