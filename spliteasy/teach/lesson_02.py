"""Exercises of notebook 02."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.functional import avg_pool2d

from spliteasy import data
from spliteasy.codecs import Chain, Codec, codec
from spliteasy.errors import SplitEasyError
from spliteasy.link import Link
from spliteasy.measuring import Measurement, measure
from spliteasy.models import load_model
from spliteasy.splitting import split
from spliteasy.teach.exercise import Exercise, Hint, exercise, expect, near, number

__all__ = ["EXERCISES"]


@exercise(
    "02.1",
    "topk(0.1) | fp16 keeps a tenth of the values, 16 bits each. If one bit an element says which were kept, how many "
    "times smaller than 32-bit floats is that?",
)
def _bitmap(answer: Any) -> str:
    value, kept = number(answer, "a number of times"), 0.1
    right = 32 / (16 * kept + 1)
    expect(abs(value - 32 / (16 * kept)) > 0.1, "The other side must also learn where the kept values stood.")
    expect(abs(value - 1 / kept) > 0.1, "That is a tenth of the values at full width. Here they have 16 bits.")
    expect(abs(value - 32 / (32 * kept + 1)) > 0.1, "fp16 halves the width of the values that are kept.")
    expect(
        abs(value - 32 / (16 * kept + 32 * kept)) > 0.1,
        "That is a 32-bit position for each. Here: a bit an element.",
    )
    expect(abs(value - 1 / right) > 0.01, "That is what is left, as a share. How many times smaller is it?")
    near(value, right, "Count bits for each element: one to say whether, and a tenth of the time 16 more.")
    return (
        f"Right: {right:.1f}. At a tenth the positions are more than a third of the frame, so they deserve a coder of "
        "their own."
    )


@cache
def _activation() -> torch.Tensor:
    """The activation of the lesson: photographs behind the first pooling of a ResNet-18."""
    torch.manual_seed(0)
    parts = split(load_model("resnet18", num_classes=10), at="maxpool", input_shape=(3, 224, 224))
    return parts.a(data.photos(4, 224)).detach()  # type: ignore[no-any-return]


def _measured(answer: Any) -> Measurement:
    expect(isinstance(answer, str | Chain | Codec) and answer != "", "Give a chain as text, such as 'int8 | zstd(1)'.")
    try:
        return measure(codec(answer), _activation(), repeats=1)
    except SplitEasyError as error:
        raise Hint(f"This is no chain that can be measured: {error}") from error


@exercise(
    "02.2",
    "Find a chain of installed codecs that makes the photographs' activation at least 30 times smaller with a relative "
    "error of at most 0.35.",
)
def _chain(answer: Any) -> str:
    row = _measured(answer)
    found = f"{row.ratio:.1f} times smaller, relative error {row.relative_l2:.2f}"
    small, near_enough = row.ratio >= 30, row.relative_l2 <= 0.35
    expect(small or near_enough, f"{found}: too large and too far off at once. Try another kind of codec first.")
    expect(
        near_enough,
        f"{found}: small enough, but too much is lost. Leaving values out loses what is faint; which codec of the "
        "lesson keeps what is smooth?",
    )
    expect(small, f"{found}: near enough, not small enough. Ask the first codec for less, or add a coarser one.")
    return f"Right: {found}. Maps of photographs are smooth, and a codec that knows it wins. Would it on digits?"


@exercise(
    "02.3",
    "A chain makes messages 10 times smaller, encodes 200 MB/s and decodes 400 MB/s, one after the other. Below which "
    "bandwidth, in Mbit/s, is sending with it faster than without?",
)
def _bandwidth(answer: Any) -> str:
    value, right = number(answer, "a number of Mbit/s"), _break_even(10, 200, 400)
    expect(abs(value - right / 8) > 0.02 * right / 8, "That is in megabytes a second. Bandwidth is given in megabits.")
    expect(abs(value - _break_even(10, 200, float("inf"))) > 10, "The other side has to decode as well.")
    expect(abs(value - _break_even(10, float("inf"), 400)) > 10, "This side has to encode as well.")
    expect(abs(value - _break_even(float("inf"), 200, 400)) > 10, "A tenth is still sent: its time counts too.")
    expect(value not in (200, 1600), "Encoding alone does not decide. Compare the time of both ways for one megabyte.")
    near(value, right, "Write down the seconds of one MB both ways, the bandwidth unknown, and make them equal.")
    return f"Right: {right:.0f} Mbit/s. On a faster link the chain costs more time than it saves."


def _break_even(ratio: float, encode: float, decode: float) -> float:
    """The bandwidth in Mbit/s at which a chain takes as long as none; found by halving."""
    low, high, size = 1e-3, 1e6, 1_000_000
    for _ in range(60):
        middle = (low + high) / 2
        link = Link(up_mbps=middle, down_mbps=middle)
        saved = link.seconds(size, 0) - link.seconds(round(size / ratio), 0)
        low, high = (middle, high) if saved > size / 1e6 * (1 / encode + 1 / decode) else (low, middle)
    return low


@exercise(
    "02.4",
    "halved keeps every second row and column and repeats each kept value in a 2 × 2 square. Write a function of the "
    "gradient of its output, (B, F, R, C) with even R and C, that returns the true gradient of its input.",
)
def _adjoint(answer: Any) -> str:
    expect(callable(answer) and not isinstance(answer, type), "Give a function of one tensor, without calling it.")
    for shape in ((2, 3, 4, 6), (1, 2, 8, 2)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        _stretched(x[..., ::2, ::2]).backward(gradient)  # type: ignore[no-untyped-call]
        found, kept = _called(answer, gradient.clone()), x.grad
        assert kept is not None
        expect(isinstance(found, torch.Tensor), f"Return a tensor; yours returned {type(found).__name__}.")
        expect(
            tuple(found.shape) == shape,
            f"The gradient has the shape of the input, {shape}; yours has {tuple(found.shape)}. Where nothing was "
            "sent, it is zero.",
        )
        square = 4 * avg_pool2d(gradient, 2)
        expect(not _same(found, _stretched(gradient[..., ::2, ::2])), "That is what halved does to the gradient.")
        expect(not _same(found, _stretched(square)), "Three of four inputs were never sent. What is their gradient?")
        expect(not _same(found, kept / 4), "That is the mean over each square. Each of the four counts in full.")
        only = torch.zeros(shape)
        only[..., ::2, ::2] = gradient[..., ::2, ::2]
        expect(not _same(found, only), "A kept value appears in four places of the output. Do all four count?")
        expect(_same(found, kept), "Follow one kept value: which outputs does it reach? And one that was left out?")
    return "Right: the sum over each square, in the place of the value that was kept. It needs no more bytes."


def _stretched(small: torch.Tensor) -> torch.Tensor:
    """Each value in a 2 × 2 square."""
    return small.repeat_interleave(2, -2).repeat_interleave(2, -1)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(torch.allclose(one.detach().to(torch.float32), other, atol=1e-5))


def _called(function: Callable[..., Any], gradient: torch.Tensor) -> Any:
    try:
        return function(gradient)
    except Exception as error:
        raise Hint(f"Your function raised {type(error).__name__}: {error}") from error


EXERCISES: tuple[Exercise, ...] = (_bitmap, _chain, _bandwidth, _adjoint)
