"""A network that drops, delays, repeats, cuts short and mixes up what goes over it: training sees none of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from harness import DOUBLE, SINGLE, batches, digits, digits_split, same, trained_unsplit
from sockets import Proxy, no_session_left

import spliteasy as se
from spliteasy.server.process import LocalServer

ADAM = {"name": "Adam", "lr": 0.01}
FAULTS = ("drop", "delay", "duplicate", "reorder", "truncate", "reset", "stall", "trickle", "damage")
STEP = 2
"""In which step the fault happens."""


@dataclass
class Fault:
    """Happens once, to the message ``phase`` of `STEP`, on its way ``up`` or down."""

    kind: str
    phase: str
    up: bool
    done: bool = False
    due: bool = False
    before: bytes = b""

    def install(self, proxy: Proxy) -> None:
        proxy.change_up, proxy.change_down, self.proxy = self.going_up, self.going_down, proxy

    def going_up(self, data: bytes) -> bytes:
        self.due = self.due or (f"steps/{STEP}/{self.phase} ".encode() in data and not self.done)
        if not (self.due and self.up) or self.done:
            if not self.done:
                self.before = data
            return data
        return self._happen(data)

    def going_down(self, data: bytes) -> bytes:
        if self.up or not self.due or self.done:
            if not self.done:
                self.before = data
            return data
        return self._happen(data)

    def _happen(self, data: bytes) -> bytes:
        self.done = True
        half = len(data) // 2
        if self.kind == "drop":  # and the line with it: on TCP nothing is lost otherwise
            self.proxy.cut()
            return b""
        if self.kind == "reset":
            self.proxy.cut()
            raise ConnectionResetError
        if self.kind == "delay":
            time.sleep(0.5)
        elif self.kind == "duplicate":
            return data + data
        elif self.kind == "reorder":  # what came before comes once more, late
            return self.before + data
        elif self.kind == "truncate":
            threading.Timer(0.1, self.proxy.cut).start()
            return data[:half]
        elif self.kind == "stall":
            threading.Timer(1.5, self.proxy.cut).start()
            return b""
        elif self.kind == "trickle":
            self.proxy.trickling.set()
        elif self.kind == "damage":
            place = (data.rfind(b"\r\n\r\n") + 4 + len(data)) // 2  # in a body: a digest covers bodies alone
            if place == len(data):  # a head alone, whose body comes next
                self.done = False
                return data
            return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        return data


@pytest.fixture(scope="module")
def own() -> Iterator[LocalServer]:
    with LocalServer(threads=1) as made:
        se.Trainer(digits_split(), made.url).close()  # the first session takes longer than the timeout below
        yield made


PLACES = [
    pytest.param(at, phase, up, id=f"{'single' if len(at) == 1 else 'double'}, {phase} {'up' if up else 'down'}")
    for at, phase in ((SINGLE, "forward"), (DOUBLE, "forward"), (DOUBLE, "backward"))
    for up in (True, False)
]


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize(("at", "phase", "up"), PLACES)
def test_a_fault_of_the_network_changes_no_bit(
    own: LocalServer, kind: str, at: tuple[str, ...], phase: str, up: bool, record_property: Any
) -> None:
    record_property("fault", f"network: {kind}")
    steps = batches(STEP + 3)
    with no_session_left(own.url), Proxy(own.url) as proxy:
        with se.Trainer(digits_split(at), proxy.url, optimizer=ADAM, timeout=1.0, retry=20) as trainer:
            fault = Fault(kind, phase, up)
            fault.install(proxy)
            for x, y in steps:
                trainer.step(x, y)
        assert fault.done
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), steps, **ADAM).state_dict())
