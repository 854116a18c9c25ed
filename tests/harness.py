"""What the tests of wire, server and transport share: a device without sockets, a recording proxy, servers that lie."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flask import Flask
from flask.testing import FlaskClient
from torch import nn

import spliteasy as se
from spliteasy.codecs import container
from spliteasy.codecs.state import unflatten
from spliteasy.errors import SplitEasyError
from spliteasy.heads import CALL, Call, digest
from spliteasy.seeding import step_seed
from spliteasy.server.app import create_app
from spliteasy.server.session import Commit
from spliteasy.server.sessions import Sessions
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


def everything(trainer: se.Trainer) -> dict[str, torch.Tensor]:
    """Every parameter, buffer and tensor of the optimizer's state, by name."""
    found = trainer.state_dict()
    states = {
        f"{index}|{key}": value for index, kept in found["optimizer"]["state"].items() for key, value in kept.items()
    }
    return {**snapshot(trainer.split.model), **states}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Equal to the bit, name by name."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def forged(frame: Frame | bytes, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> bytes:
    """A frame whose header and planes ``change`` has had its hands on."""
    planes, metadata = container.read(bytearray(bytes(frame)))  # a copy, to be written to
    header = json.loads(metadata["spliteasy"])
    change(header, planes)
    return b"".join(container.write(planes, {**metadata, "spliteasy": json.dumps(header)}))


class AppTransport:
    """A trainer's transport to a Flask app without sockets. Every call is kept, so that it can be made again."""

    client: FlaskClient  # set by `on_app`
    opened: list[AppTransport]

    def __init__(self, url: str, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], **_: Any) -> None:
        self.calls: list[tuple[str, str, bytes]] = []
        self.number = 0
        self.answers: list[Reply] = []
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
        self.number += 1
        headers = {"Authorization": f"Bearer {self.token}", CALL: str(Call(self.number, digest([body])))}
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

    def begin(self, step: int, phase: str, frame: Frame) -> None:
        self.answers.append(self._reply("PUT", f"/steps/{step}/{phase}", frame))

    def answered(self, wait: bool) -> Reply | None:
        return self.answers.pop(0) if self.answers else None

    @property
    def is_free(self) -> bool:
        return True

    def give_up(self) -> None:
        self.answers.clear()

    def evaluate(self, frame: Frame) -> Reply:
        return self._reply("POST", "/evaluate", frame)

    def commit(self, commit: Commit) -> None:
        self.call("POST", "/commit", json.dumps(commit.to_dict()).encode())

    def weights(self) -> dict[str, torch.Tensor]:
        return load_tensors(self.call("GET", "/weights"))

    def optimizer_state(self) -> dict[str, dict[str, Any]]:
        body = self.call("GET", "/optimizer")
        return unflatten_state(load_tensors(body), container.read(body)[1])

    def codec_state(self) -> dict[str, dict[str, Any]]:
        body = self.call("GET", "/codecs")
        return unflatten(load_tensors(body), container.read(body)[1])

    def keep(self, commit: Commit, also: int | None) -> dict[str, Any]:
        raise NotImplementedError

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


class Reshaping(nn.Module):
    """A number is alive at the cut `pool`: the batch size that the view behind it takes."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(64, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        size = x.size(0)
        logits: torch.Tensor = self.head(self.pool(x).view(size, -1).relu())
        return logits


class Talkative(nn.Module):
    """Prints, and prints."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            print("word " * 50_000)
        return x * 1


def talkative() -> nn.Module:
    """Segment B prints 250 kB in every step when it is cut around the layer `1`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Talkative(), nn.Linear(16, 16), nn.Linear(16, 10))


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]
"""Lays hands on a header and its planes."""


@functools.cache
def recorded(
    at: tuple[str, ...] = DOUBLE, chain: str = "raw", clip: float | None = None, pipeline: int = 1
) -> AppTransport:
    """What a device sends in two steps and while closing, kept to be sent again in any order."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened = on_app(monkeypatch, create_app(Sessions()))
        optimizer = {"name": "SGD", "lr": 0.05, "momentum": 0.9}
        settings = {"codecs": chain, "optimizer": optimizer, "clip_norm": clip, "pipeline": pipeline}
        with se.Trainer(digits_split(at), server="app", **settings) as trainer:
            for x, y in batches(2):
                trainer.step(x, y)
            trainer.evaluate([batch(2)])
            trainer.state_dict()
    return opened[0]


class Caller:
    """A session of its own on an app, opened as the recorded device opened its, and called with what it said."""

    def __init__(
        self,
        app: Flask,
        at: tuple[str, ...] = DOUBLE,
        chain: str = "raw",
        clip: float | None = None,
        pipeline: int = 1,
    ) -> None:
        self.client, self.device = app.test_client(), recorded(at, chain, clip, pipeline)
        answer = self.client.post("/v1/sessions", data=self.device.opening)
        assert answer.status_code == 201 and answer.content_type == "application/json"
        self.session, self.token = answer.get_json()["session"], answer.get_json()["token"]

    def send(self, method: str, path: str, body: bytes = b"", token: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        return self.client.open(f"/v1/sessions/{self.session}{path}", method=method, data=body, headers=headers)

    def body(self, path: str) -> bytes:
        """What the device sent to a path, the last time."""
        return next(body for _, called, body in reversed(self.device.calls) if called == path)

    def call(self, path: str, change: Change | None = None) -> Any:
        """What the device sent there, sent again."""
        body = self.body(path)
        method = "PUT" if path.startswith("/steps") else "POST"
        return self.send(method, path, body if change is None else forged(body, change))

    def step(self, number: int = 0) -> None:
        for call in ("forward", "backward")[: len(self.device_cuts)]:
            response = self.call(f"/steps/{number}/{call}")
            assert response.status_code == 200, response.data

    @property
    def device_cuts(self) -> list[str]:
        cuts: list[str] = json.loads(container.read(self.device.opening)[1]["session"])["cuts"]
        return cuts

    def commit(self, step: int, rate: float = 0.05, clip: float | None = None) -> Any:
        return self.send("POST", "/commit", json.dumps(Commit(step, rate, clip).to_dict()).encode())

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and optimizer state."""
        weights, optimizer = self.send("GET", "/weights"), self.send("GET", "/optimizer")
        assert weights.status_code == optimizer.status_code == 200
        return {**load_tensors(weights.data), **load_tensors(optimizer.data)}


@functools.cache
def reference(at: tuple[str, ...], steps: int) -> dict[str, torch.Tensor]:
    """The state after some steps in a session that nobody disturbed."""
    caller = Caller(create_app(Sessions()), at)
    for number in range(steps):
        caller.step(number)
    assert caller.commit(steps - 1).status_code == 200
    return caller.state()


def calls(session: str) -> list[tuple[str, str]]:
    """Every route of a session."""
    base = f"/v1/sessions/{session}"
    puts = [("PUT", f"{base}/steps/0/{call}") for call in ("forward", "backward")]
    posts = [("POST", f"{base}/{call}") for call in ("evaluate", "commit")]
    gets = [("GET", f"{base}/{call}") for call in ("weights", "optimizer", "codecs")]
    return [*puts, *posts, *gets, ("DELETE", base)]
