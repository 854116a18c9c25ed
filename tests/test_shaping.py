"""The link at the socket: the arithmetic of the token bucket on a clock of its own, and that bytes really wait."""

from __future__ import annotations

import math
import socket
import threading
import time

import pytest
import torch
from harness import batch, digits_split
from hypothesis import given
from hypothesis import strategies as st

import spliteasy as se
from spliteasy.shaping import Crossing, TokenBucket


class Clock:
    """Time that passes only when someone sleeps."""

    def __init__(self, late: float = 0.0) -> None:
        self.now, self._late = 0.0, late

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self._late


@given(st.floats(0.1, 10_000), st.lists(st.integers(0, 1 << 20), min_size=1, max_size=50))
def test_bytes_from_an_empty_bucket_take_the_time_of_the_bandwidth(mbps: float, sizes: list[int]) -> None:
    clock = Clock()
    bucket = TokenBucket(mbps, clock=clock, sleep=clock.sleep)
    for size in sizes:
        bucket.take(size)
    assert clock.now == pytest.approx(8e-6 * sum(sizes) / mbps, abs=1e-9)


@given(st.floats(0.1, 10_000), st.lists(st.integers(1, 1 << 16), min_size=1, max_size=50), st.floats(0, 0.02))
def test_no_more_passes_than_the_bandwidth_allows_and_late_wake_ups_are_made_up_for(
    mbps: float, sizes: list[int], late: float
) -> None:
    clock = Clock(late)
    bucket = TokenBucket(mbps, clock=clock, sleep=clock.sleep)
    passed = 0
    for size in sizes:
        bucket.take(size)
        passed += size
        assert passed <= bucket.bytes_a_second * clock.now * (1 + 1e-9) + 1e-3
    assert clock.now <= 8e-6 * passed / mbps * (1 + 1e-9) + late + 1e-9


def test_after_a_pause_at_most_the_depth_passes_at_once() -> None:
    clock = Clock()
    bucket = TokenBucket(8, clock=clock, sleep=clock.sleep)  # a million bytes a second
    clock.now = 1000.0
    bucket.take(int(bucket.depth))
    assert clock.now == 1000.0
    bucket.take(500_000)
    assert clock.now == pytest.approx(1000.5)


def test_a_bucket_without_a_limit_never_waits() -> None:
    clock = Clock()
    bucket = TokenBucket(math.inf, clock=clock, sleep=clock.sleep)
    bucket.take(1 << 40)
    assert clock.now == 0.0 and bucket.piece > 0


@pytest.mark.parametrize("mbps", [0.001, 0.768, 9, 1000, 1e6])
def test_pieces_are_a_packet_or_more(mbps: float) -> None:
    assert 1460 <= TokenBucket(mbps).piece <= 1 << 18 and TokenBucket(mbps).depth >= 2 * TokenBucket(mbps).piece


def _arrivals(link: se.Link, data: bytes) -> tuple[list[tuple[float, int]], bytes]:
    """When how many bytes had arrived at the other end of a socket, in seconds from the start, and the bytes."""
    near, far = socket.socketpair()
    seen: list[tuple[float, int]] = []
    got = bytearray()

    def read() -> None:
        while piece := far.recv(1 << 16):
            got.extend(piece)
            seen.append((time.perf_counter() - started, len(got)))

    started = time.perf_counter()
    reader = threading.Thread(target=read)
    reader.start()
    with near, far:
        crossing = Crossing(link, link.round_trip(0))
        for piece in (data[:10], memoryview(data)[10:]):
            crossing.send(near, piece)
        near.shutdown(socket.SHUT_WR)
        reader.join()
    return seen, bytes(got)


def test_what_is_sent_arrives_whole_and_never_ahead_of_the_bandwidth() -> None:
    link = se.Link(up_mbps=8, down_mbps=8, rtt_ms=40)
    data = torch.randint(0, 256, (200_000,), dtype=torch.uint8).numpy().tobytes()
    seen, got = _arrivals(link, data)
    assert got == data
    assert all(count <= 1e6 * (seconds - 0.02) + 1 for seconds, count in seen)


def test_what_is_received_arrives_whole_and_not_before_its_time() -> None:
    link = se.Link(up_mbps=8, down_mbps=8, rtt_ms=40)
    data, place = bytes(range(256)) * 400, memoryview(bytearray(100_000))
    near, far = socket.socketpair()
    with near, far:
        sender = threading.Thread(target=far.sendall, args=(data,))
        sender.start()
        started, crossing = time.perf_counter(), Crossing(link, link.round_trip(0))
        head = crossing.receive(near, 1 << 16)
        filled = 0
        while filled < len(place):
            filled += crossing.receive_into(near, place[filled:])
        seconds = time.perf_counter() - started
        rest = len(data) - len(head) - filled
        while rest:
            rest -= len(near.recv(rest))
        sender.join()
    assert head == data[: len(head)] and bytes(place) == data[len(head) : len(head) + filled]
    assert seconds >= 0.02 + 1e-6 * (len(head) + filled)


def test_without_a_link_a_crossing_takes_nothing() -> None:
    assert Crossing(None).seconds(10**9, 10**9) == 0.0


def test_a_shaped_run_computes_the_same_and_takes_at_least_the_links_time() -> None:
    link = se.Link(up_mbps=20, down_mbps=50, rtt_ms=10, jitter=5, seed=7)
    states = []
    with se.LocalServer() as server:
        for used in (None, link):
            with se.Trainer(digits_split(), server=server.url, link=used) as trainer:
                records = [trainer.step(*batch(step)) for step in range(3)]
                loss = trainer.evaluate([batch(9)]).loss
            states.append((trainer.split.model.state_dict(), [record.loss for record in records], loss))
    assert states[0][1:] == states[1][1:]
    assert all(torch.equal(states[0][0][name], tensor) for name, tensor in states[1][0].items())
    for record in records:
        up = sum(record.bytes[name].http for name in ("activations", "output_gradients"))
        trips = link.round_trip(record.step, 0) + link.round_trip(record.step, 1)
        assert record.seconds["link"] == pytest.approx(link.seconds(up, record.total.http - up, calls=0) + trips)
        assert record.seconds["total"] >= record.seconds["link"] and record.seconds["transfer"] >= 0


def test_in_process_the_jitter_is_the_same() -> None:
    link = se.Link(math.inf, math.inf, rtt_ms=4, jitter=4, seed=7)
    trainer = se.Trainer(digits_split(), link=link)
    for record in [trainer.step(*batch(step)) for step in range(3)]:
        expected = link.round_trip(record.step, 0) + link.round_trip(record.step, 1)
        assert record.seconds["link"] == pytest.approx(expected) and record.seconds["total"] >= expected
