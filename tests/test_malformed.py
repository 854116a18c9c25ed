"""Requests that are malformed, lie or were not agreed, over real sockets: each is refused with a problem, or the
connection is closed where no answer could be told from another's; and the session trains on to the same bits."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import torch
from harness import DOUBLE, recorded, reference, same
from victim import Victim, responses

import spliteasy as se
from spliteasy.heads import digest

Make = Callable[[Victim], bytes]


@pytest.fixture(scope="module")
def strict() -> Iterator[se.LocalServer]:
    """A server with little room."""
    with se.LocalServer(max_message=1 << 22, max_in_flight=1 << 24, max_header=4096, threads=1) as server:
        yield server


def _framing() -> dict[str, Make]:
    """Where a request ends, and what it is."""
    lengths: dict[str, Any] = {
        "none": "", "negative": -5, "text": "five", "a plus": "+5", "an underscore": "1_0", "hexadecimal": "0x10",
        "a list": "5, 5", "a fraction": "5.0", "a space within": "1 0", "beyond the limit": (1 << 23) + 1,
        "10^10": 10**10, "2^63": 1 << 63, "2^64": 1 << 64, "5000 digits": "9" * 2000, "nothing": 0,
    }  # fmt: skip
    cases: dict[str, Make] = {
        f"length: {name}": lambda victim, length=length: victim.request(length=length)  # type: ignore[misc]
        for name, length in lengths.items()
    }
    other, size = {"Accept": "*/*"}, len(recorded(DOUBLE).calls[0][2])
    cases |= {
        "length: one more than there is": lambda v: v.request(length=size + 1, headers=other),
        "length: twice what there is": lambda v: v.request(length=2 * size, headers=other),
        "length: one less than there is": lambda v: v.request(length=size - 1),
        "length: half of what there is": lambda v: v.request(length=size // 2, headers=other),
        "length: eight bytes": lambda v: v.request(length=8),
        "two lengths": lambda v: v.request(headers={"Content-Length": 5}),
        "two lengths that agree": lambda v: v.request(headers={"content-length": size}),
        "chunked": lambda v: v.request(b"5\r\nhello\r\n0\r\n\r\n", length="", headers={"Transfer-Encoding": "chunked"}),
        "chunked, damaged": lambda v: v.request(b"zz\r\n", length="", headers={"Transfer-Encoding": "chunked"}),
        "chunked with a length": lambda v: v.request(headers={"Transfer-Encoding": "chunked"}),
        "chunked by two names": lambda v: v.request(
            headers={"Transfer-Encoding": "chunked", "transfer-encoding": "identity"}
        ),
        "an unknown transfer encoding": lambda v: v.request(headers={"Transfer-Encoding": "gzip"}),
        "a chunked request within": lambda v: v.request(
            b"0\r\n\r\nGET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n", headers={"Transfer-Encoding": "xchunked"}
        ),
        "two tokens": lambda v: v.request(headers={"authorization": "Bearer x"}),
        "two hosts": lambda v: v.request(headers={"host": "y"}),
        "two calls": lambda v: v.request(headers={"Call": f"1 {'A' * 22}", "call": f"2 {'A' * 22}"}),
        "a header without a colon": lambda v: v.request(headers={}).replace(b"Host: x", b"Host x"),
        "a folded length": lambda v: v.request().replace(b"Content-Length: ", b"Content-Length:\r\n 1"),
        "lines that end with LF": lambda v: v.request(b"").replace(b"\r\n", b"\n"),
        "a head that does not end": lambda v: v.request(b"")[:-4],
        "a head without an end in sight": lambda v: v.request(b"", headers={"Other": "x" * 5000}),
        "hundreds of headers": lambda v: v.request(b"", headers={f"Other-{number}": "x" for number in range(400)}),
        "a long path": lambda v: v.request(b"", path="/" + "x" * 5000),
        "HTTP/2.0": lambda v: v.request(version="HTTP/2.0"),
        "HTTP/9.9": lambda v: v.request(version="HTTP/9.9"),
        "HTTP/x": lambda v: v.request(version="HTTP/x"),
        "another protocol": lambda v: v.request(version="RTSP/1.0"),
        "no protocol": lambda v: v.request(version=""),
        "a lower-case method": lambda v: v.request(method="put"),
        "an unknown method": lambda v: v.request(method="FROB"),
        "CONNECT": lambda v: v.request(b"", method="CONNECT", path="elsewhere:80"),
        "a fragment": lambda v: v.request(below="/steps/0/forward").replace(b"/forward ", b"/forward#x "),
        "a path that is no text": lambda v: v.request(b"", path="/v1/sessions/%ff/steps/0/forward"),
        "a path with a NUL": lambda v: v.request(b"", path="/v1/sessions/%00/steps/0/forward"),
        "a path out of the folder": lambda v: v.request(b"", path="/../../etc/passwd", method="GET"),
        "garbage": lambda v: b"garbage\r\n\r\n",
        "a TLS hello": lambda v: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
        "zeros": lambda v: bytes(100) + b"\r\n",
    }
    return cases


def _addresses() -> dict[str, Make]:
    """Whose session, which step."""
    steps: dict[str, Any] = {
        "-1": -1, "2^64": 1 << 64, "10^18": 10**18, "a fraction": 0.5, "a word": "one", "blank": "%20", "0x0": "0x0",
        "5000 digits": "1" * 2000, "far ahead": 7, "Arabic digits": "%D9%A1",
    }  # fmt: skip
    cases: dict[str, Make] = {
        f"step {name}": lambda victim, step=step: victim.request(  # type: ignore[misc]
            victim.body("/steps/0/forward"), path=f"{victim.path}/steps/{step}/forward"
        )
        for name, step in steps.items()
    }
    return cases | {
        "an unknown session": lambda v: v.request(path="/v1/sessions/nobody/steps/0/forward"),
        "an unknown session, through the parser": lambda v: v.request(
            path="/v1/sessions/nobody/steps/0/forward", headers={"Accept": "*/*"}
        ),
        "no token": lambda v: v.request(token=""),
        "a wrong token": lambda v: v.request(token="x" * 43),
        "a token but for its last character": lambda v: v.request(token=v.token[:-1]),
        "a token and more": lambda v: v.request(token=v.token + "A"),
        "the session's name as token": lambda v: v.request(token=v.session),
        "another scheme": lambda v: v.request().replace(b"Bearer", b"Basic"),
        "another session's token": lambda v: v.request(token=_other(v).token),
        "another session's token to close": lambda v: v.request(b"", method="DELETE", below="", token=_other(v).token),
        "another session's token for the weights": lambda v: v.request(
            b"", method="GET", below="/weights", token=_other(v).token
        ),
        "another phase": lambda v: v.request(b"", path=f"{v.path}/steps/0/sideways"),
        "another method": lambda v: v.request(method="POST"),
        "backward before forward": lambda v: v.request(below="/steps/0/backward"),
        "backward's frame to forward": lambda v: v.request(v.body("/steps/0/backward")),
        "the step after the next": lambda v: v.request(below="/steps/1/forward"),
        "weights of another step": lambda v: v.request(b"", method="GET", below="/weights?step=3"),
        "weights of no step": lambda v: v.request(b"", method="GET", below="/weights?step=x"),
        "a state where none is kept": lambda v: v.request(b"", below="/states/0"),
        "a commit of a step that was not made": lambda v: v.request(
            b'{"step":4,"learning_rate":0.05,"clip":null}', method="POST", below="/commit"
        ),
        "a commit that is none": lambda v: v.request(b"[1", method="POST", below="/commit"),
        "a commit of NaN": lambda v: v.request(
            b'{"step":-1,"learning_rate":NaN,"clip":null}', method="POST", below="/commit"
        ),
        "a commit of two megabytes": lambda v: v.request(bytes(2 << 20), method="POST", below="/commit"),
        "a state to keep where none is": lambda v: v.request(
            b'{"step":-1,"learning_rate":0.05,"clip":null}', method="POST", below="/states"
        ),
        "an opening that is none": lambda v: v.request(b"{}", method="POST", path="/v1/sessions"),
    }


def _other(victim: Victim) -> Victim:
    """Another session of the server; it is closed, so that each is known and only one is there."""
    other = Victim(victim.url)
    other.close()
    return other


def _calls() -> dict[str, Make]:
    """The header of a numbered call."""
    right = digest([recorded(DOUBLE).calls[0][2]])
    stated = {
        "empty": "", "a word": "x", "a number alone": "1", "a digest alone": right, "a number of 0": f"0 {right}",
        "a negative number": f"-1 {right}", "a fraction": f"1.5 {right}", "2^64": f"{1 << 64} {right}",
        "a leading zero": f"01 {right}", "a short digest": f"1 {right[:-1]}", "a long digest": f"1 {right}A",
        "a digest of other letters": f"1 {'!' * 22}", "two spaces": f"1  {right}", "a tab": f"1\t{right}",
        "another body's digest": f"1 {digest([b'other'])}", "no body's digest": f"1 {'A' * 22}",
        "three fields": f"1 {right} 2",
    }  # fmt: skip
    return {
        f"call: {name}": lambda victim, text=text: victim.request(headers={"Call": text})  # type: ignore[misc]
        for name, text in stated.items()
    }


def _frames() -> dict[str, Make]:
    """What a frame says of itself: forged, with a true length and digest."""

    def entry(**change: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]:
        return lambda header, planes: header["tensors"][0].update(change)

    def plane(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
        return lambda header, planes: planes.update({"0:values": change(planes["0:values"])})

    changes: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]] = {
        "another dtype": entry(dtype="F64"),
        "an unknown dtype": entry(dtype="F33"),
        "another shape": entry(shape=[8, 16, 8, 9]),
        "another rank": entry(shape=[8, 1024]),
        "a negative shape": entry(shape=[-8, 16, 8, 8]),
        "a shape of 2^64": entry(shape=[1 << 64, 16, 8, 8]),
        "strides that overlap": entry(strides=[-1, 8, 8, 8]),
        "an offset": entry(offset=1 << 40),
        "a layout that is none": entry(layout=[0, 0, 0, 0]),
        "packed planes without a codec": entry(packed={"values": ["F32", 1]}),
        "a plane of another dtype": plane(lambda values: values.double()),
        "a plane too short": plane(lambda values: values[:-1].clone()),
        "a plane too long": plane(lambda values: torch.cat([values, values])),
        "an empty plane": plane(lambda values: values[:0].clone()),
        "NaN": plane(lambda values: values * float("nan")),
        "infinity": plane(lambda values: values + float("inf")),
        "a plane of nobody": lambda header, planes: planes.update({"7:values": torch.zeros(1)}),
        "no planes": lambda header, planes: planes.clear(),
        "no tensors": lambda header, planes: header.update(tensors=[]),
        "two tensors": lambda header, planes: header.update(tensors=header["tensors"] * 2),
        "a codec that was not agreed": lambda header, planes: header.update(chain="fp16"),
        "a chain of nonsense": lambda header, planes: header.update(chain=["raw"]),
        "another message": lambda header, planes: header.update(message="outputs"),
        "another step": lambda header, planes: header.update(step=1),
        "a step of -1": lambda header, planes: header.update(step=-1),
        "a step of 2^64": lambda header, planes: header.update(step=1 << 64),
        "evaluation": lambda header, planes: header.update(training=False),
        "another version": lambda header, planes: header.update(version=2),
        "no batch": lambda header, planes: header.pop("batch"),
        "a batch of 0": lambda header, planes: header.update(batch=0),
        "a batch of 2^24": lambda header, planes: header.update(batch=1 << 24),
        "a batch of 2^80": lambda header, planes: header.update(batch=1 << 80),
        "a batch of 7": lambda header, planes: header.update(batch=7),
        "no commit": lambda header, planes: header.pop("commit"),
        "a commit of the future": lambda header, planes: header["commit"].update(step=5),
        "scalars of nobody": lambda header, planes: header.update(scalars=[1, 2]),
        "labels of nobody": lambda header, planes: (
            header.update(plain=["labels"]), planes.update(labels=torch.ones(8))
        ),
        "a generator of nonsense": lambda header, planes: (
            header.update(plain=["generator"]), planes.update(generator=torch.ones(99).byte())
        ),
        "counts of text": lambda header, planes: header.update(counts={"saturated": "many"}),
    }  # fmt: skip
    cases: dict[str, Make] = {
        f"frame: {name}": lambda victim, change=change: victim.request(victim.forged(change))  # type: ignore[misc]
        for name, change in changes.items()
    }
    values = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    headers: dict[str, bytes] = {
        "empty": b"",
        "not JSON": b"{{{{",
        "a list": b"[]",
        "deep": b'{"a":' * 5000,
        "no metadata": b"{}",
        "metadata of numbers": b'{"__metadata__":{"spliteasy":1}}',
        "not UTF-8": b'{"\xff":1}',
        "an unknown dtype": json.dumps({"0:values": {**values, "dtype": "F33"}}).encode(),
        "offsets the wrong way round": json.dumps({"0:values": {**values, "data_offsets": [8, 0]}}).encode(),
        "negative offsets": json.dumps({"0:values": {**values, "data_offsets": [-8, 0]}}).encode(),
        "offsets beyond the end": json.dumps({"0:values": {**values, "data_offsets": [0, 1 << 40]}}).encode(),
        "a gap": json.dumps({"0:values": {**values, "data_offsets": [4, 12]}}).encode(),
        "an overlap": json.dumps({"a": values, "b": values}).encode(),
        "a shape that does not fill its place": json.dumps({"0:values": {**values, "shape": [3]}}).encode(),
        "a name twice": b'{"a":%b,"a":%b}' % ((json.dumps(values).encode(),) * 2),
        "a shape of 2^62": json.dumps({"0:values": {**values, "shape": [1 << 31, 1 << 31]}}).encode(),
    }
    cases |= {
        f"safetensors: {name}": lambda victim, text=text: victim.request(  # type: ignore[misc]
            len(text).to_bytes(8, "little") + text + bytes(8)
        )
        for name, text in headers.items()
    }
    return cases | {
        "safetensors: a header of 2^64 bytes": lambda v: v.request(b"\xff" * 8 + v.body("/steps/0/forward")[8:]),
        "safetensors: a header longer than the body": lambda v: v.request((1 << 19).to_bytes(8, "little") + b"{}"),
        "safetensors: seven bytes": lambda v: v.request(bytes(7)),
        "safetensors: bytes left over": lambda v: v.request(v.body("/steps/0/forward") + b"\0"),
        "safetensors: bytes missing": lambda v: v.request(v.body("/steps/0/forward")[:-1]),
        "evaluate: nonsense": lambda v: v.request(bytes(100), method="POST", below="/evaluate"),
        "evaluate: a training frame": lambda v: v.request(
            v.body("/steps/0/forward"), method="POST", path=f"{v.path}/evaluate"
        ),
    }


CASES = {**_framing(), **_addresses(), **_calls(), **_frames()}


def test_there_are_many() -> None:
    assert len(CASES) >= 80


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_request_is_a_problem_and_the_session_trains_on(
    strict: se.LocalServer, case: str, record_property: Any
) -> None:
    record_property("fault", "malformed requests")
    victim = Victim(strict.url)
    answers = victim.send(CASES[case](victim))
    assert answers, "the connection was closed without an answer"
    for answer in answers:  # of what stands behind a length that is too short, the rest is a request that is none
        assert 400 <= answer.status < 500, (answer.status, answer.body[:300])
        answer.problem()
    victim.step(0)
    victim.step(1)
    assert same(victim.state(1), reference(DOUBLE, 2))
    victim.close()


@pytest.mark.parametrize("half", ["forward", "backward"])
def test_a_body_that_is_cut_short_on_the_fast_path_has_no_answer(strict: se.LocalServer, half: str) -> None:
    """Whoever sent it is gone; the connection is closed and the step goes on."""
    victim = Victim(strict.url)
    if half == "backward":
        assert victim.send(victim.request())[0].status == 200
    assert victim.send(victim.request(below=f"/steps/0/{half}")[:-1]) == []
    if half == "backward":
        assert victim.send(victim.request(below="/steps/0/backward"))[0].status == 200
    else:
        victim.step(0)
    victim.step(1)
    assert same(victim.state(1), reference(DOUBLE, 2))
    victim.close()


def test_malformed_requests_between_the_halves_of_a_step_do_no_harm(strict: se.LocalServer) -> None:
    """All that does not reach the session, one after the other, while a step is open."""
    victim = Victim(strict.url)
    for number in (0, 1):
        assert victim.send(victim.request(below=f"/steps/{number}/forward"))[0].status == 200
        for case, make in {**_framing(), **_calls()}.items():
            assert all(400 <= answer.status < 500 for answer in victim.send(make(victim))), case
        assert victim.send(victim.request(below=f"/steps/{number}/backward"))[0].status == 200
    assert same(victim.state(1), reference(DOUBLE, 2))
    victim.close()
    assert requests.get(f"{strict.url}/v1/health", timeout=30).json()["sessions"] == 0


def test_a_request_behind_the_end_of_another_is_not_mixed_up_with_it(strict: se.LocalServer) -> None:
    """The end of a body and the next request come in one piece, after the body's beginning."""
    victim = Victim(strict.url)
    first, second = victim.request(), victim.request(below="/steps/0/backward")
    host, _, port = strict.url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.sendall(first[:-100])
        time.sleep(0.2)
        connected.sendall(first[-100:] + second)
        connected.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: connected.recv(1 << 16), b""))
    assert [answer.status for answer in responses(said)] == [200, 200]
    victim.step(1)
    assert same(victim.state(1), reference(DOUBLE, 2))
    victim.close()
