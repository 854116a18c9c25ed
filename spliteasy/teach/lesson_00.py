"""Exercises of notebook 00."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from spliteasy import data
from spliteasy.cuts import Cut, find_cuts
from spliteasy.errors import SplitEasyError
from spliteasy.models import load_model
from spliteasy.splitting import split
from spliteasy.teach.exercise import Exercise, Hint, choice, exercise, expect, near, number
from spliteasy.trainer import Trainer
from spliteasy.wire import MESSAGES, Bytes, Codecs

__all__ = ["EXERCISES"]

_UP, _DOWN = ("activations", "output_gradients"), ("outputs", "input_gradients")


@cache
def _cut(name: str, batch: int) -> Cut:
    """A cut of the digits network."""
    return find_cuts(load_model("digits_cnn"), (1, 8, 8), batch)[name]


@exercise(
    "00.1",
    "How many bytes does A send for a batch of 64 pictures if the network is cut after relu3, uncompressed?",
)
def _bytes(answer: Any) -> str:
    cut = _cut("relu3", 64)
    value, right = number(answer, "a number of bytes"), cut.nbytes
    expect(value != right // 4, "That is the number of values. Each is a 32-bit float: how many bytes is that?")
    expect(value != right // 64, "That is for one picture. The batch has 64.")
    expect(value != right // 2, "That is for the batch of 32 of the table above. This batch has 64.")
    expect(value != right * 2, "That is twice too much. Count what A sends, not what comes back, and look at relu3.")
    expect(abs(value - right / 1e6) > 0.01, "That is in megabytes. Give bytes.")
    near(value, right, "B·F·R·C values of 4 bytes: find the shape at relu3, with B = 64.", within=1e-6)
    return "Right. Twice the samples are twice the bytes, at every cut: B is a factor of B·R·C·F."


@exercise(
    "00.2",
    "In a double split the labels stay on the device. Which message that leaves the device is computed from them?",
)
def _message(answer: Any) -> str:
    found = choice(answer, MESSAGES)
    expect(found in _UP, "That message is sent by the server. Look for one that leaves the device.")
    expect(found == _UP[1], "The activations are what A makes of the pictures; no label has entered yet. Where is it?")
    return "Right. So labels do not travel, but what is computed from them does: lesson 06 asks how much that tells."


def _step(codecs: Codecs) -> dict[str, Bytes]:
    """The bytes of one training step of the digits network in a double split."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = split(load_model("digits_cnn"), at=("pool", "flatten"), input_shape=(1, 8, 8))
    trainer = Trainer(parts, codecs=codecs)
    return trainer.step(*next(iter(data.loader(data.digits()[0], batch=32, seed=0)))).bytes


@exercise(
    "00.3",
    "Write an se.Codecs that makes both messages that the device sends at least three times smaller, and leaves both "
    "that it receives raw.",
)
def _uplink(answer: Any) -> str:
    expect(isinstance(answer, Codecs), f"Give an se.Codecs(...), found {type(answer).__name__}.")
    touched = [message for message in MESSAGES if repr(answer.chain(message)) != "raw"]
    wrong = [message for message in _DOWN if message in touched]
    expect(
        not wrong,
        f"You change {' and '.join(wrong)}, which the server sends. The device sends one message on the way "
        "forward and one on the way back; the table of the four messages says which.",
    )
    left = [message for message in _UP if message not in touched]
    expect(len(left) < 2, "Nothing that the device sends has a chain yet: name the messages in se.Codecs(...).")
    expect(not left, f"The device sends another message too, not the {' and '.join(touched)} alone: see the table.")
    try:
        sizes = _step(answer)
    except SplitEasyError as error:
        raise Hint(f"These chains cannot be trained with: {error}") from error
    for message in _UP:
        times = sizes[message].raw / sizes[message].frame
        expect(
            times >= 3,
            f"The {message} become {times:.1f} times smaller, which is less than three. Keep fewer of their values, "
            "or fewer bits of each.",
        )
    times = sum(sizes[message].raw for message in _UP) / sum(sizes[message].frame for message in _UP)
    return f"Right: {times:.1f} times fewer bytes up. Many links are slower up than down: save there first."


EXERCISES: tuple[Exercise, ...] = (_bytes, _message, _uplink)
