"""What the tests of wire, server and transport share: a device without sockets, a recording proxy, servers that lie."""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flask import Flask
from flask.testing import FlaskClient
from torch import nn

import spliteasy as se
from spliteasy.codecs import container
from spliteasy.errors import SplitEasyError
from spliteasy.seeding import step_seed
from spliteasy.server.session import Commit
from spliteasy.splitting import Split
from spliteasy.transport import Reply
from spliteasy.weights import load_tensors, save_tensors, unflatten_state
from spliteasy.wire import Frame

SINGLE, DOUBLE = ("relu1",), ("relu1", "relu3")
"""Cuts of `digits_cnn`: after the first ReLU, and around the second convolution with its batch norm."""


def digits(seed: int = 0, **arguments: Any) -> nn.Module:
    """`digits_cnn` with weights of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return se.load_model("digits_cnn", **arguments)


def digits_split(at: Sequence[str] = DOUBLE, seed: int = 0, **arguments: Any) -> Split:
    """`digits_cnn`, split."""
    return se.split(digits(seed, **arguments), at=at, input_shape=(1, 8, 8))


def batch(number: int = 0, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels that differ from batch to batch."""
    generator = torch.Generator().manual_seed(1000 + number)
    x = torch.randn((size, 1, 8, 8), generator=generator)
    return x, torch.randint(10, (size,), generator=generator)


def batches(count: int, size: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The first batches."""
    return [batch(number, size) for number in range(count)]


def trained_unsplit(
    model: nn.Module, steps: Sequence[tuple[torch.Tensor, torch.Tensor]], seed: int = 0, **optimizer: Any
) -> nn.Module:
    """A copy of ``model`` after plain eager steps: what a split one must equal to the bit."""
    model = copy.deepcopy(model).train()
    arguments = {"lr": 0.01, **optimizer}
    update = getattr(torch.optim, arguments.pop("name", "SGD"))(model.parameters(), **arguments)
    with torch.random.fork_rng():
        for number, (x, y) in enumerate(steps):
            torch.manual_seed(step_seed(seed, number))
            F.cross_entropy(model(x), y).backward()
            update.step()
            update.zero_grad()
    return model


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Equal to the bit, name by name."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def forged(frame: Frame | bytes, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> bytes:
    """A frame whose header and planes ``change`` has had its hands on."""
    planes, metadata = container.read(bytes(frame))
    header = json.loads(metadata["spliteasy"])
    change(header, planes)
    return b"".join(container.write(planes, {**metadata, "spliteasy": json.dumps(header)}))


class AppTransport:
    """A trainer's transport to a Flask app without sockets. Every call is kept, so that it can be made again."""

    client: FlaskClient  # set by `on_app`
    opened: list[AppTransport]

    def __init__(self, url: str, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], **_: Any) -> None:
        self.calls: list[tuple[str, str, bytes]] = []
        self.opening = save_tensors(weights, {"session": json.dumps(dict(config))})
        answer = json.loads(self._checked(self.client.post("/v1/sessions", data=self.opening)))
        self.path, self.token = f"/v1/sessions/{answer['session']}", answer["token"]
        self.opened.append(self)

    def call(self, method: str, path: str, body: bytes = b"") -> bytes:
        """One call to the session, by its path below the session's own."""
        self.calls.append((method, path, body))
        return self._checked(self.send(method, path, body))

    def send(self, method: str, path: str, body: bytes = b"") -> Any:
        """The same, giving the response whatever it says, and not kept."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return self.client.open(f"{self.path}{path}", method=method, data=body, headers=headers)

    def _checked(self, response: Any) -> bytes:
        if response.status_code >= 400:
            raise getattr(se.errors, problem(response)["title"])(problem(response)["detail"])
        return bytes(response.data)

    def _reply(self, method: str, path: str, frame: Frame) -> Reply:
        return Reply(Frame.parse(aligned(self.call(method, path, bytes(frame)))))

    def forward(self, step: int, frame: Frame) -> Reply:
        return self._reply("PUT", f"/steps/{step}/forward", frame)

    def backward(self, step: int, frame: Frame) -> Reply:
        return self._reply("PUT", f"/steps/{step}/backward", frame)

    def evaluate(self, frame: Frame) -> Reply:
        return self._reply("POST", "/evaluate", frame)

    def commit(self, commit: Commit) -> None:
        self.call("POST", "/commit", json.dumps(commit.to_dict()).encode())

    def weights(self) -> dict[str, torch.Tensor]:
        return load_tensors(self.call("GET", "/weights"))

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        body = self.call("GET", "/optimizer")
        return unflatten_state(load_tensors(body), container.read(body)[1])

    def close(self) -> None:
        self.call("DELETE", "")


def on_app(monkeypatch: pytest.MonkeyPatch, app: Flask) -> list[AppTransport]:
    """Make every trainer with a server talk to ``app``; the transports that they open are listed."""
    opened: list[AppTransport] = []
    kind = type("OnApp", (AppTransport,), {"client": app.test_client(), "opened": opened})
    monkeypatch.setattr("spliteasy.connecting.HTTP", kind)
    return opened


def aligned(data: bytes) -> memoryview:
    """The bytes in memory as the transport receives them."""
    from spliteasy.wire import empty_buffer

    buffer = empty_buffer(len(data))
    buffer[:] = data
    return buffer


def problem(response: Any, *statuses: int) -> dict[str, Any]:
    """The problem (RFC 9457) in a response, which must be one, with one of ``statuses`` if any are given."""
    value: dict[str, Any] = json.loads(response.data)
    assert response.content_type == "application/problem+json", response.content_type
    assert set(value) >= {"type", "title", "status", "detail"} and value["status"] == response.status_code
    assert value["type"] == f"urn:spliteasy:error:{value['title']}" and value["detail"]
    assert issubclass(getattr(se.errors, value["title"]), SplitEasyError)
    assert not statuses or response.status_code in statuses, value
    return value


class Listener:
    """A socket on a free loopback port; every connection is given to ``talk`` on a thread of its own."""

    def __init__(self, talk: Callable[[socket.socket], None]) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._talk, self._open = talk, set[socket.socket]()
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                self._open.add(connection)
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._talk(connection)
        self._open.discard(connection)

    def close(self) -> None:
        for one in [self._socket, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Proxy(Listener):
    """Between device and server: keeps every byte, can hold back what the server answers, and can cut the line.

    ``before_up`` is called with what the device sends before it is passed on.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._target = (host, int(port))
        self.up, self.down = bytearray(), bytearray()
        self.holding = threading.Event()
        self.before_up: Callable[[bytes], object] = lambda data: None
        self.before_down: Callable[[bytes], object] = lambda data: None
        super().__init__(self._relay)

    def _relay(self, device: socket.socket) -> None:
        with socket.create_connection(self._target) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            device.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._pump, args=(server, device, self.down, False), daemon=True)
            back.start()
            self._pump(device, server, self.up, True)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket, kept: bytearray, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                kept += data
                (self.before_up if up else self.before_down)(data)
                if not (self.holding.is_set() and not up):
                    target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def answering(response: bytes) -> Callable[[socket.socket], None]:
    """Talk that reads one request, as far as it comes at once, and answers ``response``."""

    def talk(connection: socket.socket) -> None:
        connection.recv(1 << 20)
        connection.sendall(response)

    return talk


def http_response(
    body: bytes, status: str = "200 OK", kind: str = "application/json", length: int | None = None
) -> bytes:
    """A response with a stated length, which may lie."""
    stated = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {stated}\r\n\r\n".encode() + body


def sessions(url: str) -> int:
    """How many sessions a server holds."""
    import requests

    return int(requests.get(f"{url}/v1/health", timeout=30).json()["sessions"])


@contextlib.contextmanager
def no_session_left(url: str) -> Iterator[None]:
    """Afterwards the server holds as many sessions as before."""
    before = sessions(url)
    yield
    assert sessions(url) == before
