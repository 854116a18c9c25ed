"""A server that is told to stop: it finishes what it has in hand, keeps every state, and another one goes on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from gated import ALLOWED, Gate, gated_split
from harness import DOUBLE, Caller, batch, batches, calls, digits, digits_split, problem, same, trained_unsplit
from serving import Serving
from torch import nn

import spliteasy as se
from spliteasy.errors import BusyError, SessionError, StateError
from spliteasy.server.app import create_app
from spliteasy.server.checkpoints import Checkpoints
from spliteasy.server.in_hand import CallsInHand
from spliteasy.server.sessions import Sessions

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked and limited")

ADAM = {"name": "Adam", "lr": 0.01}
STEPS = batches(6)


class Aside:
    """Work on a thread of its own, and what became of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self._value, self._error = work, None, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(60)
        assert self.ended
        if self._error is not None:
            raise self._error
        return self._value


def undisturbed(trainer: se.Trainer, model: nn.Module) -> bool:
    """Whether its network is what plain steps make of ``model``."""
    return same(trainer.split.model.state_dict(), trained_unsplit(model, STEPS, **ADAM).state_dict())


@pytest.mark.parametrize("protocol", ["two-call", "four-call"])
def test_another_server_goes_on_after_the_last_finished_step(
    tmp_path: Path, protocol: str, record_property: Any
) -> None:
    """No step's turn to be written comes: the state was written because the server was stopped."""
    record_property("fault", "server stopped (SIGTERM) between two calls")
    keep = ("--state", tmp_path / "states", "--checkpoint-every", "100")
    with Serving("--port", "0", *keep, folder=tmp_path) as first:
        trainer = se.Trainer(digits_split(), first.url, optimizer=ADAM, retry=30, protocol=protocol)
        for x, y in STEPS[:3]:
            trainer.step(x, y)
        assert first.stop() == 0
    (folder,) = (tmp_path / "states").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["1.safetensors"]  # step 2 is settled by the next call
    with Serving("--port", first.port, *keep, folder=tmp_path) as second:
        with trainer:
            for x, y in STEPS[3:]:
                trainer.step(x, y)
        assert second.stop() == 0
    assert undisturbed(trainer, digits())
    assert not list((tmp_path / "states").iterdir())  # the session was closed


@pytest.mark.parametrize("protocol", ["two-call", "four-call"])
def test_a_step_in_hand_is_answered_and_new_calls_are_refused(
    tmp_path: Path, protocol: str, record_property: Any
) -> None:
    """With four calls the answer is fetched by another one: it is not, and the step is made again."""
    record_property("fault", "server stopped (SIGTERM) in the middle of a forward")
    gate, keep = Gate(tmp_path), ("--state", tmp_path / "states", "--checkpoint-every", "100")
    with Serving("--port", "0", "--allow", ALLOWED, *keep, folder=tmp_path, environment=gate.environment) as first:
        trainer = se.Trainer(gated_split(), first.url, optimizer=ADAM, retry=30, protocol=protocol)
        idle = se.Trainer(gated_split(), first.url, retry=0)
        for x, y in STEPS[:2]:
            trainer.step(x, y)
        gate.close()
        step = Aside(lambda: trainer.step(*STEPS[2]))
        gate.reached()
        assert health(first)["stopping"] is False  # answered while the step is computed
        first.terminate()
        until(lambda: health(first)["stopping"])
        with pytest.raises(BusyError, match="stopping"):
            idle.step(*batch())
        with pytest.raises(BusyError, match="stopping"):
            se.Trainer(gated_split(), first.url, retry=0)
        assert not step.ended and first.runs
        gate.open()
        assert first.wait() == 0
    with Serving("--port", first.port, "--allow", ALLOWED, *keep, folder=tmp_path) as second:
        step.result()
        with trainer:
            for x, y in STEPS[3:]:
                trainer.step(x, y)
        assert second.stop() == 0
    assert undisturbed(trainer, gated_split().model)


def test_a_second_signal_ends_it_at_once(tmp_path: Path, record_property: Any) -> None:
    """Its call in hand is lost, and so are the steps since the state before; the device makes both again."""
    record_property("fault", "server stopped (SIGTERM) twice in the middle of a forward")
    gate, keep = Gate(tmp_path), ("--state", tmp_path / "states", "--checkpoint-every", "100")
    with Serving("--port", "0", "--allow", ALLOWED, *keep, folder=tmp_path, environment=gate.environment) as first:
        trainer = se.Trainer(gated_split(), first.url, optimizer=ADAM, retry=30)
        for x, y in STEPS[:3]:
            trainer.step(x, y)
        gate.close()
        step = Aside(lambda: trainer.step(*STEPS[3]))
        gate.reached()
        first.terminate()
        until(lambda: health(first)["stopping"])
        first.terminate()
        assert first.wait() == 1  # though the gate is closed
        assert "second time" in first.said and len(first.said.splitlines()) == 1
    with Serving("--port", first.port, "--allow", ALLOWED, *keep, folder=tmp_path):
        step.result()
        with trainer:
            for x, y in STEPS[4:]:
                trainer.step(x, y)
    assert undisturbed(trainer, gated_split().model)


def health(server: Serving) -> dict[str, Any]:
    value: dict[str, Any] = requests.get(f"{server.url}/v1/health", timeout=20).json()
    return value


def until(true: Callable[[], bool]) -> None:
    """Ask again and again, for some seconds."""
    for _ in range(1000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come true")


# Calls, one by one


def test_every_call_is_refused_when_it_stops_and_nothing_happens_on_the_disk(tmp_path: Path) -> None:
    """Closing too: the session's state stays where it is, as if the device had not asked."""
    sessions = Sessions(checkpoints=Checkpoints(tmp_path, every=100))
    caller = Caller(create_app(sessions))
    caller.step(0)
    assert not sessions.stop()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert [path.name for path in before] == ["-1.safetensors"]  # step 0 was not settled
    made = [*calls(caller.session), ("POST", f"/v1/sessions/{caller.session}/states"), ("POST", "/v1/sessions"),
            ("PUT", f"/v1/sessions/{caller.session}/states/-1")]  # fmt: skip
    for method, path in made:
        below = path.removeprefix(f"/v1/sessions/{caller.session}")
        body = caller.device.opening if path == "/v1/sessions" else b'{"step": 0}' if below == "/states" else None
        if body is None:
            body = next((body for _, called, body in caller.device.calls if called == below), b"")
        answer = caller.client.open(path, method=method, data=body, headers={"Authorization": f"Bearer {caller.token}"})
        assert problem(answer, 503)["title"] == "BusyError", (method, path)
        assert answer.headers["Retry-After"] == "1"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
    assert caller.client.get("/v1/health").get_json()["stopping"] is True
    assert "spliteasy_stopping 1\n" in caller.client.get("/v1/metrics").text


def test_a_session_that_could_not_be_closed_is_found_by_the_next_server(tmp_path: Path) -> None:
    first = Sessions(checkpoints=Checkpoints(tmp_path))
    caller = Caller(create_app(first))
    first.stop()
    assert caller.send("DELETE", "").status_code == 503
    caller.client = create_app(Sessions(checkpoints=Checkpoints(tmp_path))).test_client()
    caller.step(0)
    assert caller.send("DELETE", "").status_code == 200
    assert not list(tmp_path.iterdir())


def test_calls_are_counted_and_waited_for() -> None:
    calls = CallsInHand()
    with calls.new(), calls.answering():
        assert len(calls) == 2
    assert len(calls) == 0
    with pytest.raises(ZeroDivisionError), calls.new():
        raise ZeroDivisionError
    assert len(calls) == 0 and calls.wait()


def test_new_calls_are_refused_and_those_in_hand_are_waited_for() -> None:
    calls, inside, leave = CallsInHand(), threading.Event(), threading.Event()

    def call() -> None:
        with calls.new():
            inside.set()
            assert leave.wait(30)

    first = Aside(call)
    assert inside.wait(30)
    assert not calls.stopping
    calls.refuse()
    assert calls.stopping
    with pytest.raises(BusyError, match="stopping"), calls.new():
        raise AssertionError("it was let in")
    waiting = Aside(calls.wait)
    with calls.answering():  # a refusal is answered too, and waited for
        leave.set()
        first.result()
        assert len(calls) == 1 and not waiting.ended
    assert waiting.result() is True


def test_who_waits_can_be_told_to_hurry() -> None:
    calls = CallsInHand()
    with calls.new():
        waiting = Aside(calls.wait)
        calls.hurry()
        assert waiting.result() is False
        assert calls.wait() is False  # from now on nobody waits


# The disk


@pytest.mark.parametrize("place", ["below a file", "/proc"])
def test_a_folder_that_cannot_be_written_to_is_said_at_once(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "states" if place == "below a file" else Path("/proc/states")
    with pytest.raises(AssertionError) as failed:
        Serving("--port", "0", "--state", folder, folder=tmp_path)
    status, said = failed.value.args
    assert status == 1 and len(said.splitlines()) == 1
    assert said.startswith(f"spliteasy serve: Expected a folder for states that can be written to, found {folder}: ")


@pytest.mark.parametrize("at", [DOUBLE, DOUBLE[:1]], ids=["double", "single"])
def test_a_full_disk_stops_training_until_there_is_room(
    tmp_path: Path, at: tuple[str, ...], record_property: Any
) -> None:
    record_property("fault", "server's disk full for a while")
    keep = ("--state", tmp_path / "states", "--checkpoint-every", "2")
    with Serving("--port", "0", *keep, folder=tmp_path) as server:
        with se.Trainer(digits_split(at), server.url, optimizer=ADAM, retry=2) as trainer:
            for x, y in STEPS[:3]:
                trainer.step(x, y)
            server.limit(1000)
            for x, y in STEPS[3:5]:  # the last one updates step 3, whose state is written beside what follows
                trainer.step(x, y)
            for _ in range(2):
                with pytest.raises(StateError, match=r"(?s)room for the state.*No finished step is lost"):
                    trainer.step(*STEPS[5])
            server.limit(None)
            trainer.step(*STEPS[5])
        assert server.stop() == 0
    assert undisturbed(trainer, digits())


def test_a_full_disk_at_the_end_is_told_and_the_device_sends_what_is_missing(
    tmp_path: Path, record_property: Any
) -> None:
    record_property("fault", "server's disk full when it is stopped")
    keep = ("--state", tmp_path / "states", "--checkpoint-every", "100")
    with Serving("--port", "0", *keep, folder=tmp_path) as first:
        trainer = se.Trainer(digits_split(), first.url, optimizer=ADAM, retry=30)
        for x, y in STEPS[:4]:
            trainer.step(x, y)
        first.limit(1000)
        assert first.stop() == 1
        assert "Expected room for the state" in first.said and len(first.said.splitlines()) == 1
    (folder,) = (tmp_path / "states").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["-1.safetensors"]
    with Serving("--port", first.port, *keep, folder=tmp_path), trainer:
        for x, y in STEPS[4:]:
            trainer.step(x, y)
    assert undisturbed(trainer, digits())


def test_a_session_without_its_server_is_unknown_to_one_that_keeps_no_states(tmp_path: Path) -> None:
    with Serving("--port", "0", folder=tmp_path) as first:
        trainer = se.Trainer(digits_split(), first.url, retry=10)
        trainer.step(*batch())
        assert first.stop() == 0
    with Serving("--port", first.port, folder=tmp_path), pytest.raises(SessionError, match="--state"):
        trainer.step(*batch(1))
