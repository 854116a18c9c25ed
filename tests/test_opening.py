"""A session is opened once, whatever becomes of the answer: the device asks again, and finds the same session."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exposition import parse
from flask.testing import FlaskClient
from harness import SINGLE, batch, batches, digits, digits_split, problem, recorded, same, trained_unsplit
from serving import Serving
from sockets import Listener, Once, Proxy, answering, http_response, no_session_left, sessions

import spliteasy as se
from spliteasy.errors import BusyError, ConnectionLost, FrameError, ModelError, OrderError, ProtocolError
from spliteasy.heads import OPENING
from spliteasy.server.app import create_app
from spliteasy.server.checkpoints import Checkpoints
from spliteasy.server.session import Session
from spliteasy.server.sessions import Sessions
from spliteasy.server.store import SessionStore, names

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked")

ADAM = {"name": "Adam", "lr": 0.01}
KEY = "k" * 43


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that nobody else calls."""
    with Serving("--port", "0", folder=tmp_path_factory.mktemp("own")) as made:
        se.Trainer(digits_split(), made.url).close()  # the first session takes longer than the timeout below
        yield made


@pytest.mark.parametrize(
    ("kind", "up"),
    [
        *((kind, up) for kind in ("dropped", "truncated", "damaged", "silent") for up in (True, False)),
        ("damaged at its head", False),
    ],
)
def test_an_opening_that_is_disturbed_opens_one_session(
    own: Serving, kind: str, up: bool, record_property: Any
) -> None:
    record_property("fault", f"network: the opening of a session {kind}")
    steps, before = batches(3), opened(own)
    with no_session_left(own.url), Proxy(own.url) as proxy:
        disturbed = Once(proxy, kind, up)
        with se.Trainer(digits_split(), proxy.url, optimizer=ADAM, timeout=1.0, retry=20) as trainer:
            assert disturbed.done and proxy.connections > 1
            assert sessions(own.url) == 1 and opened(own) == before + 1
            for x, y in steps:
                trainer.step(x, y)
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), steps, **ADAM).state_dict())


def opened(server: Serving) -> float:
    import requests

    found = parse(requests.get(f"{server.url}/v1/metrics", timeout=30).text)
    return found["spliteasy_sessions_opened_total", frozenset()]


def test_a_server_without_a_place_is_asked_again(tmp_path: Path) -> None:
    with Serving("--port", "0", "--max-sessions", "1", folder=tmp_path) as server:
        first = se.Trainer(digits_split(), server.url)
        with pytest.raises(BusyError, match="1 sessions"):
            se.Trainer(digits_split(), server.url, retry=0)
        leaving = threading.Timer(0.5, first.close)
        leaving.start()
        with se.Trainer(digits_split(), server.url, retry=20) as second:
            second.step(*batch())
        leaving.join()


def test_a_server_that_dies_before_its_answer_has_the_session_on_its_disk(tmp_path: Path, record_property: Any) -> None:
    """The next one gives the device the same session, although it remembers nothing."""
    record_property("fault", "server stopped before it answered the opening of a session")
    steps, keep = batches(3), ("--state", tmp_path / "states")
    with Serving("--port", "0", *keep, folder=tmp_path) as first, Proxy(first.url) as proxy:
        done = threading.Event()

        def stop(data: bytes) -> bytes:
            if not done.is_set():
                done.set()
                first.stop()
                raise ConnectionResetError
            return data

        proxy.change_down = stop
        made: list[se.Trainer] = []
        device = threading.Thread(
            target=lambda: made.append(se.Trainer(digits_split(), proxy.url, optimizer=ADAM, retry=30))
        )
        device.start()
        assert done.wait(30) and first.wait() == 0
        (kept,) = (tmp_path / "states").iterdir()
        with Serving("--port", first.port, *keep, folder=tmp_path) as second:
            device.join()
            with made[0] as trainer:
                assert [path.name for path in (tmp_path / "states").iterdir()] == [kept.name]
                for x, y in steps:
                    trainer.step(x, y)
            assert sessions(second.url) == 0
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), steps, **ADAM).state_dict())


def test_where_nobody_is_nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spliteasy.calling.Patience.pause", lambda *_: pytest.fail("it waits"))
    with Listener(lambda connection: None) as gone:
        pass
    with pytest.raises(ConnectionLost, match="Is the server running"):
        se.Trainer(digits_split(), gone.url, retry=60)


def test_something_else_is_asked_twice() -> None:
    with Listener(answering(http_response(b"<html>", kind="text/html"))) as other:
        with pytest.raises(ProtocolError, match="Is the address right"):
            se.Trainer(digits_split(), other.url, retry=60)
        assert other.connections == 2


def test_a_session_that_cannot_be_opened_is_refused_at_once(own: Serving) -> None:
    split = se.split(se.load_model("harness:talkative"), at=("1", "3"), input_shape=(1, 8, 8))
    with Proxy(own.url) as proxy:
        with pytest.raises(ModelError, match="--allow"):
            se.Trainer(split, proxy.url, retry=60)
        assert proxy.connections == 1


# Without sockets


def open_at(client: FlaskClient, body: bytes, key: str = KEY) -> Any:
    return client.post("/v1/sessions", data=body, headers={OPENING: key})


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "on the disk"])
def test_the_same_key_is_the_same_session_and_another_body_is_refused(tmp_path: Path, kept: bool) -> None:
    opening = recorded().opening

    def made() -> Sessions:
        return Sessions(checkpoints=Checkpoints(tmp_path))

    server = made()
    first = open_at(create_app(server).test_client(), opening)
    server = made() if kept else server
    client = create_app(server).test_client()
    assert problem(open_at(client, recorded(SINGLE).opening), 409)["title"] == "OrderError"
    second = open_at(client, opening)
    assert first.status_code == second.status_code == 201 and first.get_json() == second.get_json()
    assert len(server.store) == 1 and len(list(tmp_path.iterdir())) == 1
    other = open_at(client, opening, "o" * 43)
    assert {other.get_json()[name] for name in ("session", "token")}.isdisjoint(
        first.get_json()[name] for name in ("session", "token")
    )
    assert len(server.store) == 2


def test_a_session_that_went_on_is_found_as_it_is_now(tmp_path: Path) -> None:
    """A repetition that comes late changes nothing, in memory or on the disk."""
    sessions = Sessions(checkpoints=Checkpoints(tmp_path, every=1))
    client, device = create_app(sessions).test_client(), recorded()
    about = open_at(client, device.opening).get_json()
    headers = {"Authorization": f"Bearer {about['token']}"}
    for method, below, body in device.calls[:3]:
        answer = client.open(f"/v1/sessions/{about['session']}{below}", method=method, data=body, headers=headers)
        assert answer.status_code == 200
    assert open_at(client, device.opening).get_json() == about
    (served,) = sessions.store
    assert served.session.committed == 0
    assert served.keeper is not None
    served.keeper.wait()
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["0.safetensors"]


@pytest.mark.parametrize("key", ["", "short", "k" * 31, "k" * 201, "k" * 42 + " ", "ä" * 43])
def test_keys_that_could_be_guessed_are_refused(key: str) -> None:
    with pytest.raises(FrameError, match="32 or more random"):
        names(key, "digest")


def test_names_are_made_of_the_key_and_the_body() -> None:
    (one, token), (same_one, other_token), (other, _) = names(KEY, "a"), names(KEY, "b"), names("l" * 43, "a")
    assert names(KEY, "a") == (one, token)
    assert one == same_one and one != other and token != other_token
    assert len(one) == 16 and len(token) == 43 and KEY not in one + token


def test_a_session_that_is_being_opened_is_not_opened_a_second_time() -> None:
    store, built = SessionStore(), []

    def build() -> Session:
        with pytest.raises(BusyError, match="being opened"):
            store.open(build, named=names(KEY, ""))
        built.append(1)
        raise OrderError("it comes to nothing")

    for _ in range(2):  # and once that failed it may be tried again
        with pytest.raises(OrderError, match="nothing"):
            store.open(build, named=names(KEY, ""))
    assert len(built) == 2 and len(store) == 0
