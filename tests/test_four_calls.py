"""The paper's protocol: the bits of two calls, four requests a step, and no fault that the training loop would see."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import SERVER_POINTS, Forker, servers_that_die
from harness import DOUBLE, SINGLE, batch, batches, digits, digits_split, everything, same, trained_unsplit
from sockets import Proxy, no_session_left, raw_call

import spliteasy as se
from spliteasy.calling import Caller
from spliteasy.errors import ConnectionLost, NonFiniteError, TrainingError

CHAIN = "ef('topk(0.3)') | fp16 | zstd(1)"
"""Its codec keeps state on both sides."""


@pytest.fixture(scope="module")
def server() -> Iterator[se.LocalServer]:
    with se.LocalServer(threads=1) as running:
        yield running


def trained(url: str | None, at: tuple[str, ...] = DOUBLE, count: int = 4, **settings: Any) -> dict[str, Any]:
    """Parameters, buffers and optimizer state after some steps."""
    settings = {"protocol": "four-call", "optimizer": {"name": "Adam", "lr": 0.01}, **settings}
    with se.Trainer(digits_split(at), url, **settings) as trainer:
        for x, y in batches(count):
            trainer.step(x, y)
        return everything(trainer)


def requests(up: bytes, of: bytes = rb"(?:PUT|GET) /v1/sessions/[^ ]*/(?:steps|calls)/") -> int:
    """How many requests of a kind are in what a device sent."""
    return len(re.findall(of, up))


@pytest.mark.parametrize("at", [DOUBLE, SINGLE], ids=["double", "single"])
def test_equals_unsplit_training_to_the_bit(server: se.LocalServer, at: tuple[str, ...]) -> None:
    found = trained(server.url, at)
    unsplit = trained_unsplit(digits(), batches(4), name="Adam").state_dict()
    assert same(unsplit, {name: found[name] for name in unsplit})


@pytest.mark.parametrize("at", [DOUBLE, SINGLE], ids=["double", "single"])
def test_equals_two_calls_with_codecs_that_keep_state(server: se.LocalServer, at: tuple[str, ...]) -> None:
    codecs = se.Codecs(input_gradients=CHAIN, activations="fp16")
    found = trained(server.url, at, codecs=codecs, clip_norm=1.0)
    assert same(found, trained(server.url, at, codecs=codecs, clip_norm=1.0, protocol="two-call"))
    assert same(found, trained(None, at, codecs=codecs, clip_norm=1.0))


@pytest.mark.parametrize(("at", "expected"), [(DOUBLE, 4), (SINGLE, 2)], ids=["double", "single"])
def test_requests_of_a_step_and_their_bytes(server: se.LocalServer, at: tuple[str, ...], expected: int) -> None:
    with Proxy(server.url) as proxy, se.Trainer(digits_split(at), proxy.url, protocol="four-call") as trainer:
        trainer.step(*batch(0))
        before = len(proxy.up), len(proxy.down)
        record = trainer.step(*batch(1))
        assert requests(bytes(proxy.up[before[0] :])) == expected
        told = re.findall(rb"id: (\d+)\nevent: (\w+)\n", bytes(proxy.down[before[1] :]))
        assert [kind for _, kind in told] == [b"answer"] * (expected // 2)
        passed = len(proxy.up) - before[0], len(proxy.down) - before[1]
        assert sum(size.http for size in record.bytes.values()) == sum(passed)
        assert requests(bytes(proxy.up), rb"GET /v1/sessions/[^ ]*/events ") == 1
        assert proxy.connections == 2


def test_evaluation_and_weights_are_one_call_as_ever(server: se.LocalServer) -> None:
    with se.Trainer(digits_split(), server.url, protocol="four-call") as trainer:
        trainer.step(*batch(0))
        found = trainer.evaluate([batch(1)])
    with se.Trainer(digits_split(), None) as local:
        local.step(*batch(0))
        assert local.evaluate([batch(1)]).loss == found.loss


def test_sessions_close_cleanly(server: se.LocalServer) -> None:
    with no_session_left(server.url), Proxy(server.url) as proxy:
        trainer = se.Trainer(digits_split(), proxy.url, protocol="four-call")
        trainer.step(*batch(0))
        trainer.close()
        trainer.close()
        for _ in range(100):  # the server ends its stream with the session
            if not proxy._open:
                break
            threading.Event().wait(0.05)
        assert not proxy._open


def test_errors_arrive_by_their_own_class_and_the_session_goes_on(
    server: se.LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN that the device sends on: the server refuses it, and says so in a notice."""
    split = digits_split()
    weight = next(split.a.parameters())
    with Proxy(server.url) as proxy, se.Trainer(split, proxy.url, protocol="four-call") as trainer:
        trainer.step(*batch(0))
        kept = weight.detach().clone()
        with monkeypatch.context() as patch:
            patch.setattr("spliteasy.wire._require_finite", lambda *_: None)
            weight.data.fill_(float("nan"))
            with pytest.raises(NonFiniteError, match="activations"):
                trainer.step(*batch(1))
        assert b"event: error\ndata: NonFiniteError\n\n" in proxy.down
        weight.data.copy_(kept)
        for x, y in batches(3)[1:]:
            trainer.step(x, y)
    assert same(split.model.state_dict(), trained_unsplit(digits(), batches(3)).state_dict())


def test_lost_connections_are_invisible(server: se.LocalServer) -> None:
    """Each connection, the stream of events among them, is cut at several places of each step."""
    with Proxy(server.url) as proxy:
        seen = iter(range(10_000))

        def maybe_cut(data: bytes) -> None:
            if next(seen) % 7 == 3:
                proxy.cut()

        with se.Trainer(digits_split(), proxy.url, protocol="four-call") as trainer:
            proxy.before_up = proxy.before_down = maybe_cut
            for x, y in batches(12):
                trainer.step(x, y)
            proxy.before_up = proxy.before_down = lambda data: None
        assert proxy.connections > 8
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), batches(12)).state_dict())


def test_a_notice_that_does_not_come_is_asked_for(server: se.LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spliteasy.four_calls._ASK_AFTER", 0.1)
    with Proxy(server.url) as proxy, se.Trainer(digits_split(), proxy.url, protocol="four-call") as trainer:
        proxy.change_down = lambda data: b"" if data.startswith(b"id: ") else data
        trainer.step(*batch(0))
        assert requests(bytes(proxy.up)) >= 4
        proxy.change_down = lambda data: data
        trainer.step(*batch(1))
        before = len(proxy.up)
        trainer.step(*batch(2))
        assert requests(bytes(proxy.up[before:])) == 4
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), batches(3)).state_dict())


def test_without_a_stream_of_events_the_device_asks(server: se.LocalServer) -> None:
    with Proxy(server.url) as proxy:
        proxy.change_down = lambda data: b"HTTP/1.1 404 Not Found\r\n\r\n" if b"event-stream" in data else data
        with se.Trainer(digits_split(), proxy.url, protocol="four-call") as trainer:
            for x, y in batches(2):
                trainer.step(x, y)
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), batches(2)).state_dict())


def test_an_answer_that_never_comes_is_an_error(server: se.LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked, the device hears that the call was accepted."""
    monkeypatch.setattr("spliteasy.four_calls._ASK_AFTER", 0.05)
    real, said = Caller.__call__, list[Any]()

    def call(self: Caller, *arguments: Any) -> Any:
        said.append(real(self, *arguments))
        return said[0]

    with se.Trainer(digits_split(), server.url, protocol="four-call", timeout=0.5) as trainer:
        with monkeypatch.context() as patch:
            patch.setattr(Caller, "__call__", call)
            with pytest.raises(ConnectionLost, match="longer timeout"):
                trainer.step(*batch(0))
        assert trainer.step(*batch(0)).step == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize(
    ("at", "every", "points"),
    [
        pytest.param(DOUBLE, 5, ("after compute",), id="double, one point"),
        pytest.param(SINGLE, 1, SERVER_POINTS, id="single", marks=pytest.mark.slow),
        pytest.param(DOUBLE, 5, SERVER_POINTS, id="double", marks=pytest.mark.slow),
    ],
)
def test_a_server_killed_at_every_point(
    tmp_path: Path, at: tuple[str, ...], every: int, points: tuple[str, ...]
) -> None:
    """Also when it has accepted a call and not computed it: what nobody knows of any more is sent again."""
    phases = ("forward", "backward")[: len(at)]
    places = [(point, phase) for phase in phases for point in points]
    places = [place for place in places if place != ("after commit", "backward")]  # it commits in the next forward
    deaths = [(point, phase, 1 + number) for number, (point, phase) in enumerate(places)]
    steps = batches(len(deaths) + 3)
    forker = Forker()
    try:
        with servers_that_die(forker, str(tmp_path), every, deaths) as url:
            found = trained(url, at, count=len(steps), retry=30)
    finally:
        forker.close()
    unsplit = trained_unsplit(digits(), steps, name="Adam").state_dict()
    assert same(unsplit, {name: found[name] for name in unsplit})


def test_save_and_load_keep_the_protocol(tmp_path: Path) -> None:
    with se.LocalServer(threads=1, state=tmp_path / "states") as server, Proxy(server.url) as proxy:
        first = se.Trainer(digits_split(), server.url, protocol="four-call")
        first.step(*batch(0))
        first.save(tmp_path / "training")
        with se.Trainer.load(tmp_path / "training", digits_split(seed=1), proxy.url) as trainer:
            trainer.step(*batch(1))
            assert requests(bytes(proxy.up)) == 4 and trainer.protocol == "four-call"
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), batches(2)).state_dict())


def test_sixteen_trainers_at_once(server: se.LocalServer, record_property: Any) -> None:
    """More streams of events than there are threads for requests in a small server; each trainer ends as if it were
    alone. Nothing is drawn: threads of one process share torch's generator."""
    record_property("fault", "16 sessions at once, each as when alone")
    record_property("cases", 16)
    splits = [digits_split(seed=number, dropout=0.0) for number in range(16)]
    everyone, wrong = threading.Barrier(16), list[BaseException]()

    def train(number: int) -> None:
        try:
            with se.Trainer(splits[number], server.url, protocol="four-call") as trainer:
                everyone.wait(60)
                for x, y in batches(3):
                    trainer.step(x, y)
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=train, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for number, split in enumerate(splits):
        unsplit = trained_unsplit(digits(number, dropout=0.0), batches(3))
        assert same(split.model.state_dict(), unsplit.state_dict())


def test_a_link_is_paid_twice_and_a_half(server: se.LocalServer) -> None:
    link = se.Link(1e6, 1e6, rtt_ms=10)
    for url in (server.url, None):
        with se.Trainer(digits_split(SINGLE), url, link=link, protocol="four-call") as trainer:
            spent = trainer.step(*batch(0)).seconds
        assert spent["link"] == pytest.approx(0.025, rel=0.01) and spent["total"] >= 0.025
    with se.Trainer(digits_split(), server.url, link=link, protocol="four-call") as trainer:
        assert trainer.step(*batch(0)).seconds["link"] == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize(("wrong", "hint"), [("four-calls", "four-call"), (4, ""), ("http", "")])
def test_another_protocol_is_refused(wrong: Any, hint: str) -> None:
    with pytest.raises(TrainingError, match=f"protocol as one of two-call, four-call.*{hint}"):
        se.Trainer(digits_split(), protocol=wrong)


def opened(server: se.LocalServer) -> tuple[str, str]:
    """A session's path and token, its trainer still open."""
    trainer = se.Trainer(digits_split(), server.url, protocol="four-call")
    transport: Any = trainer._transport
    return transport._path, transport._caller.headers["Authorization"]


def test_any_client_can_listen(server: se.LocalServer) -> None:
    """Headers in another order than ours; another session's token is not told from an unknown session."""
    path, token = opened(server)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connected:
        connected.sendall(f"GET {path}/events HTTP/1.1\r\nauthorization: {token}\r\nHost: {host}\r\n\r\n".encode())
        head = connected.recv(4096)
    assert head.startswith(b"HTTP/1.1 200 ") and b"Content-Type: text/event-stream" in head
    assert b"Transfer-Encoding" not in head and b"Content-Length" not in head
    for name in (token + "x", "Bearer x"):
        said = raw_call(server.url, f"GET {path}/events HTTP/1.1\r\nAuthorization: {name}\r\nHost: a\r\n\r\n".encode())
        assert said.startswith(b"HTTP/1.1 404 ")


def test_an_answer_that_nobody_asked_for_is_unknown(server: se.LocalServer) -> None:
    path, token = opened(server)
    for order in (f"Content-Length: 0\r\nAuthorization: {token}", f"Authorization: {token}\r\nContent-Length: 0"):
        said = raw_call(server.url, f"GET {path}/calls/77 HTTP/1.1\r\nHost: a\r\n{order}\r\n\r\n".encode())
        assert said.startswith(b"HTTP/1.1 202 ") and b'"unknown"' in said
