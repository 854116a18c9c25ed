"""Clients that say half of something and fall silent, or say it very slowly, keep nobody from training."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import batches, digits, digits_split, same, trained_unsplit
from serving import Serving
from sockets import Proxy, sessions

import spliteasy as se
from spliteasy.link import Link
from spliteasy.server.waiting import Peer, Relief

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked")

ADAM = {"name": "Adam", "lr": 0.01}
MANY = 40
"""More than the server has threads."""

OPENING = b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that nobody else calls, with room for two openings of 1 MiB."""
    folder = tmp_path_factory.mktemp("own")
    with Serving("--port", "0", "--max-in-flight", str(2 << 20), folder=folder) as made:
        se.Trainer(digits_split(), made.url).close()  # the first session takes long
        yield made


@contextlib.contextmanager
def saying(server: Serving, said: bytes, number: int = MANY, slowly: bool = False) -> Iterator[None]:
    """Within the block so many clients have said this, or say it a byte at a time."""
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", int(server.port)))) for _ in range(number)
        ]

        def say() -> None:
            for place in range(len(said)):
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.sendall(said[place : place + 1])
                if ended.wait(0.05):
                    return

        for client in [] if slowly else clients:
            client.sendall(said)
        talking = threading.Thread(target=say)
        if slowly:
            talking.start()
        time.sleep(0.3)  # let the server hear it
        yield
        ended.set()
        if slowly:
            talking.join()


@contextlib.contextmanager
def coming(server: Serving, said: bytes) -> Iterator[None]:
    """Within the block twenty clients a second come anew, say this, and stay."""
    ended = threading.Event()

    def come() -> None:
        with contextlib.ExitStack() as stack:
            while not ended.wait(0.05):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", int(server.port))))
                client.sendall(said)

    with saying(server, said):
        talking = threading.Thread(target=come)
        talking.start()
        yield
        ended.set()
        talking.join()


def trained(server: Serving, number: int = 3, **settings: Any) -> None:
    """A training in which every call is made once, and which has the bits of the unsplit one."""
    steps = batches(number)
    with se.Trainer(digits_split(), server.url, optimizer=ADAM, **{"timeout": 20, "retry": 0, **settings}) as trainer:
        for x, y in steps:
            trainer.step(x, y)
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), steps, **ADAM).state_dict())


HALVES = {
    "half a head": b"PUT /v1/sessions/x/steps/0/forw",
    "half a general head": b"GET /v1/health HTTP/1.1\r\nHost: ",
    "half an opening": OPENING % 40_000 + bytes(20_000),
}


@pytest.mark.parametrize("said", HALVES.values(), ids=list(HALVES))
def test_clients_that_fall_silent(own: Serving, said: bytes, record_property: Any) -> None:
    record_property("fault", "clients that fall silent in the middle of a request")
    record_property("cases", MANY)
    with saying(own, said):
        trained(own)
    assert sessions(own.url) == 0


def test_clients_that_say_a_byte_at_a_time(own: Serving, record_property: Any) -> None:
    record_property("fault", "clients that send a request a byte at a time")
    record_property("cases", MANY)
    with saying(own, OPENING % 40_000 + bytes(20_000), slowly=True):
        trained(own)


def test_a_device_whose_link_is_slow_is_not_taken_for_one(own: Serving, record_property: Any) -> None:
    """Its calls take longer than the silent ones are given, and are made once."""
    record_property("fault", "clients that fall silent in the middle of a request")
    record_property("cases", MANY)
    with coming(own, HALVES["half a head"]):
        trained(own, number=1, link=Link(0.2, 1))


def test_a_device_that_left_half_a_step_behind_is_served_again(own: Serving, record_property: Any) -> None:
    """Connections that went silent under a device, as in a tunnel, do not stand in its way when it comes again."""
    record_property("fault", "connections of a device that went silent")
    record_property("cases", MANY)
    steps = batches(2)
    with Proxy(own.url) as proxy:
        with se.Trainer(digits_split(), proxy.url, optimizer=ADAM, timeout=20, retry=0) as trainer:
            trainer.step(*steps[0])
            start = proxy.up.rindex(b"PUT ")
            with saying(own, bytes(proxy.up[start : start + 1000])):
                trainer.step(*steps[1])
        assert proxy.connections == 1


@pytest.mark.parametrize("sent", [0, (1 << 20) + 1])
def test_openings_that_never_come_leave_room(own: Serving, sent: int, record_property: Any) -> None:
    """What they say they will send takes no room, and what they sent gives it back to those who ask."""
    record_property("fault", "clients that fall silent in the middle of a request")
    record_property("cases", 4)
    with saying(own, OPENING % (2 << 20) + bytes(sent), number=4):
        trained(own, retry=20 if sent else 0)


# Without a server


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("spliteasy.server.waiting.time", made)
    return made


class Pair:
    """A peer whose request has begun and is waited for; ``is_cut`` is what its other end sees."""

    def __init__(self) -> None:
        here, self._there = socket.socketpair()
        self._here, self.peer = here, Peer(here)
        self.peer.is_sending = True

    @property
    def is_cut(self) -> bool:
        self._there.setblocking(False)
        try:
            return self._there.recv(1) == b""
        except BlockingIOError:
            return False


def after_relief(*pairs: Pair, queued: int = 1) -> list[bool]:
    """Which of them were cut, when so many waited for a thread."""
    asked, ended = iter([queued]), threading.Event()

    def waiting() -> int:
        found = next(asked, 0)
        if not found:
            ended.set()
        return found

    relief = Relief(waiting)
    with contextlib.ExitStack() as stack:
        for pair in pairs:
            stack.enter_context(relief.serving(pair.peer))
        relief.begin()
        assert ended.wait(10)
    relief.end()
    return [pair.is_cut for pair in pairs]


def test_the_slowest_of_those_that_stall_gives_its_thread_back(clock: Clock) -> None:
    silent, slow, fast, computing = Pair(), Pair(), Pair(), Pair()
    computing.peer.is_sending = False
    clock.now += 5
    fast.peer.moved(20_000)
    slow.peer.moved(5_000)
    assert after_relief(fast, slow, computing, silent) == [False, False, False, True]
    assert after_relief(fast, slow, computing) == [False, True, False]
    assert after_relief(fast, computing) == [False, False]


def test_as_many_are_cut_as_others_wait_and_the_more_wait_the_sooner(clock: Clock) -> None:
    pairs = [Pair() for _ in range(4)]
    for number, pair in enumerate(pairs):
        pair.peer.moved(100 * (4 - number))
    clock.now += 0.5
    assert after_relief(*pairs, queued=1) == [False] * 4  # each has a second
    assert after_relief(*pairs, queued=3) == [False, True, True, True]


def test_devices_on_slow_links_are_left_alone_however_many_wait(clock: Clock) -> None:
    """Ten that send what a link of 0.1 Mbit/s lets through, looked at whenever something came."""
    devices = [Pair() for _ in range(10)]
    for _ in range(50):
        clock.now += 0.1
        for device in devices:
            device.peer.moved(1250)
        assert not any(device.peer.stalls(clock.now, 0.3) for device in devices)
    assert after_relief(*devices, queued=100) == [False] * 10


def test_what_was_a_while_ago_counts_for_little(clock: Clock) -> None:
    burst, steady = Pair(), Pair()
    burst.peer.moved(1_000_000)
    for _ in range(100):
        clock.now += 0.1
        steady.peer.moved(5000)
    assert 40_000 < steady.peer.rate(clock.now) < 60_000
    assert after_relief(burst, steady, queued=2) == [True, False]


def test_one_that_takes_has_longer(clock: Clock) -> None:
    """What it takes is seen only when the system sends, megabytes at a time."""
    taking = Pair()
    taking.peer.is_sending = False
    clock.now += 5
    with taking.peer.taking():
        taking.peer.moved(1 << 20)
        clock.now += 15
        assert after_relief(taking) == [False]
        clock.now += 10
        assert after_relief(taking) == [True]


def test_another_request_has_its_own_time(clock: Clock) -> None:
    pair = Pair()
    clock.now += 5
    pair.peer.begin()
    assert after_relief(pair) == [False]


def test_where_there_is_no_room_only_those_that_stall_are_cut(clock: Clock) -> None:
    stalling, slow, left, taking = Pair(), Pair(), Pair(), Pair()
    taking.peer.is_sending = False
    clock.now += 30
    young, relief = Pair(), Relief(lambda: 0)
    slow.peer.moved(30_000)
    with contextlib.ExitStack() as stack:
        for pair in (stalling, slow, young, taking):
            stack.enter_context(relief.serving(pair.peer))
        with relief.serving(left.peer), taking.peer.taking():
            pass
        with taking.peer.taking():
            relief.is_full()
    assert [pair.is_cut for pair in (stalling, slow, young, left, taking)] == [True, False, False, False, False]
