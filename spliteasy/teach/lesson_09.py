"""Exercises of notebook 09: the paper, checked."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from spliteasy.cuts import find_cuts
from spliteasy.link import LINKS
from spliteasy.memory import training_memory
from spliteasy.models import load_model
from spliteasy.paper_memory import PAPER_NETWORKS
from spliteasy.reproduce.paper_numbers import TABLE_1, TABLE_2
from spliteasy.seeding import preserved
from spliteasy.teach.exercise import Exercise, exercise, expect, near, number

__all__ = ["EXERCISES"]


def _is(found: float, value: float) -> bool:
    return math.isclose(found, value, rel_tol=0.01)


@exercise("09.1", "How many bytes does a training step on 8 pictures send behind layer 4, single split, fp32?")
def _bytes_behind_pooling(answer: Any) -> str:
    found, values = number(answer, "a number of bytes"), math.prod(TABLE_2[3][2])
    right = 2 * 8 * values * 4
    expect(not _is(found, right / 2), "That is one way. In training a gradient comes back, of the same size.")
    expect(not _is(found, right / 8), "That is for one picture. The batch has eight.")
    expect(not _is(found, right / 16), "That is one picture's activations. Think of the batch, and of what comes back.")
    expect(not _is(found, right / 4), "You counted values. A value in fp32 takes more than one byte.")
    expect(not _is(found, right / 1e6), "Give bytes, not megabytes.")
    expect(not _is(found, right * 8), "Bytes, not bits.")
    near(
        found, right, "Height · width · filters of layer 4 are in the table above; then batch, bytes a value, and ways."
    )
    return "So one step of eight small pictures is 22 MB: that is why the place of the cut matters."


@exercise("09.2", "By which factor are B's gradients too small with a mean in place of the sum, for c of (16, 2048)?")
def _mean_for_sum(answer: Any) -> str:
    found = number(answer, "a factor")
    expect(found not in (16, 2048), "A mean over all elements divides by how many of them there are.")
    expect(not _is(found, 2 * 16 * 2048), "The ½ is in the loss in either case.")
    expect(not _is(found, 1 / (16 * 2048)), "The other way round: how many times too small?")
    near(found, 16 * 2048, "How many terms has the sum? A mean divides by that number.", within=1e-6)
    return "And C learns as it should, so the loss goes down all the same: such a fault hides well."


@exercise("09.3", "What did one call cost on the paper's system, in seconds, the mean over the six networks?")
def _seconds_a_call(answer: Any) -> str:
    found = number(answer, "a number of seconds")
    double = [row.communication_double for row in TABLE_1.values()]
    single = [row.communication_single for row in TABLE_1.values()]
    apart = (sum(double) - sum(single)) / len(TABLE_1)
    expect(not _is(found, apart), "That is what two calls cost.")
    expect(not _is(found, apart / 4), "A double split has four calls, but a single one has two already.")
    expect(
        not _is(found, sum(double) / len(TABLE_1) / 4), "That counts the bytes as part of the call. Take a difference."
    )
    expect(
        not _is(found, sum(single) / len(TABLE_1) / 2), "That counts the bytes as part of the call. Take a difference."
    )
    near(found, apart / 2, "Double less single is what two calls more cost. Then the mean over six.", within=0.03)
    return "A third of a second, twenty times a round trip on home Wi-Fi: their system was slow to call, not to send."


@cache
def _pool_bytes() -> int:
    with preserved():
        return find_cuts(load_model("resnet50"), (3, 224, 224))["maxpool"].nbytes


def _shortened(nbytes: float, calls: int = 1, ways: int = 2) -> float:
    """Communication with the bytes, by that without."""
    link = LINKS["aws"]
    size = int(nbytes)
    return link.seconds(size, size if ways == 2 else 0, calls) / link.seconds(0, 0, calls)


@exercise("09.4", "By which factor could any codec shorten communication at most: batch 32, maxpool, one call, on aws?")
def _limit_of_compression(answer: Any) -> str:
    found, one = number(answer, "a factor"), _pool_bytes()
    right = _shortened(32 * one)
    expect(not _is(found, _shortened(one)), "That is for one picture.")
    expect(not _is(found, _shortened(32 * one, ways=1)), "Bytes go up, and gradients come down.")
    expect(not _is(found, _shortened(32 * one, calls=2)), "A single split makes one call here.")
    expect(
        not _is(found, right - 1), "That is bytes by calls. Without a codec there are both: all of it by what is left."
    )
    expect(not _is(found, 1 / right), "The other way round: how many times shorter?")
    expect(not _is(found, _shortened(4 * one)), "`nbytes` is in bytes already, and `link.seconds` takes bytes.")
    near(found, right, "Seconds with all bytes, by seconds with none; the call is in both.", within=0.03)
    return "With a batch the bytes are most of it again. What a codec is worth depends on how many share a call."


@cache
def _megabytes(title: str, batch: int) -> float:
    name, arguments, side, _ = PAPER_NETWORKS[title]
    with preserved():
        return training_memory(load_model(name, **arguments), (), (3, side, side), batch)[0].total / 1e6


@exercise("09.5", "At which batch size does InceptionV3 first need more memory in training than ResNet50?")
def _first_larger(answer: Any) -> str:
    found = number(answer, "a batch size")
    expect(found == int(found) and 1 <= found <= 4096, "A batch size is a whole number, 1 or more.")
    right = next(batch for batch in range(1, 9) if _megabytes("InceptionV3", batch) > _megabytes("ResNet50", batch))
    expect(found >= right, "At that size it needs less: the table above has it.")
    expect(found <= right, "There it needs more, but it does already with fewer pictures. Which is the first?")
    return "So the order turns with the batch, which the paper does not state: one more reason not to build on it."


EXERCISES: tuple[Exercise, ...] = (
    _bytes_behind_pooling,
    _mean_for_sum,
    _seconds_a_call,
    _limit_of_compression,
    _first_larger,
)
"""In the order in which the notebook asks them."""
