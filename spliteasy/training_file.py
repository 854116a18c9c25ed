"""A training in a file: what the device has to know to go on, in another process or after a day in a pocket.

The device's parameters, its optimizer's and codecs' state and the settings are in the file; B stays where it is. A
server that keeps states keeps the one that belongs to the file (and only its device has the token, so the file is
readable by its owner alone); without a server, B is in the file too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spliteasy.codecs import container
from spliteasy.codecs.state import flatten, unflatten
from spliteasy.errors import FrameError, SplitEasyError, StateError
from spliteasy.replacing import replacing
from spliteasy.server.session import Commit
from spliteasy.weights import flatten_state, load_tensors, save_tensors, unflatten_state

__all__ = ["Saved", "read_training", "write_training"]

_FORMAT = "spliteasy-training/1"
_PARTS = ("model", "optimizer", "codecs", "b_optimizer", "b_codecs")


@dataclass(frozen=True)
class Saved:
    """What is in such a file: tensors and states by their part, the last finished step, settings, and the session."""

    weights: Mapping[str, torch.Tensor]
    optimizer: dict[str, dict[str, Any]]
    codecs: dict[str, dict[str, Any]]
    b_optimizer: dict[str, dict[str, Any]]
    b_codecs: dict[str, dict[str, Any]]
    commit: Commit
    learning_rate: float
    settings: dict[str, Any]
    session: dict[str, Any]


def write_training(path: str | os.PathLike[str], saved: Saved) -> None:
    """Put the file in place in one piece. Raises `StateError` if it cannot be written; an older one is still whole."""
    tensors = {f"model/{name}": tensor for name, tensor in saved.weights.items()}
    about: dict[str, Any] = {
        "commit": saved.commit.to_dict(),
        "learning_rate": saved.learning_rate,
        "settings": saved.settings,
        "session": saved.session,
    }
    for part, flat in {
        "optimizer": flatten_state(saved.optimizer),
        "codecs": flatten(saved.codecs),
        "b_optimizer": flatten_state(saved.b_optimizer),
        "b_codecs": flatten(saved.b_codecs),
    }.items():
        tensors |= {f"{part}/{name}": tensor for name, tensor in flat[0].items()}
        about[part] = flat[1]
    place = Path(path)
    try:
        with replacing(place) as file:
            os.chmod(file.name, 0o600)
            file.write(save_tensors(tensors, {"format": _FORMAT, "training": json.dumps(about)}))
    except OSError as error:
        raise StateError(
            f"Expected to write the training to {place}, found that it cannot be ({error}). Nothing is lost: name "
            "another place, or free space, and save again."
        ) from error


def read_training(path: str | os.PathLike[str]) -> Saved:
    """The inverse of `write_training`. Raises `StateError` for a file that is none."""
    try:
        data = Path(path).read_bytes()
        metadata = container.read(data)[1]
        if metadata.get("format") != _FORMAT:
            raise FrameError(f"Expected the format {_FORMAT}, found {metadata.get('format')!r}.")
        about: dict[str, Any] = json.loads(metadata["training"])
        parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in _PARTS}
        for name, tensor in load_tensors(data).items():
            part, _, inner = name.partition("/")
            parts[part][inner] = tensor
        return Saved(
            parts["model"],
            unflatten_state(parts["optimizer"], about["optimizer"]),
            unflatten(parts["codecs"], about["codecs"]),
            unflatten_state(parts["b_optimizer"], about["b_optimizer"]),
            unflatten(parts["b_codecs"], about["b_codecs"]),
            Commit.of(about["commit"]),
            float(about["learning_rate"]),
            dict(about["settings"]),
            dict(about["session"]),
        )
    except (OSError, SplitEasyError, ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"Expected a training saved by Trainer.save in {os.fspath(path)}, found something else ({error})."
        ) from error
