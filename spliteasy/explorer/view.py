"""The explorer's widgets. The only file that knows ipywidgets; what is shown is made elsewhere, as strings.

Two rules of front ends shape this file. What a callback raises or prints is swallowed, so every callback catches
everything and shows it. And a widget's messages follow the thread that wrote to it last, so the measuring thread
writes to nothing but its own two HTML widgets, and never to a control that must answer while a cell runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as widgets

from spliteasy.explorer.choices import DOUBLE, SINGLE, presets
from spliteasy.explorer.notices import progress_bar, status, told
from spliteasy.explorer.render import bars_html, foot_html
from spliteasy.explorer.state import ExplorerState
from spliteasy.explorer.style import CONTROLS, GUTTER, MARGIN, STYLE
from spliteasy.explorer.tables import facts_html, trials_html
from spliteasy.explorer.trial import Cancelled, TrialPlan, run_trial
from spliteasy.explorer.wording import TIMES, bandwidth
from spliteasy.link import LINKS
from spliteasy.models import list_models

__all__ = ["View"]

_CUSTOM = "your own"


class View:
    """The widgets of one explorer and what they do to its state."""

    def __init__(self, state: ExplorerState) -> None:
        self.state = state
        self._showing = False
        self._shown: dict[str, Any] = {}
        self._turn = threading.RLock()  # callbacks may come from two threads: a cell's, and the front end's
        self._worker: threading.Thread | None = None
        self._cancel = threading.Event()
        self._make_controls()
        self._make_cuts()
        self._make_chain()
        self.problem = widgets.HTML()
        self.bars, self.foot, self.facts, self.trials = (widgets.HTML() for _ in range(4))
        self.box = widgets.VBox(
            [
                widgets.HTML(f"<style>{STYLE}{CONTROLS}</style>"),
                _row(self.model, self.input_shape, self.batch, self.num_classes),
                _row(self.mode, self.link, self.log),
                self.problem,
                self.bars,
                self.one,
                self.two,
                self.foot,
                _row(*(widgets.HBox(place) for place in self.places)),
                self.facts,
                _row(self.preset, self.chain, self.measure, self.stop, self.progress),
                self.trials,
            ]
        )
        self.box.add_class("spliteasy-explorer")
        self._connect()
        state.observe(self._on_state)
        self._show()

    def close(self) -> None:
        """Stop the worker, forget the state, and close every widget with its layout and style."""
        self._cancel.set()
        self.state.unobserve(self._on_state)
        for widget in _all_widgets(self.box):
            for part in (widget, getattr(widget, "layout", None), getattr(widget, "style", None)):
                if part is not None:
                    part.close()

    def show_trials(self) -> None:
        """Show what was measured at the chosen cuts; called by the worker too."""
        self.trials.value = trials_html(self.state.trials, self.state.facts, self.state.photographs)

    def _make_controls(self) -> None:
        wide = {"description_width": "64px"}
        self.model = widgets.Combobox(description="Network", continuous_update=False, style=wide, placeholder="a name")
        self.model.layout.width = "340px"
        narrow = {"description_width": "44px"}
        self.input_shape = widgets.Text(description="Input", continuous_update=False, style=narrow)
        self.input_shape.layout.width = "150px"
        self.batch = widgets.IntText(description="Batch", style=narrow)
        self.batch.layout.width = "120px"
        self.num_classes = widgets.IntText(description="Classes", style={"description_width": "54px"})
        self.num_classes.layout.width = "136px"
        self.mode = widgets.ToggleButtons(
            options=[("single: A | B", SINGLE), ("double: A | B | C", DOUBLE)],
            description="Split",
            style={"description_width": "64px", "button_width": "128px"},
            tooltips=["A on the device, B on the server", "A and C on the device, B on the server"],
        )
        options = [(f"{name}: {bandwidth(link)}", name) for name, link in LINKS.items()]
        self.link = widgets.Dropdown(options=options, description="Link", style={"description_width": "34px"})
        self.link.layout.width = "350px"
        self.log = widgets.ToggleButtons(
            options=[("linear", False), ("log", True)],
            description="Bytes",
            style={"description_width": "44px", "button_width": "58px"},
        )

    def _make_cuts(self) -> None:
        self.one = widgets.IntSlider(readout=False, behavior="drag-tap")
        self.two = widgets.IntRangeSlider(readout=False, behavior="drag-tap")
        for slider in (self.one, self.two):
            slider.add_class("se-scissors")
        self.places = [self._place("A ends after cut"), self._place("B ends after cut")]

    def _place(self, description: str) -> tuple[Any, Any]:
        number = widgets.BoundedIntText(description=description, style={"description_width": "104px"})
        number.layout.width = "190px"
        name = widgets.Combobox(continuous_update=False, placeholder="or type its name")
        name.layout.width = "270px"
        return number, name

    def _make_chain(self) -> None:
        wide = {"description_width": "64px"}
        self.preset = widgets.Dropdown(options=[*presets(), _CUSTOM], description="Codecs", style=wide)
        self.preset.layout.width = "270px"
        self.chain = widgets.Text(continuous_update=False, placeholder="topk(0.1) | fp16 | zstd(1)")
        self.chain.layout.width = "250px"
        self.measure = widgets.Button(description="Measure", icon="tachometer", button_style="primary")
        self.measure.layout.width = "110px"
        self.stop = widgets.Button(description="Cancel")
        self.stop.layout.width = "80px"
        self.stop.add_class("se-stop")
        self.progress = widgets.HTML()

    def _connect(self) -> None:
        """Each control changes its part of the state. Words and numbers that cannot be stay as typed, with a message;
        the others go back."""
        for control, change in (
            (self.model, lambda value: {"model": value}),
            (self.input_shape, lambda value: {"input_shape": value}),
            (self.batch, lambda value: {"batch": value}),
            (self.num_classes, self._classes),
            (self.chain, lambda value: {"chain": value}),
            (self.preset, lambda value: {} if value == _CUSTOM else {"chain": value}),
            (self.mode, lambda value: {"mode": value}),
            (self.link, lambda value: {"link": value}),
            (self.log, lambda value: {"log": value}),
            (self.one, lambda value: {"first": value}),
            (self.two, self._dragged),
            (self.places[0][0], lambda value: self._moved("first", value)),
            (self.places[1][0], lambda value: self._moved("last", value)),
            (self.places[0][1], lambda value: self._moved("first", self.state.cuts[value].index)),
            (self.places[1][1], lambda value: self._moved("last", self.state.cuts[value].index)),
        ):
            control.observe(self._handler(change), "value")
        self.measure.on_click(self._guarded(lambda button: self._start()))
        self.stop.on_click(self._guarded(lambda button: self._stop()))

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
        """``function``, with whatever it raises shown in the view, and the controls back at the last good state."""

        def call(argument: Any) -> None:
            with self._turn:
                try:
                    function(argument)
                except Exception as error:
                    self.problem.value = told(error)
                    self._show(words=False)

        return call

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
            self._guarded(lambda _: self._show())(None)

    def _show(self, words: bool = True) -> None:
        """Put every control and every picture in line with the state; ``words=False`` leaves what was typed."""
        state, self._showing = self.state, True
        self._shown = state.trait_values()
        try:
            if words:
                self._show_words()
            self.mode.value, self.link.value, self.log.value = state.mode, state.link, state.log
            self.preset.value = state.chain if state.chain in self.preset.options else _CUSTOM
            self._show_cuts()
            picture = state.skyline
            self.bars.value, self.foot.value = bars_html(picture), foot_html(picture)
            self.facts.value = facts_html(state.facts)
            self.show_trials()
        finally:
            self._showing = False

    def _show_words(self) -> None:
        state = self.state
        if not self.model.options or self.model.options[: len(state.own)] != state.own:
            self.model.options = (*state.own, *list_models())
        self.model.value = state.model
        self.input_shape.value = TIMES.join(map(str, state.input_shape))
        self.batch.value = state.batch
        self.num_classes.value = state.classes or 0
        self.num_classes.disabled = state.model in state.own
        self.chain.value = state.chain

    def _show_cuts(self) -> None:
        state = self.state
        count, names = len(state.cuts), tuple(state.cuts.names)
        _set_range(self.one, 0, count - 1, state.first)
        double = state.mode == DOUBLE
        if double:
            _set_range(self.two, state.first_private, count - 1, (state.first, state.last))
        for slider, shown in ((self.one, not double), (self.two, double)):
            slider.layout.display = None if shown else "none"
            left, right = (slider.min + 0.5) / count, (count - slider.max - 0.5) / count
            bars = f"(100% - {GUTTER + MARGIN}px)"
            slider.layout.margin = f"0 calc({MARGIN}px + {bars} * {right:.6f}) 0 calc({GUTTER}px + {bars} * {left:.6f})"
        for control in self.places[1]:
            control.layout.display = None if double else "none"
        lowest = state.first_private if double else 0
        bounds = ((lowest, count - 1 - double), (lowest + 1, count - 1))
        for (number, name), cut, (low, high) in zip(self.places, (state.first, state.last), bounds, strict=True):
            _set_range(number, low, high, min(max(cut, low), high))
            if name.options != names:
                name.options = names
            name.value = state.cuts[cut].name

    def _start(self) -> None:
        """Measure on a thread of its own. Cancel is written to here, and not there, so that it answers at once."""
        if self._worker is not None and self._worker.is_alive():
            self.progress.value = status("Still measuring; press Cancel to stop it.", busy=True)
            return
        self.problem.value = ""
        self._cancel = threading.Event()
        self.stop.send_state("disabled")
        self.progress.value = progress_bar(0.0, "starting")
        arguments = (self.state.plan, self._cancel)
        self._worker = threading.Thread(target=self._work, args=arguments, daemon=True, name="spliteasy-measure")
        self._worker.start()

    def _stop(self) -> None:
        running = self._worker is not None and self._worker.is_alive()
        self._cancel.set()
        self.progress.value = status("cancelling …", busy=True) if running else status("Nothing is being measured.")

    def _work(self, plan: TrialPlan, cancel: threading.Event) -> None:
        last = 0.0

        def progress(fraction: float, doing: str) -> None:
            nonlocal last
            if not cancel.is_set() and time.monotonic() - last > 0.05:
                last = time.monotonic()
                self.progress.value = progress_bar(fraction, doing)

        started = time.monotonic()
        try:
            self.state.remember(run_trial(plan, progress, cancel))
            self.show_trials()
            self.progress.value = status(f"measured in {time.monotonic() - started:.1f} s")
        except Cancelled as stopped:
            self.progress.value = status(str(stopped))
        except Exception as error:
            self.progress.value = told(error)


def _row(*children: Any) -> Any:
    row = widgets.HBox(list(children))
    row.layout.flex_flow = "row wrap"
    return row


def _set_range(control: Any, low: int, high: int, value: Any) -> None:
    """New bounds and a new value, in an order in which no bound is ever on the wrong side of the value."""
    if (control.min, control.max) != (low, high):
        control.min = min(control.min, low)
        control.max = max(control.max, high)
        control.value = value
        control.min, control.max = low, high
    control.value = value


def _all_widgets(widget: Any) -> Iterator[Any]:
    for child in getattr(widget, "children", ()):
        yield from _all_widgets(child)
    yield widget
