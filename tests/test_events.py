"""The log of a server: JSON lines of what happened, as documented, and nothing of what was in it."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from harness import DOUBLE, SINGLE, batch, batches, digits, digits_split, same, trained_unsplit
from serving import Serving
from sockets import Proxy

import spliteasy as se
from spliteasy import errors
from spliteasy.errors import StateError
from spliteasy.server.events import EventLog, shortened

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked")

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
INPUT, LABEL = 0.8675309, 31337.125
"""Told apart from every number that a log may hold."""


def documented() -> dict[str, set[str]]:
    """The fields of each event, by the page."""
    table = PAGE.read_text().partition("<!-- events: begin -->")[2].partition("<!-- events: end -->")[0]
    rows = [re.findall(r"`([a-z]+)`", line) for line in table.splitlines() if line.startswith("| `")]
    return {event: set(fields) for event, *fields in rows}


def lines(file: Path) -> list[dict[str, Any]]:
    """Every line, which must be an object."""
    text = file.read_text()
    assert text.endswith("\n")
    found = [json.loads(line) for line in text.splitlines()]
    assert all(type(one) is dict for one in found)
    return found


class Losing:
    """Loses the first answer on its way, and the line with it."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy, self.done = proxy, False
        proxy.change_down = self._change

    def _change(self, data: bytes) -> bytes:
        if self.done:
            return data
        self.done = True
        threading.Timer(0.05, self._proxy.cut).start()
        return b""


@linux
def test_a_training_leaves_events_and_no_secret(tmp_path: Path) -> None:
    file, secrets = tmp_path / "log.jsonl", set[str]()
    names: set[str] = set()

    def known(trainer: se.Trainer) -> str:
        """The session's token, which must not be told, nor the whole of its name."""
        transport: Any = trainer._transport
        token = str(transport._caller.headers["Authorization"]).removeprefix("Bearer ")
        secrets.update({token, token[:12], transport.session, transport.session[:8]})
        names.add(transport.session[:6])
        return token

    keep = ("--state", tmp_path / "states", "--checkpoint-every", "2", "--log", file)
    with Serving("--port", "0", *keep, folder=tmp_path) as server:
        x, y = torch.full((8, 1, 8, 8), INPUT), torch.full((8, 10), LABEL)
        with se.Trainer(
            digits_split(SINGLE), server.url, optimizer={"name": "SGD", "lr": 1e-12}, loss="mse_loss"
        ) as one:
            known(one)
            for _ in range(3):
                assert one.step(x, y).loss > LABEL
        with Proxy(server.url) as proxy:
            opening = Losing(proxy)
            two = se.Trainer(digits_split(DOUBLE), proxy.url)
            token = known(two)
            two.step(*batch())
            losing = Losing(proxy)
            two.step(*batch(1))
            assert opening.done and losing.done
            two.evaluate([batch(2)])
            path = f"{server.url}/v1/sessions/{two._transport.session}"  # type: ignore[union-attr]
            for below, given in (("/steps/9/forward", "wrong"), ("/steps/9/forward", token), ("/states/x31337", token)):
                body = b"secret 31337.125"
                headers = {"Authorization": f"Bearer {given}", "Call": "31337 secret"}
                assert requests.put(f"{path}{below}", data=body, headers=headers, timeout=30).status_code >= 400
            assert requests.get(f"{server.url}/v1/31337", timeout=30).status_code == 404
            two.step(*batch(2))
            server.limit(20_000)  # there is room for the log
            with pytest.raises(StateError):
                two.save(tmp_path / "training")
            server.limit(None)
            two.close()
        assert server.stop() == 0
    text, found, page = file.read_text(), lines(file), documented()
    for secret in (*secrets, "31337", "0.8675", "secret", "wrong", "Bearer", "Expected"):
        assert secret not in text
    kinds: dict[str, Any] = {
        "time": lambda value: datetime.fromisoformat(value).tzinfo is not None,
        "event": lambda value: value in page,
        "session": lambda value: value in names,
        "step": lambda value: type(value) is int and value in (-1, 0, 1, 2, 9),
        "phase": lambda value: value in ("forward", "backward", "evaluate"),
        "bytes": lambda value: type(value) is int and value > 0,
        "sent": lambda value: type(value) is int and value > 0,
        "seconds": lambda value: 0 <= value < 60,
        "again": lambda value: value is True,
        "error": lambda value: value in errors.__all__ or value == "OSError",
        "status": lambda value: 400 <= value < 600,
        "calls": lambda value: value == 0,
    }
    for line in found:
        assert {"time", "event"} <= set(line) <= {"time", "event", *page[line["event"]]}
        assert all(kinds[name](value) for name, value in line.items()), line
    told: dict[str, set[str]] = {}
    for line in found:
        told.setdefault(line["event"], set()).update(line.keys() - {"time", "event"})
    assert told == page
    steps = [(line["step"], line["phase"]) for line in found if line["event"] == "step" and "again" not in line]
    assert steps == [
        *((step, "forward") for step in range(3)),
        *((step, phase) for step in range(3) for phase in ("forward", "backward")),
    ]
    assert [line["event"] for line in found if line["event"] in ("closed", "stopping")] == ["closed"] * 2 + ["stopping"]


@linux
def test_a_log_to_standard_error_and_none(tmp_path: Path) -> None:
    for options, expected in ((["--log"], ["opened", "closed", "stopping"]), ([], [])):
        folder = tmp_path / str(len(options))
        folder.mkdir()
        with Serving("--port", "0", *options, folder=folder) as server:
            se.Trainer(digits_split(), server.url).close()
            assert server.stop() == 0
        assert [json.loads(line)["event"] for line in server.said.splitlines()] == expected


@linux
def test_a_log_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failed:
        Serving("--port", "0", "--log", tmp_path / "missing" / "log", folder=tmp_path)
    status, said = failed.value.args
    assert status == 1 and said.startswith("spliteasy serve: Expected a log that can be written to, found ")
    assert len(said.splitlines()) == 1


@linux
def test_a_log_without_room_stops_no_training(tmp_path: Path) -> None:
    file, steps, adam = tmp_path / "log", batches(4), {"name": "Adam", "lr": 0.01}
    with Serving("--port", "0", "--log", file, folder=tmp_path) as server:
        with se.Trainer(digits_split(), server.url, optimizer=adam, retry=0) as trainer:
            trainer.step(*steps[0])
            server.limit(10)
            for x, y in steps[1:]:
                trainer.step(x, y)
        assert server.stop() == 0
    assert {line["event"] for line in lines(file)} == {"opened", "step"}
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), steps, **adam).state_dict())


def test_lines_of_many_threads_stay_whole() -> None:
    stream = io.StringIO()
    log = EventLog(stream)

    def write(number: int) -> None:
        for step in range(200):
            log.write("step", "abcdefghij", step=step, seconds=number + 1 / 3, error=None)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(found) == 800
    assert all(set(line) == {"time", "event", "session", "step", "seconds"} for line in found)
    assert {(line["session"], line["seconds"]) for line in found} == {("abcdef", n + 0.333333) for n in range(4)}


@pytest.mark.parametrize(("identifier", "shown"), [("abcdefghijkl", "abcdef"), ("", ""), ("ä" * 9, ""), ("a\nb", "")])
def test_a_session_is_named_by_its_first_characters(identifier: str, shown: str) -> None:
    assert shortened(identifier) == shown


def test_a_stream_that_is_closed_does_no_harm() -> None:
    stream = io.StringIO()
    stream.close()
    EventLog(stream).write("step", "abcdef")
    EventLog().write("step", "abcdef")
