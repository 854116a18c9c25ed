"""Links: the arithmetic of crossing one, and what no link can be."""

import math
from typing import Any

import pytest

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
        "fios": (20, 5, 4),
        "cable": (5, 1, 28),
        "lte": (12, 12, 70),
        "4g": (9, 9, 170),
        "3g": (1.6, 0.768, 300),
    }
    assert all(link.name == name for name, link in LINKS.items())
