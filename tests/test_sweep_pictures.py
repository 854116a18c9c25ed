"""The pictures of a study, from made-up rows: what the titles say, where the frontier runs, that labels stay apart."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import spliteasy as se
from spliteasy.errors import TrainingError
from spliteasy.runlog import PHASES
from spliteasy.sweeping import plot_rate_error
from spliteasy.sweeping.figures import crossing, pareto

# chain: bytes a sample, accuracy, seconds of encoding
CHAINS = {
    "raw": (40_000, 0.95, 0.0),
    "fp16 | zstd(1)": (18_000, 0.951, 0.002),
    "int8": (10_000, 0.949, 0.004),
    "topk(0.1) | fp16 | zstd(1)": (2_000, 0.946, 0.008),
    "topk(0.1) | int8 | zstd(1)": (1_900, 0.945, 0.009),
    "topk(0.03) | int8": (600, 0.90, 0.007),
    "sign": (1_250, 0.80, 0.003),
    "useless": (50_000, 0.85, 0.01),
}


def made_up(chains: dict[str, tuple[float, float, float]] = CHAINS, seeds: int = 3) -> se.Sweep:
    rows: list[dict[str, Any]] = []
    for seed, (chain, (size, accuracy, encoding)) in itertools.product(range(seeds), chains.items()):
        noise = 0.004 * (seed - 1)
        rows.append(
            {
                "run": f"{chain}/{seed}", "model": "network", "cut": "pool, flatten", "chain": chain, "seed": seed,
                "data": "digits", "frozen": False, "problem": "", "counted": "http", "fitted_bytes": 0,
                "validation_accuracy": accuracy + noise, "test_accuracy": accuracy + noise, "steps": 10, "samples": 320,
                "calls_per_step": 2, "raw_bytes_per_sample": 40_000.0, "up_bytes_per_sample": size / 2,
                "down_bytes_per_sample": size / 2, **{f"seconds.{phase}": 0.0 for phase in PHASES},
                "seconds.encode": encoding, "seconds.a_forward": 0.02, "seconds.b_forward": 0.03,
            }
        )  # fmt: skip
    return se.Sweep(rows, {"training": {"epochs": 1}}, se.LINKS)


def texts(figure: Any) -> list[Any]:
    """The labels beside points."""
    return [text for axes in figure.axes for text in axes.texts if text.get_text()]


def test_the_title_of_the_frontier_says_what_validation_chose() -> None:
    figure = made_up().plot_frontier()
    assert "21× fewer bytes at -0.5 ± 0.0 points: topk(0.1) | int8 | zstd(1)" in figure.axes[0].get_title(loc="left")
    assert figure.axes[0].get_xscale() == "log" and "HTTP" in figure.axes[0].get_xlabel()
    assert "3 seeds" in figure.get_suptitle()


def test_chains_that_lost_very_much_do_not_press_the_others_together() -> None:
    figure = made_up({**CHAINS, "sign": (1_250, 0.2, 0.003)}).plot_frontier()
    (axes,) = figure.axes
    assert axes.get_ylim()[0] > 70, "not from 20 % on"
    assert "sign: 20 %" in [label.get_text() for label in texts(figure)]


def test_labels_name_every_chain_and_do_not_lie_on_each_other() -> None:
    figure = made_up().plot_frontier()
    labels = texts(figure)
    assert sorted(label.get_text() for label in labels) == sorted(CHAINS)
    boxes = [label.get_window_extent() for label in labels]
    assert not [1 for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]


def test_time_against_bandwidth_says_below_what_to_compress() -> None:
    result = made_up()
    figure = result.plot_time()
    row = result.table.set_index("chain")
    seconds = {chain: row.loc[chain, "codec_seconds"] for chain in CHAINS}
    highest = max(
        8e-6 * 32 * (40_000 - row.loc[chain, "bytes"]) / (seconds[chain] - seconds["raw"])
        for chain in CHAINS
        if chain not in ("raw", "useless")
    )
    assert f"below {highest / 1000:.2g} Gbit/s, compress" in figure.axes[0].get_title(loc="left")
    words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "useless: never faster than raw" in words and any("int8: faster below" in text for text in words)


def test_free_compression_always_pays_and_no_compression_never() -> None:
    always = made_up({"raw": (40_000, 0.9, 0.0), "free": (4_000, 0.9, 0.0)}).plot_time()
    assert "compress on every link" in always.axes[0].get_title(loc="left")
    never = made_up({"raw": (40_000, 0.9, 0.0), "useless": (40_000, 0.9, 0.1)}).plot_time()
    assert "does not pay" in never.axes[0].get_title(loc="left")


def test_rate_against_error_from_measure() -> None:
    tensor = torch.randn(8, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = [se.measure(chain, tensor, repeats=1) for chain in ("raw", "fp16", "topk(0.1) | fp16", "zstd(1)")]
    figure = plot_rate_error(rows)
    names = [text.get_text() for text in texts(figure)]
    assert {row.chain for row in rows} <= set(names) and "lossless" in names
    assert "topk(0.1) | fp16 is smallest" in figure.axes[0].get_title(loc="left")
    assert plot_rate_error([row.to_dict() for row in rows]).axes and plot_rate_error(rows[0]).axes
    with pytest.raises(TrainingError, match=r"se\.measure"):
        plot_rate_error([])


def test_a_picture_of_nothing_is_refused() -> None:
    with pytest.raises(TrainingError, match="finished runs"):
        se.Sweep([], {}, se.LINKS).plot_frontier()


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_frontier_is_what_nothing_else_beats(points: list[tuple[float, float]]) -> None:
    front = pareto([size for size, _ in points], [score for _, score in points])
    chosen = [points[place] for place in front]
    assert chosen == sorted(chosen) and len({score for _, score in chosen}) == len(chosen)
    for size, score in points:
        assert any(one <= size and other >= score for one, other in chosen), "every point is on it or beaten by it"
    for one, other in itertools.permutations(chosen, 2):
        assert not (one[0] <= other[0] and one[1] >= other[1]), "and no point of it is beaten"


@example(2.225073858507e-311, 1.0, 0.0, 501.0)
@given(st.floats(0, 1), st.floats(1, 1e6), st.floats(0, 1), st.floats(1, 1e6))
def test_at_the_crossing_both_take_as_long(seconds: float, sent: float, raw_seconds: float, raw_sent: float) -> None:
    below = crossing(seconds, sent, raw_seconds, raw_sent)
    if 1e-6 < below < 1e9:
        one, other = (s + 8e-6 * size / below for s, size in ((seconds, sent), (raw_seconds, raw_sent)))
        assert math.isclose(one, other, rel_tol=1e-6)
    elif below == math.inf:
        assert seconds <= raw_seconds and sent <= raw_sent
