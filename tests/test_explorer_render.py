"""The explorer's pictures and tables: pure functions, checked as text, XML and pixels."""

from __future__ import annotations

import dataclasses
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from torch import nn

from spliteasy.errors import SplitEasyError
from spliteasy.explorer.choices import DOUBLE
from spliteasy.explorer.figure import draw, png, static_html
from spliteasy.explorer.live import training_html
from spliteasy.explorer.render import bars_svg, picture_html
from spliteasy.explorer.saving import save_picture
from spliteasy.explorer.skyline import MAX_BARS, Skyline
from spliteasy.explorer.state import ExplorerState
from spliteasy.explorer.style import CONTROLS, STYLE
from spliteasy.explorer.tables import facts_html, trials_html
from spliteasy.explorer.timeline import budget_html
from spliteasy.explorer.trial import MessageTrial, Trial
from spliteasy.explorer.wording import amount, arithmetic, bandwidth, duration, share, size
from spliteasy.link import LINKS, Link
from spliteasy.runlog import PHASES, StepRecord
from spliteasy.wire import Bytes, Codecs

SVG = "{http://www.w3.org/2000/svg}"


def small(mode: str = "single") -> ExplorerState:
    layers = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    state = ExplorerState(layers, input_shape=(8,), batch=3)
    state.update(mode=mode)
    return state


def large() -> ExplorerState:
    return ExplorerState("densenet201", batch=8, at=("features.pool0", "flatten"))


@pytest.fixture(params=["4 cuts", "712 cuts"])
def state(request: pytest.FixtureRequest) -> ExplorerState:
    return small(DOUBLE) if request.param == "4 cuts" else large()


def test_the_svg_is_whole_and_named(state: ExplorerState) -> None:
    picture = state.skyline
    root = ElementTree.fromstring(bars_svg(picture))
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    label = root.get("aria-label") or ""
    assert state.model in label and all(cut.name in label and size(cut.nbytes) in label for cut in state.chosen)
    groups = root.findall(f"{SVG}g")
    assert len(groups) == len(picture.bars) + 2 <= MAX_BARS + 2
    assert all(group.findtext(f"{SVG}title") for group in groups)
    chosen = [group for group in groups if "se-cut" in (group.get("class") or "")]
    assert [str(group.findtext(f"{SVG}title")).split(" ")[1] for group in chosen] == [cut.name for cut in state.chosen]
    assert {(group.get("class") or "").split()[1] for group in groups} == {"se-a", "se-b", "se-c"}
    for rectangle in root.iter(f"{SVG}rect"):
        assert float(rectangle.get("y", -1)) >= 0 and float(rectangle.get("height", -1)) >= 0
        assert float(rectangle.get("y", 0)) + float(rectangle.get("height", 0)) <= 100.01


def test_every_cut_is_in_one_bar_and_heights_are_its_bytes(state: ExplorerState) -> None:
    picture = state.skyline
    covered = [index for bar in picture.bars for index in range(bar.first, bar.last + 1)]
    assert covered == list(range(len(state.cuts)))
    for bar in picture.bars:
        assert bar.nbytes == max(state.cuts[index].nbytes for index in range(bar.first, bar.last + 1))
    highest = max(cut.nbytes for cut in state.cuts)
    assert 0.85 < picture.axis.height(highest) <= 1


def test_bars_are_never_thinner_than_two_pixels() -> None:
    assert 900 / len(large().skyline.bars) > 2


@pytest.mark.parametrize("log", [False, True])
def test_the_axis_has_round_numbers_within_it(state: ExplorerState, log: bool) -> None:
    state.update(log=log)
    axis = state.skyline.axis
    assert 2 <= len(axis.ticks) <= 8
    heights = [axis.height(tick) for tick in axis.ticks]
    assert heights == sorted(heights) and heights[0] == 0 and heights[-1] <= 1
    assert all(re.fullmatch(r"\d{1,3}(\.5)? [kMG]?B", size(tick, exact=False)) for tick in axis.ticks)


def test_segments_meet_at_the_cuts() -> None:
    state = small(DOUBLE)
    first, last = state.chosen
    assert state.skyline.spans == {
        "A": (0, first.index + 1),
        "B": (first.index + 1, last.index + 1),
        "C": (last.index + 1, 4),
    }
    assert set(small().skyline.spans) == {"A", "B"}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("resnet50", ["layer1", "layer2", "layer3", "layer4"]),
        ("densenet121", ["features.denseblock1", "features.denseblock4", "features.transition2"]),
        ("vit_b_16", ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11"]),
        ("vgg11", ["features", "classifier"]),
        ("digits_cnn", ["conv1", "pool", "classifier"]),
    ],
)
def test_stages_follow_the_modules(name: str, labels: list[str]) -> None:
    picture = ExplorerState(name).skyline
    found = [stage.label for stage in picture.stages]
    assert set(labels) <= set(found) and len(found) <= 32
    assert [stage.first for stage in picture.stages[1:]] == [stage.last + 1 for stage in picture.stages[:-1]]


def test_the_picture_says_what_it_shows() -> None:
    html = picture_html(ExplorerState("resnet50", at=("maxpool", "flatten")).skyline)
    text = _text(html)
    for words in (
        "resnet50: bytes at each of its 176 cuts, for a batch of 32 images",
        "A on the device",
        "B on the server",
        "C on the device",
        "after maxpool · 25.7 MB",
        "after flatten · 262 kB",
        "200 MB",
        "layer3",
        "bytes",
        "operations, in the order they run",
    ):
        assert words in text


def test_the_facts_say_what_crosses_and_what_stays() -> None:
    state = ExplorerState("resnet50", at="maxpool")
    text = _text(facts_html(state.facts))
    for words in (
        "B·R·C·F = 32·56·56·64 = 6,422,528 values = 25.7 MB",
        "maxpool (MaxPool2d)",
        "< 0.1 % of 25.6 M parameters",
        "2.9 % of 4.09 G multiply-accumulates",
        "The labels (256 B) travel with the activations",
    ):
        assert words in text, words
    text = _text(budget_html(state.budget, state.facts, state.codecs))
    for words in (
        "One training step of 32 samples on lte: 12 Mbit/s up, 12 down, 70 ms round trip",
        "activations A → B",
        "input_gradients B → A",
        "51.4 MB",
        "34.3 s",
        "not measured yet for activations, input gradients",
        "Computing is not in it",
    ):
        assert words in text, words
    state.update(at=("maxpool", "flatten"))
    text = _text(facts_html(state.facts))
    assert "B·E = 32·2048 = 65,536 values = 262 kB" in text and "Inputs and labels stay on the device" in text
    state.update(at="input")
    text = _text(facts_html(state.facts))
    assert "the inputs themselves leave the device" in text
    assert "none" in _text(budget_html(state.budget, state.facts, state.codecs))


def test_a_measured_step_is_shown_raw_and_compressed() -> None:
    state = ExplorerState("resnet50", at="maxpool", codecs=Codecs(activations="topk(0.1)", input_gradients="fp16"))
    assert "Nothing measured" in _text(trials_html((), state.facts, state.codecs, 8))
    up = MessageTrial("activations", "topk(0.1)", 1, 6_422_528, 642_253, 0.25, 0.97, 1200.0, 900.0)
    down = MessageTrial("input_gradients", "fp16", 1, 6_422_528, 3_211_264, 0.0002, 1.0, 4000.0, 5000.0)
    seconds = dict.fromkeys(PHASES, 0.25)
    state.remember(Trial(dataclasses.replace(state.plan, photographs=state.photographs), (up, down), seconds))
    text = _text(budget_html(state.budget, state.facts, state.codecs))
    for words in ("2.57 MB", "10×", "1.71 s", "12.8 MB", "with 7 samples, scaled to 32", "server computes"):
        assert words in text, words
    html = budget_html(state.budget, state.facts, state.codecs)
    widths = [
        float(width) for width in re.findall(r'class="se-(?:device|up|server|down|trips)" style="width:([\d.]+)%', html)
    ]
    assert sum(widths[:5]) == pytest.approx(100, abs=0.1), "the longer bar fills the line"
    text = _text(trials_html(state.trials, state.facts, state.codecs, 7))
    for words in ("topk(0.1)", "25.0 %", "0.9700", "1,200 MB/s", "Measured on 7 photographs in training mode"):
        assert words in text, words


def test_training_is_drawn_as_it_goes() -> None:
    assert training_html([], LINKS["lte"], own=False) == ""
    sizes = {
        "activations": Bytes(raw=4000, frame=1000, http=1200),
        "input_gradients": Bytes(raw=4000, frame=2000, http=2200),
    }
    records = [StepRecord(n, 2.5 - n / 4, 8, {}, sizes, 0.1) for n in range(4)]
    for count in (1, 4):
        html = training_html(records[:count], LINKS["lte"], own=False)
        text = _text(html)
        assert f"step {count} of 10, 8 digits each, device and server are two processes" in text
        assert "3.40 kB on the socket a step, of 8.00 kB raw (2.35×)" in text
        points = re.search(r'points="([^"]+)"', html)
        assert points and len(points[1].split()) == max(count, 2)
    assert "in frames" in _text(training_html(records, LINKS["lte"], own=True))
    lost = [dataclasses.replace(records[0], loss=float("nan"))]
    assert "nan" in _text(training_html(lost, LINKS["lte"], own=True))


def test_pictures_are_saved_and_never_overwritten(tmp_path: Path) -> None:
    state = ExplorerState("timm/inception_resnet_v2", at="maxpool_3a")
    first = save_picture(state.skyline, state.model, tmp_path)
    second = save_picture(state.skyline, state.model, tmp_path)
    names = ["timm-inception_resnet_v2-maxpool_3a.svg", "timm-inception_resnet_v2-maxpool_3a.png"]
    assert [path.name for path in first] == names
    assert [path.name for path in second] == [name.replace("3a.", "3a-2.") for name in names]
    assert ElementTree.fromstring(first[0].read_text()).tag == f"{SVG}svg"
    assert first[1].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SplitEasyError, match="Change to a folder of yours"):
        save_picture(state.skyline, state.model, tmp_path / "none")


def test_names_cannot_become_markup() -> None:
    class Evil(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("<img src=x onerror=alert(1)>", nn.Linear(8, 4))

        def forward(self, x: object) -> object:
            return next(iter(self.children()))(x)

    state = ExplorerState(Evil(), input_shape=(8,), batch=3)
    row = MessageTrial("activations", "<img src=x>", 1, 8, 4, 0.0, 1.0, 1.0, 1.0)
    state.update(first=1)
    for html in (
        picture_html(state.skyline),
        facts_html(state.facts),
        trials_html((row,), state.facts, state.codecs, 3),
        static_html(state.skyline, state.facts, b""),
    ):
        images = [dict(attributes).get("src") for tag, attributes in _tags(html) if tag == "img"]
        assert "x" not in images and "&lt;img src=x" in html


def test_colours_come_from_the_theme() -> None:
    for variable in ("content-font-color0", "content-font-color1", "layout-color1", "border-color2"):
        assert re.search(rf"var\(--jp-{variable}, #[0-9a-f]+\)", STYLE)
    for sheet in (STYLE, CONTROLS):
        assert sheet.count("{") == sheet.count("}")
        assert "%" not in re.sub(r"\d%", "", sheet)


@pytest.mark.parametrize("log", [False, True])
def test_the_figure_is_drawn_without_pyplot(state: ExplorerState, log: bool) -> None:
    state.update(log=log)
    image = png(state.skyline)
    assert image.startswith(b"\x89PNG") and 5_000 < len(image) < 200_000
    assert "matplotlib.pyplot" not in sys.modules
    words = [text.get_text() for text in draw(state.skyline).findobj(lambda artist: hasattr(artist, "get_text"))]
    assert state.skyline.title in words
    assert all(f"after {cut.name}: {size(cut.nbytes)}" in words for cut in state.chosen)
    assert {"A on the device", "B on the server", "C on the device", "bytes at the cut"} <= set(words)


def test_the_static_page_needs_neither_styles_nor_scripts() -> None:
    state = ExplorerState("resnet50", at=("maxpool", "flatten"))
    html = static_html(state.skyline, state.facts, png(state.skyline))
    tags = _tags(html)
    assert {tag for tag, _ in tags} <= {"img", "table", "thead", "tbody", "tr", "th", "td"}
    image = next(dict(attributes) for tag, attributes in tags if tag == "img")
    assert (image["src"] or "").startswith("data:image/png;base64,") and "maxpool" in (image["alt"] or "")
    assert "B·R·C·F = 32·56·56·64 = 6,422,528 values = 25.7 MB" in _text(html)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (size(0), "0 B"),
        (size(999), "999 B"),
        (size(1000), "1.00 kB"),
        (size(25_690_112), "25.7 MB"),
        (size(999_999), "1.00 MB"),
        (size(3.2e12), "3.20 TB"),
        (size(5e7, exact=False), "50 MB"),
        (size(1e8, exact=False), "100 MB"),
        (amount(25_557_032), "25.6 M"),
        (amount(640), "640"),
        (duration(0), "0 s"),
        (duration(0.0004), "0.400 ms"),
        (duration(0.07), "70.0 ms"),
        (duration(0.9999), "1.00 s"),
        (duration(34.26), "34.3 s"),
        (duration(99.96), "1 min 40 s"),
        (duration(3599.9), "1 h 00 min"),
        (duration(4200), "1 h 10 min"),
        (share(0, 5), "0 %"),
        (share(5, 5), "100 %"),
        (share(1, 10_000), "< 0.1 %"),
        (share(9_999_999, 10_000_000), "> 99.9 %"),
        (share(1, 3), "33.3 %"),
        (share(0, 0), "0 %"),
        (bandwidth(Link(float("inf"), 1.6, 300)), "unlimited Mbit/s up, 1.6 down, 300 ms round trip"),
    ],
)
def test_numbers_as_people_read_them(found: str, expected: str) -> None:
    assert found == expected


def test_arithmetic_of_any_boundary() -> None:
    cuts = ExplorerState("vit_b_16", batch=2).cuts
    assert arithmetic(cuts["encoder.dropout"].tensors).startswith("B·T·E = 2·197·768 = 302,592 values")
    cuts = ExplorerState("densenet121", batch=2).cuts
    several = max(cuts, key=lambda cut: len(cut.tensors))
    assert arithmetic(several.tensors).startswith(f"{len(several.tensors)} tensors = ")
    two = next(cut for cut in cuts if len(cut.tensors) == 2)
    assert re.match(r"2 tensors = [\d·]+ \+ [\d·]+ = [\d,]+ values = ", arithmetic(two.tensors))
    assert arithmetic(()) == "nothing crosses"


def test_a_skyline_of_one_bar() -> None:
    picture = small().skyline
    one = Skyline(picture.title, 4, picture.bars[:1], picture.stages, picture.axis, picture.at)
    ElementTree.fromstring(bars_svg(one))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))
        if tag in ("td", "th", "div", "br", "tr", "p"):
            self.words.append(" ")


def _text(html: str) -> str:
    reader = _Reader()
    reader.feed(html)
    return re.sub(r"\s+", " ", "".join(reader.words))


def _tags(html: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    reader = _Reader()
    reader.feed(html)
    return reader.tags
