"""Exercises of notebook 07."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from spliteasy import data
from spliteasy.codecs import Chain, TensorCodec
from spliteasy.cuts import Cuts, find_cuts
from spliteasy.errors import CodecError, SplitEasyError
from spliteasy.models import DigitsCNN
from spliteasy.teach.exercise import Exercise, Hint, exercise, expect
from spliteasy.trainer import Trainer
from spliteasy.wire import Bytes

__all__ = ["EXERCISES"]


def _cuts(model: nn.Module, input_shape: tuple[int, ...]) -> Cuts:
    try:
        return find_cuts(model, input_shape)
    except SplitEasyError as error:
        raise Hint(f"Its cuts cannot be listed. {error}") from error


@exercise(
    "07.1",
    "Write an nn.Module for inputs of (3, 32, 32) with a connection that skips something, and with a cut between "
    "layers that have parameters where at most 2,048 bytes a picture cross.",
)
def _network(answer: Any) -> str:
    expect(not isinstance(answer, type), "Give an instance, such as MyNet(), not the class.")
    expect(isinstance(answer, nn.Module), f"Give an nn.Module, found {type(answer).__name__}.")
    cuts = _cuts(answer, (3, 32, 32))
    expect(
        any(len(cut.tensors) > 1 for cut in cuts if cut.params_before),
        "Nothing skips anything: at every cut one tensor crosses. Keep a tensor, and add it again behind a layer.",
    )
    between = [cut for cut in cuts if cut.params_before and cut.params_after]
    expect(between, "No cut has layers with parameters on both sides. Add a layer.")
    narrow = min(between, key=lambda cut: cut.nbytes)
    expect(
        narrow.nbytes <= 2048,
        f"The narrowest cut between its layers is {narrow.name!r} with {narrow.nbytes:,} bytes a picture. Pool more, "
        "or make fewer maps there.",
    )
    return f"Right: {narrow.nbytes:,} bytes a picture cross at {narrow.name!r}; the picture itself is 12,288."


class _Branching(nn.Module):
    """The network of the lesson that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if x.mean() > 0:
            x = torch.relu(x)
        return self.second(x)  # type: ignore[no-any-return]


@exercise(
    "07.2",
    "Write Branching again as a class that computes the same, keeps the layers first and second, and can be cut "
    "between them.",
)
def _branching(answer: Any) -> str:
    found = answer() if isinstance(answer, type) and issubclass(answer, nn.Module) else answer
    expect(isinstance(found, nn.Module), f"Give the class itself, found {type(answer).__name__}.")
    torch.manual_seed(0)
    reference = _Branching()
    try:
        found.load_state_dict(reference.state_dict())
    except RuntimeError as error:
        raise Hint(
            "Keep the layers first = nn.Linear(8, 8) and second = nn.Linear(8, 2), and no other parameters: the "
            "weights of Branching must fit."
        ) from error
    for shift, kind in (
        (3.0, "positive"),
        (-3.0, "negative"),
        (0.2, "small and positive"),
        (-0.2, "small and negative"),
    ):
        reference.first.bias.data.fill_(shift)
        found.load_state_dict(reference.state_dict())
        x = torch.randn(16, 8)
        expect(
            torch.equal(found(x), reference(x)),
            f"Where the mean is {kind}, it computes something else. The condition looks at the mean of the whole "
            "tensor, and the rectifier works on each value.",
        )
    cuts = _cuts(found, (8,))
    expect(
        any(cut.params_before and cut.params_after for cut in cuts),
        "Now the whole network is one operation. Keep first and second outside of what holds the condition.",
    )
    return f"Right: it has {len(cuts)} cuts now. What depends on values must be an operation, not a fork."


@exercise(
    "07.3",
    "Give Log8 an argument: Log8(steps) with so many magnitudes to a factor of two (4 before). Hand in the class. "
    "Other values than whole numbers from 1 to 16 raise CodecError.",
)
def _codec(answer: Any) -> str:
    expect(isinstance(answer, type) and issubclass(answer, TensorCodec), "Give the class, a TensorCodec, no instance.")
    made = {steps: _made(answer, steps) for steps in (1, 4, 8)}
    one, other = made[4], made[8]
    expect(
        one != other and repr(one) != repr(other),
        "Two codecs with different arguments count as equal. Keep the argument as an attribute of its name: self.steps",
    )
    for wrong in (0, -1, 17, "4", True, 2.5):
        try:
            answer(wrong)
        except CodecError:
            continue
        except Exception as error:
            raise Hint(f"For steps={wrong!r} it raised {type(error).__name__}. Raise CodecError.") from error
        raise Hint(f"It takes steps={wrong!r} without a word. Raise CodecError in __init__ for what makes no sense.")
    magnitudes = torch.logspace(0, -3, 97, base=2.0).repeat(2)
    x = torch.where(torch.arange(len(magnitudes)) < 97, magnitudes, -magnitudes)
    for steps, codec in made.items():
        chain = Chain([codec])
        try:
            decoded = chain.decode(chain.encode(x))
        except Exception as error:
            raise Hint(f"Log8({steps}) cannot bring a tensor back: {type(error).__name__}: {error}") from error
        most = float(((decoded - x) / x).abs().max())
        allowed = 2 ** (1 / (2 * steps)) - 1
        expect(
            most <= 1.02 * allowed,
            f"With {steps} steps to a factor of two a value is off by up to {most:.0%}, and {allowed:.0%} is possible. "
            "Encode and decode must both use steps, and round to the nearest.",
        )
        expect(most >= allowed / 3, f"With {steps} steps it is finer than it says: does encode use self.steps?")
    reach = 2 ** (126.5 / 16)
    return f"Right. More steps are finer and reach less far: with 16, all below 1/{reach:.0f} of the largest is zero."


def _made(cls: type[TensorCodec], steps: int) -> TensorCodec:
    try:
        return cls(steps)  # type: ignore[call-arg]
    except Exception as error:
        raise Hint(f"Log8({steps}) cannot be made: {type(error).__name__}: {error}. Add an __init__.") from error


@exercise(
    "07.4",
    "Train a network of your own on the digits in a double split, with at least ten times fewer bytes than raw and at "
    "least 90 % test accuracy. Hand in the trainer.",
)
def _project(answer: Any) -> str:
    expect(isinstance(answer, Trainer), f"Give the se.Trainer that trained it, found {type(answer).__name__}.")
    parts, model = answer.split, answer.split.model
    expect(not isinstance(model, DigitsCNN), "That is the network of this package. Write one of your own.")
    expect(parts.c is not None, "This is no double split, so the server gets the labels. Cut at two places.")
    first = sum(parameter.numel() for parameter in parts.a.parameters())
    expect(first, "Segment A has no parameters: what the server gets can be turned back into the picture. Cut later.")
    expect(len(answer.log), "It has not been trained yet: call trainer.fit(...).")
    total = sum((record.total for record in answer.log), Bytes())
    times = total.raw / total.sent
    accuracy = _accuracy(model)
    found = f"{times:.1f} times fewer bytes, {accuracy:.1%} of the test digits right"
    expect(times >= 10 or accuracy >= 0.9, f"{found}. Start with a chain for each of the four messages.")
    expect(times >= 10, f"{found}. Which of the four messages has the most bytes? trainer.log.summary() says.")
    expect(accuracy >= 0.9, f"{found}. Train longer, or lose less in the message whose error hurts most.")
    return f"Right: {found}. Over five seeds too? se.sweep takes networks by name, yours as 'module:class'."


def _accuracy(model: nn.Module) -> float:
    """The share of test digits that the whole model gets right."""
    images, labels = data.digits()[1].tensors
    training = model.training
    try:
        with torch.no_grad():
            scores = model.eval()(images)
    except Exception as error:
        raise Hint(f"The network cannot be used on the digits, images of (1, 8, 8): {error}") from error
    finally:
        model.train(training)
    return float((scores.argmax(1) == labels).double().mean())


EXERCISES: tuple[Exercise, ...] = (_network, _branching, _codec, _project)
