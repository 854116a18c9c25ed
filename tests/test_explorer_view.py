"""The explorer's widgets without a browser: what a front end would set is set here, and what it would show is read."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import ipywidgets
import pytest
import torch
from torch import nn

import spliteasy
import spliteasy.explorer.best_cut as best_cut_module
import spliteasy.explorer.notebook as notebook
import spliteasy.explorer.view as view_module
from spliteasy.errors import PlanError
from spliteasy.explorer import explore
from spliteasy.explorer.notebook import Explorer
from spliteasy.explorer.trial import Trial
from spliteasy.explorer.view import View


def shown(explorer: Explorer) -> View:
    explorer.widget  # noqa: B018  (makes it)
    assert explorer._view is not None
    return explorer._view


@pytest.fixture
def explorer() -> Iterator[Explorer]:
    explorer = explore("resnet18", batch=32, at="maxpool")
    yield explorer
    explorer.close()


@pytest.fixture
def view(explorer: Explorer) -> View:
    return shown(explorer)


def test_it_is_made_of_core_widgets_and_shows_the_numbers(explorer: Explorer, view: View) -> None:
    assert "25.7 MB" in view.bars.value and "32·56·56·64 = 6,422,528 values" in _plain(view.facts.value)
    assert not any(isinstance(widget, ipywidgets.Output) for widget in view_module.all_widgets(view.box))
    assert view.model.value == "resnet18" and len(view.model.options) > 1000
    assert (view.input_shape.value, view.batch.value, view.num_classes.value) == ("3×224×224", 32, 1000)
    assert repr(explorer) == "Explorer: resnet18, single split after maxpool (25.7 MB), batch 32"


def test_each_control_changes_the_state_and_the_picture(explorer: Explorer, view: View) -> None:
    state = explorer.state
    view.batch.value = 16
    assert state.batch == 16 and "12.8 MB" in view.bars.value
    view.input_shape.value = "112"
    assert state.input_shape == (3, 112, 112) and "3.21 MB" in view.bars.value
    view.num_classes.value = 10
    assert state.classes == 10
    view.link.value = "3g"
    assert state.link == "3g" and "Mbit/s" in view.budget.value and "0.768" in view.budget.value
    view.log.value = True
    assert state.log
    view.one.value = 0
    assert state.chosen[0].name == "input" and "the inputs themselves" in view.facts.value
    view.places[0][0].value = 4
    assert state.chosen[0].name == "maxpool" and view.one.value == 4 and view.places[0][1].value == "maxpool"
    view.places[0][1].value = "layer1.1.relu_1"
    assert state.chosen[0].name == "layer1.1.relu_1" and view.one.value == state.first
    view.model.value = "densenet121"
    assert state.model == "densenet121" and view.one.max == len(state.cuts) - 1
    assert view.places[0][1].options == tuple(state.cuts.names)
    assert view.problem.value == ""


def test_the_state_moves_the_controls(explorer: Explorer, view: View) -> None:
    drawn: list[str] = []
    view.bars.observe(lambda change: drawn.append(change["new"]), "value")
    explorer.state.update(model="vgg11", batch=8, mode="double", chain="fp16", link="lan")
    assert (view.model.value, view.batch.value, view.mode.value) == ("vgg11", 8, "double")
    assert (view.chains["outputs"].value, view.preset.value, view.link.value) == ("fp16", "your own", "lan")
    assert view.two.value == explorer.state.at and len(drawn) == 1


def test_moving_a_cut_draws_once(explorer: Explorer, view: View) -> None:
    drawn: list[str] = []
    view.bars.observe(lambda change: drawn.append(change["new"]), "value")
    for index in (5, 6, 7):
        view.one.value = index
    assert len(drawn) == 3


def test_a_moved_cut_answers_fast() -> None:
    explorer = explore("densenet201")
    view = shown(explorer)
    seconds = []
    for index in range(20, 40):
        started = time.perf_counter()
        view.one.value = index
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[10] < 1  # 10 ms alone; here other tests run beside it
    explorer.close()


@pytest.mark.parametrize(
    ("control", "bad", "message"),
    [
        ("model", "resnet5", "Did you mean"),
        ("model", "", "no network"),
        ("batch", 0, "1 or more samples, found 0"),
        ("num_classes", 0, "classes"),
        ("num_classes", -4, "classes"),
        ("input_shape", "big", "input size"),
        ("input_shape", "7, 224, 224", "conv1"),
        ("activations", "zstd(1) | fp16", "fp16 | zstd(1)"),
        ("input_gradients", "shrink", "there is no codec"),
    ],
)
def test_bad_input_is_told_and_the_last_good_state_stays(
    explorer: Explorer, view: View, control: str, bad: Any, message: str
) -> None:
    before, picture, facts = explorer.state.trait_values(), view.bars.value, view.facts.value
    widget = view.chains[control] if control in view.chains else getattr(view, control)
    widget.value = bad
    assert message in _plain(view.problem.value) and 'role="alert"' in view.problem.value
    assert explorer.state.trait_values() == before
    assert (view.bars.value, view.facts.value) == (picture, facts)
    assert widget.value == bad  # to be corrected, not typed again
    view.one.value = 6
    assert view.problem.value == "" and widget.value != bad


def test_an_unknown_cut_name_is_told(explorer: Explorer, view: View) -> None:
    view.places[0][1].value = "maxpol"
    assert "maxpool" in _plain(view.problem.value) and explorer.state.first == 4


def test_errors_that_are_not_ours_show_their_traceback(view: View) -> None:
    with mock.patch.object(view_module, "bars_html", side_effect=[ZeroDivisionError("<oops>"), "", ""]):
        view.one.value = 7
    assert "ZeroDivisionError" in view.problem.value and "&lt;oops&gt;" in view.problem.value


def test_callbacks_print_nothing(view: View) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        view.model.value = "nothing"
        view.mode.value = "double"
        view.batch.value = -1
    assert out.getvalue() == ""


def test_two_handles_cannot_make_an_invalid_double_split(explorer: Explorer, view: View) -> None:
    view.mode.value = "double"
    state, end = explorer.state, len(explorer.state.cuts) - 1
    assert (view.one.layout.display, view.two.layout.display) == ("none", None)
    assert view.two.min == state.first_private == 1 and view.two.max == end
    view.two.value = (10, 30)
    view.two.value = (30, 30)  # the lower handle came
    assert state.at == (30, 31) == view.two.value
    view.two.value = (10, 31)
    view.two.value = (10, 10)  # the upper handle came
    assert state.at == (9, 10) == view.two.value
    view.two.value = (9, end)
    view.two.value = (end, end)
    assert state.at == (end - 1, end) == view.two.value
    view.two.value = (1, end)
    view.two.value = (1, 1)
    assert state.at == (1, 2) == view.two.value
    view.places[0][0].value = 20
    assert state.at == (20, 21)
    view.places[1][0].value = 6
    assert state.at == (5, 6)
    view.places[1][1].value = "flatten"
    assert state.chosen[1].name == "flatten" and view.problem.value == ""
    view.mode.value = "single"
    assert (view.one.layout.display, view.two.layout.display) == (None, "none")
    assert view.places[1][0].layout.display == "none"


def test_a_network_that_cannot_be_split_twice_says_so() -> None:
    explorer = explore(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), input_shape=(3, 2, 2))
    view = shown(explorer)
    view.mode.value = "double"
    assert "single split" in _plain(view.problem.value) and view.mode.value == "single"
    assert view.num_classes.disabled and view.model.options[0] == "Sequential (yours)"
    view.model.value = "digits_cnn"
    assert not view.num_classes.disabled
    explorer.close()


def test_the_handles_stand_under_the_bars(view: View) -> None:
    left = float(re.findall(r"\* ([\d.]+)\)", view.one.layout.margin)[1])
    assert left == pytest.approx(0.5 / (view.one.max + 1), abs=1e-6)


def test_each_message_has_a_chain_and_presets_set_them_all(explorer: Explorer, view: View) -> None:
    assert list(view.chains) == ["activations", "outputs", "output_gradients", "input_gradients"]
    assert [chain.layout.display for chain in view.chains.values()] == [None, "none", "none", None]
    view.mode.value = "double"
    assert {chain.layout.display for chain in view.chains.values()} == {None}
    view.preset.value = "8 bits"
    assert {chain.value for chain in view.chains.values()} == {"int8 | zstd(1)"}
    view.chains["outputs"].value = "raw"
    assert view.preset.value == "your own" and repr(explorer.state.codecs.outputs) == "raw"
    view.preset.value = "your own"
    assert repr(explorer.state.codecs.outputs) == "raw"
    view.chains["outputs"].value = "int8|zstd(1)"
    assert view.preset.value == "8 bits" and view.chains["outputs"].value == "int8 | zstd(1)"


def test_measure_shows_a_row_for_each_message_and_fills_the_budget(explorer: Explorer, view: View) -> None:
    view.model.value = "digits_cnn"
    view.preset.value = "nothing: raw"
    view.measure.click()
    _wait(view)
    assert "raw" in view.trials.value and "done in" in view.progress.value
    view.preset.value = "half precision"
    assert "press Measure" in view.budget.value
    view.measure.click()
    _wait(view)
    assert view.trials.value.count("<code>activations</code>") == 2
    assert "press Measure" not in view.budget.value and "server computes" in view.budget.value
    view.one.value = 2
    assert "Nothing measured" in view.trials.value


def test_cancel_stops_a_measurement(explorer: Explorer, view: View) -> None:
    view.model.value = "vgg11"
    view.one.value = view.one.max - 3
    view.stop.click()
    assert "Nothing is going on" in view.progress.value
    view.measure.click()
    assert "se-busy" in view.progress.value
    view.measure.click()
    assert "Still at work" in view.progress.value
    view.train.click()
    assert "Still at work" in view.progress.value
    view.stop.click()
    assert "Cancelled" in view.progress.value and "se-busy" not in view.progress.value
    view.one.value = 3
    view.measure.click()  # waits for the one that was cancelled, and runs
    _wait(view)
    assert "done in" in view.progress.value and "Nothing measured" not in view.trials.value
    view.one.value = view.one.max - 3
    assert "Nothing measured" in view.trials.value


def test_a_few_steps_are_trained_and_drawn(explorer: Explorer, view: View) -> None:
    view.model.value = "digits_cnn"
    drawn: list[str] = []
    view.training.observe(lambda change: drawn.append(change["new"]), "value")
    view.train.click()
    _wait(view)
    assert "done in" in view.progress.value and "step 10 of 10" in view.training.value
    assert sum("two processes" in html for html in drawn) == 10


def test_code_is_shown_follows_the_choice_and_goes(explorer: Explorer, view: View) -> None:
    view.show.click()
    assert "se.load_model" in view.told.value and "maxpool" in view.told.value
    view.one.value = 6
    assert "maxpool" not in view.told.value and explorer.state.chosen[0].name in view.told.value
    view.show.click()
    assert view.told.value == ""


def test_save_writes_the_picture_into_the_folder(view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    view.save.click()
    assert {path.name for path in tmp_path.iterdir()} == {"resnet18-maxpool.svg", "resnet18-maxpool.png"}
    assert "resnet18-maxpool.svg" in view.told.value
    assert "matplotlib.pyplot" not in sys.modules


def test_a_measurement_that_fails_says_why() -> None:
    explorer = explore(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), input_shape=(8,), at="1")
    view = shown(explorer)
    view.measure.click()
    _wait(view)
    assert "se.measure" in _plain(view.progress.value) and 'role="alert"' in view.progress.value
    explorer.close()


def test_the_worker_writes_to_no_control(explorer: Explorer, view: View) -> None:
    view.model.value = "digits_cnn"
    written: dict[str, set[object]] = {"worker": set(), "callback": set()}
    main = threading.current_thread()

    def note(widget: Any) -> Callable[[Any], None]:
        def noted(change: Any) -> None:
            written["callback" if threading.current_thread() is main else "worker"].add(widget)

        return noted

    for widget in view_module.all_widgets(view.box):
        widget.observe(note(widget))
    view.measure.click()
    _wait(view)
    assert written["worker"] == {view.progress, view.trials, view.budget}
    written["worker"].clear()
    view.train.click()
    _wait(view)
    assert written["worker"] == {view.progress, view.training}


def test_the_best_cut_moves_the_scissors_sets_the_chains_and_is_told(explorer: Explorer, view: View) -> None:
    view.model.value = "digits_cnn"
    view.link.value = "3g"
    view.device.value = "4 times slower"
    view.one.value = 6  # where the network is widest: the most to send, and almost all to compute on the slow device
    before = explorer.state.at
    view.show.click()
    view.find.click()
    _wait(view)
    found = explorer.state.best_cut
    assert found is not None and found.question.modes == ("single",) and found.question.at != found.best.cuts
    assert "done in" in view.progress.value and view.problem.value == ""
    assert explorer.state.at == found.best.numbers == (view.one.value,) != before
    assert explorer.state.codecs == found.best.codecs
    assert found.before is not None and found.before.numbers == before and found.before.seconds > found.best.seconds
    words = _plain(view.advice.value)
    assert (
        f"single split after {found.best.cuts[0]}: " in words and "What was chosen before (single split after" in words
    )
    assert [f">{name}<" in view.advice.value for name in ("second", "third", "before")] == [True] * 3
    assert found.best.cuts[0] in view.told.value and repr(found.best.codecs.activations) in view.told.value
    view.one.value = 3
    assert words == _plain(view.advice.value)  # what is best does not change with what is chosen
    view.link.value = "lan"
    assert view.advice.value == ""
    view.link.value = "3g"
    assert words == _plain(view.advice.value)


def test_the_best_cut_in_both_modes_is_the_better_of_the_two(explorer: Explorer) -> None:
    state = explorer.state
    state.update(model="digits_cnn", batch=8, link="lan")
    found = {}
    for mode, both in (("single", False), ("double", False), ("double", True)):
        state.update(mode=mode, every_mode=both)
        found[both or mode] = explorer.best_cut()
        assert state.mode == found[both or mode].best.mode
    assert found[True].best.seconds == min(found["single"].best.seconds, found["double"].best.seconds)
    assert found["double"].profile is found["single"].profile  # timed once
    state.update(mode="single", every_mode=True)
    assert state.best_cut is not None and state.best_cut.best == found[True].best
    assert all(one.best.cuts[0] != "input" for one in found.values())


def test_the_best_cut_of_a_large_network_is_timed_with_fewer_samples(explorer: Explorer) -> None:
    assert explorer.state.question.samples == 4 < explorer.state.batch
    explorer.state.update(input_shape=(3, 32, 32))
    assert explorer.state.question.samples == 32


def test_moving_to_the_best_cut_is_left_to_the_thread_of_the_callback(explorer: Explorer, view: View) -> None:
    view.model.value = "digits_cnn"
    view.one.value = 9
    written: dict[bool, set[object]] = {True: set(), False: set()}
    main = threading.current_thread()
    for widget in view_module.all_widgets(view.box):
        widget.observe(lambda change, widget=widget: written[threading.current_thread() is main].add(widget))

    async def pressed() -> None:
        view.find.click()
        await asyncio.to_thread(view._worker.join, 60)
        await asyncio.sleep(0.05)

    asyncio.run(pressed())
    assert explorer.state.best_cut is not None and view.one.value == explorer.state.best_cut.best.numbers[0]
    assert written[False] == {view.progress} and view.one in written[True]


def test_the_scissors_stay_where_something_else_was_chosen_meanwhile(explorer: Explorer, view: View) -> None:
    view.model.value = "digits_cnn"

    async def pressed() -> None:
        view.find.click()
        view.one.value = 5
        await asyncio.to_thread(view._worker.join, 60)
        await asyncio.sleep(0.05)

    asyncio.run(pressed())
    assert explorer.state.at == (5,) and "the scissors stay" in view.advice.value


def test_chains_that_must_be_fitted_are_left_out_and_that_is_said(explorer: Explorer, view: View) -> None:
    explorer.state.update(model="digits_cnn", chain="pca(2, axis='channel') | int8")
    found = explorer.best_cut()
    assert found.before is None and "must be fitted first" in view.advice.value


def test_errors_of_the_best_cut_are_told(explorer: Explorer, view: View) -> None:
    view.model.value = "digits_cnn"
    with mock.patch.object(best_cut_module, "plan", side_effect=PlanError("nothing <fits>")):
        view.find.click()
        _wait(view)
    assert "nothing &lt;fits&gt;" in view.progress.value and 'role="alert"' in view.progress.value
    own = explore(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)), input_shape=(1, 8, 8))
    other = shown(own)
    other.find.click()
    _wait(other)
    assert "se.profile(model" in _plain(other.progress.value)
    own.close()


def test_the_search_for_the_best_cut_can_be_cancelled(explorer: Explorer, view: View) -> None:
    at = explorer.state.at
    view.find.click()
    assert "se-busy" in view.progress.value
    view.stop.click()
    _wait(view, 20)
    assert "Cancelled" in view.progress.value and explorer.state.best_cut is None and explorer.state.at == at


def test_the_search_for_the_best_cut_draws_nothing_from_the_notebooks_generator(explorer: Explorer) -> None:
    explorer.state.update(model="digits_cnn")
    state = torch.get_rng_state()
    explorer.best_cut()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_module_of_your_own_has_a_best_cut_and_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 4), nn.ReLU(), nn.Linear(4, 3))
    values = [parameter.clone() for parameter in module.parameters()]
    explorer = explore(module, input_shape=(8,), at="1")
    explorer.state.update(device="100 times slower")
    assert explorer.best_cut().best.mode == "single"
    assert all(torch.equal(one, two) for one, two in zip(values, module.parameters(), strict=True))
    explorer.close()


def test_a_cell_shows_widgets_a_page_a_picture_and_words(explorer: Explorer) -> None:
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "text/html", "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert "6,422,528 values" in bundle["text/html"] and "<table>" in bundle["text/html"]
    assert sum(map(len, map(str, bundle.values()))) < 250_000
    assert explorer.figure().axes[0].get_title(loc="left").startswith("resnet18")


def test_running_a_cell_again_closes_what_it_showed() -> None:
    with _cell("a", "run 1"):
        first, second = explore("digits_cnn"), explore("digits_cnn")
        views = shown(first), shown(second)
    with _cell("b", "run 2"):
        other = explore("digits_cnn")
        shown(other)
    before = len(_living())
    assert first._view is not None and second._view is not None
    with _cell("a", "run 3"):
        third = explore("digits_cnn")
    assert first._view is None and second._view is None and other._view is not None
    assert all(view.box.comm is None for view in views)
    shown(third)
    assert len(_living()) < before
    for explorer in (third, other):
        explorer.close()


def test_running_a_cell_again_keeps_what_was_chosen() -> None:
    module = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    with _cell("a", "run 1"):
        one, two, own = explore("digits_cnn"), explore("digits_cnn"), explore(module, input_shape=(8,))
    for explorer, batch in ((one, 5), (two, 6), (own, 7)):
        explorer.state.update(batch=batch, link="3g")
    own.state.update(at="1")
    with _cell("a", "run 2"):
        renewed = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        again = [explore("digits_cnn"), explore("digits_cnn"), explore(renewed, input_shape=(8,))]
    assert [(e.state.batch, e.state.link) for e in again] == [(5, "3g"), (6, "3g"), (7, "3g")]
    assert again[2].state.holds(renewed) and again[2].state.chosen[0].name == "1"
    with _cell("a", "run 3"):
        changed = explore("digits_cnn", batch=9)  # the arguments changed, so they count
    assert changed.state.batch == 9 and changed.state.link == "lte"
    with _cell("b", "run 4"):
        assert explore("digits_cnn").state.batch == 32


@pytest.mark.slow
def test_twenty_runs_leave_nothing_behind() -> None:
    counts = []
    for run in range(20):
        with _cell("again", f"run {run}"):
            explorer = explore("digits_cnn")
            explorer._repr_mimebundle_()
        counts.append((len(_living()), threading.active_count()))
    assert len(set(counts[1:])) == 1
    explorer.close()


def test_measure_can_be_waited_for(explorer: Explorer, view: View) -> None:
    explorer.state.update(model="digits_cnn", chain="fp16")
    trial = explorer.measure()
    assert isinstance(trial, Trial) and "<code>fp16</code>" in view.trials.value


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "digits_cnn", "at": ("pool", "dropout"), "batch": 4, "codecs": "topk(0.1) | fp16"},
        pytest.param(
            {
                "model": "densenet121",
                "codecs": 'pca(2, axis="channel") | int8',
                "input_shape": (3, 64, 64),
                "batch": 2,
                "num_classes": 7,
                "at": ("features.denseblock1.denselayer1.conv1", "features.denseblock1.denselayer4.conv2"),
            },
            marks=pytest.mark.slow,
        ),
        {"model": "resnet18", "input_shape": (3, 64, 96), "at": "layer1.0.conv1"},
    ],
)
def test_the_snippet_computes_the_same_numbers(arguments: dict[str, Any]) -> None:
    explorer = explore(**arguments)
    printed: list[tuple[Any, ...]] = []
    state = torch.get_rng_state()
    try:
        exec(compile(explorer.snippet(), "snippet", "exec"), {"print": lambda *words: printed.append(words)})
    finally:
        torch.set_rng_state(state)
    facts, cuts = explorer.state.facts, explorer.state.chosen
    for words, cut in zip(printed, cuts, strict=False):
        assert words == (cut.name, cut.shapes, cut.nbytes, cut.params_before, cut.macs_before)
    assert printed[len(cuts)][1] == pytest.approx(facts.seconds)
    rest = printed[len(cuts) + 1 :]
    trial = explorer.measure()
    assert len(trial.messages) == 2 * len(cuts)
    for row in trial.messages:
        found = [words[1] for words in rest if words[0] == row.message and len(words) == 2]
        assert len(found) == row.tensors
        assert sum(measured.raw_bytes for measured in found) == row.raw_bytes
        assert min(measured.cosine for measured in found) == row.cosine
        assert [words[3] for words in rest if words[0] == row.message and len(words) == 5] == [row.frame_bytes]


def test_a_snippet_for_a_module_of_your_own_leaves_it_to_you() -> None:
    explorer = explore(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), input_shape=(8,), at="1")
    assert "model = ...  # your Sequential" in explorer.snippet()


def test_only_the_view_knows_ipywidgets_and_nothing_knows_pyplot() -> None:
    package = Path(spliteasy.__file__).parent
    pattern = re.compile(r"^\s*(import|from) ipywidgets", re.MULTILINE)
    users = [path for path in sorted(package.rglob("*.py")) if pattern.search(path.read_text())]
    assert [path.relative_to(package).as_posix() for path in users] == [
        "explorer/view.py",
        "explorer/view_controls.py",
    ]
    for path in (package / "explorer").glob("*.py"):
        assert not re.search(r"(import|from) .*pyplot", path.read_text())


def _wait(view: View, limit: float = 60) -> float:
    started = time.monotonic()
    view._worker.join(limit)
    assert not view._worker.busy
    return time.monotonic() - started


def _plain(html: str) -> str:
    import html as escapes

    return escapes.unescape(re.sub(r"<[^>]+>", "", html))


def _living() -> list[Any]:
    return list(ipywidgets.widgets.widget._instances.values())


@contextlib.contextmanager
def _cell(cell: str, run: str) -> Iterator[None]:
    """As if a cell of a notebook ran."""
    shell = mock.Mock()
    shell.get_parent.return_value = {"metadata": {"cellId": cell}, "header": {"msg_id": run}}
    with mock.patch("IPython.get_ipython", return_value=shell):
        yield


@pytest.fixture(autouse=True)
def _no_cell_remembered() -> Iterator[None]:
    notebook._opened.clear()
    yield
    notebook._opened.clear()
