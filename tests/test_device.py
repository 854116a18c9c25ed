"""Devices: what none can be, the paper's phone, and the energy of what is stated."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import spliteasy as se
from spliteasy import device as devices
from spliteasy.device import PHONE_MACS_A_SECOND, TRAINING_MACS
from spliteasy.errors import TrainingError


def phone(**changed: Any) -> se.Device:
    return se.Device(**{"name": "phone", "speed": 0.1, "memory_bytes": 3 << 30, **changed})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", value) for value in ("", None, 3)),
        *(("speed", value) for value in (0, -1, math.nan, math.inf, "1", None, True)),
        *(("memory_bytes", value) for value in (0, -1, 1.5, None, True, "3 GB")),
        *(("share", value) for value in (0, -0.1, 1.1, math.nan, None, True)),
        *((f"joules_per_{what}", value) for what in ("mac", "mb_up", "mb_down") for value in (-1, math.nan, "1", True)),
    ],
)
def test_what_no_device_is_is_refused(field: str, value: Any) -> None:
    with pytest.raises(TrainingError, match=field) as caught:
        phone(**{field: value})
    assert repr(value) in str(caught.value)


def test_a_device_without_memory_is_told_what_to_give() -> None:
    with pytest.raises(TrainingError, match=r"3 \* 2\*\*30"):
        phone(memory_bytes=0)


def test_an_app_gets_its_share_and_a_device_is_a_value() -> None:
    assert phone(share=0.5).available_bytes == 3 << 29 and phone().available_bytes == 3 << 30
    assert phone() == phone(source="somewhere") and len({phone(), phone(), phone(speed=1)}) == 2


@given(st.floats(0, 1e12), st.floats(0, 1e9), st.floats(0, 1e9))
def test_energy_is_the_sum_of_what_is_stated(macs: float, up: float, down: float) -> None:
    assert phone().joules(macs, up, down) is None
    assert phone(joules_per_mac=1e-11).joules(macs, up, down) == pytest.approx(1e-11 * macs)
    whole = phone(joules_per_mac=1e-11, joules_per_mb_up=3.0, joules_per_mb_down=0.5)
    assert whole.joules(macs, up, down) == pytest.approx(1e-11 * macs + 3e-6 * up + 0.5e-6 * down)


def test_the_papers_phone_lies_between_its_two_networks() -> None:
    for name, seconds in (("resnet50", 9.6), ("densenet121", 11.5)):
        last = se.find_cuts(se.load_model(name), (3, 224, 224), batch=1)[-1]
        predicted = TRAINING_MACS * (last.macs_before + last.macs_after) / PHONE_MACS_A_SECOND
        assert predicted == pytest.approx(seconds, rel=0.32)
    assert pytest.approx(0.972e9, rel=1e-3) == PHONE_MACS_A_SECOND


def test_profiles_are_measured_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(devices, "this_machines_macs_a_second", lambda threads: asked.append(threads) or 20e9)
    assert list(se.DEVICES) == ["this-machine", "iphone-xr"] and "iphone-xr" in se.DEVICES and not asked
    assert repr(se.DEVICES) == "DEVICES: this-machine, iphone-xr" and "nokia" not in se.DEVICES
    found = se.DEVICES["iphone-xr"]
    assert asked and found.speed == pytest.approx(PHONE_MACS_A_SECOND / 20e9) and found.memory_bytes == 3 << 30
    assert "Table 1" in found.source and "assumption" in found.source and not found.states_energy
    here = se.DEVICES["this-machine"]
    assert here.speed == 1 and here.memory_bytes > 1 << 28 and here.source
    with pytest.raises(KeyError, match="iphone-xr"):
        se.DEVICES["iphone"]


def test_measuring_this_machine_leaves_random_numbers_and_threads_alone() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    rate = devices.this_machines_macs_a_second(1)
    assert rate > 1e8 and devices.this_machines_macs_a_second(1) == rate
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
