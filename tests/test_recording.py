"""The recorder between a trainer and its server: it changes nothing, and what it notes is what the trainer counts."""

from __future__ import annotations

import socket
import threading

import pytest
import torch
from harness import SINGLE, batch, digits_split, snapshot
from sockets import Listener, answering, http_response, raw_call

import spliteasy as se
from spliteasy.codecs import container
from spliteasy.errors import ConnectionLost, ProtocolError, ServerError, SessionError
from spliteasy.server.process import LocalServer
from spliteasy.teach.chart import Moment, chart_of, moments_of
from spliteasy.teach.following import Follower
from spliteasy.teach.framing import note_of

DOUBLE_NAMES = [
    "open",
    "step 0 forward",
    "step 0 backward",
    "step 1 forward",
    "step 1 backward",
    "commit",
    "weights",
    "close",
]


@pytest.mark.parametrize("chain", ["raw", "topk(0.1) | fp16 | zstd(1)"])
def test_counts_what_the_trainer_counts(server: LocalServer, chain: str) -> None:
    with (
        se.teach.Recorder(server.url) as recorder,
        se.Trainer(digits_split(), server=recorder.url, codecs=chain) as trainer,
    ):
        records = [trainer.step(*batch(number)) for number in range(2)]
    assert [call.name for call in recorder.calls] == DOUBLE_NAMES
    assert {call.status for call in recorder.calls} == {200, 201}
    for record in records:
        forward, backward = (c for c in recorder.calls if c.name.startswith(f"step {record.step} "))
        for name, head, body, note in [
            ("activations", forward.request_head, forward.request_body, forward.request),
            ("outputs", forward.answer_head, forward.answer_body, forward.answer),
            ("output_gradients", backward.request_head, backward.request_body, backward.request),
            ("input_gradients", backward.answer_head, backward.answer_body, backward.answer),
        ]:
            assert note is not None and (note.message, note.chain, note.step) == (name, chain, record.step)
            assert body == record.bytes[name].frame == note.header_bytes + note.plane_bytes
            assert head + body == record.bytes[name].http


def test_changes_nothing(server: LocalServer) -> None:
    weights = []
    for recorded in (False, True):
        split = digits_split()
        with (
            se.teach.Recorder(server.url) as recorder,
            se.Trainer(split, server=recorder.url if recorded else server.url) as trainer,
        ):
            trainer.step(*batch())
        weights.append(snapshot(split.model))
        assert len(recorder.calls) == (6 if recorded else 0)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_times_are_in_order_and_answers_follow_requests(server: LocalServer) -> None:
    with se.teach.Recorder(server.url) as recorder, se.Trainer(digits_split(), server=recorder.url) as trainer:
        trainer.step(*batch())
        assert len(recorder.calls) == 3, "a call is noted before its answer is passed on"
    before = 0.0
    for call in recorder.calls:
        times = [before, call.request_began, call.request_ended, call.answer_began, call.answer_ended]
        assert times == sorted(times)
        before = call.answer_ended


def test_bodies_are_kept_only_if_asked_for(server: LocalServer) -> None:
    for keep in (False, True):
        with (
            se.teach.Recorder(server.url, keep=keep) as recorder,
            se.Trainer(digits_split(SINGLE), server=recorder.url) as trainer,
        ):
            trainer.step(*batch())
        call = recorder.calls[1]
        assert call.request is not None and call.request.shapes == [(8, 16, 8, 8)]
        assert call.request.planes["labels"].dtype == "I64" and call.request.planes["labels"].shape == (8,)
        assert (len(call.request_data), len(call.answer_data)) == (
            (call.request_body, call.answer_body) if keep else (0, 0)
        )
        if keep:
            assert torch.equal(container.read(call.request_data)[0]["labels"], batch()[1])
        assert "request_data" not in repr(call)


def test_no_token_is_kept(server: LocalServer) -> None:
    with se.teach.Recorder(server.url) as recorder, se.Trainer(digits_split(), server=recorder.url) as trainer:
        token = trainer._transport._caller.headers["Authorization"].split()[1]  # type: ignore[union-attr]
        trainer.step(*batch())
    assert token not in repr(recorder.calls)


def test_large_frames_pass_in_pieces(server: LocalServer) -> None:
    with se.teach.Recorder(server.url) as recorder, se.Trainer(digits_split(), server=recorder.url) as trainer:
        record = trainer.step(*batch(size=2000))
    call = recorder.calls[1]
    assert call.request_body > 8_000_000 and call.up == record.bytes["activations"].http


def test_several_connections_at_once(server: LocalServer) -> None:
    with se.teach.Recorder(server.url) as recorder:

        def train() -> None:
            with se.Trainer(digits_split(), server=recorder.url) as trainer:
                for number in range(2):
                    trainer.step(*batch(number))

        threads = [threading.Thread(target=train) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for connection in range(3):
        assert [call.name for call in recorder.calls if call.connection == connection] == DOUBLE_NAMES


def test_other_calls_pass_too(server: LocalServer) -> None:
    with se.teach.Recorder(server.url) as recorder:
        import requests

        requests.get(f"{recorder.url}/v1/health", timeout=10).raise_for_status()
        assert requests.head(f"{recorder.url}/v1/health", timeout=10).status_code == 200
        assert requests.get(f"{recorder.url}/nothing", timeout=10).status_code == 404
    assert [(c.method, c.name, c.status) for c in recorder.calls] == [
        ("GET", "GET /v1/health", 200),
        ("HEAD", "HEAD /v1/health", 200),
        ("GET", "GET /nothing", 404),
    ]
    assert recorder.calls[1].answer_body == 0 and recorder.calls[0].request is None


def test_threads_and_port_end_with_the_block(server: LocalServer) -> None:
    before = set(threading.enumerate())
    with se.teach.Recorder(server.url) as recorder:
        trainer = se.Trainer(digits_split(), server=recorder.url, retry=0)
        trainer.step(*batch())
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionLost):
        trainer.step(*batch())
    port = int(recorder.url.rpartition(":")[2])
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        pass


def test_refusals_of_the_server_arrive_and_are_noted(server: LocalServer) -> None:
    with (
        se.teach.Recorder(server.url) as recorder,
        pytest.raises(SessionError),
        se.Trainer(digits_split(), server=recorder.url) as trainer,
    ):
        trainer._transport._path = "/v1/sessions/none"  # type: ignore[union-attr]
        trainer.step(*batch())
    refused = recorder.calls[1]
    assert refused.status == 404 and refused.answer is None


@pytest.mark.parametrize("url", ["", "127.0.0.1:8765", "https://127.0.0.1:8765", "http://", "http://a:b", None, 5])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ServerError, match="Expected a server's address"):
        se.teach.Recorder(url)


def test_no_server_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConnectionLost, match=r"LocalServer\(\) first"), se.teach.Recorder(f"http://127.0.0.1:{port}"):
        pass


def test_entered_twice(server: LocalServer) -> None:
    with se.teach.Recorder(server.url) as recorder, pytest.raises(ServerError, match="runs already"):
        recorder.__enter__()


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-somebody\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nbody",
    ],
)
def test_what_cannot_be_followed_passes_and_is_told_at_the_end(response: bytes) -> None:
    with Listener(answering(response)) as other:
        with pytest.raises(ProtocolError, match="Expected"), se.teach.Recorder(other.url) as recorder:
            assert raw_call(recorder.url, b"GET / HTTP/1.1\r\n\r\n") == response
        assert recorder.calls == []


def test_the_follower_does_not_depend_on_how_bytes_are_cut() -> None:
    stream = (
        b"HTTP/1.1 100 Continue\r\n\r\n" + http_response(b"first") + http_response(b"") + http_response(b"the last")
    )
    for size in (1, 2, 3, 7, 50, len(stream)):
        follower, found = Follower(kept=4), []
        for start in range(0, len(stream), size):
            found += follower.feed(stream[start : start + size], float(start))[1]
        assert [(message.body, bytes(message.data)) for message in found] == [(5, b"firs"), (0, b""), (8, b"the ")]
        assert sum(message.head + message.body for message in found) == len(stream) - 25


@pytest.mark.parametrize("data", [b"", b"12345678", b"\xff" * 20, (2).to_bytes(8, "little") + b"[]", b"{}" * 50])
def test_a_body_that_is_no_frame_has_no_note(data: bytes) -> None:
    assert note_of(data) is None


def test_table_and_chart(server: LocalServer) -> None:
    with se.teach.Recorder(server.url) as recorder, se.Trainer(digits_split(), server=recorder.url) as trainer:
        for number in range(2):
            trainer.step(*batch(number))
    table = recorder.to_pandas()
    assert list(table.index) == DOUBLE_NAMES
    assert table.loc["step 0 forward", "request"] == "activations" and table.loc["weights", "answer"] == "weights"
    calls = [call for call in recorder.calls if call.name.startswith("step 1")]
    picture = recorder.chart(calls)
    assert f"activations · {calls[0].up:,} B" in picture.alt and "C forward, loss, C backward" in picture.alt
    assert picture._repr_mimebundle_()[0]["image/png"]
    assert [moment.kind for moment in moments_of(calls)] == ["up", "server", "down", "device", "up", "server", "down"]
    assert len(recorder.chart().axes) == 1


def test_an_empty_record_has_a_table_and_a_chart() -> None:
    recorder = se.teach.Recorder("http://127.0.0.1:1")
    assert len(recorder.to_pandas()) == 0
    assert recorder.chart().alt


def test_a_chart_needs_known_moments() -> None:
    assert "notice: ready" in chart_of([Moment("notice", "ready"), Moment("server", "")], "drawn").alt
    with pytest.raises(ValueError, match="found 'left'"):
        Moment("left", "")
