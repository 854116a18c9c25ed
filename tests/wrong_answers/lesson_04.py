"""Wrong answers to the exercises of notebook 04."""

from __future__ import annotations

import math
from typing import Any

from torch.nn import functional as F


def _no_cut(a: Any, b: Any, c: Any, x: Any, y: Any) -> None:
    F.cross_entropy(c(b(a(x))), y).backward()


def _nothing_back(a: Any, b: Any, c: Any, x: Any, y: Any) -> None:
    F.cross_entropy(c(b(a(x).detach()).detach()), y).backward()


def _not_to_a(a: Any, b: Any, c: Any, x: Any, y: Any) -> None:
    middle = b(a(x).detach())
    received = middle.detach().requires_grad_()
    F.cross_entropy(c(received), y).backward()
    middle.backward(received.grad)


def _back(a: Any, b: Any, c: Any, x: Any, y: Any, factor: float = 1.0, reduction: str = "mean") -> None:
    first = a(x)
    entering_b = first.detach().requires_grad_()
    middle = b(entering_b)
    entering_c = middle.detach().requires_grad_()
    F.cross_entropy(c(entering_c), y, reduction=reduction).backward()
    middle.backward(entering_c.grad)
    first.backward(factor * entering_b.grad)


WRONG: dict[str, list[Any]] = {
    "04.1": [
        _no_cut,
        _nothing_back,
        _not_to_a,
        lambda *given: _back(*given, factor=-1.0),
        lambda *given: _back(*given, reduction="sum"),
        lambda *given: None,
        "sent.backward(g)",
    ],
    "04.2": [
        lambda c, g: ((c + g).detach() - c).square().sum() / 2,
        lambda c, g: ((c - g).detach() - c).square().mean(),
        lambda c, g: ((c - g).detach() - c).square().mean() / 2,
        lambda c, g: ((c - g).detach() - c).square().sum(),
        lambda c, g: ((c - g) - c).square().sum() / 2,
        lambda c, g: (c - g - c.detach()).square() / 2,
        lambda c, g: (c.detach() - g).square().sum(),
        lambda c, g: (c - g).abs().sum(),
    ],
    "04.3": ["SGD", "sgd with momentum", "RMSprop"],
    "04.4": [1.0, 4.0, 1 / 16, 256, -16, 7.3e-4],
    "04.5": [
        lambda g: 65504 / float(g.abs().max()),
        lambda g: 1024.0,
        lambda g: 2.0 ** (15 - math.frexp(float(g.max()))[1]),
        lambda g: 2.0 ** (15 - math.frexp(float(g.abs().mean()))[1]),
        lambda g: 2.0 ** -math.frexp(float(g.abs().max()))[1],
        1024.0,
    ],
}
