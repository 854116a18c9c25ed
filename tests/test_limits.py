"""What a server takes at most: it says so when a session opens, refuses what is more, and goes on."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import torch
from harness import DOUBLE, SINGLE, AppTransport, batch, batches, digits, digits_split, recorded, same, trained_unsplit
from sockets import sessions

import spliteasy as se
from spliteasy.errors import BusyError, DataError, FrameError, ServerError
from spliteasy.server.limits import LARGEST_BATCH, InFlight, Limits, SessionLimits
from spliteasy.server.opening import SessionConfig, open_session
from spliteasy.server.session import Session
from spliteasy.weights import load_tensors

SAMPLE = 16 * 8 * 8 * 4
"""Bytes of one sample's activations after the first ReLU of `digits_cnn`, the largest of its messages."""

CHAINS = ("raw", "fp16 | zstd(1)", "randtopk(0.3) | zstd(1)", "qsgd(4)")


@pytest.fixture(scope="module")
def small() -> Iterator[se.LocalServer]:
    """A server that takes batches of 32."""
    with se.LocalServer(max_message=32 * SAMPLE, max_in_flight=2 << 20, max_header=2048, threads=1) as server:
        yield server


def opened(at: tuple[str, ...], chain: str = "raw", message: int = 32 * SAMPLE) -> Session:
    opening = recorded(at).opening
    from spliteasy.codecs import container

    config = json.loads(container.read(opening)[1]["session"])
    config["codecs"] = dict.fromkeys(config["codecs"], chain)
    return open_session(SessionConfig.from_json(json.dumps(config)), load_tensors(opening), (), message)


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("chain", ["raw", "topk(0.1) | fp16 | zstd(1)", "ef('topk(0.3)') | zstd(1)"])
def test_the_largest_batch_and_body_follow_from_what_was_agreed(at: tuple[str, ...], chain: str) -> None:
    small, large = opened(at, chain).limits, opened(at, chain, 64 * SAMPLE).limits
    assert (small.batch, large.batch) == (32, 64)
    grown = large.bodies["forward"] - small.bodies["forward"]
    raw = 32 * SAMPLE
    assert 0 < grown <= 2 * raw if at == DOUBLE else raw <= grown <= 3 * raw  # labels have room of their own
    assert set(small.bodies) == {"forward", "evaluate", "backward"} - ({"backward"} if at == SINGLE else set())
    small.check("forward", small.bodies["forward"])
    with pytest.raises(DataError, match=f"at most {small.bodies['forward']} bytes.*32 samples.*--max-message"):
        small.check("forward", small.bodies["forward"] + 1)


def test_one_sample_that_is_too_large_is_refused_at_once() -> None:
    with pytest.raises(DataError, match=f"one sample takes {SAMPLE}.*--max-message"):
        opened(DOUBLE, message=SAMPLE - 1)
    assert opened(DOUBLE, message=SAMPLE).limits.batch == 1


def test_where_nothing_grows_with_the_batch_its_number_is_the_limit() -> None:
    session = opened(DOUBLE, message=1 << 50)
    assert session.limits.batch == LARGEST_BATCH
    assert isinstance(session.limits, SessionLimits)


def test_a_session_states_its_limits_and_memory(small: se.LocalServer) -> None:
    answer = requests.post(f"{small.url}/v1/sessions", data=recorded(DOUBLE).opening, timeout=30)
    assert answer.status_code == 201
    about = answer.json()
    assert about["limits"]["largest_batch"] == 32
    assert 32 * SAMPLE < about["limits"]["largest_body"] < 32 * SAMPLE + (2 << 20)
    b = digits_split().b
    assert b is not None
    weights = sum(parameter.nbytes for parameter in b.parameters())
    assert about["memory"] == {
        "parameters": weights,
        "buffers": sum(buffer.nbytes for buffer in b.buffers()),
        "gradients": weights,
        "optimizer": weights,  # momentum
    }
    token = {"Authorization": f"Bearer {about['token']}"}
    requests.delete(f"{small.url}/v1/sessions/{about['session']}", headers=token, timeout=30).raise_for_status()


@pytest.mark.parametrize("chain", ["raw", "topk(0.01) | zstd(1)"])
@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
def test_a_batch_that_is_too_large_is_said_so_and_training_goes_on(
    small: se.LocalServer, at: tuple[str, ...], chain: str
) -> None:
    steps = batches(2, 32)
    with se.Trainer(digits_split(at), small.url, codecs=chain, retry=5) as trainer:
        trainer.step(*steps[0])
        for size in (33, 3000):
            with pytest.raises(DataError, match=r"[Bb]atch.*--max-message"):
                trainer.step(*batch(9, size))
        with pytest.raises(DataError, match=r"[Bb]atch"):
            trainer.evaluate([batch(9, 3000)])
        trainer.step(*steps[1])
    if chain == "raw":
        expected = trained_unsplit(digits(), steps).state_dict()
        assert same(trainer.split.model.state_dict(), dict(expected))


def _connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


@pytest.mark.parametrize("through", ["the fast path", "the parser"])
def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(small: se.LocalServer, through: str) -> None:
    """The answer comes although not a byte of the body does."""
    about = requests.post(f"{small.url}/v1/sessions", data=recorded(DOUBLE).opening, timeout=30).json()
    more = "" if through == "the fast path" else "Accept: */*\r\n"
    for length in (about["limits"]["largest_body"] + 1, 10**10, 10**18):
        with _connected(small.url) as connection:
            head = (
                f"PUT /v1/sessions/{about['session']}/steps/0/forward HTTP/1.1\r\nHost: x\r\nContent-Length: {length}"
                f"\r\nAuthorization: Bearer {about['token']}\r\n{more}\r\n"
            )
            connection.sendall(head.encode())
            answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 4") and b"problem+json" in answer and b"bytes" in answer


def test_a_head_beyond_the_limit_is_refused(small: se.LocalServer) -> None:
    for headers in ({"Other": "x" * 4000}, {f"Other-{number}": "x" for number in range(400)}):
        answer = requests.get(f"{small.url}/v1/health", headers=headers, timeout=30)
        assert answer.status_code in (413, 431) and answer.headers["Content-Type"] == "application/problem+json"
    assert requests.get(f"{small.url}/v1/health?{'x' * 4000}", timeout=30).status_code == 414
    assert requests.get(f"{small.url}/v1/health", timeout=30).ok


def test_bytes_in_flight_are_counted_and_freed() -> None:
    flight = InFlight(100)
    with flight.hold(60):
        with pytest.raises(BusyError, match=r"60 in hand.*--max-in-flight"), flight.hold(41):
            pass
        with flight.hold(40), pytest.raises(BusyError), flight.hold(1):
            pass
    with flight.hold(100):
        pass
    with pytest.raises(FrameError, match="at most 100 bytes"), flight.hold(101):
        pass


def test_a_server_that_has_its_hands_full_says_when_to_come_back_and_a_device_does(small: se.LocalServer) -> None:
    about = requests.post(f"{small.url}/v1/sessions", data=recorded(DOUBLE).opening, timeout=30).json()
    path, token = f"/v1/sessions/{about['session']}/steps/0/forward", about["token"]
    length = about["limits"]["largest_body"] - 1000
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nAuthorization: Bearer {token}\r\n\r\n"
    steps = batches(2, 32)
    with se.Trainer(digits_split(), small.url, retry=60) as trainer:
        trainer.step(*steps[0])
        with _connected(small.url) as slow:
            slow.sendall(head.encode() + b"x")  # a slow one, whose bytes are reserved as soon as they are stated
            body = bytes((2 << 20) - length + 1)
            answer = _when_busy(f"{small.url}{path}", body, token)
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.json()["title"] == "BusyError"
            leaving = threading.Timer(1.5, slow.shutdown, [socket.SHUT_RDWR])
            leaving.start()
            trainer.step(*steps[1])  # comes again when it is told to
            leaving.join()
    assert same(trainer.split.model.state_dict(), dict(trained_unsplit(digits(), steps).state_dict()))


def _when_busy(url: str, body: bytes, token: str) -> requests.Response:
    """The first answer of 503; the slow request may arrive a moment after this one."""
    end = time.monotonic() + 20
    while True:
        answer = requests.put(url, data=body, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        if answer.status_code == 503 or time.monotonic() > end:
            return answer


@pytest.mark.parametrize("limit", [{"message": 0}, {"in_flight": 1}, {"header": 10}, {"opening": -1}, {"message": 1.5}])
def test_limits_under_which_nothing_works_are_refused(limit: dict[str, int]) -> None:
    with pytest.raises(ServerError, match=f"limit.*{next(iter(limit)).replace('_', ' ')}"):
        Limits(**limit)


def test_a_server_with_such_limits_does_not_come_up() -> None:
    with pytest.raises(ServerError, match="limit of at least"):
        se.LocalServer(max_header=10).start()


def test_sixteen_sessions_at_once_are_each_as_if_alone(server: se.LocalServer, record_property: Any) -> None:
    """Sixteen devices send what they once said at the same time, and each finds the state that it had alone."""
    record_property("fault", "16 sessions at once, each as when alone")
    record_property("cases", 16)
    before = sessions(server.url)
    kinds = list(itertools.product((SINGLE, DOUBLE), CHAINS, (None, 1.0)))
    assert len(kinds) == 16
    together: dict[int, dict[str, torch.Tensor]] = {}
    barrier = threading.Barrier(len(kinds), timeout=60)
    devices = [recorded(*kind) for kind in kinds]

    def talk(number: int) -> None:
        barrier.wait()
        together[number] = _retold(server.url, devices[number])

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(len(kinds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, device in enumerate(devices):
        assert same(together[number], _retold(server.url, device)), kinds[number]
    assert len({tensor["weights/conv2.weight"].sum().item() for tensor in together.values()}) > 4
    assert sessions(server.url) == before


def _retold(url: str, device: AppTransport) -> dict[str, torch.Tensor]:
    """Every call of a recorded device, made again in a session of its own; the state at its end."""
    with requests.Session() as client:
        about = client.post(f"{url}/v1/sessions", data=device.opening, timeout=60).json()
        path, client.headers["Authorization"] = f"{url}/v1/sessions/{about['session']}", f"Bearer {about['token']}"
        state: dict[str, torch.Tensor] = {}
        for method, below, body in device.calls:
            answer = client.request(method, path + below, data=body, timeout=60)
            assert answer.status_code == 200, answer.text
            if method == "GET":
                state |= {f"{below[1:]}/{name}": tensor for name, tensor in load_tensors(answer.content).items()}
        return state
