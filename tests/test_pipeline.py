"""Steps in micro-batches: the bits of going through them one after the other, whatever order they are worked on in."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flask import Flask
from forking import SERVER_POINTS, Forker, servers_that_die
from harness import DOUBLE, SINGLE, Caller, batch, batches, digits, digits_split, everything, problem, same, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SHAPE, SMALL, Custom, built
from sockets import Proxy, no_session_left
from test_faults import FAULTS, Fault
from torch import nn

import spliteasy as se
from spliteasy.errors import NonFiniteError, SplitError, TrainingError
from spliteasy.optimization import global_clip
from spliteasy.seeding import part_seed, step_seed
from spliteasy.server.app import create_app
from spliteasy.server.sessions import Sessions

ADAM = {"name": "Adam", "lr": 0.01}
CHAIN = "ef('topk(0.3)') | fp16 | zstd(1)"
"""Its codec keeps state on both sides."""


QUICK = ("drop", "duplicate", "reorder", "damage")
"""Faults that take no time."""


PHASES = ["forward", "forward/1", "forward/2", "backward", "backward/1", "backward/2"]


@functools.cache
def application() -> Flask:
    """An application for all of them."""
    return create_app(Sessions(max_sessions=100))


def unsplit(
    model: nn.Module, steps: list[tuple[torch.Tensor, torch.Tensor]], parts: int, clip: float | None = None
) -> nn.Module:
    """``model``, when it went through the micro-batches of every batch one after the other."""
    model.train()
    update = torch.optim.Adam(model.parameters(), lr=0.01)
    with torch.random.fork_rng():
        for number, (x, y) in enumerate(steps):
            pieces = zip(x.tensor_split(min(parts, len(x))), y.tensor_split(min(parts, len(x))), strict=True)
            for part, (some, labels) in enumerate(pieces):
                torch.manual_seed(step_seed(part_seed(0, part), number))
                (F.cross_entropy(model(some), labels) * (len(some) / len(x))).backward()
            if clip is not None:
                norms = [torch.linalg.vector_norm(p.grad) for p in model.parameters() if p.grad is not None]
                factor = global_clip(norms, clip)
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)
            update.step()
            update.zero_grad()
    return model


def trained(url: str | None, at: tuple[str, ...] = DOUBLE, count: int = 3, **settings: Any) -> dict[str, Any]:
    """Parameters, buffers and optimizer state after some steps."""
    with se.Trainer(digits_split(at), url, optimizer=ADAM, **{"pipeline": 3, **settings}) as trainer:
        for x, y in batches(count):
            trainer.step(x, y)
        return everything(trainer)


@pytest.fixture(scope="module")
def server() -> Iterator[se.LocalServer]:
    with se.LocalServer(threads=1) as running:
        se.Trainer(digits_split(), running.url).close()  # the first session takes longer than a timeout below
        yield running


@pytest.mark.parametrize("clip", [None, 0.5], ids=["", "clipped"])
@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), 3, 64])
@pytest.mark.parametrize("at", [DOUBLE, SINGLE], ids=["double", "single"])
def test_equals_the_micro_batches_in_turn_to_the_bit(
    server: se.LocalServer, at: tuple[str, ...], parts: int, clip: float | None
) -> None:
    """Batches of 8, then of 5: they divide evenly or not, into as many parts as there are samples at most."""
    steps = [batch(0), batch(1, 5), batch(2), batch(3, 1)]
    expected = unsplit(digits(), steps, parts, clip).state_dict()
    for url in (None, server.url):
        with se.Trainer(digits_split(at), url, optimizer=ADAM, pipeline=parts, clip_norm=clip) as trainer:
            for x, y in steps:
                trainer.step(x, y)
        assert same(trainer.split.model.state_dict(), expected)


@pytest.mark.parametrize("kind", SMALL)
def test_equals_them_for_every_kind_of_network(kind: type[nn.Module]) -> None:
    """Random layers, tied weights, buffers, values in place: wherever the split is exact."""
    generator = torch.Generator().manual_seed(4)
    steps = [
        (torch.randn((5, *SHAPE), generator=generator), torch.randint(3, (5,), generator=generator)) for _ in range(2)
    ]
    names = se.find_cuts(built(kind), SHAPE).names
    expected = unsplit(built(kind), steps, 3).state_dict()
    pairs = [(names[0], names[-1]), *itertools.combinations(names, 2)]
    compared = 0
    for at in [(names[len(names) // 2],), *pairs[:: max(1, len(pairs) // 12)]]:
        try:
            split = se.split(built(kind), at=at, input_shape=SHAPE)
        except SplitError:
            continue
        with se.Trainer(split, optimizer=ADAM, pipeline=3) as trainer:
            for x, y in steps:
                trainer.step(x, y)
        if kind is Custom:  # its reentrant checkpoint adds to a gradient twice in a backward: another order of adding
            torch.testing.assert_close(dict(split.model.state_dict()), dict(expected), rtol=1e-5, atol=1e-6)
        else:
            assert same(split.model.state_dict(), expected), at
        compared += 1
        if compared == 2:
            break
    assert compared


def test_without_batch_statistics_it_is_the_whole_batchs_gradient_but_for_rounding() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 10))
    split = se.split(model.double(), at=("1", "4"), input_shape=(1, 8, 8), dtype=torch.float64)
    x, y = batch()
    whole = se.Trainer(split).gradients(x.double(), y)
    parts = se.Trainer(split, pipeline=4).gradients(x.double(), y)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-12, atol=1e-14)


def test_the_loss_and_the_bytes_are_those_of_all_parts(server: se.LocalServer) -> None:
    with Proxy(server.url) as proxy, se.Trainer(digits_split(), proxy.url, pipeline=4) as trainer:
        trainer.step(*batch(0))
        before = len(proxy.up), len(proxy.down)
        record = trainer.step(*batch(1))
        passed = len(proxy.up) - before[0], len(proxy.down) - before[1]
        assert record.samples == 8 and record.parts == 4
        with pytest.raises(TrainingError, match="pipelined"):
            trainer.log.on(se.LINKS["lte"])
        assert sum(size.http for size in record.bytes.values()) == sum(passed)
        assert proxy.up[before[0] :].count(b"PUT ") == 8 and proxy.connections == 1
    with se.Trainer(digits_split(), optimizer={"name": "SGD", "lr": 0.0}) as plain, torch.no_grad():
        expected = plain.step(*batch(1))
    assert {name: size.raw for name, size in record.bytes.items()} == {
        name: size.raw for name, size in expected.bytes.items()
    }


def test_the_loss_is_the_mean_over_the_batch() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    x, y = batch(0, 7)
    expected = float(F.cross_entropy(model(x), y).detach())
    for at in (("1",), ("1", "2")):
        with se.Trainer(se.split(copy.deepcopy(model), at=at, input_shape=(1, 8, 8)), pipeline=3) as trainer:
            assert trainer.step(x, y).loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("at", [DOUBLE, SINGLE], ids=["double", "single"])
def test_codecs_that_keep_state_do_so_on_both_sides_alike(server: se.LocalServer, at: tuple[str, ...]) -> None:
    codecs = se.Codecs(input_gradients=CHAIN, activations="fp16")
    assert same(trained(server.url, at, codecs=codecs), trained(None, at, codecs=codecs))


def test_a_saved_training_goes_on(tmp_path: Path) -> None:
    codecs, expected = se.Codecs(input_gradients=CHAIN), dict[str, torch.Tensor]()
    with se.LocalServer(threads=1, state=tmp_path / "states") as server:
        for url in (None, server.url):
            with se.Trainer(digits_split(), url, codecs, ADAM, pipeline=3) as trainer:
                trainer.step(*batch(0))
                trainer.step(*batch(1))
                trainer.save(tmp_path / "run.safetensors")
                if url is None:
                    trainer.step(*batch(2))
                    expected = snapshot(trainer.split.model)
                loaded = se.Trainer.load(tmp_path / "run.safetensors", digits_split())
                assert loaded.pipeline == 3
                with loaded:
                    loaded.step(*batch(2))
                assert same(loaded.split.model.state_dict(), expected)
                if url is not None:
                    trainer._closed = True  # its session was closed by the other


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in FAULTS]
)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("phase", ["forward/1", "backward"])
def test_a_fault_of_the_network_changes_no_bit(
    server: se.LocalServer, kind: str, phase: str, up: bool, record_property: Any
) -> None:
    record_property("fault", f"network, pipelined: {kind}")
    steps = batches(4)
    with no_session_left(server.url), Proxy(server.url) as proxy:
        with se.Trainer(digits_split(), proxy.url, optimizer=ADAM, pipeline=3, timeout=1.0, retry=20) as trainer:
            fault = Fault(kind, phase, up)
            fault.install(proxy)
            for x, y in steps:
                trainer.step(x, y)
        assert fault.done
    assert same(trainer.split.model.state_dict(), unsplit(digits(), steps, 3).state_dict())


def test_a_server_killed_at_every_point(tmp_path: Path, record_property: Any) -> None:
    record_property("fault", "server killed, pipelined, its state written after every 5 steps")
    when = [
        (point, phase, 1 + number)
        for number, (point, phase) in enumerate(
            (point, phase) for phase in ("forward/1", "backward/1") for point in SERVER_POINTS if "commit" not in point
        )
    ]
    record_property("cases", len(when))
    forker = Forker()
    try:
        with servers_that_die(forker, str(tmp_path), 5, when) as url:
            found = trained(url, count=len(when) + 2, retry=30)
    finally:
        forker.close()
    assert same(found, trained(None, count=len(when) + 2))


def test_a_step_that_fails_leaves_no_trace_and_the_session_goes_on(server: se.LocalServer) -> None:
    """The loss of the second micro-batch is NaN."""

    class Loss:
        bad = False
        calls = 0

        def __call__(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            found = F.cross_entropy(output, labels)
            return found * float("nan") if self.bad and self.calls % 3 == 2 else found

    made = Loss()
    with se.Trainer(digits_split(), server.url, optimizer=ADAM, loss=made, pipeline=3) as trainer:
        trainer.step(*batch(0))
        before = snapshot(trainer.split.model)
        made.bad = True
        with pytest.raises(NonFiniteError):
            trainer.step(*batch(1))
        made.bad, made.calls = False, 0
        for name, tensor in snapshot(trainer.split.model).items():
            assert torch.equal(tensor, before[name]), name
        trainer.step(*batch(1))
    assert same(trainer.split.model.state_dict(), unsplit(digits(), batches(2), 3).state_dict())


def test_calls_out_of_order_are_refused_and_the_session_goes_on() -> None:
    caller = Caller(create_app(Sessions()), DOUBLE, pipeline=3)
    phases = ["forward", "backward", "forward/1", "backward/1", "forward/2", "backward/2"]
    puts = [path for method, path, _ in caller.device.calls if method == "PUT"]
    assert puts == [f"/steps/{step}/{phase}" for step in (0, 1) for phase in phases]
    sequence = [
        ("forward/1", "forward"),
        ("forward", None),
        ("forward/2", "backward"),
        ("backward/1", "backward"),
        ("backward", None),
        ("backward", None),  # the same again
        ("backward/1", "forward/1"),
        ("forward/1", None),
        ("forward/2", None),
        ("backward/2", "backward/1"),
        ("backward/1", None),
        ("backward/2", None),
    ]
    for phase, expected in sequence:
        response = caller.call(f"/steps/0/{phase}")
        if expected is None:
            assert response.status_code == 200, (phase, response.data)
        else:
            assert problem(response, 409)["expected"] == {"step": 0, "phase": expected}, phase
    assert caller.commit(0).status_code == 200
    again = Caller(create_app(Sessions()), DOUBLE, pipeline=3)
    for phase in phases:
        assert again.call(f"/steps/0/{phase}").status_code == 200
    assert again.commit(0).status_code == 200
    assert same(caller.state(), again.state())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PHASES), max_size=14))
def test_any_order_of_calls_is_answered_or_refused_and_changes_no_bit(order: list[str]) -> None:
    caller = Caller(application(), DOUBLE, pipeline=3)
    done: list[str] = []
    for phase in [*order, *PHASES]:
        if phase == "forward" and done != PHASES:
            done = []  # the step begins anew; a finished one is answered as before
        response = caller.call(f"/steps/0/{phase}")
        kind, _, part = phase.partition("/")
        before = f"{kind}/{int(part) - 1}" if int(part or 0) > 1 else kind
        may = (not part or before in done) and (kind == "forward" or phase.replace("backward", "forward") in done)
        assert response.status_code == (200 if phase in done or may else 409), (phase, done)
        done += [phase] if response.status_code == 200 and phase not in done else []
    assert caller.commit(0).status_code == 200
    assert same(caller.state(), _undisturbed())


@functools.cache
def _undisturbed() -> dict[str, torch.Tensor]:
    caller = Caller(application(), DOUBLE, pipeline=3)
    for phase in PHASES:
        assert caller.call(f"/steps/0/{phase}").status_code == 200
    assert caller.commit(0).status_code == 200
    return caller.state()


@pytest.mark.parametrize(
    "change", [{"parts": 4}, {"parts": 0}, {"parts": True}, {"part": 2}, {"share": 0.0}, {"share": 1}, {"share": 2.0}]
)
def test_headers_that_lie_are_refused(change: dict[str, Any]) -> None:
    caller = Caller(create_app(Sessions()), SINGLE, pipeline=3)
    lie = caller.call("/steps/0/forward", lambda header, planes: header.update(change))
    assert problem(lie, 400)["title"] == "FrameError"
    assert caller.call("/steps/0/forward").status_code == 200


def test_a_session_without_a_pipeline_has_no_parts() -> None:
    caller = Caller(create_app(Sessions()))
    response = caller.send("PUT", "/steps/0/forward/1", caller.body("/steps/0/forward"))
    assert problem(response, 400)["title"] == "FrameError"
    caller.step(0)


def test_a_link_is_emulated_in_both_directions_at_once(server: se.LocalServer) -> None:
    link = se.Link(20, 20, rtt_ms=10)
    with se.Trainer(digits_split(), server.url, link=link, pipeline=4, optimizer=ADAM) as trainer:
        records = [trainer.step(x, y) for x, y in batches(2)]
    assert same(trainer.split.model.state_dict(), unsplit(digits(), batches(2), 4).state_dict())
    for record in records:
        least = 8e-6 * record.bytes["activations"].http / 20 + 2 * 0.010
        assert least < record.seconds["total"]


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(TrainingError, match="pipeline"):
        se.Trainer(digits_split(), pipeline=0)
    with pytest.raises(TrainingError, match="four-call"):
        se.Trainer(digits_split(), pipeline=2, protocol="four-call")
