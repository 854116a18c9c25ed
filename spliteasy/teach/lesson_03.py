"""Exercises of notebook 03: what crosses the wire."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from spliteasy.calls import call_bytes, call_frame
from spliteasy.codecs import codec, container
from spliteasy.cuts import Cuts, find_cuts
from spliteasy.link import LINKS
from spliteasy.models import load_model
from spliteasy.teach.exercise import Exercise, Hint, exercise, expect, near, number
from spliteasy.wire import Codecs, Message, Streams

__all__ = ["EXERCISES"]

_ADDRESS = "127.0.0.1:40000"  # a port of five digits, as a recorder gets one


@cache
def _cuts(batch: int) -> Cuts:
    return find_cuts(load_model("digits_cnn"), input_shape=(1, 8, 8), batch=batch)


@exercise(
    "03.1", "How many bytes do the tensors of the four messages of one step take, cut at relu1 and relu3, batch 48?"
)
def _four_messages(answer: Any) -> str:
    once = _cuts(48)["relu1"].nbytes + _cuts(48)["relu3"].nbytes
    right, found = 2 * once, number(answer, "a number of bytes")
    mistakes = {
        right / 4: "That is how many values there are. How many bytes has each?",
        right / 8: "These are values, and of two messages only. Each value has four bytes; and what comes back?",
        once: "Two messages go forward. What comes back through each cut?",
        right / 48: "That is for one sample. All 48 of the batch cross.",
        right * 32 / 48: "That is for a batch of 32.",
        2 * (_cuts(48)["pool"].nbytes + _cuts(48)["flatten"].nbytes): "Those are the cuts of the recording. Here they "
        "are relu1 and relu3.",
        once / 2: "One message through one cut. There are two cuts, and each is crossed forward and back.",
    }
    for mistake, hint in mistakes.items():
        expect(abs(found - mistake) > 0.01 * mistake or abs(found - right) < 0.01 * right, hint)
    near(found, right, "Take B·R·C·F at each of the two cuts, four bytes a value, once forward and once back.")
    return "Each cut is crossed twice. The answer does not depend on what B does in between."


def _called(function: Any, argument: bytes, what: str) -> Any:
    """What a student's function returns. Raises `Hint` if it is none, or fails."""
    expect(callable(function), f"Give a function that takes the bytes of a frame; found {function!r:.80}.")
    try:
        return function(argument)
    except Exception as error:
        raise Hint(f"On {what} your function raised {type(error).__name__}: {error!s:.120}.") from None


@cache
def _frames() -> dict[str, bytes]:
    """Frames to read, by chain."""
    tensor = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(3)).relu()
    notations = ("raw", "int8", "topk(0.1) | fp16", "topk(0.2) | fp16 | zstd(1)")
    return {chain: bytes(call_frame(codec(chain), tensor, "activations")) for chain in notations}


@exercise("03.2", "Write a function that takes the bytes of a frame and returns the bytes of each plane, by name.")
def _planes(answer: Any) -> str:
    for chain, frame in _frames().items():
        planes = container.read(frame)[0]
        right = {name: plane.numel() * plane.dtype.itemsize for name, plane in planes.items()}
        found = _called(answer, frame, f"a frame of the chain {chain}")
        expect(isinstance(found, dict), f"Return a dict, name of plane to bytes; your function returned {found!r:.80}.")
        expect("__metadata__" not in found, "`__metadata__` is what the frame says about itself. It is no plane.")
        expect(
            found.keys() == right.keys(),
            f"A frame of the chain {chain} has {len(right)} planes; your function found {sorted(map(str, found))}.",
        )
        values = {name: plane.numel() for name, plane in planes.items()}
        expect(
            found == right or found != values,
            "These are numbers of values. The header states where each plane begins and ends, in bytes.",
        )
        expect(
            found == right,
            f"The names are right. For a frame of the chain {chain} a size is not: look at both of the `data_offsets`.",
        )
    return "Any program can read what crosses the wire. So can anyone in between, unless the link is encrypted."


def _surplus(batch: int, *, head: bool = True) -> float:
    """The surplus of the activations at `pool`, as a share of the values."""
    tensor = torch.zeros(batch, *_cuts(1)["pool"].tensors[0].shape[1:])
    frame = call_frame(codec("raw"), tensor, "activations")
    sent = call_bytes(frame, "activations", _ADDRESS) if head else frame.nbytes
    return sent / frame.raw - 1


def _first(share: float, *, head: bool = True) -> int:
    return next(batch for batch in range(1, 1000) if _surplus(batch, head=head) <= share)


@exercise("03.3", "From which batch on is the surplus of the activations at pool at most one per cent of the values?")
def _one_per_cent(answer: Any) -> str:
    found, right = number(answer, "a number of samples"), _first(0.01)
    expect(
        abs(found - _first(0.01, head=False)) > 1,
        "That is where the frame's header alone is one per cent. What else passes the socket before the values?",
    )
    expect(found < 4 * right, "With so many samples it is far below one per cent: one in a hundred.")
    expect(
        found >= right - 1.5,
        "With so few samples the surplus is still more than one per cent. It hardly changes "
        "with the batch; by how much do the values grow for each sample?",
    )
    expect(
        found <= right + 1.5,
        "At that batch the surplus is below one per cent, but it was so before. From which batch on?",
    )
    return "A fixed surplus divided by B·R·C·F. For a ResNet it is below a thousandth with a single picture."


def _labelled(chain: str, labels: list[int], dtype: torch.dtype = torch.float32) -> bytes:
    """An activations frame of a single split."""
    tensor = torch.rand(len(labels), 3, 4, generator=torch.Generator().manual_seed(len(labels))).to(dtype)
    plain = {"labels": torch.tensor(labels)}
    return bytes(Streams(Codecs(activations=chain), seed=0).encode(Message("activations", [tensor], plain=plain), 0))


@exercise("03.4", "Write a function that takes the bytes of a single split's activations and returns the labels.")
def _labels(answer: Any) -> str:
    cases: list[tuple[str, str, list[int], torch.dtype]] = [
        ("a frame of the chain raw", "raw", [3, 1, 4, 1, 5, 9, 2, 6], torch.float32),
        ("a frame of the chain topk(0.5) | fp16", "topk(0.5) | fp16", [7, 0, 300, 2, 9], torch.float32),
        ("a frame whose values are float64", "raw", [8, 8, 0, 5], torch.float64),
    ]
    for what, chain, right, dtype in cases:
        found = _listed(_called(answer, _labelled(chain, right, dtype), what))
        expect(found is not None, f"Return a list of whole numbers; on {what} your function did not.")
        assert found is not None
        expect(
            len(found) != 2 * len(right),
            "That is twice as many numbers as there are samples. How many bytes does an `I64` have?",
        )
        expect(len(found) == len(right), f"On {what} there are {len(right)} samples; your function found {len(found)}.")
        expect(
            found == right,
            f"On {what} these are not the labels. Do you count `data_offsets` from the end of the "
            "header, and do you look up where the plane is?",
        )
    return "No guessing needed: in a single split the server is told. That is what C on the device avoids."


def _listed(found: Any) -> list[int] | None:
    found = found.tolist() if callable(getattr(found, "tolist", None)) and not isinstance(found, type) else found
    if not isinstance(found, list | tuple) or any(isinstance(item, bool) for item in found):
        return None
    try:
        whole = [int(item) for item in found]
    except (TypeError, ValueError, OverflowError):
        return None
    return whole if all(whole[place] == item for place, item in enumerate(found)) else None


@exercise(
    "03.5", "How many bytes could the device send up on LINKS['lte'] in the time that two calls save against four?"
)
def _break_even(answer: Any) -> str:
    link, found = LINKS["lte"], number(answer, "a number of bytes")
    seconds = link.seconds(0, 0, calls=4) - link.seconds(0, 0, calls=2)
    right = seconds / link.seconds(1, 0, calls=0)
    mistakes = {
        8 * right: "That many bits. A byte has eight of them.",
        right / 1e6: "That is in megabytes. Give bytes.",
        right / 2: "That is one round trip. How many does a step save?",
        2 * right: "That is what four calls wait. The question is what two calls save against four.",
        1000 * right: "A round trip is given in milliseconds, the bandwidth for a second.",
        8 * right / 1e6: "These are megabits. Give bytes.",
    }
    for mistake, hint in mistakes.items():
        expect(abs(found - mistake) > 0.02 * mistake, hint)
    near(found, right, "How many seconds are two round trips on this link? How many bits pass in that time?")
    return "A step with messages much smaller than this mostly waits; one with much larger messages mostly sends."


EXERCISES: tuple[Exercise, ...] = (_four_messages, _planes, _one_per_cent, _labels, _break_even)
"""In the order in which the notebook asks them."""
