"""A step in micro-batches, so that device, link and server work at once.

Batches are divided as GPipe divides them (arXiv:1811.06965).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from spliteasy.exchange import Asked
from spliteasy.heads import phase_of
from spliteasy.micro_batch import MicroBatch
from spliteasy.parts import GradientSum
from spliteasy.runlog import Stopwatch
from spliteasy.transport import Transport
from spliteasy.wire import Message

__all__ = ["divided", "run_pipelined"]


def divided(x: torch.Tensor, y: torch.Tensor, most: int) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
    """A batch in at most so many micro-batches of nearly equal size, each with its share of the samples. Labels that
    are not by sample belong to every one."""
    count = min(most, len(x))
    labels = y.tensor_split(count) if y.ndim else [y] * count
    return [(part, label, len(part) / len(x)) for part, label in zip(x.tensor_split(count), labels, strict=True)]


def run_pipelined(
    parts: Sequence[MicroBatch], transport: Transport, step: int, parameters: Mapping[str, nn.Parameter]
) -> Message:
    """Forward and backward of all micro-batches of ``step``; the last answer. ``parameters`` are the device's, which
    hold the sums of their gradients then.

    The device goes on with the first answer that is there, and with A's forward of the next micro-batch while none is
    and the link has nothing else to carry: output gradients would wait behind activations, and the way down stay empty.
    What it computes for a micro-batch does not depend on when: answers come in the order of the calls.
    """
    total, of_c = GradientSum(parameters), deque[dict[str, torch.Tensor]]()
    under_way: deque[tuple[int, bool, Asked]] = deque()
    single, started, reply, seconds = parts[0].split.c is None, 0, Message("", []), 0.0

    def begin(part: int, forward: bool, asked: Asked) -> None:
        under_way.append((part, single or not forward, asked))
        transport.begin(step, phase_of("forward" if forward else "backward", part), asked.frame)

    while started < len(parts) or under_way:
        waiting = Stopwatch()
        may_start = started < len(parts) and transport.is_free
        found = transport.answered(wait=not may_start) if under_way else None
        seconds += waiting.finish()["total"]
        if found is None:
            if not may_start:
                continue
            begin(started, True, parts[started].start())
            started += 1
            continue
        number, last, asked = under_way.popleft()
        part = parts[number]
        reply = part.exchange.understood(asked, found, seconds)
        seconds = 0.0
        if not last:
            gradients = part.turn(reply)
            of_c.append(total.take())
            begin(number, False, gradients)
            continue
        total.put(of_c.popleft() if not single else {})
        part.end(reply)
        total.add(total.take())
    total.finish()
    return reply
