"""The best cut for the explorer's link and device: the network is timed, chains are measured, all cuts compared.
No widgets."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import nn

from spliteasy.errors import CodecError
from spliteasy.explorer.choices import DEVICE_CHOICES, preset_codecs
from spliteasy.explorer.randomness import OwnGenerator
from spliteasy.explorer.trial import SEED, Cancelled
from spliteasy.models import load_model
from spliteasy.planning import Choice, Constraints, Plan, plan, predict_step
from spliteasy.profiling import Profile, profile
from spliteasy.wire import Codecs

__all__ = ["BestCut", "Question", "find_best_cut"]

REPEATS = 3
"""Timed passes of the network."""


@dataclass(frozen=True)
class Question:
    """What to find the best cut of: a network (a catalogue name, or a module, of which a copy is used), a link and a
    device by name (`LINKS`, `DEVICE_CHOICES`), and modes; and what is chosen now, to compare with.

    The network is timed with ``samples`` and its times scaled to ``batch``. ``known`` is its profile where there is one
    already.
    """

    network: str | nn.Module
    num_classes: int | None
    input_shape: tuple[int, ...]
    batch: int
    samples: int
    link: str
    device: str
    modes: tuple[str, ...]
    at: tuple[str, ...]
    codecs: Codecs
    known: Profile | None = field(default=None, compare=False, repr=False)

    @property
    def timed(self) -> Hashable:
        """What the profile depends on."""
        network = self.network if isinstance(self.network, str) else id(self.network)
        return network, self.num_classes, self.input_shape, self.batch, self.samples, torch.get_num_threads()

    @property
    def asked(self) -> Hashable:
        """What the answer depends on, but for the chains and cuts that are chosen now."""
        return self.timed, self.link, self.device, self.modes


@dataclass(frozen=True)
class BestCut:
    """The answer. ``before`` is what was chosen when it was asked, None where its chains must be fitted first, which no
    plan can foresee; ``whole`` the seconds of a step without a split, all on the device."""

    question: Question
    profile: Profile
    plan: Plan
    before: Choice | None
    whole: float

    @property
    def best(self) -> Choice:
        """Cuts, chains and what a step takes."""
        return self.plan.best


def find_best_cut(
    question: Question,
    progress: Callable[[float, str], None] = lambda fraction, doing: None,
    cancel: threading.Event | None = None,
) -> BestCut:
    """Time the network, measure the chains of the presets and those chosen now, and compare all cuts.

    Inputs stay on the device: A has at least the operations after which the input is no longer sent. May run on any
    thread, as `run_trial`: the notebook's random generator is not touched. Every operation asks first whether to stop,
    which makes it some ten microseconds slower; so this profile is not kept on disk for others. Setting ``cancel``
    raises `Cancelled`. Raises what `profile` and `plan` raise.
    """
    measuring = 0.0

    def check() -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled("Cancelled. Nothing was kept.")
        if measuring:
            taken = time.monotonic() - measuring
            progress(0.6 + 0.39 * taken / (taken + 10), f"measuring {len(chains)} sets of chains, {taken:.0f} s")

    def timed(fraction: float) -> None:
        progress(0.05 + 0.5 * fraction, f"timing every operation, with {question.samples} samples")

    with OwnGenerator(SEED, check):
        known = question.known or _profiled(question, progress, timed)
        chains = _chains(question.codecs)
        device, measuring = DEVICE_CHOICES[question.device], time.monotonic()
        found = plan(
            known,
            link=question.link,
            device=device,
            chains=chains,
            modes=question.modes,
            constraints=Constraints(min_operations=_private_operations(known)),
            runners_up=2,
            progress=False,
        )
        before = None
        if _plannable(question.codecs):
            before = predict_step(known, question.at, link=question.link, device=device, chain=question.codecs)
        check()
    return BestCut(question, known, found, before, known.seconds / found.device)


def _profiled(question: Question, progress: Callable[[float, str], None], timed: Callable[[float], object]) -> Profile:
    progress(0.02, "building the network")
    network = question.network
    if isinstance(network, nn.Module):
        model = copy.deepcopy(network).to("cpu")
    else:
        model = load_model(network, num_classes=question.num_classes)
    timed(0.0)
    shape, samples = question.input_shape, question.samples
    found = profile(model, shape, samples, repeats=REPEATS, cache=False, progress=timed)
    return found.at_batch(question.batch)


def _private_operations(known: Profile) -> int:
    """The operations that A needs so that the input itself is not sent; none where it is sent from every cut."""
    cuts = known.cuts
    return known.program.train.position[cuts[known.first_private].name] if known.first_private < len(cuts) else 0


def _chains(chosen: Codecs) -> list[Codecs]:
    """Those of the presets and those chosen now, each once."""
    given = [*preset_codecs().values(), chosen]
    return list({repr(codecs.to_dict()): codecs for codecs in given if _plannable(codecs)}.values())


def _plannable(codecs: Codecs) -> bool:
    """Whether no codec must be fitted first, to tensors of one cut."""
    try:
        codecs.require_fitted(single=False)
    except CodecError:
        return False
    return True
