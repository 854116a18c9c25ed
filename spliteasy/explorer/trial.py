"""Chains tried on what really crosses the cuts: photographs through one training step, then measured. No widgets."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from spliteasy.calibrating import calibrate
from spliteasy.crossing import crossing_tensors
from spliteasy.errors import SplitEasyError
from spliteasy.explorer.randomness import OwnGenerator
from spliteasy.inputs import photograph_labels, photographs
from spliteasy.measuring import Measurement, measure
from spliteasy.models import load_model
from spliteasy.splitting import Split, split
from spliteasy.trainer import Trainer
from spliteasy.wire import Codecs

__all__ = ["FITTED_ON", "REPEATS", "SEED", "Cancelled", "MessageTrial", "Trial", "TrialPlan", "build", "run_trial"]

SEED = 0
"""Seed of the weights (of a network by name), of the photographs and of what is drawn in the step."""

REPEATS = 3
"""Repeats of each timing."""

FITTED_ON = 2
"""Batches of other photographs that codecs are fitted to, if they are."""

_LARGE = 4e6


class Cancelled(SplitEasyError):
    """What was going on was stopped by `Cancel`."""


@dataclass(frozen=True)
class TrialPlan:
    """What to try: a network (a catalogue name, or a module, of which a copy is used), cuts by name, the chains of the
    messages, and how many photographs to send through. ``classes`` is the width of the output, None if it is no row of
    class scores: then there is no loss, and only the forward messages are tried."""

    network: str | nn.Module
    num_classes: int | None
    input_shape: tuple[int, ...]
    at: tuple[str, ...]
    codecs: Codecs
    photographs: int
    classes: int | None = None


@dataclass(frozen=True)
class MessageTrial:
    """What a chain did to one message, over all its floating tensors.

    Bytes are those of a real step's frame, ``relative_l2`` is the error's norm by the tensors' norm, ``cosine`` that of
    the worst tensor, speeds in 10^6 raw bytes a second.
    """

    message: str
    chain: str
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
    """A plan with what came of it: a row for each message, and the seconds of the step by phase (`runlog.PHASES`), for
    ``plan.photographs`` samples; empty where there is no loss."""

    plan: TrialPlan
    messages: tuple[MessageTrial, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    fitted_bytes: int = 0


def run_trial(
    plan: TrialPlan,
    progress: Callable[[float, str], None] = lambda fraction, doing: None,
    cancel: threading.Event | None = None,
) -> Trial:
    """Run one training step on photographs, measure each message's chain on what crosses, and run it with the chains.

    May run on any thread: the notebook's random generator is not touched, and a module of your own is copied.
    ``progress`` is told the fraction done and what is being done. Setting ``cancel`` stops it between two operations
    and raises `Cancelled`.
    """

    def check() -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled("Cancelled. Nothing was kept.")

    progress(0.02, "building the network")
    with OwnGenerator(SEED, check):
        parts = build(plan.network, plan.num_classes, plan.at, plan.input_shape)
    progress(0.15, "loading photographs")
    images = photographs(plan.input_shape, plan.photographs, SEED)
    labels = photograph_labels(len(images), plan.classes or 1)
    learns = plan.classes is not None
    with OwnGenerator(SEED, check):
        codecs = plan.codecs
        if plan.classes is not None:
            others = _others(plan, plan.classes, progress)
            codecs = calibrate(parts, codecs, others, batches=FITTED_ON, progress=False)
        progress(0.3, f"{len(images)} photographs through the network" + (" and back" if learns else ""))
        crossing = crossing_tensors(parts, images, labels, seed=SEED, gradients=learns)
    floating = {
        name: [tensor for tensor in tensors if tensor is not None and tensor.is_floating_point()]
        for name, tensors in crossing.items()
    }
    total, done = sum(map(len, floating.values())), 0
    measured: dict[str, list[tuple[Measurement, float]]] = {}
    for name, tensors in floating.items():
        for tensor in tensors:
            check()
            chain = codecs.chain(name)
            progress(0.5 + 0.35 * done / max(total, 1), f"{chain!r} on {name}, {done + 1} of {total}")
            # Under the generator's eye every operation asks whether to stop, which tiny tensors would feel in their
            # speeds, and which large ones need.
            if tensor.nbytes > _LARGE:
                with OwnGenerator(SEED, check):
                    row = measure(chain, tensor, repeats=REPEATS, message=name)
            else:
                row = measure(chain, tensor, repeats=REPEATS, message=name)
            measured.setdefault(name, []).append((row, float(tensor.double().norm())))
            done += 1
    check()
    frames, seconds = {name: sum(row.frame_bytes for row, _ in rows) for name, rows in measured.items()}, {}
    if learns:
        progress(0.88, "one training step with the chains")
        with OwnGenerator(SEED, check):
            record = Trainer(parts, codecs=codecs, seed=SEED).step(images, labels)
        frames |= {name: size.frame for name, size in record.bytes.items()}
        seconds = record.seconds
    progress(1.0, "done")
    rows = tuple(
        _summed(name, repr(plan.codecs.chain(name)), frames[name], measured[name])
        for name in crossing
        if name in measured
    )
    return Trial(plan, rows, seconds, codecs.fitted_bytes)


def build(
    network: str | nn.Module, num_classes: int | None, at: tuple[str, ...], input_shape: tuple[int, ...]
) -> Split:
    """The network, or a copy of the module, in segments, ready to train."""
    if isinstance(network, nn.Module):
        model = copy.deepcopy(network).to("cpu")
    else:
        model = load_model(network, num_classes=num_classes)
    return split(model, at=at, input_shape=input_shape).train()


def _others(
    plan: TrialPlan, classes: int, progress: Callable[[float, str], None]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Other photographs to fit codecs to, made when they are asked for: only if there is one to fit."""
    progress(0.2, "fitting codecs to other photographs")
    labels = photograph_labels(plan.photographs, classes)
    for number in range(FITTED_ON):
        yield photographs(plan.input_shape, plan.photographs, SEED + 1 + number), labels


def _summed(message: str, chain: str, frame: int, measured: Sequence[tuple[Measurement, float]]) -> MessageTrial:
    """One row for all tensors of a message: bytes and times add up, squared errors too."""
    rows = [row for row, _ in measured]
    squares = sum(norm**2 for _, norm in measured)
    error = sum((row.relative_l2 * norm) ** 2 for row, norm in measured)
    return MessageTrial(
        message=message,
        chain=chain,
        tensors=len(rows),
        raw_bytes=sum(row.raw_bytes for row in rows),
        frame_bytes=frame,
        relative_l2=(error / squares) ** 0.5 if squares else 0.0,
        cosine=min(row.cosine for row in rows),
        encode_mb_per_s=_speed(rows, "encode_mb_per_s"),
        decode_mb_per_s=_speed(rows, "decode_mb_per_s"),
    )


def _speed(rows: Sequence[Measurement], field: str) -> float:
    """All bytes by all seconds."""
    seconds = sum(row.raw_bytes / getattr(row, field) for row in rows)
    return sum(row.raw_bytes for row in rows) / seconds if seconds else float("inf")
