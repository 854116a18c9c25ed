"""The Flask app over sessions: tokens, order of calls, isolation, and bodies of every kind. No sockets here."""

import ast
import gc
import inspect
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flask import Flask
from harness import (
    DOUBLE,
    SINGLE,
    Caller,
    aligned,
    batches,
    calls,
    digits,
    digits_split,
    forged,
    on_app,
    problem,
    recorded,
    reference,
    same,
    snapshot,
    trained_unsplit,
)

import spliteasy as se
from spliteasy.codecs import container
from spliteasy.server import sessions as sessions_module
from spliteasy.server.app import create_app
from spliteasy.server.process import LocalServer, serve
from spliteasy.server.session import Commit, Session
from spliteasy.server.sessions import Sessions
from spliteasy.server.store import SessionStore
from spliteasy.weights import load_tensors, save_tensors


@pytest.fixture
def app() -> Flask:
    return create_app(Sessions())


# A session


def test_two_steps_equal_the_unsplit_model(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    on_app(monkeypatch, app)
    for at in (SINGLE, DOUBLE, ("relu1", "dropout")):
        for optimizer in ({"name": "SGD", "lr": 0.05, "momentum": 0.9}, {"name": "Adam", "lr": 0.01}):
            with se.Trainer(digits_split(at), server="app", optimizer=optimizer, seed=5) as trainer:
                for x, y in batches(3):
                    trainer.step(x, y)
            unsplit = trained_unsplit(digits(), batches(3), seed=5, **optimizer)
            assert same(trainer.split.model.state_dict(), unsplit.state_dict())
    assert app.test_client().get("/v1/health").get_json()["sessions"] == 0


def test_health(app: Flask) -> None:
    value = app.test_client().get("/v1/health").get_json()
    assert value["name"] == "spliteasy" and value["version"] == se.__version__ and value["torch"] == torch.__version__
    assert value["sessions"] == 0 and value["threads"] == torch.get_num_threads()
    caller = Caller(app)
    assert caller.client.get("/v1/health").get_json()["sessions"] == 1
    assert caller.send("DELETE", "").status_code == 200
    assert caller.client.get("/v1/health").get_json()["sessions"] == 0


def test_threads_are_the_servers_own() -> None:
    before = torch.get_num_threads()
    try:
        client = create_app(Sessions(threads=before + 1)).test_client()
        assert client.get("/v1/health").get_json()["threads"] == before + 1
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)  # threads that start later would take the last number that anyone set


def test_loopback_is_the_default_address() -> None:
    from spliteasy.cli import _parser

    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"
    assert _parser().parse_args(["serve"]).host == "127.0.0.1"
    assert "host" not in inspect.signature(LocalServer).parameters


# Tokens and unknown sessions


@pytest.mark.parametrize("number", range(7))
def test_no_call_works_without_the_token(app: Flask, number: int) -> None:
    caller, other = Caller(app), Caller(app)
    method, path = calls(caller.session)[number]
    body = caller.body("/steps/0/forward")
    wrong = [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {other.token}",
        f"Bearer {caller.token[:-1]}",
        "Bearer ü\u00ff",
        f"Basic {caller.token}",
        caller.token,
        f"bearer{caller.token}",
        f"Bearer {caller.token} ",
    ]
    for value in wrong:
        headers = {} if value is None else {"Authorization": value}
        response = caller.client.open(path, method=method, data=body, headers=headers)
        assert problem(response, 404)["title"] == "SessionError"
    caller.step(0)
    assert caller.commit(0).status_code == 200 and same(caller.state(), reference(DOUBLE, 1))


@pytest.mark.parametrize("identifier", ["nothing", "0", "%00", "..", "a" * 2000, "ü", "%2F", "' or 1=1"])
def test_an_unknown_session_is_refused_by_name(app: Flask, identifier: str) -> None:
    caller = Caller(app)
    for method, path in calls(identifier):
        response = caller.client.open(path, method=method, headers={"Authorization": f"Bearer {caller.token}"})
        assert problem(response)["title"] in ("SessionError", "ProtocolError")
        assert response.status_code in (404, 405)


def test_a_closed_session_is_unknown(app: Flask) -> None:
    caller = Caller(app)
    assert caller.send("DELETE", "").get_json() == {"closed": caller.session}
    for method, path in calls(caller.session):
        response = caller.client.open(path, method=method, headers={"Authorization": f"Bearer {caller.token}"})
        assert problem(response, 404)["title"] == "SessionError"


def test_tokens_and_names_are_not_guessable(app: Flask) -> None:
    callers = [Caller(app) for _ in range(3)]
    assert len({one.session for one in callers}) == len({one.token for one in callers}) == 3
    assert all(len(one.token) >= 32 and len(one.session) >= 12 for one in callers)


# Sessions apart


def test_sessions_do_not_disturb_each_other(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    on_app(monkeypatch, app)
    kinds = [(SINGLE, 0, "SGD"), (DOUBLE, 1, "Adam"), (("relu1", "dropout"), 2, "SGD")]
    trainers = [
        se.Trainer(digits_split(at, seed), server="app", optimizer={"name": name, "lr": 0.02}, seed=seed)
        for at, seed, name in kinds
    ]
    for number, (x, y) in enumerate(batches(4)):
        for trainer in trainers[:: 1 if number % 2 else -1]:
            trainer.step(x, y)
            torch.rand(number)
    for trainer, (_, seed, name) in zip(trainers, kinds, strict=True):
        trainer.close()
        unsplit = trained_unsplit(digits(seed), batches(4), seed=seed, name=name, lr=0.02)
        assert same(trainer.split.model.state_dict(), unsplit.state_dict())


def test_a_session_that_fails_leaves_the_others_alone(app: Flask) -> None:
    one, other = Caller(app), Caller(app)
    one.step(0)
    for _ in range(3):
        assert other.send("PUT", "/steps/0/forward", b"garbage").status_code == 400
    one.step(1)
    assert one.commit(1).status_code == 200 and same(one.state(), reference(DOUBLE, 2))


def test_the_number_of_sessions_is_capped() -> None:
    app = create_app(Sessions(max_sessions=2))
    first, _ = Caller(app), Caller(app)
    refused = problem(first.client.post("/v1/sessions", data=first.device.opening), 503)
    assert refused["title"] == "BusyError" and "2 sessions" in refused["detail"]
    assert "--max-sessions" in refused["detail"]
    first.step(0)
    first.send("DELETE", "")
    Caller(app)


def test_a_session_that_could_not_be_built_takes_no_place() -> None:
    app = create_app(Sessions(max_sessions=1))
    client = app.test_client()
    for _ in range(3):
        assert client.post("/v1/sessions", data=b"garbage").status_code == 400
        assert client.post("/v1/sessions", data=save_tensors({}, {"session": "{}"})).status_code == 400
        config = json.loads(container.read(recorded().opening)[1]["session"]) | {"model": "nothing"}
        assert client.post("/v1/sessions", data=save_tensors({}, {"session": json.dumps(config)})).status_code == 422
    Caller(app)


def test_idle_sessions_expire() -> None:
    now = [0.0]
    store = SessionStore(capacity=2, idle_seconds=100, clock=lambda: now[0])
    app = create_app(Sessions(store=store))
    one, other = Caller(app), Caller(app)
    now[0] = 90
    one.step(0)
    now[0] = 150
    assert app.test_client().get("/v1/health").get_json()["sessions"] == 1
    assert "idle for 100 s" in problem(other.call("/steps/0/forward"), 404)["detail"]
    one.step(1)
    Caller(app)  # the place is free again
    now[0] = 251
    assert len(store) == 0
    assert problem(one.commit(1), 404)["title"] == "SessionError"


def test_a_wrong_token_does_not_keep_a_session_alive() -> None:
    now = [0.0]
    app = create_app(Sessions(store=SessionStore(idle_seconds=100, clock=lambda: now[0])))
    caller = Caller(app)
    now[0] = 90
    assert caller.send("GET", "/weights", token="wrong").status_code == 404
    now[0] = 110
    assert problem(caller.send("GET", "/weights"), 404)["title"] == "SessionError"


# Order of calls


ORDERS: dict[str, list[str]] = {
    "backward first": ["/steps/0/backward"],
    "backward of another step": ["/steps/0/forward", "/steps/1/backward"],
    "a step too far": ["/steps/1/forward"],
    "an evaluation between forward and backward": ["/steps/0/forward", "commit -1", "/steps/0/backward"],
    "a commit of a step that was not begun": ["commit 0"],
    "a commit of a step that is half done": ["/steps/0/forward", "commit 0"],
    "a commit of a later step": ["/steps/0/forward", "/steps/0/backward", "commit 1"],
    "a commit of a step that was given up": ["/steps/0/forward", "/steps/0/backward", "commit -1", "commit 0"],
    "a step again after its commit": ["/steps/0/forward", "/steps/0/backward", "commit 0", "/steps/0/forward"],
}


@pytest.mark.parametrize("order", ORDERS)
def test_calls_out_of_order_are_refused_and_do_no_harm(app: Flask, order: str) -> None:
    caller = Caller(app)
    *before, _ = ORDERS[order]
    for place, path in enumerate(ORDERS[order]):
        expected = 409 if place == len(before) else 200
        word, _, number = path.partition(" ")
        response = caller.commit(int(number)) if word == "commit" else caller.call(path)
        assert response.status_code == expected, response.data
    assert problem(response)["title"] == "OrderError"
    committed = 0 if "commit 0" in before else -1
    if committed < 0:
        assert caller.commit(-1).status_code == 200
        assert same(caller.state(), Caller(create_app(Sessions())).state())
        caller.step(0)
    caller.step(1)
    assert caller.commit(1).status_code == 200 and same(caller.state(), reference(DOUBLE, 2))


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
def test_a_repeated_step_is_the_same_step(app: Flask, at: tuple[str, ...]) -> None:
    caller = Caller(app, at)
    for number in range(2):
        answers = [container.read(caller.call(f"/steps/{number}/forward").data)[0] for _ in range(3)]
        assert same(answers[0], answers[1]) and same(answers[0], answers[2])
        if len(at) == 2:
            caller.step(number)
            caller.step(number)  # all of it again, as after an answer that was lost
    assert caller.commit(1).status_code == 200 and caller.commit(1).status_code == 200
    assert same(caller.state(), reference(at, 2))


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("chain", ["raw", "topk(0.5) | fp16 | zstd(1)"])
def test_a_step_that_is_given_up_leaves_no_trace(app: Flask, at: tuple[str, ...], chain: str) -> None:
    caller = Caller(app, at, chain)
    start = caller.state()
    caller.step(0)
    assert caller.commit(-1).status_code == 200
    assert same(caller.state(), start)  # batch norm's counters, too
    caller.call("/steps/0/forward")
    assert same(caller.state(), start)
    caller.step(0)
    assert caller.commit(0).status_code == 200
    after = caller.state()
    assert not same(after, start) and "norm2.num_batches_tracked" in after
    caller.step(1)
    assert caller.commit(0).status_code == 200
    assert same(caller.state(), after)


def test_weights_are_those_of_the_last_committed_step(app: Flask) -> None:
    """Also while a step is under way: a device that was interrupted may ask for them at any time."""
    caller = Caller(app)
    start = caller.state()
    assert caller.call("/steps/0/forward").status_code == 200 and same(caller.state(), start)
    assert caller.call("/steps/0/backward").status_code == 200 and same(caller.state(), start)
    assert caller.commit(0).status_code == 200 and same(caller.state(), reference(DOUBLE, 1))


def test_evaluating_changes_nothing(app: Flask) -> None:
    caller = Caller(app)
    caller.step(0)
    caller.step(1)
    answers = [caller.call("/evaluate") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert same(caller.state(), reference(DOUBLE, 2))  # the evaluation carried the commit of step 1


def test_a_clip_factor_comes_with_the_commit(app: Flask) -> None:
    caller, plain = Caller(app, clip=0.5), Caller(app, clip=0.5)
    for one, clip in ((caller, 0.25), (plain, None)):
        one.step(0)
        assert one.commit(0, clip=clip).status_code == 200
    start, clipped, full = Caller(app).state(), caller.state(), plain.state()
    moved = [float((state["conv2.weight"] - start["conv2.weight"]).norm()) for state in (clipped, full)]
    assert moved[0] == pytest.approx(moved[1] / 4, rel=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "1",
        "{",
        '{"step": "0"}',
        '{"step": 0.0}',
        '{"step": true}',
        '{"step": -2}',
        '{"steps": 0}',
        "[" * 5000,
        '{"step": 0, "learning_rate": NaN}',
        '{"step": 0, "learning_rate": Infinity}',
        '{"step": 0, "learning_rate": -1}',
        '{"step": 0, "learning_rate": "0.1"}',
        '{"step": 0, "learning_rate": 1e999}',
        '{"step": 0, "clip": NaN}',
        '{"step": 0, "clip": -0.5}',
        '{"step": 0, "clip": 1.5}',
        '{"step": 0, "learning_rate": 1' + "0" * 400 + "}",
        '{"step": ' + "9" * 5000 + "}",
        '{"step": 0, "learning_rate": true}',
    ],
)
def test_a_commit_that_is_none_is_refused(app: Flask, text: str) -> None:
    caller = Caller(app)
    caller.step(0)
    assert problem(caller.send("POST", "/commit", text.encode()), 400)["title"] == "FrameError"

    def inside(header: dict[str, Any], planes: dict[str, torch.Tensor]) -> None:
        header["commit"] = "COMMIT"

    frame = forged(caller.body("/steps/1/forward"), inside)
    length = int.from_bytes(frame[:8], "little")
    header = frame[8 : 8 + length].replace(b'\\"COMMIT\\"', json.dumps(text)[1:-1].encode() or b"null").rstrip()
    answer = caller.send("PUT", "/steps/1/forward", len(header).to_bytes(8, "little") + header + frame[8 + length :])
    assert problem(answer, 400)["title"] == "FrameError"
    caller.step(1)  # nothing was lost
    assert caller.commit(1).status_code == 200 and same(caller.state(), reference(DOUBLE, 2))


# Nothing is unpickled


class Evil:
    """Unpickling it leaves a trace."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return open, (str(self.place), "w")


def test_a_pickle_is_not_opened(app: Flask, tmp_path: Path) -> None:
    body = pickle.dumps(Evil(tmp_path / "opened"))
    saved = tmp_path / "saved.pt"
    torch.save({"a": Evil(tmp_path / "opened")}, saved)
    caller = Caller(app)
    for data in (body, saved.read_bytes()):
        problem(caller.client.post("/v1/sessions", data=data), 400)
        for method, path in calls(caller.session)[:4]:
            headers = {"Authorization": f"Bearer {caller.token}"}
            problem(caller.client.open(path, method=method, data=data, headers=headers), 400, 409)
    assert not (tmp_path / "opened").exists()
    pickle.loads(body).close()
    assert (tmp_path / "opened").exists()  # it would have


def _sources() -> Iterator[Path]:
    import spliteasy_plugins

    for package in (se, spliteasy_plugins):
        yield from Path(package.__file__).parent.rglob("*.py")


@pytest.mark.parametrize("path", list(_sources()), ids=lambda path: path.name)
def test_the_source_has_nothing_that_unpickles(path: Path) -> None:
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & modules
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in modules
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("np", "load"), ("numpy", "load")}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile"}


# One thread computes


def test_everything_is_computed_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    idents: dict[str, set[int]] = {}

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            idents.setdefault(name, set()).add(threading.get_ident())
            return function(*args, **kwargs)

        return call

    for name in ("forward", "backward", "evaluate", "settle", "weights"):
        monkeypatch.setattr(Session, name, watched(name, getattr(Session, name)))
    for name in ("open_session", "save_tensors"):
        monkeypatch.setattr(sessions_module, name, watched(name, getattr(sessions_module, name)))
    app = create_app(Sessions())

    def run() -> None:
        caller = Caller(app)
        for number in range(2):
            caller.step(number)
        assert caller.call("/evaluate").status_code == 200 and same(caller.state(), reference(DOUBLE, 2))

    reference(DOUBLE, 2)
    idents.clear()
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            run()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(idents) == 7 and len(set.union(*idents.values())) == 1
    assert not set.union(*idents.values()) & {threading.get_ident(), *(thread.ident for thread in threads)}


def test_the_same_frame_object_is_not_needed_by_the_session() -> None:
    """A session without Flask, fed with the bytes alone."""
    from spliteasy.server.opening import SessionConfig, open_session
    from spliteasy.wire import Frame

    device = recorded()
    config = SessionConfig.from_json(container.read(device.opening)[1]["session"])
    session = open_session(config, load_tensors(device.opening))
    for _, path, body in device.calls[:4]:
        number, call = path.split("/")[2:]
        getattr(session, call)(int(number), Frame.parse(aligned(body)))
    session.settle(Commit(1, 0.05))
    expected = {name: tensor for name, tensor in reference(DOUBLE, 2).items() if "|" not in name}
    assert same({name: tensor.detach() for name, tensor in session.weights().items()}, expected)
    assert same(snapshot(session.segment), expected)


def test_the_compute_thread_ends_with_its_server() -> None:
    def computing() -> int:
        return sum(thread.name == "compute" for thread in threading.enumerate())

    gc.collect()
    before = computing()
    kept = create_app(Sessions())
    assert computing() == before + 1
    del kept
    gc.collect()
    for _ in range(100):
        if computing() <= before:
            break
        time.sleep(0.02)
    assert computing() <= before
