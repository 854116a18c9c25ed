"""Exercises of notebook 04: the gradient across a cut."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from spliteasy import data
from spliteasy.models import load_model
from spliteasy.seeding import preserved
from spliteasy.splitting import split
from spliteasy.teach.exercise import Exercise, Hint, choice, exercise, expect, number
from spliteasy.trainer import Trainer

__all__ = ["EXERCISES"]


class _Spy(nn.Module):
    """A segment that notes whether what enters it has a history."""

    def __init__(self, segment: nn.Module) -> None:
        super().__init__()
        self.segment, self.joined, self.ran = segment, False, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.ran, self.joined = True, self.joined or x.grad_fn is not None
        result: torch.Tensor = self.segment(x)
        return result


@exercise(
    "04.1",
    "Which function f(a, b, c, x, y) gives three segments, cut twice, the gradients of the whole network?",
)
def _three_segments(answer: Any) -> str:
    _callable(answer, "a function f(a, b, c, x, y)")
    with preserved(), torch.enable_grad():
        torch.manual_seed(1)
        x, y = torch.randn(12, 5), torch.randint(0, 3, (12,))
        first, middle = nn.Sequential(nn.Linear(5, 7), nn.Tanh()), nn.Sequential(nn.Linear(7, 6), nn.ReLU())
        segments = [first, middle, nn.Linear(6, 3)]
        F.cross_entropy(nn.Sequential(*segments)(x), y).backward()  # type: ignore[no-untyped-call]
        whole = [[p.grad for p in segment.parameters()] for segment in segments]
        for segment in segments:
            segment.zero_grad()
        spies = dict(zip("abc", map(_Spy, segments), strict=True))
        answer(*spies.values(), x, y)
    for name, spy in spies.items():
        expect(spy.ran, f"Segment {name} did not run. Call a on x, b on what a sent, and c on what b sent.")
        expect(
            name == "a" or not spy.joined,
            f"What entered {name} still knows where it came from; a wire would not carry that. Cut it there.",
        )
    for name, segment in zip("abc", segments, strict=True):
        expect(
            all(p.grad is not None for p in segment.parameters()),
            f"The parameters of {name} have no gradient. Whose gradient must be asked for, and to whose backward() "
            "does it go?",
        )
    for name, segment, right in zip("abc", segments, whole, strict=True):
        for parameter, expected in zip(segment.parameters(), right, strict=True):
            assert parameter.grad is not None and expected is not None
            expect(
                torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-7),
                f"The gradient of {name} is there, but it is not the whole network's. Is the loss "
                "F.cross_entropy(..., y), and does each gradient go back once, as it is, to the tensor that was sent?",
            )
    return "Right: two messages back, and no graph in either. This is what the package's double split does."


@exercise("04.2", "Which function f(c, g) is a loss with an auxiliary label that gives c the gradient g?")
def _auxiliary_loss(answer: Any) -> str:
    _callable(answer, "a function f(c, g)")
    with preserved(), torch.enable_grad():
        torch.manual_seed(2)
        c, g = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.randn(6, 5, dtype=torch.float64)
        loss = answer(c, g)
        expect(
            isinstance(loss, torch.Tensor) and loss.numel() == 1,
            f"Return one number, as a tensor: a sum over all elements. Found {type(loss).__name__}.",
        )
        expect(loss.requires_grad, "The loss does not depend on c for autograd. Which of the two must be held still?")
        loss.backward()
    found = c.grad if c.grad is not None else torch.zeros_like(g)
    expect(
        float(found.abs().max()) > 1e-12,
        "The gradient is 0: the label moves along with c, so their distance never changes. Hold the label still.",
    )
    share = float((found * g).sum() / g.square().sum())
    expect(
        torch.allclose(found, share * g, rtol=1e-6, atol=1e-9),
        "The gradient of c does not point along g. Put the label one g away from c, and square the distance.",
    )
    expect(share > 0, "The gradient of c points against g: the loss would climb. On which side of c is the label?")
    expect(
        share > 0.5,
        f"The gradient of c is g, but {1 / share:.3g} times too small. How many elements has c, and what did you do "
        "with their squares?",
    )
    expect(share < 1.5, f"The gradient of c is {share:.3g} g. Differentiate a square: what comes down in front of it?")
    expect(abs(share - 1) < 1e-6, f"The gradient of c is {share:.6g} g; it should be g. Look at the factor in front.")
    return "Right: minus, a sum, a half, and a label that stands still. Each can be wrong without an error message."


_OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}


def _ways(factor: float) -> dict[str, torch.Tensor]:
    """How far each optimizer has come after ten steps when every gradient is multiplied by a factor."""
    ends = {}
    for name, make in _OPTIMIZERS.items():
        parameter = nn.Parameter(torch.ones(3))
        optimizer = make([parameter])
        for step in range(10):
            parameter.grad = factor * torch.tensor([0.1, 1.0, -2.0]) * (1 + 0.1 * step)
            optimizer.step()
        ends[name] = parameter.detach() - 1
    return ends


@exercise("04.3", "With which of 'SGD', 'SGD with momentum' and 'Adam' do doubled gradients change the training least?")
def _optimizer(answer: Any) -> str:
    found = choice(answer, _OPTIMIZERS)
    once, twice = _ways(1.0), _ways(2.0)
    change = {name: float((twice[name] - once[name]).norm() / once[name].norm()) for name in _OPTIMIZERS}
    right = min(change, key=lambda name: change[name])
    expect(
        found == right,
        f"Ten steps of {found} on doubled gradients go {1 + change[found]:.2g} times as far. Does one of the others "
        "divide the gradient by something that doubles with it?",
    )
    return (
        f"Right: {right} divides by the size of past gradients, so a factor cancels. It also hides the mistake; with "
        "plain SGD it is a doubled learning rate."
    )


@functools.cache
def _errors() -> dict[int, float]:
    """The gradient error of the first step on digits, by the size of the batch."""
    train, _ = data.digits()
    images, labels = train.tensors
    errors = {}
    with preserved():
        for batch in (16, 256):
            torch.manual_seed(0)
            parts = split(load_model("digits_cnn"), at=("pool", "flatten"), input_shape=(1, 8, 8))
            with Trainer(parts, backward="auxiliary-label") as trainer:
                errors[batch] = trainer.step(images[:batch], labels[:batch]).gradient_error
    return errors


@exercise("04.4", "By what factor is the first step's gradient error larger with 256 pictures than with 16?")
def _batch(answer: Any) -> str:
    value = number(answer, "a factor")
    errors = _errors()
    right = errors[256] / errors[16]
    expect(value > 0, "A factor is above 0: the error with 256 pictures by the error with 16.")
    expect(
        abs(value - errors[256]) > 0.1 * errors[256] and abs(value - errors[16]) > 0.1 * errors[16],
        "That is one of the two errors. What is asked for is how many times larger the second one is.",
    )
    expect(value > 1.2, "It grows. Divide the error of the large batch by that of the small one; a mean shrinks g.")
    expect(
        abs(value - math.sqrt(right)) > 0.15 * math.sqrt(right),
        "Not by the root: the mean divides each picture's gradient by the number of pictures itself.",
    )
    expect(
        abs(value - 256) > 1,
        "That is the size of the batch. What is asked for is the error compared with that of 16 pictures.",
    )
    expect(abs(value - right) <= 0.1 * right, "Take a fresh split for each batch, and divide the two gradient_errors.")
    return (
        f"Right, {right:.1f}: the mean makes each gradient 16 times smaller while c stays. Whoever doubles the batch "
        "doubles this error."
    )


def _half_error(g: torch.Tensor, scale: float) -> float:
    """The relative L2 error of half precision with a scale."""
    decoded = (g * scale).half().float() / scale
    return float((decoded - g).norm() / g.norm())


@exercise("04.5", "Which function f(g) returns the power of two with which half precision loses the least of g?")
def _scale(answer: Any) -> str:
    _callable(answer, "a function f(g)")
    with preserved():
        torch.manual_seed(3)
        plain = torch.randn(2000)
        outlier = plain * 1e-6
        outlier[7] = -0.5
        cases = {"of size 1e-7": plain * 1e-7, "of size 0.001": plain * 1e-3, "of size 100,000": plain * 1e5}
        cases |= {"with one large negative element": outlier}
        for what, g in cases.items():
            _examine_scale(number(answer(g.clone()), "a power of two"), g, what)
    return "Right: the largest magnitude just below the top, and a power of two, so that nothing is rounded twice."


def _examine_scale(scale: float, g: torch.Tensor, what: str) -> None:
    largest = float(g.abs().max())
    expect(scale > 0, f"The scale must be above 0; found {scale:g} for gradients {what}.")
    expect(
        math.frexp(scale)[0] == 0.5,
        f"{scale:g} is not a power of two: multiplying by it would round every element once more.",
    )
    expect(
        largest * scale <= 65504,
        f"For gradients {what} something lands beyond 65,504 and becomes infinite. Which element decides, and does its "
        "sign matter?",
    )
    best = min(_half_error(g, 2.0**power) for power in range(-20, 45) if largest * 2.0**power <= 65504)
    typical = float((((g * scale).half().float() / scale - g).abs() / g.abs()).median())
    expect(
        _half_error(g, scale) <= 1.02 * best and typical < 0.001,
        f"For gradients {what} some are still too small for half precision. How far up could the largest be moved?",
    )


def _callable(answer: Any, what: str) -> None:
    if not callable(answer):
        raise Hint(f"Give {what}, its name without brackets; found {answer!r:.80}.")


EXERCISES: tuple[Exercise, ...] = (_three_segments, _auxiliary_loss, _optimizer, _batch, _scale)
