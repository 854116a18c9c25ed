"""Virtual time, data volume and energy: a log put on a link and a device, by hand and against a run that waited."""

from __future__ import annotations

import math

import pytest
from harness import DOUBLE, SINGLE, batch, batches, digits_split
from hypothesis import given
from hypothesis import strategies as st

import spliteasy as se
from spliteasy.runlog import RunLog, StepRecord
from spliteasy.wire import MESSAGES, Bytes

PHASES = {
    "a_forward": 1.0,
    "c": 0.5,
    "a_backward": 2.0,
    "update": 0.25,
    "b_forward": 3.0,
    "transfer": 0.1,
    "total": 6.85,
}
PHONE = se.Device("phone", 0.5, 3 << 30, joules_per_mac=1e-9, joules_per_mb_up=3.0, joules_per_mb_down=0.5)


def record(step: int = 0, single: bool = False, http: bool = True, epoch: int = 1) -> StepRecord:
    names = ("activations", "input_gradients") if single else MESSAGES
    sizes = {name: Bytes(2_000_000, 1_000_000, 1_000_300 if http else 0) for name in names}
    return StepRecord(step, 1.0, 4, dict(PHASES), sizes, 0.1, epoch=epoch)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("http", [False, True])
def test_a_log_on_a_link_has_the_links_time_and_no_other_change(single: bool, http: bool) -> None:
    log, link = RunLog("run", [record(5, single, http)]), se.Link(8, 16, rtt_ms=40, jitter=20, seed=3, name="mine")
    there = log.on(link)
    calls, size = 1 if single else 2, 1_000_300 if http else 1_000_000
    trips = sum(link.round_trip(5, call) for call in range(calls))
    assert there[0].seconds["link"] == pytest.approx(calls * (1e-6 * size + 0.5e-6 * size) + trips)
    assert there[0].seconds["total"] == pytest.approx(6.85 + there[0].seconds["link"])
    assert there[0].bytes == log[0].bytes and there[0].seconds["a_forward"] == 1.0 and "mine" in there.title
    assert log[0].seconds == PHASES  # the log that is asked stays


@given(st.floats(0.1, 1000), st.floats(0.1, 1000), st.floats(0, 1000))
def test_going_from_link_to_link_and_back_changes_nothing(up: float, down: float, rtt: float) -> None:
    log = RunLog("run", [record(), record(1, single=True)])
    there = log.on(se.LINKS["lte"])
    again = log.on(se.Link(up, down, rtt)).on(se.LINKS["lte"])
    for one, other in zip(there, again, strict=True):
        assert one.seconds["total"] == pytest.approx(other.seconds["total"])
        assert one.seconds["link"] == other.seconds["link"]
    assert again.on(None)[0].seconds["total"] == pytest.approx(6.85)


def test_a_slower_device_takes_longer_for_its_part_only() -> None:
    there = RunLog("run", [record()]).on(device=PHONE)[0].seconds
    assert (there["a_forward"], there["c"], there["a_backward"], there["update"]) == (2.0, 1.0, 4.0, 0.5)
    assert there["b_forward"] == 3.0 and there["total"] == pytest.approx(6.85 + 3.75)


def test_what_is_not_split_has_no_link() -> None:
    trainer = se.Trainer(digits_split(()))
    trainer.step(*batch())
    assert trainer.log.on(se.LINKS["3g"])[0].seconds == trainer.log[0].seconds


@pytest.mark.parametrize("at", [pytest.param(SINGLE, marks=pytest.mark.slow), DOUBLE])
def test_virtual_time_is_that_of_a_run_that_waits_as_far_as_the_link_goes(at: tuple[str, ...]) -> None:
    link = se.Link(up_mbps=50, down_mbps=100, rtt_ms=6, jitter=3, seed=1)
    with se.LocalServer() as server:
        logs = []
        for used in (None, link):
            with se.Trainer(digits_split(at), server=server.url, link=used) as trainer:
                logs.append(trainer.fit(batches(3), progress=False))
    there = logs[0].on(link)
    assert [r.seconds["link"] for r in there] == pytest.approx([r.seconds["link"] for r in logs[1]])
    assert there.losses == logs[1].losses


def test_with_a_device_a_table_has_its_bytes_and_joules() -> None:
    log = RunLog("run", [record(), record(1, single=True)], device_macs=1_000_000)
    assert not [name for name in log.to_pandas().columns if name.startswith("device.")]
    table = log.on(device=PHONE).to_pandas()
    assert list(table["device.bytes_up"]) == [2_000_600, 1_000_300] == list(table["device.bytes_down"])
    assert list(table["device.megabytes_per_image"]) == pytest.approx([1.0003, 0.50015])
    radio, computing = 1.0003 * 3.5, 1e-9 * 3 * 1e6 * 4
    assert list(table["device.joules"]) == pytest.approx([2 * radio + computing, radio + computing])
    silent = log.on(device=se.Device("silent", 1, 1 << 30)).to_pandas()
    assert "device.joules" not in silent and "device.bytes_up" in silent


def test_with_a_device_a_summary_adds_up() -> None:
    log = RunLog("run", [record(), record(1, single=True)], device_macs=1_000_000, fitted_bytes=10)
    table = log.on(device=PHONE).summary()
    parts = table.loc[list(MESSAGES)]
    assert table.loc["total", "MB per image"] == pytest.approx(parts["MB per image"].sum())
    assert table.loc["total", "joules"] == pytest.approx(parts["joules"].sum() + 0.012)
    assert parts.loc["activations", "joules"] == pytest.approx(3.0 * 1.0003)
    assert parts.loc["input_gradients", "joules"] == pytest.approx(0.5 * 1.0003)
    assert math.isnan(table.loc["fitted, once", "joules"])
    assert "joules" not in log.summary() and "MB per image" in repr(log.on(device=PHONE))


def test_epochs_add_up_their_steps() -> None:
    log = RunLog("run", [record(0), record(1), record(2, epoch=2), record(3, epoch=0)], device_macs=1_000_000)
    table = log.epochs()
    assert list(table.index) == [1, 2, 0] and list(table["steps"]) == [2, 1, 1] and "joules" not in table
    assert list(table["bytes_up"]) == [4_001_200, 2_000_600, 2_000_600] and table.loc[1, "seconds"] == 2 * 6.85
    assert list(table["megabytes_per_image"]) == pytest.approx([1.0003] * 3)
    there = log.on(device=PHONE)
    assert there.epochs()["joules"].sum() == pytest.approx(there.to_pandas()["device.joules"].sum())
    assert RunLog("nothing").epochs().empty


def test_fit_counts_epochs_and_steps_on_their_own_are_in_none() -> None:
    trainer = se.Trainer(digits_split())
    trainer.step(*batch())
    trainer.fit(batches(2), epochs=2, progress=False)
    trainer.fit(batches(1), progress=False)
    trainer.step(*batch())
    assert [r.epoch for r in trainer.log] == [0, 1, 1, 2, 2, 3, 0]
    assert list(trainer.log.to_pandas()["epoch"]) == [0, 1, 1, 2, 2, 3, 0]


@pytest.mark.parametrize("at", [(), SINGLE, DOUBLE])
def test_a_split_knows_the_devices_share_of_the_work(at: tuple[str, ...]) -> None:
    split = digits_split(at)
    cuts = se.find_cuts(split.model, (1, 8, 8), batch=2)
    whole = cuts["relu3"].macs_before + cuts["relu3"].macs_after
    expected = {(): whole, SINGLE: cuts["relu1"].macs_before}.get(
        at, cuts["relu1"].macs_before + cuts["relu3"].macs_after
    )
    assert split.device_macs == expected == se.Trainer(split).log.device_macs
