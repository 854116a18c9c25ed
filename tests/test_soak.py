"""A long run over a line that disturbs one call in a hundred: it ends with the bits of one that nothing happened to,
and neither side holds more at its end than near its beginning."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from comparing import compared, plain_step, twin
from exposition import parse
from networks import ALLOWED, SHAPE
from sockets import Proxy

import spliteasy as se

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

FAULTS = ("drop", "reset", "truncate", "duplicate", "damage")
RATE = 0.01
LONG = int(os.environ.get("SPLITEASY_SOAK_STEPS", "100000"))
SECONDS = float(os.environ.get("SPLITEASY_SOAK_SECONDS", "inf"))
"""Steps of the long run, and seconds after which it ends early."""

NOISE = 8 << 20
"""Bytes by which a process may have grown between a tenth of the run and its end."""


class Weather:
    """Draws by ``seed`` which calls are disturbed, and how: `RATE` of them, on their way up or that of their answer."""

    def __init__(self, proxy: Proxy, seed: int) -> None:
        self._proxy, self._random, self._lock = proxy, random.Random(seed), threading.Lock()
        self._due: str | None = None
        self._damage_next = False
        self.calls, self.happened = 0, Counter[str]()
        proxy.change_up, proxy.change_down = self._up, self._down

    def _up(self, data: bytes) -> bytes:
        self._proxy.up.clear()  # a long run's bytes are not kept
        if self._damage_next:
            self._damage_next = False
            return self._damaged(data)
        if not data.startswith((b"PUT ", b"POST ", b"GET ", b"DELETE ")):
            return data
        with self._lock:
            self.calls += 1
            self._due = None
            if self._random.random() >= RATE:
                return data
            kind = self._random.choice(FAULTS)
            if self._random.random() < 0.5:
                self._due = kind
                return data
        return self._happen(kind, "up", data)

    def _down(self, data: bytes) -> bytes:
        self._proxy.down.clear()
        with self._lock:
            kind, self._due = self._due, None
        return data if kind is None else self._happen(kind, "down", data)

    def _happen(self, kind: str, way: str, data: bytes) -> bytes:
        self.happened[f"{kind} {way}"] += 1
        if kind == "duplicate":
            return data + data
        if kind == "damage":
            self._damage_next = way == "up" and data.endswith(b"\r\n\r\n")  # its body comes by itself
            return data if self._damage_next else self._damaged(data)
        if kind == "truncate":
            threading.Timer(0.01, self._proxy.cut).start()
            return data[: len(data) // 2]
        self._proxy.cut()
        if kind == "reset":
            raise ConnectionResetError
        return b""

    def _damaged(self, data: bytes) -> bytes:
        """One bit is another, of the body: nothing tells a damaged head from a true one."""
        place = self._random.randrange(data.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0, len(data))
        return data[:place] + bytes([data[place] ^ 1 << self._random.randrange(8)]) + data[place + 1 :]


def _held(pid: int | str) -> tuple[int, int]:
    """Resident bytes and open file descriptors of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _settled(server: int) -> dict[str, tuple[int, int]]:
    """The same of both processes, when connections that were cut are closed and what is unreachable is freed."""
    time.sleep(1)
    gc.collect()
    return {"server": _held(server), "device": _held("self")}


@pytest.mark.parametrize(
    "count", [200, pytest.param(LONG, marks=[pytest.mark.slow, pytest.mark.timeout(7200)], id="long")]
)
def test_disturbed_calls_of_a_long_run_leave_no_trace(count: int, record_property: Any) -> None:
    record_property("fault", "calls disturbed in a long run, 1 %")
    split = se.split(se.load_model("networks:Least"), ("1", "4"), SHAPE)
    plain, optimizer = twin(split.model), {"name": "SGD", "lr": 0.01, "momentum": 0.9}
    update = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(3)
    early, started = None, time.monotonic()
    with se.LocalServer(allow=ALLOWED, threads=1) as server, Proxy(server.url) as proxy:
        assert server.pid is not None
        se.Trainer(split, server.url).close()  # the first session takes longer than the timeout below
        with se.Trainer(split, proxy.url, optimizer=optimizer, timeout=1.0, retry=60, seed=1) as trainer:
            weather = Weather(proxy, seed=4)
            for number in range(count):
                x, y = torch.randn((2, *SHAPE), generator=generator), torch.randint(3, (2,), generator=generator)
                expected = plain_step(plain, update, torch.nn.functional.cross_entropy, x, y, se.step_seed(1, number))
                assert trainer.step(x, y).loss == expected, number
                if (number + 1) % (count // 20) == 0:
                    trainer.log.records.clear()  # it grows with every step, as it should
                    print(f"{number + 1} steps, {time.monotonic() - started:.0f} s, {sum(weather.happened.values())}")
                if number + 1 == count // 10:
                    early = _settled(server.pid)
                if time.monotonic() - started > SECONDS:
                    break
            count = number + 1
            late = _settled(server.pid)
            state = trainer.state_dict()
        samples = parse(requests.get(f"{server.url}/v1/metrics", timeout=30).text)
    cases = weather.happened.total()
    record_property("cases", cases)
    print(f"{cases} of {weather.calls} calls disturbed: {dict(weather.happened)}; held {early}, {late}")
    assert cases >= count // 100 and weather.calls >= 2 * count
    assert compared(state, {"model": plain.state_dict(), "optimizer": update.state_dict()}) == []
    assert samples["spliteasy_steps_total", frozenset()] == count
    assert early is not None
    for process, (memory, files) in late.items():
        assert files <= early[process][1], process
        assert memory <= early[process][0] + NOISE, (process, memory - early[process][0])
