"""The explorer's widgets at work. Only this file and `view_controls`, which makes the controls, know ipywidgets;
what is shown is made elsewhere, as strings.

Two rules of front ends shape this file. What a callback raises or prints is swallowed, so every callback catches
everything and shows it. And a widget's messages follow the thread that wrote to it last, so the working thread
writes to nothing but HTML widgets, and never to a control that must answer while a cell runs; where its work ends with
moving a control, it asks the thread of the callback that started it (`working.home`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as widgets

from spliteasy.explorer.advice import best_cut_html
from spliteasy.explorer.best_cut import BestCut, find_best_cut
from spliteasy.explorer.choices import DOUBLE
from spliteasy.explorer.live import training_html
from spliteasy.explorer.notices import code, progress_bar, status, told
from spliteasy.explorer.render import bars_html, foot_html
from spliteasy.explorer.saving import save_picture
from spliteasy.explorer.snippet import snippet
from spliteasy.explorer.state import ExplorerState
from spliteasy.explorer.style import CONTROLS, STYLE
from spliteasy.explorer.tables import facts_html, trials_html
from spliteasy.explorer.timeline import budget_html
from spliteasy.explorer.training import Training
from spliteasy.explorer.trial import Cancelled, TrialPlan, run_trial
from spliteasy.explorer.view_controls import CUSTOM, Controls, all_widgets, row
from spliteasy.explorer.working import Worker, home
from spliteasy.link import LINKS
from spliteasy.runlog import StepRecord

__all__ = ["View"]

_CANCELLED = "Cancelled. Nothing more is kept or shown."
_BUSY = "Still at work; press Cancel to stop it."


class View(Controls):
    """The widgets of one explorer and what they do to its state."""

    def __init__(self, state: ExplorerState) -> None:
        self.state = state
        self._showing = False
        self._shown: dict[str, Any] = {}
        self._code_shown = False
        self._announced = False
        self._turn = threading.RLock()  # callbacks may come from two threads: a cell's, and the front end's
        self._worker = Worker()
        super().__init__()
        self.problem = widgets.HTML()
        self.bars, self.foot, self.facts, self.budget = (widgets.HTML() for _ in range(4))
        self.advice, self.trials, self.training, self.told = (widgets.HTML() for _ in range(4))
        left = widgets.VBox([self.bars, self.one, self.two, self.foot]).add_class("se-left-side")
        self.box = widgets.VBox(
            [
                widgets.HTML(f"<style>{STYLE}{CONTROLS}</style>"),
                row(self.model, self.input_shape, self.batch, self.num_classes),
                row(self.mode, self.link, self.log),
                self.problem,
                row(left, self.facts.add_class("se-right-side")).add_class("se-sides"),
                row(*(widgets.HBox(place) for place in self.places)),
                self.preset,
                widgets.Box(list(self.chains.values())).add_class("se-chains"),
                self.budget,
                row(self.find, self.device, self.every),
                row(self.measure, self.train, self.stop, self.progress),
                self.advice,
                self.trials,
                self.training,
                row(self.save, self.show),
                self.told,
            ]
        )
        self.box.add_class("spliteasy-explorer")
        self._connect()
        state.observe(self._on_state)
        self._show()

    def close(self) -> None:
        """Stop the worker, forget the state, and close every widget with its layout and style."""
        self._worker.cancel()
        self.state.unobserve(self._on_state)
        for widget in all_widgets(self.box):
            for part in (widget, getattr(widget, "layout", None), getattr(widget, "style", None)):
                if part is not None:
                    part.close()

    def show_trials(self) -> None:
        """Show what was measured at the chosen cuts; called by the worker too."""
        state, facts = self.state, self.state.facts
        self.budget.value = budget_html(state.budget, facts, state.codecs)
        self.trials.value = trials_html(state.trials, facts, state.codecs, state.photographs)

    def _connect(self) -> None:
        """Each control changes its part of the state. Words and numbers that cannot be stay as typed, with a message;
        the others go back."""
        changes: tuple[tuple[Any, Callable[[Any], dict[str, Any]]], ...] = (
            (self.model, lambda value: {"model": value}),
            (self.input_shape, lambda value: {"input_shape": value}),
            (self.batch, lambda value: {"batch": value}),
            (self.num_classes, self._classes),
            *((chain, partial(_chain, message)) for message, chain in self.chains.items()),
            (self.preset, lambda value: {} if value == CUSTOM else {"codecs": self._presets[value]}),
            (self.mode, lambda value: {"mode": value}),
            (self.link, lambda value: {"link": value}),
            (self.log, lambda value: {"log": value}),
            (self.device, lambda value: {"device": value}),
            (self.every, lambda value: {"every_mode": value}),
            (self.one, lambda value: {"first": value}),
            (self.two, self._dragged),
            (self.places[0][0], lambda value: self._moved("first", value)),
            (self.places[1][0], lambda value: self._moved("last", value)),
            (self.places[0][1], lambda value: self._moved("first", self.state.cuts[value].index)),
            (self.places[1][1], lambda value: self._moved("last", self.state.cuts[value].index)),
        )
        for control, change in changes:
            control.observe(self._handler(change), "value")
        self.find.on_click(self._guarded(lambda button: self._start_finding()))
        self.measure.on_click(self._guarded(lambda button: self._start_measuring()))
        self.train.on_click(self._guarded(lambda button: self._start_training()))
        self.stop.on_click(self._guarded(lambda button: self._stop()))
        self.save.on_click(self._guarded(lambda button: self._save()))
        self.show.on_click(self._guarded(lambda button: self._toggle_code()))

    def _handler(self, change: Callable[[Any], dict[str, Any]]) -> Callable[[Any], None]:
        def handle(event: Any) -> None:
            if self._showing:
                return
            before, changes = self.state.trait_values(), change(event["new"])
            self.problem.value = ""
            if changes:
                self.state.update(**changes)
                if self.state.trait_values() == before:
                    self._show(words=False)  # a handle that was dragged too far goes back

        return self._guarded(handle)

    def _guarded(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        """A callback of a front end: ``function``, with whatever it raises shown in the view."""

        def call(argument: Any) -> None:
            with self._turn:
                self._safely(partial(function, argument))
                self._announce()

        return call

    def _safely(self, function: Callable[[], None]) -> None:
        """Show what ``function`` raises, and put the controls back at the last good state."""
        try:
            function()
        except Exception as error:
            self.problem.value = told(error)
            self._show(words=False)

    def _announce(self) -> None:
        """Once, from the first callback: a kernel takes a widget's messages on the shell that wrote to it last. That is
        the cell that made it, and waits while cells run; the shell of callbacks does not."""
        if not self._announced and not self._showing:
            self._announced = True
            for widget in all_widgets(self.box):
                widget.send_state("_dom_classes")

    def _classes(self, value: int) -> dict[str, Any]:
        if value < 1:
            value = -1  # 0 means the network's own, which nobody types
        return {"num_classes": value}

    def _dragged(self, value: tuple[int, int]) -> dict[str, Any]:
        """Both cuts by their handles, which a front end lets meet; the one that came is then let pass, as far as there
        is an operation left for B."""
        first, last = value
        if first < last:
            return {"first": first, "last": last}
        if first == self.state.first:
            return self._moved("last", max(last, self.state.first_private + 1))
        return self._moved("first", min(first, len(self.state.cuts) - 2))

    def _moved(self, field: str, value: int) -> dict[str, Any]:
        """A cut moved by number or name. In a double split it pushes the other along, so that B keeps an operation."""
        changes = {field: value}
        if self.state.mode == DOUBLE:
            if field == "first" and value >= self.state.last:
                changes["last"] = value + 1
            if field == "last" and value <= self.state.first:
                changes["first"] = value - 1
        return changes

    def _on_state(self, change: Any) -> None:
        if self._shown != self.state.trait_values():  # once for a change of several traits
            with self._turn:
                self._safely(self._show)

    def _show(self, words: bool = True) -> None:
        """Put every control and every picture in line with the state; ``words=False`` leaves what was typed."""
        state, self._showing = self.state, True
        self._shown = state.trait_values()
        try:
            if words:
                self.show_words(state)
            self.mode.value, self.link.value, self.log.value = state.mode, state.link, state.log
            self.device.value, self.every.value = state.device, state.every_mode
            self.preset.value = next((name for name, one in self._presets.items() if one == state.codecs), CUSTOM)
            for message in ("outputs", "output_gradients"):
                self.chains[message].layout.display = None if state.mode == DOUBLE else "none"
            self.show_cuts(state)
            picture = state.skyline
            self.bars.value, self.foot.value = bars_html(picture), foot_html(picture)
            self.facts.value = facts_html(state.facts)
            self.advice.value = best_cut_html(state.best_cut)
            self.show_trials()
            if self._code_shown:
                self.told.value = code(snippet(state.plan, state.facts))
        finally:
            self._showing = False

    def _start_measuring(self) -> None:
        plan, cancel = self.state.plan, threading.Event()
        self._start(partial(self._measure, plan, cancel), cancel)

    def _start_finding(self) -> None:
        question, cancel, at_home = self.state.question, threading.Event(), home()

        def find() -> None:
            found = find_best_cut(question, self._progress(cancel), cancel)
            if not cancel.is_set():
                self.state.remember_best(found)
                at_home(partial(self._guarded(self._move_to), found))

        self._start(find, cancel)

    def _move_to(self, found: BestCut) -> None:
        """Move the scissors to the best cut and set its chains, unless something else was chosen meanwhile."""
        now, then = self.state.question, found.question
        moved = (now.asked, now.at, now.codecs) == (then.asked, then.at, then.codecs)
        if moved:
            self.state.update(at=found.best.cuts, codecs=found.best.codecs)
        self.advice.value = best_cut_html(found, moved)

    def _start_training(self) -> None:
        training, link = Training(self.state.training_plan), LINKS[self.state.link]
        own, cancel = not isinstance(training.plan.network, str), training.cancelled

        def show(records: list[StepRecord]) -> None:
            if not cancel.is_set():
                self.training.value = training_html(records, link, own)

        def train() -> None:
            training.run(show, self._progress(cancel))

        if not self._worker.busy:
            self.training.value = ""
        self._start(train, cancel, training.cancel)

    def _start(
        self, work: Callable[[], None], cancelled: threading.Event, cancel: Callable[[], None] | None = None
    ) -> None:
        """Work on a thread of its own, until ``cancelled`` is set, which ``cancel`` does."""
        if self._worker.busy:
            self.progress.value = status(_BUSY, busy=True)
            return
        self.problem.value = ""
        self.progress.value = progress_bar(0.0, "starting")
        self._worker.start(partial(self._work, work, cancelled), cancel or cancelled.set)

    def _work(self, work: Callable[[], None], cancelled: threading.Event) -> None:
        started = time.monotonic()
        try:
            work()
            words = status(f"done in {time.monotonic() - started:.1f} s")
        except Cancelled:
            return
        except Exception as error:
            words = told(error)
        if not cancelled.is_set():
            self.progress.value = words

    def _measure(self, plan: TrialPlan, cancelled: threading.Event) -> None:
        trial = run_trial(plan, self._progress(cancelled), cancelled)
        if not cancelled.is_set():
            self.state.remember(trial)
            self.show_trials()

    def _progress(self, cancelled: threading.Event) -> Callable[[float, str], None]:
        """A progress bar that moves at most twenty times a second, and not after Cancel."""
        last = 0.0

        def show(fraction: float, doing: str) -> None:
            nonlocal last
            if not cancelled.is_set() and time.monotonic() - last > 0.05:
                last = time.monotonic()
                self.progress.value = progress_bar(fraction, doing)

        return show

    def _stop(self) -> None:
        """Say so at once; the thread, which may be inside a long operation, says nothing more."""
        running = self._worker.cancel()
        self.progress.value = status(_CANCELLED if running else "Nothing is going on.")

    def _save(self) -> None:
        paths = save_picture(self.state.skyline, self.state.model)
        self.told.value = status(f"Saved {' and '.join(str(path) for path in paths)} in the notebook's folder.")
        self._code_shown = False

    def _toggle_code(self) -> None:
        self._code_shown = not self._code_shown
        self.told.value = code(snippet(self.state.plan, self.state.facts)) if self._code_shown else ""


def _chain(message: str, value: str) -> dict[str, Any]:
    return {message: value}
