"""The server as a process: it starts, computes as it was told to, and is gone when it should be."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import torch
from harness import batch, digits_split
from sockets import raw_call, sessions
from victim import Victim, responses

import spliteasy as se
from spliteasy.server.process import SETTINGS, LocalServer, server_environment

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def _runs(pid: int) -> bool:
    """Whether a process runs (one that has ended but was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not _runs(pid):
            return True
        time.sleep(0.02)
    return False


def _answers(url: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{url}/v1/health", timeout=5).ok
    return False


@linux
def test_a_local_server_runs_for_its_block() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with LocalServer() as server:
            pid, url = server.pid, server.url
            assert pid is not None and pid != os.getpid() and _runs(pid)
            assert url.startswith("http://127.0.0.1:") and _answers(url)
            assert requests.get(f"{url}/v1/health", timeout=5).json()["threads"] == 1
            environment = dict(
                entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry
            )
            assert all(environment[name] == os.environ.get(name, value) for name, value in SETTINGS.items())
            with pytest.raises(OSError):  # loopback only
                outside = socket.gethostbyname(socket.gethostname())
                if outside.startswith("127."):
                    raise OSError("this machine has no other address")
                socket.create_connection((outside, int(url.rpartition(":")[2])), timeout=5)
        assert not _runs(pid) and server.pid is None and not _answers(url)
        server.stop()  # twice does no harm
    finally:
        torch.set_num_threads(threads)


@linux
def test_a_local_server_stops_after_an_exception_with_calls_under_way() -> None:
    with pytest.raises(ZeroDivisionError), LocalServer(threads=1) as server:
        pid, url = server.pid, server.url
        idle = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        idle.sendall(b"PUT /v1/sessions/x/steps/0/forward HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        trainer = se.Trainer(digits_split(), server=url, retry=1)
        trainer.step(*batch())
        start = time.monotonic()
        raise ZeroDivisionError
    assert pid is not None and not _runs(pid) and time.monotonic() - start < 20
    idle.close()
    with pytest.raises(se.errors.ConnectionLost):
        trainer.step(*batch(1))


PARENT = """
import sys, spliteasy as se
server = se.LocalServer(threads=1).start()
try:
    print(server.pid, server.url, flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    sys.stdin.read()
"""


def _parent(**options: object) -> tuple[subprocess.Popen[str], int, str]:
    parent: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )
    assert parent.stdout is not None
    pid, url = parent.stdout.readline().split()
    return parent, int(pid), url


@linux
@pytest.mark.parametrize(
    "end", ["SIGKILL", *(pytest.param(end, marks=pytest.mark.slow) for end in ("SIGTERM", "the end of its program"))]
)
def test_a_local_server_does_not_outlive_its_parent(end: str) -> None:
    parent, pid, url = _parent()
    with parent:
        assert _runs(pid) and _answers(url)
        if end.startswith("SIG"):
            parent.send_signal(getattr(signal, end))
        assert parent.stdin is not None
        parent.stdin.close()
        parent.wait(30)
        assert _gone(pid)


@linux
def test_an_interrupt_from_the_keyboard_does_not_reach_the_server() -> None:
    """Ctrl-C in a terminal, and interrupting a notebook's cell, go to the whole group of processes."""
    parent, pid, url = _parent(start_new_session=True)
    with parent:
        os.killpg(parent.pid, signal.SIGINT)
        time.sleep(0.3)
        survived = _answers(url)
        assert parent.stdin is not None
        parent.stdin.close()
    assert survived
    assert _gone(pid)


@linux
def test_a_server_that_prints_does_not_stall() -> None:
    """A network of somebody's own may print in every step; nobody reads it."""
    model = se.load_model("harness:talkative")
    with LocalServer(allow=["harness:talkative"], threads=1) as server:
        split = se.split(model, at=("1", "3"), input_shape=(1, 8, 8))
        with se.Trainer(split, server=server.url, timeout=20) as trainer:
            for number in range(3):
                trainer.step(*batch(number))


def test_a_server_that_does_not_come_up_says_why() -> None:
    with pytest.raises(se.errors.ServerError, match="--max-sessions"):
        LocalServer(max_sessions="many").start()  # type: ignore[arg-type]
    server = LocalServer(timeout=0.01)
    with pytest.raises(se.errors.ServerError, match="come up"):
        server.start()
    assert server.pid is None
    server.stop()


@linux
def test_starting_twice_leaves_no_process_behind() -> None:
    server = LocalServer(threads=1).start()
    first = server.pid
    try:
        with pytest.raises(se.errors.ServerError, match="already"):
            server.start()
        assert server.pid == first and _answers(server.url)
    finally:
        server.stop()
    assert first is not None and not _runs(first)


def test_settings_do_not_overrule_the_environment() -> None:
    assert server_environment({"MALLOC_ARENA_MAX": "7", "A": "b"}) == {**SETTINGS, "MALLOC_ARENA_MAX": "7", "A": "b"}


# What no client would send

HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def _post(headers: str, body: bytes = b"") -> bytes:
    return f"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode() + body


@pytest.mark.parametrize(
    "request_bytes",
    [
        _post("Content-Length: 100\r\n", b"short"),
        _post("Content-Length: 5\r\n", b"longer than it says"),
        _post(""),
        _post("", b"a body without a length"),
        _post("Content-Length: -5\r\n"),
        _post("Content-Length: five\r\n"),
        _post("Content-Length: 99999999999999999999\r\n", b"x"),
        _post("Content-Length: 5\r\nContent-Length: 6\r\n", b"123456"),
        _post("Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        _post("Transfer-Encoding: chunked\r\n", b"zz\r\nhello\r\n"),
        _post("Content-Length: 0\r\n"),
        b"garbage\r\n\r\n",
        b"\0" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://elsewhere/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT /v1/sessions/%ff/steps/0/forward HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        _post("Content-Length: " + "9" * 5000 + "\r\n", b"x"),
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n",
        b"",
    ],
    ids=str,
)
def test_requests_that_are_none_do_no_harm(server: LocalServer, request_bytes: bytes) -> None:
    before = sessions(server.url)
    answer = raw_call(server.url, request_bytes)
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert answer[9:10] in (b"", b"2", b"4") or request_bytes.startswith(b"GET / HTTP/9.9"), answer[:200]
    assert sessions(server.url) == before
    assert raw_call(server.url, HEALTH).startswith(b"HTTP/1.1 200")


def test_a_body_that_is_cut_short_is_a_problem(server: LocalServer) -> None:
    answer = raw_call(server.url, _post("Content-Length: 100\r\n", b"short"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and b"application/problem+json" in head
    assert b"100 bytes" in body and b"found 5" in body


def test_a_body_whose_end_comes_together_with_the_next_request(server: LocalServer) -> None:
    """As when a network repeats what it carried: the second request is read from where the first one ends."""
    victim = Victim(server.url)
    request, answers = victim.request(), bytearray()
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(request[: len(request) - 100])
        time.sleep(0.2)  # else it is read in one piece
        connection.sendall(request[-100:] + request)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(1 << 16):
            answers += piece
    first, second = responses(bytes(answers))
    assert first.status == second.status == 200 and first.body == second.body
    victim.close()


def test_many_connections_that_say_nothing_do_no_harm(server: LocalServer) -> None:
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    held = [socket.create_connection(address) for _ in range(20)]
    try:
        with se.Trainer(digits_split(), server=server.url, timeout=30) as trainer:
            trainer.step(*batch())
    finally:
        for one in held:
            one.close()


def test_a_refusal_before_the_body_was_read_reaches_the_device(server: LocalServer) -> None:
    """The session has expired, and megabytes are on their way: the error must say so, not that the line broke."""
    x, y = torch.randn(4096, 1, 8, 8), torch.zeros(4096).long()
    trainer = se.Trainer(digits_split(), server=server.url)
    trainer.step(x[:8], y[:8])
    trainer._transport.close()  # type: ignore[union-attr]
    with pytest.raises(se.errors.SessionError, match="no session"):
        trainer.step(x, y)  # 16 MB of activations
