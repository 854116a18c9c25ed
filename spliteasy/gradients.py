"""What a codec does to learning: A's gradients with it and without; and what really crosses the cuts in a step.

Both run a step's forward and backward in this process and leave no trace: parameters, their ``grad``, buffers, modes
and the global generator are as before, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from spliteasy.codecs.base import Codec
from spliteasy.codecs.chain import Chain
from spliteasy.errors import TrainingError
from spliteasy.optimization import Loss, make_loss, scalar_loss
from spliteasy.restoring import untouched
from spliteasy.seeding import StepRandom
from spliteasy.splitting import Split
from spliteasy.trainer import Trainer
from spliteasy.wire import Codecs

__all__ = ["crossing_tensors", "gradient_cosine"]


def gradient_cosine(
    split: Split,
    codecs: Codecs | Chain | Codec | str,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    loss: str | Loss = "cross_entropy",
    seed: int = 0,
) -> float:
    """The cosine of the angle between A's parameter gradients with ``codecs`` and without, on the same batch.

    ``x`` is (batch, *input_shape) with labels ``y``; ``codecs`` are those of a `Trainer`: chains by message, or one
    chain for all. Both gradients come from the first step of a real session in this process, in training mode and with
    the same random numbers; all of A's parameters are taken as one vector, in float64. 1 if the two are equal, 0 if
    exactly one of them is zero. Codecs with memory start without any. Nothing of the split changes.

    Raises `TrainingError` for no split and for a segment A that learns nothing, and what a step raises.
    """
    if not isinstance(split, Split) or split.b is None:
        raise TrainingError("Expected a split at one cut or two, found none. Nothing crosses a network that is whole.")
    names = {id(parameter): name for name, parameter in split.model.named_parameters()}
    own = [names[id(p)] for p in dict.fromkeys(split.a.parameters()) if p.requires_grad]
    if not own:
        raise TrainingError(
            "Expected parameters that learn in segment A, found none: there is no gradient to compare. Cut later, or "
            "thaw some."
        )
    found: list[dict[str, torch.Tensor]] = []
    with untouched(split):
        for chains in (Codecs(), codecs):
            trainer = Trainer(split, codecs=chains, loss=loss, seed=seed)
            gradients = trainer.gradients(x, y)
            found.append({name: gradients[name] for name in own if name in gradients})
    return _cosine(*found)


def crossing_tensors(
    split: Split,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    loss: str | Loss = "cross_entropy",
    seed: int = 0,
    gradients: bool = True,
) -> dict[str, list[torch.Tensor | None]]:
    """The tensors of each message in the first training step on a batch, without codecs: ``activations`` and
    ``input_gradients``, in a double split ``outputs`` and ``output_gradients`` too.

    They are in the order of the slots that cross; a gradient that nothing asks for is None. Without ``gradients`` the
    last segment and the loss are not computed, and only the forward messages are there. Raises `TrainingError` for
    no split, and what the loss raises.
    """
    if split.b is None:
        raise TrainingError("Expected a split at one cut or two, found none. Nothing crosses a network that is whole.")
    criterion, route = make_loss(loss), split.routes[True]
    messages: dict[str, list[torch.Tensor | None]] = {}
    crossed: list[tuple[str, tuple[int, ...], list[torch.Tensor]]] = []
    with untouched(split), torch.enable_grad():
        split.train().check_modes()
        StepRandom(seed, 0)
        value: Any = (x,)
        plan = [("activations", "input_gradients", route.up, route.up)]
        plan += [("outputs", "output_gradients", route.down, route.back)] if split.c is not None else []
        for segment, (message, answer, sent, returned) in zip(split.segments, plan, strict=False):
            boundary = segment.exit[True]
            assert boundary is not None
            tensors, scalars = boundary.pack(segment.run(value))
            messages[message] = [tensors[slot].detach().clone() for slot in sent]
            # Views, since what a later segment does with a tensor that passes through is not part of an earlier
            # message; copies of them, since the next segment may begin in place.
            tensors = [tensor.view_as(tensor) for tensor in tensors]
            crossed.append((answer, returned, tensors))
            value = boundary.unpack([tensor.clone() for tensor in tensors], scalars)
        if not gradients:
            return messages
        total = scalar_loss(criterion(split.segments[-1].run(value)[0], y))
        for answer, returned, tensors in crossed:
            wanted = [slot for slot in returned if tensors[slot].requires_grad]
            given = torch.autograd.grad(total, [tensors[s] for s in wanted], retain_graph=True, allow_unused=True)
            by_slot = dict(zip(wanted, given, strict=True))
            messages[answer] = [by_slot.get(slot) for slot in returned]
    return messages


def _cosine(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Of all tensors as one vector; a missing one is zero."""
    if one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one):
        return 1.0
    largest = [max((float(g.abs().max()) for g in side.values() if g.numel()), default=0.0) for side in (one, other)]
    if not all(largest):
        return 0.0
    dot, squares = 0.0, [0.0, 0.0]
    for name in one.keys() | other.keys():
        pair = [side[name].double().reshape(-1) / most if name in side else None
                for side, most in zip((one, other), largest, strict=True)]  # fmt: skip
        squares = [total + (0.0 if g is None else float(g.dot(g))) for total, g in zip(squares, pair, strict=True)]
        dot += 0.0 if pair[0] is None or pair[1] is None else float(pair[0].dot(pair[1]))
    return dot / math.sqrt(squares[0] * squares[1])
