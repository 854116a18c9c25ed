"""A session on a server of its own process, spoken to in bytes: what is no request can be sent there too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
import torch
from harness import DOUBLE, Change, forged, recorded
from sockets import raw_call

from spliteasy.weights import load_tensors

__all__ = ["Response", "Victim", "responses"]


@dataclass(frozen=True)
class Response:
    """One answer as it was read off a socket."""

    status: int
    kind: str
    body: bytes

    def problem(self) -> dict[str, Any]:
        """The problem (RFC 9457) that it must be."""
        assert self.kind == "application/problem+json", (self.status, self.kind, self.body[:200])
        value: dict[str, Any] = json.loads(self.body)
        assert value["status"] == self.status and value["detail"] and value["type"].endswith(value["title"])
        return value


def responses(data: bytes) -> list[Response]:
    """The answers in what a connection gave; they must be whole."""
    found: list[Response] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end and head.startswith(b"HTTP/1.1 "), head[:200]
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(fields["content-length"])
        assert len(data) >= length, "an answer that is cut short"
        found.append(Response(int(first.split(" ")[1]), fields.get("content-type", ""), data[:length]))
        data = data[length:]
    return found


class Victim:
    """Opened as the recorded device opened its session, and able to say what that said."""

    def __init__(self, url: str) -> None:
        self.url, self.device = url, recorded(DOUBLE)
        answer = requests.post(f"{url}/v1/sessions", data=self.device.opening, timeout=60)
        answer.raise_for_status()
        self.session, self.token = answer.json()["session"], answer.json()["token"]
        self.path = f"/v1/sessions/{self.session}"

    def body(self, below: str) -> bytes:
        """What the device sent to a path of its session."""
        return next(body for _, called, body in reversed(self.device.calls) if called == below)

    def forged(self, change: Change, below: str = "/steps/0/forward") -> bytes:
        """The same, changed."""
        return forged(self.body(below), change)

    def request(
        self,
        body: bytes | None = None,
        *,
        method: str = "PUT",
        below: str = "/steps/0/forward",
        path: str | None = None,
        token: str | None = None,
        length: object = None,
        headers: Mapping[str, object] | None = None,
        version: str = "HTTP/1.1",
    ) -> bytes:
        """A request as the device writes it, but for what is given: the fast path takes it unless ``headers`` differ.
        ``length`` is what it states ("" for no statement)."""
        body = self.body(below) if body is None else body
        stated = len(body) if length is None else length
        lines = [f"{method} {self.path + below if path is None else path} {version}", "Host: x"]
        lines += [] if stated == "" else [f"Content-Length: {stated}"]
        lines += [f"Authorization: Bearer {self.token if token is None else token}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def send(self, data: bytes) -> list[Response]:
        """The answers to bytes on a connection of their own, which has nothing to say after them."""
        return responses(raw_call(self.url, data))

    def step(self, number: int) -> None:
        """A step as the device made it."""
        for phase in ("forward", "backward"):
            (answer,) = self.send(self.request(below=f"/steps/{number}/{phase}"))
            assert answer.status == 200, answer.body

    def state(self, committed: int) -> dict[str, torch.Tensor]:
        """Weights and optimizer state after a step that is committed with the device's rate."""
        commit = json.dumps({"step": committed, "learning_rate": 0.05, "clip": None}).encode()
        (answer,) = self.send(self.request(commit, method="POST", below="/commit"))
        assert answer.status == 200, answer.body
        found = [self.send(self.request(b"", method="GET", below=below))[0] for below in ("/weights", "/optimizer")]
        assert all(answer.status == 200 for answer in found)
        return {name: tensor for answer in found for name, tensor in load_tensors(answer.body).items()}

    def close(self) -> None:
        """End the session."""
        (answer,) = self.send(self.request(b"", method="DELETE", below=""))
        assert answer.status == 200, answer.body
