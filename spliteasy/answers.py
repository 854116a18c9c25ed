"""What a server says beside the tensors of a message, held against what such an answer must say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spliteasy.errors import FrameError
from spliteasy.seeding import check_generator_state
from spliteasy.wire import Message

__all__ = ["check_answer", "check_score", "stated"]

_PHASES = ("b_forward", "b_backward")
_SECONDS = re.compile(r"\d{5,9}\.\d{6}")


def stated(seconds: Mapping[str, float]) -> dict[str, str]:
    """Seconds as an answer states them: text of one width, so that the size of a frame does not depend on the time that
    it took, and the same run counts the same bytes."""
    return {phase: f"{value:012.6f}" for phase, value in seconds.items()}


def check_answer(answer: Message, *, single: bool, parameters: Sequence[str]) -> None:
    """Raise `FrameError` unless a training step's answer says all that it must, and in the right types.

    ``parameters`` are the names of B's parameters, whose gradient norms may come along.
    """
    seconds = answer.meta.get("seconds")
    if not isinstance(seconds, dict) or not all(
        phase in _PHASES and isinstance(value, str) and _SECONDS.fullmatch(value) for phase, value in seconds.items()
    ):
        raise FrameError(f"Expected the seconds of {_PHASES} with the {answer.name}, found {_brief(seconds)}.")
    if answer.name == "outputs":
        needs = answer.meta.get("needs_gradient")
        bools = isinstance(needs, list) and all(isinstance(needed, bool) for needed in needs)
        if not isinstance(needs, list) or not bools or len(needs) != len(answer.tensors):
            raise FrameError(f"Expected needs_gradient for {len(answer.tensors)} outputs, found {_brief(needs)}.")
        if any(tensor is None for tensor in answer.tensors):
            raise FrameError("Expected every tensor of the outputs, found one missing.")
        if "generator" in answer.plain:
            check_generator_state(answer.plain["generator"])
        return
    key = "loss" if single else "gradient_error"
    if not _is_number(answer.meta.get(key)):
        raise FrameError(f"Expected a finite {key} with the {answer.name}, found {_brief(answer.meta.get(key))}.")
    norms, names = answer.plain.get("norms"), answer.meta.get("norms_of", [])
    known = isinstance(names, list) and set(map(str, names)) <= set(parameters)
    if not known or (norms is not None and (norms.ndim != 1 or len(norms) != len(names))):
        raise FrameError(f"Expected gradient norms of B's parameters, found them for {_brief(names)}.")
    if norms is not None and not bool(torch.isfinite(norms).all()):
        raise FrameError("Expected finite gradient norms, found NaN or infinity.")


def check_score(answer: Message) -> tuple[float, int | None]:
    """Loss and number of right answers of an evaluation in a single split. Raises `FrameError` if they are none."""
    loss, correct = answer.meta.get("loss"), answer.meta.get("correct")
    if not isinstance(loss, (int, float)) or isinstance(loss, bool) or not (correct is None or type(correct) is int):
        raise FrameError(f"Expected a loss and a number of right answers, found {_brief((loss, correct))}.")
    return float(loss), correct


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _brief(value: Any) -> str:
    return f"{value!r:.80}"
