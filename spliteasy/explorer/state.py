"""The explorer's state: what is chosen, checked before it is taken. No IPython, no widgets: tested and used without."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn
from traitlets import Bool, Enum, HasTraits, Instance, Int, Tuple, Unicode

from spliteasy.cuts import Cut, Cuts
from spliteasy.errors import CutError, ModelError, SplitEasyError
from spliteasy.explorer.best_cut import BestCut, Question
from spliteasy.explorer.budget import Budget, budget
from spliteasy.explorer.choices import DOUBLE, SINGLE, changed_codecs, check_plain, parse_shape, usual_codecs
from spliteasy.explorer.facts import Facts, facts
from spliteasy.explorer.network import Network, blueprint
from spliteasy.explorer.placing import named, nearest, ordered, usual
from spliteasy.explorer.randomness import OwnGenerator
from spliteasy.explorer.skyline import Skyline, skyline
from spliteasy.explorer.training import TrainingPlan
from spliteasy.explorer.trial import SEED, MessageTrial, Trial, TrialPlan
from spliteasy.link import LINKS
from spliteasy.models import input_size_of, load_model
from spliteasy.wire import Codecs

__all__ = ["ExplorerState"]

_KEPT = 8
_TRIAL_MACS, _TRIAL_BYTES, _MOST_PHOTOGRAPHS = 32e9, 24e6, 64
_STEP_MACS = 16e9
_PROFILE_MACS = 8e9
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Wanted:
    """A complete set of choices, on its way to be checked."""

    model: str
    input_shape: tuple[int, ...]
    batch: int
    num_classes: int | None
    mode: str
    first: int
    last: int
    link: str
    codecs: Codecs
    log: bool
    device: str
    every_mode: bool


class ExplorerState(HasTraits):
    """What is chosen. Traits are for reading and observing; `update` is the way to change them, all or none.

    ``first`` and ``last`` are numbers of cuts: a single split cuts at ``first``, a double split at both, so that B runs
    the operations ``first + 1`` to ``last``. ``num_classes`` is 0 for the network's own. A module of your own shows as
    ``"ClassName (yours)"``. ``codecs`` are the chains of the four messages; a single split sends two of them.
    ``device`` and ``every_mode`` (or the chosen one) are what the best cut is asked for.
    """

    model = Unicode(read_only=True)
    input_shape = Tuple(read_only=True)
    batch = Int(32, read_only=True)
    num_classes = Int(0, read_only=True)
    mode = Enum((SINGLE, DOUBLE), SINGLE, read_only=True)
    first = Int(0, read_only=True)
    last = Int(1, read_only=True)
    link = Unicode("lte", read_only=True)
    codecs = Instance(Codecs, (), read_only=True)
    log = Bool(False, read_only=True)
    device = Unicode("10 times slower", read_only=True)
    every_mode = Bool(False, read_only=True)

    def __init__(
        self,
        model: str | nn.Module = "resnet50",
        input_shape: Sequence[int] | None = None,
        batch: int = 32,
        num_classes: int | None = None,
        at: str | Sequence[str] | None = None,
        codecs: Codecs | str | None = None,
    ) -> None:
        super().__init__()
        self._modules: dict[str, nn.Module] = {}
        self._blueprints: OrderedDict[Hashable, nn.Module] = OrderedDict()
        self._networks: OrderedDict[Hashable, Network] = OrderedDict()
        self._trials: dict[Hashable, dict[tuple[str, str], MessageTrial]] = {}
        self._steps: dict[Hashable, Trial] = {}
        self._best: dict[Hashable, BestCut] = {}
        self._lock = threading.Lock()
        self.update(
            model=model,
            input_shape=input_shape,
            batch=batch,
            num_classes=num_classes,
            at=at,
            mode=None,
            codecs=usual_codecs() if codecs is None else codecs,
        )

    def update(
        self,
        *,
        model: str | nn.Module | None = None,
        at: str | Sequence[str] | None = None,
        **changes: Any,
    ) -> None:
        """Change any of the traits together, or nothing at all if one of them cannot be.

        ``model`` is a name, a module, or the name that a module given before is shown by; a new model brings its own
        input shape, unless one is given, and keeps the cut that is nearest. ``at`` names one cut or two. ``codecs`` are
        `Codecs`, ``chain`` is one chain for all messages, ``forward``, ``backward`` and the messages' own names are
        chains for those.
        Raises `ModelError`, `TraceError`, `DataError`, `CutError`, `CodecError` or `TrainingError` (for a link), and
        then everything is as before.
        """
        known = {*_Wanted.__dataclass_fields__} - {"model"}
        changes = changed_codecs(self.codecs, changes)
        for name in changes:
            if name not in known:
                raise TypeError(f"Expected some of model, at, {', '.join(sorted(known))}; found {name!r}.")
        before = self._network if self.model else None
        label = self._label(model) if model is not None else self.model
        modules = {**self._modules, label: model} if isinstance(model, nn.Module) else self._modules
        values = {field: changes.get(field, getattr(self, field)) for field in known}
        values["num_classes"] = self._checked_classes(values["num_classes"], label in modules)
        if changes.get("input_shape") is None and (label != self.model or "input_shape" in changes):
            values["input_shape"] = input_size_of(modules.get(label, label))
        values["input_shape"] = parse_shape(values["input_shape"])
        check_plain(values)
        network = self._traced(label, modules, values["num_classes"], values["input_shape"], values["batch"])
        values.update(self._place(network, before, at, changes, values))
        wanted = _Wanted(model=label, **values)

        self._modules = modules
        with self.hold_trait_notifications():
            for field in _Wanted.__dataclass_fields__:
                if getattr(self, field) != getattr(wanted, field):
                    self.set_trait(field, getattr(wanted, field))

    def holds(self, module: nn.Module) -> bool:
        """Whether the network chosen is this module of your own."""
        return self._modules.get(self.model) is module

    def take_over(self, other: ExplorerState) -> None:
        """Choose what ``other`` has chosen, as far as this network allows."""
        kept = ("link", "codecs", "log", "batch", "device", "every_mode")
        names = [name for name in kept if getattr(self, name) != getattr(other, name)]
        wanted = {name: getattr(other, name) for name in names}
        at = [cut.name for cut in other.chosen]
        for changes in (wanted, {"at": at}):
            with suppress(SplitEasyError):
                self.update(**changes)

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the modules of your own that were given."""
        return tuple(self._modules)

    @property
    def cuts(self) -> Cuts:
        """Every cut of the network."""
        return self._network.cuts

    @property
    def at(self) -> tuple[int, ...]:
        """The chosen cuts by number: one, or two."""
        return (self.first, self.last) if self.mode == DOUBLE else (self.first,)

    @property
    def chosen(self) -> tuple[Cut, ...]:
        """The chosen cuts."""
        return tuple(self.cuts[index] for index in self.at)

    @property
    def classes(self) -> int | None:
        """The width of the network's output, if it is one vector a sample."""
        return self._network.classes

    @property
    def first_private(self) -> int:
        """The first cut at which the input is no longer alive: a double split starts there."""
        return self._network.first_private

    @property
    def can_double(self) -> bool:
        """Whether two cuts exist with an operation between them that keep the input on the device."""
        return self.first_private < len(self.cuts) - 1

    @property
    def facts(self) -> Facts:
        """Shares, messages and seconds of what is chosen."""
        return facts(self._network, self.at, LINKS[self.link])

    @property
    def skyline(self) -> Skyline:
        """The picture of what is chosen."""
        return skyline(self.cuts, self.at, self.model, self.log)

    @property
    def plan(self) -> TrialPlan:
        """What `run_trial` needs to try the chains at the chosen cuts."""
        return TrialPlan(
            network=self._modules.get(self.model, self.model),
            num_classes=self.num_classes or None,
            input_shape=self.input_shape,
            at=tuple(cut.name for cut in self.chosen),
            codecs=self.codecs,
            photographs=self.photographs,
            classes=self.classes,
        )

    @property
    def photographs(self) -> int:
        """How many photographs a trial takes: the batch, or fewer where that would take long; two at least, since
        normalisation in training mode needs them."""
        macs = max(self._network.macs, 1)
        nbytes = max(cut.nbytes for cut in self.chosen) / self.batch
        return max(2, min(self.batch, int(_TRIAL_MACS / macs), int(_TRIAL_BYTES / max(nbytes, 1)), _MOST_PHOTOGRAPHS))

    @property
    def training_plan(self) -> TrainingPlan:
        """What `Training` needs to train a few steps, with a batch that does not take long."""
        plan, most = self.plan, int(_STEP_MACS / max(self._network.macs, 1))
        batch = max(2, min(self.batch, most, _MOST_PHOTOGRAPHS))
        return TrainingPlan(plan.network, plan.num_classes, plan.input_shape, plan.at, plan.codecs, batch, plan.classes)

    @property
    def question(self) -> Question:
        """What `find_best_cut` needs to find the best cut for what is chosen."""
        plan, most = self.plan, int(_PROFILE_MACS / max(self._network.macs, 1))
        question = Question(
            network=plan.network,
            num_classes=plan.num_classes,
            input_shape=plan.input_shape,
            batch=self.batch,
            samples=max(min(self.batch, 2), min(self.batch, most)),
            link=self.link,
            device=self.device,
            modes=(SINGLE, DOUBLE) if self.every_mode and self.can_double else (self.mode,),
            at=plan.at,
            codecs=self.codecs,
        )
        with self._lock:
            known = [found.profile for found in self._best.values() if found.question.timed == question.timed]
        return replace(question, known=known[-1]) if known else question

    @property
    def best_cut(self) -> BestCut | None:
        """The best cut that was found for this network, link, device and mode."""
        asked = self.question.asked
        with self._lock:
            return self._best.get(asked)

    @property
    def budget(self) -> Budget:
        """The seconds of one training step on the link: uncompressed, and with the chains as far as they were
        measured."""
        with self._lock:
            step = self._steps.get(_place_of(self.plan))
            rows = dict(self._trials.get(_place_of(self.plan), {}))
        return budget(self.facts, self.codecs, rows, step)

    @property
    def trials(self) -> tuple[MessageTrial, ...]:
        """What was measured at the chosen cuts, newest last."""
        with self._lock:
            return tuple(self._trials.get(_place_of(self.plan), {}).values())

    def remember(self, trial: Trial) -> None:
        """Keep what was measured; may be called by any thread, and notifies nobody."""
        with self._lock:
            rows = self._trials.setdefault(_place_of(trial.plan), {})
            for row in trial.messages:
                rows.pop((row.message, row.chain), None)
                rows[row.message, row.chain] = row
            self._steps[_place_of(trial.plan)] = trial

    def remember_best(self, found: BestCut) -> None:
        """Keep what was found; may be called by any thread, and notifies nobody."""
        with self._lock:
            self._best.pop(found.question.asked, None)
            self._best[found.question.asked] = found
            while len(self._best) > _KEPT:
                del self._best[next(iter(self._best))]

    @property
    def _network(self) -> Network:
        return self._traced(self.model, self._modules, self.num_classes, self.input_shape, self.batch)

    def _traced(
        self, label: str, modules: dict[str, nn.Module], classes: int, input_shape: tuple[int, ...], batch: int
    ) -> Network:
        """The traced network, from the few used last or anew."""

        def trace() -> Network:
            if label in modules:
                return Network(modules[label], input_shape, batch)
            try:
                empty = _kept(self._blueprints, (label, classes), lambda: blueprint(label, classes or None))
                return Network(empty, input_shape, batch)
            except NotImplementedError:  # an operation whose shape is found by running it, which takes values
                with OwnGenerator(SEED):
                    return Network(load_model(label, num_classes=classes or None), input_shape, batch)

        return _kept(self._networks, (label, id(modules.get(label)), classes, input_shape, batch), trace)

    def _label(self, model: str | nn.Module) -> str:
        """The name that a model is shown by; two different modules of one class get numbers."""
        if isinstance(model, str):
            return model.strip()
        if not isinstance(model, nn.Module):
            raise ModelError(f"Expected the name of a network or an nn.Module, found {model!r}.")
        number = 1
        while True:
            label = f"{type(model).__name__} (yours{f', {number}' if number > 1 else ''})"
            if self._modules.get(label, model) is model:
                return label
            number += 1

    def _checked_classes(self, classes: object, own: bool) -> int:
        if own or classes is None:
            return 0
        if type(classes) is not int or classes < 0:
            raise ModelError(f"Expected a number of classes of 1 or more (0 for the network's own), found {classes!r}.")
        return classes

    def _place(
        self,
        network: Network,
        before: Network | None,
        at: str | Sequence[str] | None,
        changes: dict[str, Any],
        values: dict[str, Any],
    ) -> dict[str, Any]:
        """Mode and cuts on the new network: those asked for, else those that are nearest to where they were."""
        cuts = network.cuts
        mode, first, last = values["mode"], values["first"], values["last"]
        if at is not None:
            two, first, last = named(cuts, at)
            mode = DOUBLE if two else SINGLE
        elif before is None:
            mode, (first, last) = mode or SINGLE, usual(network)
        elif before is not network:
            first, last = (
                value if field in changes else nearest(before.cuts[value], network)
                for field, value in (("first", first), ("last", last))
            )
        if type(first) is not int or type(last) is not int or not (0 <= first < len(cuts) and 0 <= last < len(cuts)):
            raise CutError(f"Expected cuts from 0 to {len(cuts) - 1}, found {first!r} and {last!r}.")
        asked = at is not None or "first" in changes or "last" in changes
        if mode == DOUBLE:
            first, last = ordered(network, first, last, strict=asked)
        elif at is not None:
            last = max(last, first)
        return {"mode": mode, "first": first, "last": last}


def _place_of(plan: TrialPlan) -> Hashable:
    """What a trial depends on, but for the chains."""
    network = plan.network if isinstance(plan.network, str) else id(plan.network)
    return network, plan.num_classes, plan.input_shape, plan.at, plan.photographs


def _kept(cache: OrderedDict[Hashable, _T], key: Hashable, make: Callable[[], _T]) -> _T:
    """The value of ``key``, made if it is not among those used last."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > _KEPT:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]
