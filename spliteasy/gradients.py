"""What a codec does to learning: A's gradients with it and without."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from spliteasy.codecs.base import Codec
from spliteasy.codecs.chain import Chain
from spliteasy.errors import TrainingError
from spliteasy.optimization import Loss
from spliteasy.restoring import untouched
from spliteasy.splitting import Split
from spliteasy.trainer import Trainer
from spliteasy.wire import Codecs

__all__ = ["gradient_cosine"]


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
