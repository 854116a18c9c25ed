"""The widgets that a user of the explorer acts on, and how they show what is chosen. Nothing here reacts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ipywidgets as widgets

from spliteasy.explorer.choices import DEVICE_CHOICES, DOUBLE, SINGLE, preset_chains, preset_codecs
from spliteasy.explorer.state import ExplorerState
from spliteasy.explorer.style import GUTTER, MARGIN
from spliteasy.explorer.wording import TIMES, bandwidth
from spliteasy.link import LINKS
from spliteasy.models import list_models
from spliteasy.wire import MESSAGES

__all__ = ["CUSTOM", "Controls", "all_widgets", "row"]

CUSTOM = "your own"
"""Among the presets: chains that are none of them."""


class Controls:
    """Every control, made and not connected. `show_words` and `show_cuts` put them in line with a state."""

    def __init__(self) -> None:
        self._presets = preset_codecs()
        self._make_controls()
        self._make_cuts()
        self._make_chains()
        self._make_buttons()

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
            style={"description_width": "64px", "button_width": "130px"},
            tooltips=["A on the device, B on the server", "A and C on the device, B on the server"],
        )
        options = [(f"{name}: {bandwidth(link, short=True)}", name) for name, link in LINKS.items()]
        self.link = widgets.Dropdown(options=options, description="Link", style={"description_width": "34px"})
        self.link.layout.width = "310px"
        self.log = widgets.ToggleButtons(
            options=[("linear", False), ("log", True)],
            description="Bytes",
            style={"description_width": "44px", "button_width": "64px"},
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

    def _make_chains(self) -> None:
        self.preset = widgets.Dropdown(
            options=[*self._presets, CUSTOM], description="Codecs", style={"description_width": "64px"}
        )
        self.preset.layout.width = "340px"
        self.chains = {}
        for message in MESSAGES:
            chain = widgets.Combobox(
                description=message, options=preset_chains(), continuous_update=False, placeholder="a chain",
                style={"description_width": "124px"}, ensure_option=False,
            )  # fmt: skip
            self.chains[message] = chain

    def _make_buttons(self) -> None:
        def button(text: str, tip: str, icon: str, style: str = "") -> Any:
            made = widgets.Button(description=text, tooltip=tip, icon=icon, button_style=style)
            made.layout.width = f"{46 + 8 * len(text)}px"
            return made

        self.find = button("Best cut", "Time the network, and compare all cuts and the presets' chains", "scissors")
        self.device = widgets.Dropdown(
            options=[(f"a device {name}" if "this" in name or "slower" in name else f"the device {name}", name)
                     for name in DEVICE_CHOICES],
            description="for", style={"description_width": "22px"},
        )  # fmt: skip
        self.device.layout.width = "240px"
        self.every = widgets.Dropdown(
            options=[("this kind of split", False), ("single and double", True)],
            description="in", style={"description_width": "16px"},
        )  # fmt: skip
        self.every.layout.width = "172px"
        self.measure = button("Measure", "Try the chains on photographs", "tachometer", "primary")
        self.train = button("Train a few steps", "A real split session on digits", "play")
        self.stop = button("Cancel", "Stop what is going on", "stop")
        self.stop.add_class("se-stop")
        self.save = button("Save picture", "As SVG and PNG, in the notebook's folder", "save")
        self.show = button("Show code", "Code that computes these numbers", "code")
        self.progress = widgets.HTML()

    def show_words(self, state: ExplorerState) -> None:
        """What is typed: names, sizes, chains."""
        if not self.model.options or self.model.options[: len(state.own)] != state.own:
            self.model.options = (*state.own, *list_models())
        self.model.value = state.model
        self.input_shape.value = TIMES.join(map(str, state.input_shape))
        self.batch.value = state.batch
        self.num_classes.value = state.classes or 0
        self.num_classes.disabled = state.model in state.own
        for message, chain in self.chains.items():
            chain.value = repr(state.codecs.chain(message))

    def show_cuts(self, state: ExplorerState) -> None:
        """The scissors, and the cuts by number and name."""
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


def row(*children: Any) -> Any:
    """Widgets beside each other, in as many lines as they need."""
    box = widgets.HBox(list(children))
    box.layout.flex_flow = "row wrap"
    return box


def _set_range(control: Any, low: int, high: int, value: Any) -> None:
    """New bounds and a new value, in an order in which no bound is ever on the wrong side of the value."""
    if (control.min, control.max) != (low, high):
        control.min = min(control.min, low)
        control.max = max(control.max, high)
        control.value = value
        control.min, control.max = low, high
    control.value = value


def all_widgets(widget: Any) -> Iterator[Any]:
    """A widget with all that are in it."""
    for child in getattr(widget, "children", ()):
        yield from all_widgets(child)
    yield widget
