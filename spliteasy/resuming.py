"""From a trainer to the file of its training and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from spliteasy.checking import check_settings
from spliteasy.connecting import connect
from spliteasy.errors import FrameError, StateError, TrainingError
from spliteasy.four_calls import FourCalls
from spliteasy.link import Link
from spliteasy.optimization import Loss, check_optimizer
from spliteasy.splitting import Split
from spliteasy.training_file import Saved, read_training, write_training
from spliteasy.transport import HTTP, InProcess
from spliteasy.weights import copy_weights
from spliteasy.wire import Codecs

if TYPE_CHECKING:
    from spliteasy.trainer import Trainer

__all__ = ["load_training", "save_training"]


def save_training(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """What `Trainer.save` does."""
    transport = trainer._transport
    session = transport.keep(trainer._finished, trainer._kept) if transport is not None else {}
    here = isinstance(transport, InProcess)
    settings = {
        "cuts": list(trainer.split.cuts),
        "codecs": trainer.codecs.to_dict(),
        "optimizer": trainer.optimizer,
        "seed": trainer.seed,
        "loss": trainer.loss_name if isinstance(trainer.loss_name, str) else None,
        "backward": trainer._backward,
        "clip_norm": trainer.clip_norm,
        "protocol": trainer.protocol,
        "pipeline": trainer.pipeline,
    }
    saved = Saved(
        weights=_weights(trainer, whole=not session),
        optimizer=trainer._updater.state(),
        codecs=trainer._streams.state(),
        b_optimizer=transport.optimizer_state() if transport is not None and here else {},
        b_codecs=transport.codec_state() if transport is not None and here else {},
        commit=trainer._finished,
        learning_rate=trainer.learning_rate,
        settings=settings,
        session=session,
    )
    write_training(path, saved)
    trainer._kept = trainer._finished.step


def load_training(
    trainer: Trainer,
    path: str | os.PathLike[str],
    split: Split,
    server: str | None,
    loss: str | Loss | None,
    link: Link | None,
    timeout: float,
    retry: float,
) -> Trainer:
    """What `Trainer.load` does, with a trainer that is not set up yet."""
    saved = read_training(path)
    settings, session = saved.settings, saved.session
    loss = loss if loss is not None else settings["loss"]
    if loss is None:
        raise TrainingError("Expected the loss of the training, which was a callable: give it as loss=.")
    backward, seed, clip_norm = settings["backward"], settings["seed"], settings["clip_norm"]
    protocol, pipeline = settings["protocol"], settings["pipeline"]
    check_settings(split, server, link, seed, clip_norm, timeout, retry, protocol, pipeline)
    codecs, optimizer = Codecs.from_dict(settings["codecs"]), check_optimizer(settings["optimizer"])
    trainer._transport = None
    trainer._set_up(split, codecs, optimizer, loss, backward, seed, clip_norm, protocol, pipeline)
    _take_weights(saved, _weights(trainer, whole=not session), split.cuts)
    trainer._updater.load_state(saved.optimizer)
    trainer._streams.load_state(saved.codecs)
    trainer.learning_rate, trainer._finished, trainer._kept = saved.learning_rate, saved.commit, saved.commit.step
    if session:
        kind = FourCalls if protocol == "four-call" else HTTP
        trainer._transport = kind.resume(session, saved.commit, url=server, link=link, timeout=timeout, retry=retry)
    elif split.cuts:
        transport = connect(
            split, None, codecs, optimizer,
            loss=loss, backward=backward, seed=seed, norms=clip_norm is not None, link=link, timeout=timeout,
            retry=retry, protocol=protocol, pipeline=pipeline,
        )  # fmt: skip
        assert isinstance(transport, InProcess)
        transport.session.restore(saved.commit.step, saved.b_optimizer, saved.b_codecs)
        trainer._transport = transport
    return trainer


def _weights(trainer: Trainer, whole: bool) -> dict[str, torch.Tensor]:
    """Parameters and buffers by the model's names: the device's, or all of them."""
    model = [*trainer.split.model.named_parameters(), *trainer.split.model.named_buffers()]
    if whole:
        return dict(model)
    segments = [segment for segment in (trainer.split.a, trainer.split.c) if segment is not None]
    own = {id(tensor) for segment in segments for tensor in [*segment.parameters(), *segment.buffers()]}
    return {name: tensor for name, tensor in model if id(tensor) in own}


def _take_weights(saved: Saved, own: Mapping[str, torch.Tensor], cuts: tuple[str, ...]) -> None:
    """Give the network the weights of the file. Raises `StateError` for another network or other cuts; nothing has
    changed then."""
    if saved.settings["cuts"] != list(cuts):
        raise StateError(
            f"Expected a split at {saved.settings['cuts']}, as in the file, found one at {list(cuts)}. Split it so."
        )
    try:
        copy_weights(saved.weights, own)
    except FrameError as error:
        raise StateError(f"Expected the network that was saved, found another: {error}") from error
