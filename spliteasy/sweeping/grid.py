"""What a study is to run, checked before anything runs: networks, cuts, chains and seeds, and a digest of each run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from spliteasy.backward import backward_method
from spliteasy.codecs.base import Codec
from spliteasy.codecs.chain import Chain
from spliteasy.errors import CodecError, CutError, ModelError, SplitEasyError, TrainingError
from spliteasy.models import load_model
from spliteasy.optimization import check_optimizer, make_loss
from spliteasy.seeding import preserved
from spliteasy.splitting import Split, split
from spliteasy.sweeping.datasets import Parts
from spliteasy.wire import MESSAGES, Codecs, as_codecs

__all__ = ["RAW", "Builder", "Grid", "Run", "Training", "as_codecs_by_label", "as_cuts", "as_models", "read_codecs"]

RAW = "raw"
"""The label of the uncompressed runs that all others are compared with."""

Builder = Callable[[], nn.Module]
"""Builds a network with fresh weights from torch's global generator."""

AnyChain = Codecs | Chain | Codec | str


@dataclass(frozen=True)
class Training:
    """How every run is trained. ``schedule`` is ``constant`` or ``cosine``: to zero over the epochs, one by one."""

    epochs: int
    batch: int
    optimizer: dict[str, Any]
    schedule: str
    loss: str
    backward: str
    clip_norm: float | None
    threads: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "threads"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise TrainingError(f"Expected {name} as a whole number of 1 or more, found {value!r}.")
        if self.schedule not in ("constant", "cosine"):
            raise TrainingError(f"Expected schedule 'constant' or 'cosine', found {self.schedule!r}.")
        if not isinstance(self.loss, str):
            raise TrainingError(f"Expected loss as a name of torch.nn.functional, found {self.loss!r:.80}.")
        norm = self.clip_norm
        if norm is not None and not (isinstance(norm, (int, float)) and 0 < norm < math.inf):
            raise TrainingError(f"Expected clip_norm as a number above zero, or None; found {norm!r:.80}.")
        check_optimizer(self.optimizer)
        make_loss(self.loss)
        backward_method(self.backward)


@dataclass(frozen=True)
class Run:
    """One point of the grid: a network at its cuts with a labelled set of chains, and the seed of everything random."""

    model: str
    cuts: tuple[str, ...]
    chain: str
    seed: int

    @property
    def cut(self) -> str:
        """The cuts as one text."""
        return ", ".join(self.cuts) or "no split"

    def __str__(self) -> str:
        return f"{self.model} at {self.cut}, {self.chain}, seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """All runs of a study, in the order in which they are taken: seed by seed, so that a study that is cut short has
    compared everything on fewer seeds.

    `settings` is all that decides a run's numbers, as JSON; `digest` is a run's name: the settings that concern it.
    """

    models: Mapping[str, Builder]
    cuts: Sequence[tuple[str, ...]]
    codecs: Mapping[str, Codecs]
    seeds: Sequence[int]
    data: Parts
    training: Training
    frozen: frozenset[str]
    counted: str
    names: Mapping[str, str]

    def __iter__(self) -> Iterator[Run]:
        for seed in self.seeds:
            for model in self.models:
                for cuts in self.cuts:
                    yield from (Run(model, cuts, label, seed) for label in self.codecs)

    def __len__(self) -> int:
        return len(self.seeds) * len(self.models) * len(self.cuts) * len(self.codecs)

    def check(self) -> None:
        """Build and split every network once. Raises the error of what does not fit, naming it, before any run."""
        for name in self.models:
            with preserved():
                model = self.build(name, 0)
            for cuts in self.cuts:
                try:
                    split(model, cuts, self.data.input_shape)
                except SplitEasyError as error:
                    where = f"{name!r} cannot be split at {Run(name, cuts, '', 0).cut!r} for inputs of "
                    raise type(error)(f"{where}{self.data.input_shape} ({self.data.name}): {error}") from error

    def build(self, name: str, seed: int) -> nn.Module:
        """The network with the initial weights of a seed."""
        torch.manual_seed(seed)
        model = self.models[name]()
        if not isinstance(model, nn.Module):
            raise ModelError(f"Expected the builder of {name!r} to return an nn.Module, found {type(model).__name__}.")
        return model

    def split(self, run: Run) -> Split:
        """The network of a run, split; A's parameters frozen where the grid says so."""
        parts = split(self.build(run.model, run.seed), run.cuts, self.data.input_shape)
        if run.chain in self.frozen:
            parts.a.requires_grad_(False)
        return parts

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the numbers, as JSON holds it."""
        return {
            "models": dict(self.names),
            "cuts": [list(cuts) for cuts in self.cuts],
            "chains": {label: self.described(label) for label in self.codecs},
            "seeds": list(self.seeds),
            **self._shared,
        }

    @property
    def _shared(self) -> dict[str, Any]:
        return {
            "data": {"name": self.data.name, "digest": self.data.digest},
            "training": json.loads(json.dumps(asdict(self.training))),
            "counted": self.counted,
        }

    def described(self, label: str) -> dict[str, Any]:
        """What a label stands for."""
        return {**self.codecs[label].to_dict(), "frozen": label in self.frozen}

    def digest(self, run: Run) -> str:
        """128 bits of the SHA-256 of all that decides this run's numbers."""
        own = {"model": self.names[run.model], "cuts": list(run.cuts), "seed": run.seed, **self.described(run.chain)}
        text = json.dumps({**asdict(run), **own, **self._shared}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def as_models(
    given: str | Builder | Sequence[str | Builder] | Mapping[str, str | Builder], classes: int
) -> tuple[dict[str, Builder], dict[str, str]]:
    """Builders by label, and what tells each network from another: its structure.

    Raises `ModelError` for an unknown name, a module that was built already, and labels that come twice.
    """
    if isinstance(given, str) or not isinstance(given, (Mapping, Sequence)):
        given = [given]
    pairs = list(given.items()) if isinstance(given, Mapping) else [(_label(model), model) for model in given]
    labels = [label for label, _ in pairs]
    if not pairs or len(set(labels)) < len(labels):
        raise ModelError(f"Expected different networks, found {labels}. Give a mapping of labels to networks.")
    models: dict[str, Builder] = {}
    names: dict[str, str] = {}
    for label, model in pairs:
        if isinstance(model, nn.Module) or not (isinstance(model, str) or callable(model)):
            raise ModelError(
                f"Expected a name or a function that builds the network, found {type(model).__name__} for {label!r}: "
                "every seed needs fresh weights. Pass lambda: MyNetwork(...) in a mapping."
            )
        models[label] = Named(model, classes) if isinstance(model, str) else model
        with preserved():
            torch.manual_seed(0)
            built = models[label]()
        if not isinstance(built, nn.Module):
            raise ModelError(f"Expected the builder of {label!r} to return an nn.Module, found {type(built).__name__}.")
        names[label] = _structure(built)
    return models, names


@dataclass(frozen=True)
class Named:
    """A builder from a name that `load_model` takes."""

    name: str
    classes: int

    def __call__(self) -> nn.Module:
        return load_model(self.name, num_classes=self.classes)


def as_cuts(given: str | Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
    """Cuts as a list of none, one or two names: from one name, a pair as a tuple, or a list of these.

    ``"pool"`` and ``["pool"]`` are one single split, ``("pool", "flatten")`` one double split, ``["pool", "flatten"]``
    two single splits, ``()`` no split. Raises `CutError` for anything else, and for cuts that come twice.
    """
    several: list[Any] = [given] if isinstance(given, (str, tuple)) else list(given)
    cuts = [(one,) if isinstance(one, str) else tuple(one) for one in several]
    if not cuts or any(len(names) > 2 or not all(isinstance(name, str) for name in names) for names in cuts):
        raise CutError(f"Expected the name of a cut, a pair of names as a tuple, or a list of these; found {given!r}.")
    if len(set(cuts)) < len(cuts):
        raise CutError(f"Expected every cut once, found {cuts}.")
    return cuts


def as_codecs_by_label(given: AnyChain | Sequence[AnyChain] | Mapping[str, AnyChain]) -> dict[str, Codecs]:
    """Chains by label, `RAW` first. A text is its own label.

    Raises `CodecError` for a codec that does not exist, a label that comes twice, or `RAW` for something compressed.
    """
    if isinstance(given, Mapping):
        pairs: list[tuple[str, AnyChain]] = list(given.items())
    else:
        listed = [given] if isinstance(given, (str, Codecs, Chain, Codec)) else list(given)
        pairs = [(_chain_label(chain), chain) for chain in listed]
    codecs = {RAW: Codecs()}
    for label, chain in pairs:
        try:
            found = read_codecs(chain) if isinstance(chain, str) else as_codecs(chain)
        except SplitEasyError as error:
            raise CodecError(f"The chain {label!r} cannot be used: {error}") from error
        if label in codecs and codecs[label] != found:
            raise CodecError(
                f"Expected one set of chains for each label ({RAW!r} is uncompressed), found two for {label!r}."
            )
        codecs[label] = found
    return codecs


def read_codecs(text: str) -> Codecs:
    """Chains from text: one for all messages, or ``forward=pca(32) | int4; input_gradients=fp16``.

    Keys are the four messages, ``forward`` and ``backward``; what is not named travels raw.
    Raises `CodecError`, saying which part cannot be read.
    """
    parts = [part.strip() for part in text.split(";")]
    named = dict(part.split("=", 1) for part in parts if part.split("=", 1)[0].strip().isidentifier() and "=" in part)
    if not named:
        return Codecs(forward=text, backward=text)
    keys = {key.strip(): chain.strip() for key, chain in named.items()}
    unknown = sorted(set(keys) - {*MESSAGES, "forward", "backward"})
    if unknown or len(keys) < len(parts):
        raise CodecError(
            f"cannot read {text!r}: expected each of {', '.join(MESSAGES)}, forward or backward at most once, as in "
            "'forward=fp16; input_gradients=topk(0.1) | fp16'"
        )
    return Codecs(**keys)


def as_seeds(seeds: int | Collection[int]) -> list[int]:
    """Seeds from their number (0, 1, ...) or as given. Raises `TrainingError` for none, or one that comes twice."""
    found = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not found or len(set(found)) < len(found) or not all(type(seed) is int for seed in found):
        raise TrainingError(f"Expected a number of seeds of 1 or more, or different whole numbers; found {seeds!r}.")
    return found


def _label(model: Any) -> str:
    if isinstance(model, str):
        return model
    label = getattr(model, "__name__", type(model).__name__)
    return str(label)


def _chain_label(chain: AnyChain) -> str:
    if isinstance(chain, str):
        return chain
    chains = as_codecs(chain).to_dict()
    if len(set(chains.values())) == 1:
        return chains["activations"]
    return "; ".join(f"{message}={text}" for message, text in chains.items() if text != RAW)


def _structure(model: nn.Module) -> str:
    """A digest of a network's layers, settings and shapes, and of its weights at seed 0."""
    seen = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        seen.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        seen.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return seen.hexdigest()[:32]
