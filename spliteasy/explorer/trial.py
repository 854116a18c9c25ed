"""A codec chain tried on what really crosses a cut: photographs through the segments, then measured. No widgets."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from spliteasy.codecs import codec
from spliteasy.data import photos
from spliteasy.errors import DataError, SplitEasyError
from spliteasy.explorer.randomness import OwnGenerator
from spliteasy.measuring import Measurement, measure
from spliteasy.models import load_model
from spliteasy.splitting import split

__all__ = ["REPEATS", "SEED", "Cancelled", "MessageTrial", "Trial", "TrialPlan", "pictures", "run_trial"]

SEED = 0
"""Seed of the weights (of a network by name) and of what is drawn in the forward pass."""

REPEATS = 3
"""Repeats of each timing."""


class Cancelled(SplitEasyError):
    """The trial was stopped by `Cancel`."""


@dataclass(frozen=True)
class TrialPlan:
    """What to try: a network (a catalogue name, or a module, of which a copy is used), cuts by name, a chain, and how
    many photographs to send through."""

    network: str | nn.Module
    num_classes: int | None
    input_shape: tuple[int, ...]
    at: tuple[str, ...]
    chain: str
    photographs: int


@dataclass(frozen=True)
class MessageTrial:
    """What the chain did to one forward message, over all its floating tensors.

    ``relative_l2`` is the error's norm by the tensors' norm, ``cosine`` that of the worst tensor, speeds in 10^6 raw
    bytes a second.
    """

    message: str
    cut: str
    tensors: int
    raw_bytes: int
    frame_bytes: int
    relative_l2: float
    cosine: float
    encode_mb_per_s: float
    decode_mb_per_s: float

    @property
    def ratio(self) -> float:
        """Raw bytes by frame bytes: how many times smaller."""
        return self.raw_bytes / self.frame_bytes


@dataclass(frozen=True)
class Trial:
    """A plan with what came of it: `activations`, and in a double split `outputs`."""

    plan: TrialPlan
    messages: tuple[MessageTrial, ...]


def pictures(input_shape: Sequence[int], count: int) -> torch.Tensor:
    """The photographs of `spliteasy.data.photos` in the shape a network takes: (count, channels, height, width).

    Sides that differ are resized to; for other than three channels the grey picture is repeated. Raises `DataError`
    for a shape that no picture has.
    """
    if len(input_shape) != 3:
        raise DataError(
            f"Expected inputs of (channels, height, width) to measure on photographs, found {tuple(input_shape)}. "
            "Use se.measure(chain, tensor) with a tensor of your own."
        )
    channels, height, width = input_shape
    batch = photos(count, size=max(height, width))
    if height != width:
        batch = interpolate(batch, size=(height, width), mode="bilinear", antialias=True)
    return batch if channels == 3 else batch.mean(dim=1, keepdim=True).repeat(1, channels, 1, 1)


def run_trial(
    plan: TrialPlan,
    progress: Callable[[float, str], None] = lambda fraction, doing: None,
    cancel: threading.Event | None = None,
) -> Trial:
    """Send photographs through segment A (and B, in a double split) in training mode and measure the chain on what
    crosses, tensor by tensor.

    May run on any thread: the notebook's random generator is not touched, and a module of your own is copied.
    ``progress`` is told the fraction done and what is being done. Setting ``cancel`` stops it between two operations
    and raises `Cancelled`.
    """

    def check() -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled("Cancelled. Nothing was kept.")

    chain = codec(plan.chain)
    progress(0.02, "building the network")
    with OwnGenerator(SEED, check):
        if isinstance(plan.network, nn.Module):
            model = copy.deepcopy(plan.network).to("cpu")
        else:
            model = load_model(plan.network, num_classes=plan.num_classes)
    progress(0.15, "loading photographs")
    images = pictures(plan.input_shape, plan.photographs)
    check()
    progress(0.2, "cutting the network")
    parts = split(model, at=plan.at, input_shape=plan.input_shape).train()
    route = parts.routes[True]
    selected = {"activations": route.up, "outputs": route.down}
    crossing: list[tuple[str, str, list[torch.Tensor]]] = []
    value: Any = images
    segments = parts.segments[: len(plan.at)]
    with OwnGenerator(SEED, check), torch.no_grad():
        for place, (message, cut, segment) in enumerate(zip(selected, plan.at, segments, strict=False)):
            progress(0.3 + 0.3 * place / len(segments), f"{len(images)} photographs through segment {segment.letter}")
            boundary = segment.exit[True]
            assert boundary is not None
            value = segment(value)
            values = value if isinstance(value, tuple) and len(boundary.nodes) > 1 else (value,)
            tensors, _ = boundary.pack(values)
            floating = [tensors[slot].clone() for slot in selected[message] if tensors[slot].is_floating_point()]
            crossing.append((message, cut, floating))
    total = sum(len(tensors) for _, _, tensors in crossing)
    results, done = [], 0
    for message, cut, tensors in crossing:
        measured = []
        for tensor in tensors:
            check()
            progress(0.6 + 0.4 * done / max(total, 1), f"{plan.chain} on {message}, {done + 1} of {total}")
            measured.append((measure(chain, tensor, repeats=REPEATS), float(tensor.double().norm())))
            done += 1
        check()
        if measured:
            results.append(_summed(message, cut, measured))
    progress(1.0, "done")
    return Trial(plan, tuple(results))


def _summed(message: str, cut: str, measured: Sequence[tuple[Measurement, float]]) -> MessageTrial:
    """One row for all tensors of a message: bytes and times add up, squared errors too."""
    rows = [row for row, _ in measured]
    raw = sum(row.raw_bytes for row in rows)
    squares = sum(norm**2 for _, norm in measured)
    error = sum((row.relative_l2 * norm) ** 2 for row, norm in measured)
    return MessageTrial(
        message=message,
        cut=cut,
        tensors=len(rows),
        raw_bytes=raw,
        frame_bytes=sum(row.frame_bytes for row in rows),
        relative_l2=(error / squares) ** 0.5 if squares else 0.0,
        cosine=min(row.cosine for row in rows),
        encode_mb_per_s=_speed(rows, "encode_mb_per_s"),
        decode_mb_per_s=_speed(rows, "decode_mb_per_s"),
    )


def _speed(rows: Sequence[Measurement], field: str) -> float:
    """All bytes by all seconds."""
    seconds = sum(row.raw_bytes / getattr(row, field) for row in rows)
    return sum(row.raw_bytes for row in rows) / seconds if seconds else float("inf")
