"""From the device to a server over a real socket: bytes counted, lines cut, and answers from something else."""

import http.server
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from harness import DOUBLE, SINGLE, batch, batches, digits, digits_split, same, snapshot, trained_unsplit
from sockets import Listener, Proxy, answering, http_response, no_session_left, raw_call, sessions

import spliteasy as se
from spliteasy.errors import ConnectionLost, ProtocolError, ServerError, SplitEasyError
from spliteasy.heads import Call, digest
from spliteasy.link import Link
from spliteasy.server.process import LocalServer

CHAIN = "topk(0.5) | fp16 | zstd(1)"


@pytest.fixture
def proxy(server: LocalServer) -> Iterator[Proxy]:
    with Proxy(server.url) as proxy:
        yield proxy


# Bytes


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("chain", ["raw", CHAIN])
def test_the_bytes_of_a_step_are_those_on_the_wire(proxy: Proxy, at: tuple[str, ...], chain: str) -> None:
    with se.Trainer(digits_split(at), server=proxy.url, codecs=chain) as trainer:
        for number, size in enumerate((4, 8, 600)):  # the last is sent in pieces
            up, down = len(proxy.up), len(proxy.down)
            record = trainer.step(*batch(number, size))
            up, down = len(proxy.up) - up, len(proxy.down) - down
            sent = [record.bytes[name] for name in ("activations", "output_gradients") if name in record.bytes]
            received = [record.bytes[name] for name in ("outputs", "input_gradients") if name in record.bytes]
            assert sum(size.http for size in sent) == up and sum(size.http for size in received) == down
            assert record.total.http == up + down
            assert all(0 < size.http - size.frame < 500 for size in [*sent, *received])
            assert len(record.bytes) == 2 * len(at)
    assert proxy.connections == 1  # one connection, kept open


def test_raw_frames_cost_a_thousandth(proxy: Proxy) -> None:
    with se.Trainer(digits_split(), server=proxy.url) as trainer:
        record = trainer.step(*batch(0, 1024))
    for name in ("activations", "input_gradients", "outputs"):
        size = record.bytes[name]
        assert size.raw >= 1 << 20 and size.raw < size.frame < size.http <= 1.001 * size.raw


def test_in_process_nothing_goes_over_http() -> None:
    record = se.Trainer(digits_split()).step(*batch())
    assert record.total.http == 0 and record.total.frame > record.total.raw > 0


def test_an_emulated_link_takes_its_time(server: LocalServer) -> None:
    link = Link(up_mbps=10, down_mbps=20, rtt_ms=20)
    with se.Trainer(digits_split(), server=server.url, link=link) as trainer:
        trainer.step(*batch())
        record = trainer.step(*batch(1))
    up = sum(record.bytes[name].http for name in ("activations", "output_gradients"))
    expected = link.seconds(up, record.total.http - up, calls=2)
    assert record.seconds["link"] == pytest.approx(expected) and record.seconds["total"] >= expected


# Equal to unsplit through a socket, whatever happens to the line


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
def test_a_connection_that_was_closed_while_idle_is_opened_again(server: LocalServer, at: tuple[str, ...]) -> None:
    with Proxy(server.url) as proxy, se.Trainer(digits_split(at), server=proxy.url) as trainer:
        for x, y in batches(3):
            trainer.step(x, y)
            proxy.cut()
            time.sleep(1.1)  # idle for long enough to be looked at before it is used again
    assert proxy.connections >= 3
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), batches(3)).state_dict())


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("call", ["forward", "backward"])
@pytest.mark.parametrize("when", ["request", "answer"])
@pytest.mark.parametrize("chain", ["raw", CHAIN])
def test_a_call_that_was_lost_can_be_made_again(
    server: LocalServer, at: tuple[str, ...], call: str, when: str, chain: str
) -> None:
    """The line is cut when the request or its answer is on the way; the step is given up, and repeated."""
    if call == "backward" and len(at) == 1:
        call = "forward"

    def run(proxy: Proxy, steps: int, trouble: bool) -> dict[str, torch.Tensor]:
        seen: list[bytes] = []

        def up(data: bytes) -> None:
            seen.append(data)
            if when == "request" and f"steps/1/{call}".encode() in data and trouble and not lost:
                lost.append(True)
                proxy.cut()
                raise ConnectionAbortedError  # the proxy passes nothing on

        def down(data: bytes) -> None:
            if when == "answer" and any(f"steps/1/{call}".encode() in data for data in seen) and trouble and not lost:
                lost.append(True)
                proxy.cut()

        lost: list[bool] = []
        proxy.before_up, proxy.before_down = up, down
        optimizer = {"name": "Adam", "lr": 0.01}
        with se.Trainer(digits_split(at), server=proxy.url, codecs=chain, optimizer=optimizer, retry=0) as trainer:
            for number in range(steps):
                before = snapshot(trainer.split.a)
                try:
                    trainer.step(*batch(number))
                except ConnectionLost as error:
                    assert "last finished step" in str(error) and number == 1
                    assert same(snapshot(trainer.split.a), before)
                    trainer.step(*batch(number))
        assert bool(lost) == trouble
        return trainer.split.state_dict()

    with no_session_left(server.url), Proxy(server.url) as one, Proxy(server.url) as other:
        assert same(run(one, 3, True), run(other, 3, False))


def test_an_interrupt_while_waiting_leaves_the_model_whole(server: LocalServer) -> None:
    """Ctrl-C while the server's answer is awaited; B's weights still come home, and the session is closed."""
    with no_session_left(server.url), Proxy(server.url) as proxy:

        def press() -> None:
            proxy.holding.clear()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        def interrupt(data: bytes) -> None:
            if b"steps/2/backward" in data:
                proxy.holding.set()
                threading.Timer(0.2, press).start()

        proxy.before_up = interrupt
        trainer = se.Trainer(digits_split(), server=proxy.url)
        with pytest.raises(KeyboardInterrupt), trainer:
            for x, y in batches(5):
                trainer.step(x, y)
    assert len(trainer.log) == 2
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), batches(2)).state_dict())


# No server, or something else


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{_closed_port()}"
    with pytest.raises(ConnectionLost, match=r"spliteasy serve.*LocalServer") as caught:
        se.Trainer(digits_split(), server=url)
    assert url in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8765",
        "localhost",
        "https://127.0.0.1:8765",
        "ftp://127.0.0.1",
        "http://",
        "http://:8765",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://127.0.0.1:-1",
        "http://[::1",
        "http://host name:1",
        "file:///tmp",
        "http://a..b:80",
        "http://\u00fc\u00fc..:80",
        "http://127.0.0.1:1/\n",
        "http://" + "a" * 300 + ":80",
        "http://[::g]:80",
        "http://\ud800:80",
    ],
)
def test_addresses_that_are_none_are_server_errors(url: str) -> None:
    with pytest.raises(ServerError, match="Expected"):
        se.Trainer(digits_split(), server=url, timeout=5)


@pytest.mark.parametrize("url", [5, b"http://127.0.0.1:1", ("127.0.0.1", 80), object()])
def test_an_address_is_text(url: Any) -> None:
    with pytest.raises(SplitEasyError, match="Expected"):
        se.Trainer(digits_split(), server=url)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "soon"])
def test_a_timeout_is_a_positive_number(server: LocalServer, timeout: Any) -> None:
    with pytest.raises(SplitEasyError, match="timeout"):
        se.Trainer(digits_split(), server=server.url, timeout=timeout)


def _json(value: Any, **more: Any) -> bytes:
    return http_response(json.dumps(value).encode(), **more)


FOREIGN: dict[str, bytes] = {
    "nothing": b"",
    "garbage": b"\0\xff garbage\r\n\r\n",
    "a greeting": b"220 smtp ready\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "an endless line": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "no status": b"HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "a status of text": b"HTTP/1.1 fine OK\r\nContent-Length: 0\r\n\r\n",
    "a huge status": b"HTTP/1.1 " + b"9" * 5000 + b" OK\r\nContent-Length: 0\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "a length of text": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "a length of thousands of digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a length beyond memory": b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\n",
    "a length of gigabytes": b"HTTP/1.1 200 OK\r\nContent-Length: 17179869184\r\n\r\n",
    "more than it says": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{} and more",
    "less than it says": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "an old version": b"HTTP/1.0 200 OK\r\n\r\n<html>",
    "a page": http_response(b"<html>hello</html>", kind="text/html"),
    "a page not found": http_response(b"<html>", "404 Not Found", "text/html"),
    "moved": b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an empty body": http_response(b""),
    "a list": _json([]),
    "a number": _json(5),
    "null": _json(None),
    "another object": _json({"hello": "world"}),
    "a session that is a number": _json({"session": 5, "token": "t"}),
    "no token": _json({"session": "s"}),
    "a token with a line break": _json({"session": "s", "token": "t\r\nX: y"}),
    "a token that is not ASCII": _json({"session": "s", "token": "\u00fc"}),
    "a session with a space": _json({"session": "s x", "token": "t"}),
    "a session with a surrogate": _json({"session": "\ud800", "token": "t"}),
    "deep JSON": http_response(b"[" * 100_000),
    "bytes that are not text": http_response(b"\xff\xfe{}"),
    "big numbers": http_response(b'{"a":' + b"9" * 5000 + b"}"),
    "an empty problem": _json({}, status="400 Bad", kind="application/problem+json"),
    "a problem that is a list": _json([], status="400 Bad", kind="application/problem+json"),
    "a deep problem": http_response(b"[" * 100_000, "400 Bad", "application/problem+json"),
    "a problem of numbers": _json({"type": 1, "detail": 2}, status="400 Bad", kind="application/problem+json"),
    "a problem of another kind": _json(
        {"type": "about:blank", "detail": "no"}, status="500 Bad", kind="application/problem+json"
    ),
    "a problem that names a function": _json(
        {"type": "urn:spliteasy:error:suggest", "detail": "x"}, status="400 Bad", kind="application/problem+json"
    ),
    "a problem that names a class that is no error": _json(
        {"type": "urn:spliteasy:error:__builtins__", "detail": "x"}, status="400 Bad", kind="application/problem+json"
    ),
}


@pytest.mark.parametrize("answer", FOREIGN)
def test_a_server_of_another_kind_is_named(answer: str) -> None:
    with Listener(answering(FOREIGN[answer])) as listener:
        with pytest.raises(ServerError) as caught:
            trainer = se.Trainer(digits_split(), server=listener.url, timeout=5, retry=0)
            trainer.step(*batch())
        assert type(caught.value) in (ProtocolError, ConnectionLost, ServerError)
        assert "Expected" in str(caught.value) or listener.url in str(caught.value)
        assert len(str(caught.value)) < 1500


def test_a_web_server_is_named() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        other.RequestHandlerClass.log_message = lambda *_: None  # type: ignore[attr-defined]
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(ProtocolError, match=r"status 501.*Is the address right"):
            se.Trainer(digits_split(), server=f"http://127.0.0.1:{other.server_port}")
        other.shutdown()


@pytest.mark.parametrize(
    "talk",
    [lambda connection: None, lambda connection: connection.recv(1), lambda connection: connection.recv(1 << 20)],
    ids=["silent", "one byte read", "all read"],
)
def test_a_server_that_closes_at_once(talk: Callable[[socket.socket], Any]) -> None:
    with Listener(talk) as listener, pytest.raises(ConnectionLost, match="found none"):
        se.Trainer(digits_split(), server=listener.url, retry=0)


@pytest.mark.parametrize(
    "begun",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"],
    ids=["silent", "head", "body"],
)
def test_a_server_that_stalls(begun: bytes) -> None:
    def stall(connection: socket.socket) -> None:
        connection.sendall(begun)
        while connection.recv(1 << 20):
            pass

    start = time.monotonic()
    with Listener(stall) as listener, pytest.raises(ConnectionLost, match="timed out"):
        se.Trainer(digits_split(), server=listener.url, timeout=0.3, retry=0)
    assert time.monotonic() - start < 20  # the usual time-out is 600 s


# A server that goes wrong in the middle


class Spoiled:
    """A proxy's hook that replaces the answer to the first call of a kind."""

    def __init__(self, proxy: Proxy, call: bytes, answer: bytes | Callable[[bytes], bytes]) -> None:
        self.answer, self.call, self.due, self.done = answer, call, False, False
        self.held = b""
        proxy.before_up, proxy.change_down = self.watch, self.change

    def watch(self, data: bytes) -> None:
        self.due = (self.due or self.call in data) and not self.done

    def change(self, data: bytes) -> bytes:
        if not self.due:
            return data
        self.held += data
        head, _, body = self.held.partition(b"\r\n\r\n")
        stated = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if stated is None or len(body) < int(stated[1]):
            return b""  # until all of it is here
        self.due, self.done = False, True
        return self.answer if isinstance(self.answer, bytes) else _sealed(self.answer(self.held), head)


def _sealed(answer: bytes, head: bytes) -> bytes:
    """An answer that lies, with the digest of what it says: the one that ``head`` began, of a server that means it."""
    number = re.search(rb"\r\nCall: (\d+) ", head)
    assert number is not None
    first, _, body = answer.partition(b"\r\n\r\n")
    return first + b"\r\nCall: " + str(Call(int(number[1]), digest([body]))).encode() + b"\r\n\r\n" + body


def _missing(header: dict[str, Any], planes: dict[str, torch.Tensor]) -> None:
    """Outputs go; input gradients stay, which may be missing."""
    if header["message"] == "outputs":
        header["tensors"] = [None]
        planes.clear()
    else:
        header["tensors"] = []


def _frame_with(change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> Callable[[bytes], bytes]:
    from harness import forged

    def spoil(data: bytes) -> bytes:
        _, _, body = data.partition(b"\r\n\r\n")
        return http_response(forged(body, change), kind="application/octet-stream")

    return spoil


SPOILED: dict[str, bytes | Callable[[bytes], bytes]] = {
    "missing tensors": _frame_with(_missing),
    "a page": http_response(b"<html>", kind="text/html"),
    "an empty body": http_response(b""),
    "JSON": _json({}),
    "a page with an error": http_response(b"oops", "502 Bad Gateway", "text/html"),
    "seconds that are a list": _frame_with(lambda header, planes: header.update(seconds=[1])),
    "seconds that are text": _frame_with(lambda header, planes: header.update(seconds={"b_forward": "long"})),
    "seconds that are negative": _frame_with(lambda header, planes: header.update(seconds={"b_forward": -1e9})),
    "another step": _frame_with(lambda header, planes: header.update(step=77)),
    "another message": _frame_with(lambda header, planes: header.update(message="activations")),
    "NaN": _frame_with(
        lambda header, planes: [plane.fill_(float("nan")) for plane in planes.values() if plane.is_floating_point()]
    ),
    "missing planes": _frame_with(lambda header, planes: planes.clear()),
    "scalars that nobody asked for": _frame_with(lambda header, planes: header.update(scalars=[1, 2])),
    "no metadata": _frame_with(
        lambda header, planes: [
            header.pop(key, None) for key in ("seconds", "needs_gradient", "gradient_error", "loss")
        ]
    ),
    "metadata of other types": _frame_with(
        lambda header, planes: header.update(needs_gradient=5, gradient_error="small", loss=None)
    ),
    "a loss that is NaN": _frame_with(
        lambda header, planes: header.update(loss=float("nan"), gradient_error=float("nan"), needs_gradient=[])
    ),
    "norms that nobody asked for": _frame_with(
        lambda header, planes: (header.update(plain=["norms"], norms_of=[]), planes.update(norms=torch.ones(3)))
    ),
    "a generator's state that is none": _frame_with(
        lambda header, planes: (header.update(plain=["generator"]), planes.update(generator=torch.zeros(5)))
    ),
}
UNREAD = {"scalars that nobody asked for", "a generator's state that is none"}
HARMLESS = {"single": UNREAD, "forward": set[str](), "backward": UNREAD}
"""What nobody reads in an answer of this kind."""


@pytest.mark.parametrize(
    "at,call", [(SINGLE, "forward"), (DOUBLE, "forward"), (DOUBLE, "backward")], ids=["single", "there", "back"]
)
def test_answers_that_lie_spoil_one_step_only(server: LocalServer, at: tuple[str, ...], call: str) -> None:
    """Every other step is spoiled, given up, and repeated; the run is as if nothing had happened."""
    with no_session_left(server.url), Proxy(server.url) as proxy:
        with se.Trainer(digits_split(at), server=proxy.url, retry=0) as trainer:
            for number, (name, answer) in enumerate(SPOILED.items()):
                Spoiled(proxy, f"steps/{number}/{call}".encode(), answer)
                before = snapshot(trainer.split.a)
                try:
                    trainer.step(*batch(number))
                except SplitEasyError as error:
                    assert "expected" in str(error).lower(), name
                    assert same(snapshot(trainer.split.a), before), name
                    trainer.step(*batch(number))
                except Exception as error:
                    raise AssertionError(f"{name}: {error!r}") from error
                else:
                    assert name in HARMLESS[call if len(at) == 2 else "single"], name
        unsplit = trained_unsplit(digits(), batches(len(SPOILED)))
        assert same(trainer.split.model.state_dict(), unsplit.state_dict())


@pytest.mark.parametrize("change", ["a name less", "another shape", "another dtype", "not safetensors", "nothing"])
def test_weights_that_lie_do_not_come_home(server: LocalServer, change: str) -> None:
    from spliteasy.weights import load_tensors, save_tensors

    def spoil(data: bytes) -> bytes:
        weights = load_tensors(data.partition(b"\r\n\r\n")[2])
        if change == "a name less":
            weights.popitem()
        if change == "another shape":
            weights["conv3.bias"] = torch.zeros(1)
        if change == "another dtype":
            weights["conv3.bias"] = weights["conv3.bias"].double()
        bodies = {"not safetensors": b"garbage", "nothing": b""}
        return http_response(bodies.get(change, save_tensors(weights)), kind="application/octet-stream")

    with (
        no_session_left(server.url),
        Proxy(server.url) as proxy,
        se.Trainer(digits_split(), server=proxy.url, retry=0) as trainer,
    ):
        trainer.step(*batch())
        before = snapshot(trainer.split.b)  # type: ignore[arg-type]
        Spoiled(proxy, b"GET ", spoil)
        with pytest.raises(SplitEasyError, match=r"[Ee]xpected"):
            trainer.pull()
        assert same(snapshot(trainer.split.b), before)  # type: ignore[arg-type]
        trainer.pull()
        assert not same(snapshot(trainer.split.b), before)  # type: ignore[arg-type]


def test_the_session_ends_with_the_trainer(server: LocalServer) -> None:
    before = sessions(server.url)
    trainer = se.Trainer(digits_split(), server=server.url)
    assert sessions(server.url) == before + 1
    trainer.close()
    trainer.close()
    assert sessions(server.url) == before
    assert raw_call(server.url, b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )
