"""Links: the arithmetic of crossing one, and what no link can be."""

import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliteasy.errors import TrainingError
from spliteasy.link import LINKS, Link


def test_seconds_add_both_directions_and_a_round_trip_for_every_call() -> None:
    link = Link(up_mbps=8, down_mbps=16, rtt_ms=50)
    assert link.seconds(1_000_000, 0, calls=0) == pytest.approx(1.0)
    assert link.seconds(0, 1_000_000, calls=0) == pytest.approx(0.5)
    assert link.seconds(1_000_000, 1_000_000, calls=2) == pytest.approx(1.6)
    assert link.seconds(0, 0) == pytest.approx(0.05)


def test_an_unlimited_link_costs_only_its_round_trips() -> None:
    assert Link(math.inf, math.inf).seconds(10**12, 10**12) == 0.0


@pytest.mark.parametrize("mbps", [0, -1, 0.0, math.nan, -math.inf, "20", None, True])
@pytest.mark.parametrize("direction", ["up_mbps", "down_mbps"])
def test_impossible_bandwidths_are_refused(direction: str, mbps: Any) -> None:
    with pytest.raises(TrainingError, match=direction) as caught:
        Link(**{"up_mbps": 1, "down_mbps": 1, direction: mbps})
    assert repr(mbps) in str(caught.value) and "link=None" in str(caught.value)


@pytest.mark.parametrize("rtt", [-1, math.nan, math.inf, "1"])
def test_impossible_round_trips_are_refused(rtt: Any) -> None:
    with pytest.raises(TrainingError, match="rtt_ms"):
        Link(1, 1, rtt_ms=rtt)


def test_negative_traffic_is_refused() -> None:
    with pytest.raises(TrainingError, match="down_bytes=-1"):
        LINKS["lan"].seconds(1, -1)


def test_a_link_is_a_value() -> None:
    assert Link(20, 50, 40) == Link(up_mbps=20, down_mbps=50, rtt_ms=40)
    assert len({Link(20, 50), Link(20, 50), Link(50, 20)}) == 2
    with pytest.raises(AttributeError):
        Link(20, 50).up_mbps = 1  # type: ignore[misc]


def test_presets_have_their_own_names_and_the_published_numbers() -> None:
    assert {name: (link.down_mbps, link.up_mbps, link.rtt_ms) for name, link in LINKS.items()} == {
        "lan": (1000, 1000, 1),
        "home-wifi": (120, 18, 15),
        "aws": (71, 71, 390),
        "ngrok": (71, 71, 780),
        "5g": (166, 21, 40),
        "fios": (20, 5, 4),
        "cable": (5, 1, 28),
        "lte": (12, 12, 70),
        "4g": (9, 9, 170),
        "3g": (1.6, 0.768, 300),
    }
    assert all(link.name == name and len(link.source) > 40 for name, link in LINKS.items())


def test_aws_is_what_table_1_of_the_paper_says() -> None:
    """Seconds of communication, double and single; bytes after the first pool; width of the embedding."""
    first, inception = 4 * 56 * 56 * 64, 4 * 73 * 73 * 64
    table = [
        (1.60, 1.07, first, 2048), (1.93, 1.03, first, 2048), (1.88, 0.99, first, 1024),
        (1.87, 0.93, first, 1920), (1.63, 1.21, inception, 2048), (1.60, 1.19, inception, 1536),
    ]  # fmt: skip
    rows = [
        (calls, 8e-6 * (2 * size + (calls == 4) * 8 * width), seconds)
        for double, single, size, width in table
        for calls, seconds in ((4, double), (2, single))
    ]
    terms, seconds = np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])
    (call, inverse), *_ = np.linalg.lstsq(terms, seconds, rcond=None)
    assert 1e3 * call == pytest.approx(LINKS["aws"].rtt_ms, rel=0.01)
    assert 1 / inverse == pytest.approx(LINKS["aws"].up_mbps, rel=0.01)
    found = [LINKS["aws"].seconds(int(mb * 1e6 / 16), int(mb * 1e6 / 16), int(calls)) for calls, mb in terms]
    assert max(abs(np.array(found) / seconds - 1)) < 0.17


@given(st.integers(), st.integers(-1, 10**9), st.integers(0, 1), st.floats(0, 1))
def test_a_round_trip_is_drawn_within_the_jitter_and_drawn_again_alike(
    seed: int, step: int, call: int, part: float
) -> None:
    link = Link(1, 1, rtt_ms=40, jitter=40 * part, seed=seed)
    found = link.round_trip(step, call)
    assert abs(found - 0.04) <= 0.04 * part + 1e-12 and found == link.round_trip(step, call)


def test_jitter_keeps_the_mean_and_differs_by_seed_and_call() -> None:
    link = Link(1, 1, rtt_ms=40, jitter=20, seed=3)
    drawn = [link.round_trip(step, call) for step in range(1000) for call in (0, 1)]
    assert statistics.mean(drawn) == pytest.approx(0.04, rel=0.03) and len(set(drawn)) == 2000
    assert statistics.stdev(drawn) == pytest.approx(0.02 / math.sqrt(3), rel=0.05)
    assert Link(1, 1, rtt_ms=40, jitter=20, seed=4).round_trip(0) != drawn[0]
    assert Link(1, 1, rtt_ms=40).round_trip(5) == 0.04


@pytest.mark.parametrize("jitter", [-1, 41, math.nan, math.inf, "1", None])
def test_impossible_jitter_is_refused(jitter: Any) -> None:
    with pytest.raises(TrainingError, match="jitter") as caught:
        Link(1, 1, rtt_ms=40, jitter=jitter)
    assert repr(jitter) in str(caught.value) and "40" in str(caught.value)


def test_a_seed_that_is_no_whole_number_is_refused() -> None:
    with pytest.raises(TrainingError, match="seed"):
        Link(1, 1, seed=0.5)  # type: ignore[arg-type]
