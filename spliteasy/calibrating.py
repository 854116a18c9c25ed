"""Fit codecs to what really crosses the cuts: some batches through the split, forward and backward, not updating."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice

import torch

from spliteasy.checking import check_batch
from spliteasy.codecs.base import Codec
from spliteasy.codecs.chain import Chain
from spliteasy.codecs.fitted import FittedCodec
from spliteasy.crossing import Tensors, crossing
from spliteasy.errors import DataError, SplitError, TrainingError
from spliteasy.optimization import Loss, make_loss
from spliteasy.restoring import untouched
from spliteasy.splitting import Split
from spliteasy.wire import MESSAGES, Codecs, as_codecs

__all__ = ["calibrate"]

_PAIRS = (("activations", "input_gradients"), ("outputs", "output_gradients"))


def calibrate(
    split: Split,
    codecs: Codecs | Chain | Codec | str,
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    *,
    loss: str | Loss = "cross_entropy",
    batches: int = 8,
    progress: bool = True,
) -> Codecs:
    """``codecs`` with every codec fitted that is still to be fitted, such as ``pca(32)``, for `Trainer` to use.

    The first ``batches`` batches of inputs and labels of ``loader`` run through the split in this process, in train
    mode, forward and backward with ``loss``, drawing the random numbers of steps 0, 1, … under seed 0. Nothing is
    updated: parameters, gradients, buffers, modes and the random generator are afterwards what they were, to the bit.
    Every message's chain is fitted to that message's tensors, each tensor of a forward message together with its
    gradient. A codec that stands unfitted and equal at the same place of a message's chain and of its gradient's
    (activations and input_gradients, outputs and output_gradients) is fitted once, to the forward message, and shared:
    it is shipped once, and the gradient goes back through the same map. Chains of messages that a single split does
    not send stay as they are.

    Takes memory for these messages uncompressed. Raises `SplitError` for a network that is not cut, `DataError` for
    batches that do not fit or that there are none of, `CodecError` if they do not suffice for a codec.
    """
    chains = as_codecs(codecs)
    if type(batches) is not int or batches < 1:
        raise TrainingError(f"Expected batches of 1 or more, found {batches!r}.")
    if not split.cuts:
        raise SplitError("Expected a split with cuts, found a network in one piece, where nothing is sent. Cut it.")
    wanted = [pair for pair in _PAIRS[: len(split.cuts)] if any(chains.chain(message).unfitted for message in pair)]
    if not wanted:
        return chains
    seen = _observed(split, loader, loss, batches, {message for pair in wanted for message in pair}, progress)
    fitted = {message: chains.chain(message) for message in MESSAGES}
    for forward, backward in wanted:
        there, back = _complete(seen[forward], seen[backward])
        shared = fitted[forward].fit(there, forward, back)
        own = _sharing(fitted[backward], fitted[forward], shared)
        gradients = [gradient for gradient in seen[backward] if gradient is not None]
        fitted[forward], fitted[backward] = shared, own.fit(gradients, backward) if own.unfitted else own
    return Codecs(**fitted)


def _sharing(chain: Chain, unfitted: Chain, fitted: Chain) -> Chain:
    """``chain`` with the codecs of ``fitted`` where ``unfitted`` had the same one at the same place."""
    stages = list(chain.codecs)
    for place, (own, before, after) in enumerate(zip(chain.codecs, unfitted.codecs, fitted.codecs, strict=False)):
        if isinstance(own, FittedCodec) and own == before:
            stages[place] = after
    return Chain(stages)


def _complete(tensors: Tensors, gradients: Tensors) -> tuple[list[torch.Tensor], Tensors]:
    """What a message's codec will meet, and the gradients of that. A gradient that belongs to no tensor of the message
    goes through the same codec, so it stands for itself."""
    pairs = [(gradient if t is None else t, gradient) for t, gradient in zip(tensors, gradients, strict=True)]
    return [t for t, _ in pairs if t is not None], [gradient for t, gradient in pairs if t is not None]


def _observed(
    split: Split,
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
    loss: str | Loss,
    batches: int,
    wanted: set[str],
    progress: bool,
) -> dict[str, Tensors]:
    """The tensors of the wanted messages, by message, batch after batch, a message's beside its gradient's."""
    from tqdm.auto import tqdm

    function = make_loss(loss)
    seen: dict[str, Tensors] = {message: [] for message in wanted}
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=batches, desc="calibrate", unit="batch", disable=not progress))
        for context in (untouched(split), torch.enable_grad()):
            stack.enter_context(context)
        if not (split.model.training and split.a.training):
            split.train()
        split.check_modes()
        for step, batch in enumerate(islice(loader, batches)):
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise DataError(f"Expected batches as pairs of inputs and labels, found {type(batch).__name__}.")
            check_batch(split, loss, *batch)
            for message, tensors in _paired(split, crossing(split, *batch, function, 0, step)).items():
                if message in wanted:
                    seen[message] += [None if tensor is None else tensor.detach().clone() for tensor in tensors]
            for parameter in split.model.parameters():
                parameter.grad = None
            bar.update()
        bar.total = bar.n
    if not any(seen.values()):
        raise DataError("Expected batches to calibrate with, found none: the loader is empty, or was used up.")
    return seen


def _paired(split: Split, messages: dict[str, Tensors]) -> dict[str, Tensors]:
    """``messages``, a gradient beside each tensor that it belongs to: C's gradients of what A keeps for it come back
    too, and belong to no tensor that B sends."""
    if "outputs" not in messages:
        return messages
    return {**messages, "outputs": [*messages["outputs"], *(None for _ in split.routes[True].shared)]}
