"""Processes killed with SIGKILL at every point of a step: training goes on, and ends with the same bits."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import DEVICE_POINTS, SERVER_POINTS, Forker, servers_that_die
from harness import DOUBLE, SINGLE, batches, digits, digits_split, everything, same, trained_unsplit

import spliteasy as se

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="processes are forked")

ADAM = {"name": "Adam", "lr": 0.01}
CHAIN = "ef('topk(0.3)') | fp16 | zstd(1)"
"""Its codec keeps state on both sides."""


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    made = Forker()
    yield made
    made.close()


def deaths(at: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Every point of every phase, each in a step of its own."""
    phases = ("forward", "backward")[: len(at)]
    places = [
        (point, phase) for phase in phases for point in SERVER_POINTS if (point, phase) != ("after commit", "backward")
    ]
    return [(point, phase, 1 + number) for number, (point, phase) in enumerate(places)]


CASES = [
    pytest.param(DOUBLE, 5, "raw", id="double, every 5"),
    pytest.param(SINGLE, 1, "raw", id="single, every 1"),
    pytest.param(DOUBLE, 1, CHAIN, id="double, every 1, with state", marks=pytest.mark.slow),
    pytest.param(SINGLE, 5, CHAIN, id="single, every 5, with state", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("at", "every", "chain"), CASES)
def test_a_server_killed_at_every_point(
    forker: Forker, tmp_path: Path, at: tuple[str, ...], every: int, chain: str, record_property: Any
) -> None:
    when = deaths(at)
    record_property("fault", f"server killed, its state written after every {'step' if every == 1 else '5 steps'}")
    record_property("cases", len(when))
    steps = batches(len(when) + 3)

    def train(server: str | None) -> dict[str, Any]:
        codecs = se.Codecs(input_gradients=chain) if chain != "raw" else None
        with se.Trainer(digits_split(at), server, codecs, ADAM, retry=30) as trainer:
            for x, y in steps:
                trainer.step(x, y)
            return everything(trainer)

    with servers_that_die(forker, str(tmp_path), every, when) as url:
        found = train(url)
    assert same(found, train(None))
    if chain == "raw":
        unsplit = trained_unsplit(digits(), steps, **ADAM)
        assert same(unsplit.state_dict(), {name: found[name] for name in unsplit.state_dict()})


@pytest.mark.parametrize(
    ("at", "every"),
    [
        pytest.param(DOUBLE, 5, id="double, every 5"),
        pytest.param(SINGLE, 1, id="single, every 1", marks=pytest.mark.slow),
        pytest.param(DOUBLE, 1, id="double, every 1", marks=pytest.mark.slow),
        pytest.param(SINGLE, 5, id="single, every 5", marks=pytest.mark.slow),
    ],
)
def test_a_device_killed_at_every_point(
    forker: Forker, tmp_path: Path, at: tuple[str, ...], every: int, record_property: Any
) -> None:
    """It saves its training after every so many steps, dies in one step or save or the other, and goes on from the
    file. The SHA-256 of parameters, buffers and optimizer state is that of a device that lived."""
    record_property("fault", f"device killed, its training saved after every {'step' if every == 1 else '5 steps'}")
    record_property("cases", len(DEVICE_POINTS) if len(at) == 2 else len(DEVICE_POINTS) - 2)
    names = [name for name in DEVICE_POINTS if len(at) == 2 or "output gradients" not in name]

    def train(name: str, deaths: list[Any]) -> str:
        place = tmp_path / name
        place.mkdir()
        with servers_that_die(forker, str(place / "states"), every, []) as url:
            for death in [*deaths, None]:
                job = {"kind": "device", "url": url, "at": at, "every": every, "steps": 12, "death": death,
                       "file": str(place / "training"), "result": str(place / "result"), "chain": CHAIN}  # fmt: skip
                assert forker.other.run(job) == (0 if death is None else -signal.SIGKILL), death
        return (place / "result").read_text()

    assert train("disturbed", [DEVICE_POINTS[name] for name in names]) == train("undisturbed", [])
