"""A session is ended by its device also where the line is not good, and a device that leaves does not wait for long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import batch, batches, digits, digits_split, same, trained_unsplit
from serving import Serving
from sockets import Listener, Once, Proxy, answering, http_response, no_session_left, sessions

import spliteasy as se
from spliteasy.calling import Caller
from spliteasy.errors import ConnectionLost

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked")

ADAM = {"name": "Adam", "lr": 0.01}
PATH = "/v1/sessions/gone"


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def own(states: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that nobody else calls, which keeps states."""
    with Serving("--port", "0", "--state", states, folder=tmp_path_factory.mktemp("own")) as made:
        se.Trainer(digits_split(), made.url).close()  # the first session takes longer than the timeout below
        yield made


@pytest.mark.parametrize(
    ("kind", "up", "protocol"),
    [
        *((kind, up, "two-call") for kind in ("dropped", "truncated", "silent") for up in (True, False)),
        ("damaged", False, "two-call"),
        ("damaged at its head", False, "two-call"),
        *(("dropped", up, "four-call") for up in (True, False)),
    ],
)
def test_a_session_whose_end_is_disturbed_is_ended(
    own: Serving, states: Path, kind: str, up: bool, protocol: str, record_property: Any
) -> None:
    record_property("fault", f"network: the end of a session {kind}")
    steps = batches(2)
    with no_session_left(own.url), Proxy(own.url) as proxy:
        trainer = se.Trainer(digits_split(), proxy.url, optimizer=ADAM, timeout=1.0, retry=20, protocol=protocol)
        for x, y in steps:
            trainer.step(x, y)
        trainer.pull()
        connections, disturbed = proxy.connections, Once(proxy, kind, up, b"DELETE ")
        trainer.close()
        assert disturbed.done and proxy.connections > connections
    assert not list(states.iterdir())
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), steps, **ADAM).state_dict())


def test_a_server_that_is_gone_is_not_waited_for(pauses: list[float]) -> None:
    with Listener(lambda connection: None) as gone:
        pass
    Caller(gone.url, 10, 60).closing(PATH)
    assert not pauses


@pytest.mark.parametrize("error", [ConnectionLost("gone"), KeyboardInterrupt()])
def test_after_a_server_was_waited_for_leaving_is_quick(
    tmp_path: Path, pauses: list[float], error: BaseException
) -> None:
    with Serving("--port", "0", folder=tmp_path) as server:
        trainer = se.Trainer(digits_split(), server.url, retry=60)
        trainer.step(*batch())
    with pytest.raises(type(error)), trainer:
        raise error
    assert not pauses


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What calls that are to be made again wait before."""
    found: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=found.append)
    monkeypatch.setattr("spliteasy.calling.time", clock)
    return found


def test_a_server_that_is_stopping_is_not_waited_for() -> None:
    problem = b'{"type": "urn:spliteasy:error:BusyError", "detail": "This server is stopping."}'
    busy = http_response(problem, "503 SERVICE UNAVAILABLE", "application/problem+json")
    with Listener(answering(busy)) as stopping:
        Caller(stopping.url, 10, 60).closing(PATH)
        assert stopping.connections == 1


def test_a_line_that_is_always_cut_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spliteasy.calling._CLOSING", 0.3)
    with Listener(answering(b"")) as cut:
        Caller(cut.url, 10, 60).closing(PATH)
        assert cut.connections > 1


def test_other_sessions_are_left_as_they_are(own: Serving) -> None:
    with se.Trainer(digits_split(), own.url, optimizer=ADAM) as staying, Proxy(own.url) as proxy:
        leaving = se.Trainer(digits_split(), proxy.url, optimizer=ADAM, timeout=1.0)
        assert sessions(own.url) == 2
        Once(proxy, "dropped", False, b"DELETE ")
        leaving.close()
        assert sessions(own.url) == 1
        staying.step(*batch())
