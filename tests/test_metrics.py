"""What a server counts, read back by a strict reader of the format, before and after real steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from exposition import parse
from harness import DOUBLE, SINGLE, Caller, batch, digits_split
from sockets import Proxy

import spliteasy as se
from spliteasy.server.app import create_app
from spliteasy.server.checkpoints import Checkpoints
from spliteasy.server.metrics import PHASES, Metrics
from spliteasy.server.sessions import Sessions


@pytest.fixture(scope="module")
def counting() -> Iterator[se.LocalServer]:
    """A server that nobody else calls."""
    with se.LocalServer(threads=1) as server:
        yield server


class Counted:
    """What changed on a server since this was made."""

    def __init__(self, read: Any) -> None:
        self._read = read
        self._before = parse(read())

    def __call__(self, name: str, **labels: str) -> float:
        key = f"spliteasy_{name}", frozenset(labels.items())
        return parse(self._read())[key] - self._before.get(key, 0.0)


def over_http(url: str) -> Counted:
    def read() -> str:
        answer = requests.get(f"{url}/v1/metrics", timeout=30)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return answer.text

    return Counted(read)


def test_a_reader_of_the_format_accepts_it_and_finds_every_count_at_zero() -> None:
    app = create_app(Sessions())
    found = parse(app.test_client().get("/v1/metrics").text)
    assert set(found.values()) == {0.0}
    names = {name for name, _ in found}
    assert {"spliteasy_steps_total", "spliteasy_sessions", "spliteasy_stopping"} <= names
    assert {dict(labels)["phase"] for name, labels in found if name == "spliteasy_phase_seconds_total"} == set(PHASES)


@pytest.mark.parametrize("at", [SINGLE, DOUBLE])
def test_steps_bytes_and_seconds(counting: se.LocalServer, at: tuple[str, ...]) -> None:
    counted = over_http(counting.url)
    with se.Trainer(digits_split(at), server=counting.url, codecs="fp16") as trainer:
        assert counted("sessions") == counted("sessions_opened_total") == 1
        records = [trainer.step(*batch(number)) for number in range(3)]
        trainer.pull()
        assert counted("steps_total") == 3
        up, down = ("activations", "output_gradients"), ("outputs", "input_gradients")
        for direction, messages in (("received", up), ("sent", down)):
            for message in messages:
                frames = sum(record.bytes[message].frame for record in records if message in record.bytes)
                assert counted("message_bytes_total", message=message, direction=direction) == frames
        for phase in ("decode", "encode", "b_forward", "b_backward"):
            assert counted("phase_seconds_total", phase=phase) > 0
        assert counted("phase_seconds_total", phase="evaluate") == 0
        trainer.evaluate([batch(9)])
        assert counted("phase_seconds_total", phase="evaluate") > 0
        for phase in ("b_forward", "b_backward"):
            spent = sum(record.seconds[phase] for record in records)
            assert counted("phase_seconds_total", phase=phase) == pytest.approx(spent, rel=0.01)
    assert counted("sessions") == 0 and counted("calls_again_total") == 0


def test_errors_by_kind() -> None:
    app = create_app(Sessions())
    caller, counted = Caller(app), Counted(lambda: app.test_client().get("/v1/metrics").text)
    assert caller.send("PUT", "/steps/0/forward", b"no frame").status_code == 400
    assert caller.send("PUT", "/steps/0/forward", caller.body("/steps/0/forward"), token="wrong").status_code == 404
    assert caller.call("/steps/1/forward").status_code == 409
    assert app.test_client().get("/nowhere").status_code == 404
    for error, times in {"FrameError": 1, "SessionError": 1, "OrderError": 1, "ProtocolError": 1}.items():
        assert counted("errors_total", error=error) == times
    assert counted("steps_total") == 0


def test_calls_that_come_again(counting: se.LocalServer) -> None:
    """The answer to a forward is lost, and so is that to the call that was made again."""
    lost = [True, True]
    with Proxy(counting.url) as proxy, se.Trainer(digits_split(), server=proxy.url) as trainer:
        trainer.step(*batch())
        counted = over_http(counting.url)

        def lose(data: bytes) -> None:
            if lost:
                lost.pop()
                proxy.cut()

        proxy.before_down = lose
        trainer.step(*batch(1))
        trainer.pull()
        assert not lost
        assert counted("calls_again_total") == 2 and counted("steps_total") == 2  # the first one's commit came late


def test_states_written_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(checkpoints=Checkpoints(tmp_path, every=1))
    counted = Counted(sessions.metrics)
    caller = Caller(create_app(sessions))
    assert counted("states_written_total") == 1
    caller.step()
    assert caller.commit(0).status_code == 200
    (served,) = sessions.store
    assert served.keeper is not None
    served.keeper.wait()
    files = list(tmp_path.rglob("*.safetensors"))
    assert counted("states_written_total") == 2 and counted("states_seconds_total") > 0
    assert counted("states_bytes_total") > sum(file.stat().st_size for file in files) > 0

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spliteasy.server.checkpoints.replacing", full)
    served.keeper.saved = None
    assert [type(error) for error in sessions.write_all()] == [se.errors.StateError]
    assert counted("states_refused_total") == 1 and counted("states_written_total") == 2


def test_counts_of_many_threads_add_up() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(1000):
            metrics.add("spliteasy_errors_total", error="FrameError")
            metrics.text()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parse(metrics.text())["spliteasy_errors_total", frozenset({("error", "FrameError")})] == 4000


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.add("spliteasy_errors_total", error='a "quoted" \\ and\na line')
    assert 'error="a \\"quoted\\" \\\\ and\\na line"} 1\n' in metrics.text()
    parse(metrics.text())


def test_health_says_whether_it_is_stopping() -> None:
    sessions = Sessions()
    client = create_app(sessions).test_client()
    assert client.get("/v1/health").get_json()["stopping"] is False
    sessions.stop()
    assert client.get("/v1/health").get_json()["stopping"] is True
    assert parse(client.get("/v1/metrics").text)["spliteasy_stopping", frozenset()] == 1
