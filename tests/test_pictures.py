"""Pictures show themselves, small, and say in words what they show."""

from __future__ import annotations

import base64
import io
import sys

import pytest
from PIL import Image

import spliteasy as se
from spliteasy.pictures import Picture
from spliteasy.runlog import StepRecord
from spliteasy.wire import Bytes


def drawn(alt: str = "") -> Picture:
    picture = Picture(figsize=(3, 2))
    picture.subplots().plot([0, 1], [1, 0])
    picture.alt = alt
    return picture


def test_a_picture_is_a_small_png() -> None:
    data, metadata = drawn()._repr_mimebundle_()
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert image.mode == "P" and image.size == (300, 200)
    assert set(data) == {"image/png", "text/plain"} and metadata == {}
    assert "matplotlib.pyplot" not in sys.modules


def test_with_words_it_is_also_a_page() -> None:
    data, metadata = drawn('a line from 1 to 0, "falling" <fast>')._repr_mimebundle_()
    assert 'alt="a line from 1 to 0, &quot;falling&quot; &lt;fast&gt;"' in data["text/html"]
    assert data["text/html"].count(data["image/png"]) == 1
    assert metadata["image/png"]["alt"] == data["text/plain"] == 'a line from 1 to 0, "falling" <fast>'


def test_a_log_says_what_its_plot_shows() -> None:
    log = se.RunLog("digits")
    assert log.plot().alt == "digits: no steps."  # type: ignore[attr-defined]
    sizes = {"activations": Bytes(raw=2_000_000, frame=500_000, http=510_000)}
    log.records += [StepRecord(n, 2.5 - n, 8, {"total": 0.25}, sizes, 0.1) for n in range(2)]
    words = log.plot().alt  # type: ignore[attr-defined]
    assert "from 2.5 to 1.5 in 2 steps" in words and "250 ms" in words
    assert "activations 2 MB raw and 0.51 MB sent" in words


@pytest.mark.parametrize("at", ["pool", ("pool", "flatten")])
def test_the_explorers_picture_names_the_cuts(at: str | tuple[str, str]) -> None:
    words = se.explore("digits_cnn", at=at).figure().alt
    assert "digits_cnn" in words and "after pool, where 65.5 kB cross" in words
