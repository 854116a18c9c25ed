"""Bodies of every kind: frames and configurations that are damaged, lie, or do not fit. Never a 5xx, never a crash."""

import functools
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flask import Flask
from harness import (
    DOUBLE,
    SINGLE,
    Caller,
    Change,
    batch,
    forged,
    on_app,
    problem,
    recorded,
    reference,
    same,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import spliteasy as se
from spliteasy.codecs import container
from spliteasy.server.app import create_app
from spliteasy.server.limits import Limits
from spliteasy.server.sessions import Sessions
from spliteasy.weights import load_tensors, save_tensors


@pytest.fixture
def app() -> Flask:
    return create_app(Sessions())


# Bodies


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\0" * 8,
        b"\xff" * 8,
        b"\xff" * 1000,
        b"{}",
        b"null",
        b"\x02\0\0\0\0\0\0\0{}",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PK\x03\x04" + b"\0" * 50,
        bytes(1 << 20),
        pickle.dumps({"a": 1}),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_bodies_that_are_none_are_refused(app: Flask, body: bytes) -> None:
    caller = Caller(app)
    assert problem(caller.client.post("/v1/sessions", data=body), 400)["title"] == "FrameError"
    for method, path in [("PUT", "/steps/0/forward"), ("POST", "/evaluate"), ("POST", "/commit")]:
        assert problem(caller.send(method, path, body), 400)["title"] == "FrameError"
    assert caller.call("/steps/0/forward").status_code == 200
    assert problem(caller.send("PUT", "/steps/0/backward", body), 400)["title"] == "FrameError"
    assert caller.call("/steps/0/backward").status_code == 200  # the step goes on
    assert caller.commit(0).status_code == 200 and same(caller.state(), reference(DOUBLE, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda header, planes: header.pop("batch"),
        lambda header, planes: header.update(batch=0),
        lambda header, planes: header.update(batch=-8),
        lambda header, planes: header.update(batch="8"),
        lambda header, planes: header.update(batch=8.0),
        lambda header, planes: header.update(batch=True),
        lambda header, planes: header.update(batch=9),
        lambda header, planes: header.update(batch=1 << 24),
        lambda header, planes: header.update(batch=1 << 80),
        lambda header, planes: header.update(needs_gradient=None),
        lambda header, planes: header.update(needs_gradient=[]),
        lambda header, planes: header.update(needs_gradient=[True, True]),
        lambda header, planes: header.update(needs_gradient=1),
        lambda header, planes: header.pop("commit"),
        lambda header, planes: header.update(commit=[]),
        lambda header, planes: (header["tensors"].__setitem__(0, None), planes.pop("0:values")),
        lambda header, planes: header.update(scalars=[1]),
        lambda header, planes: header.update(scalars=[{"dtype": 3}]),
        lambda header, planes: (header.update(plain=["generator"]), planes.update(generator=torch.zeros(5056).byte())),
        lambda header, planes: (header.update(plain=["generator"]), planes.update(generator=torch.zeros(3).byte())),
        lambda header, planes: (header.update(plain=["generator"]), planes.update(generator=torch.zeros(5056).int())),
    ],
)
def test_activations_that_lie_are_refused(app: Flask, change: Change) -> None:
    caller = Caller(app)
    assert problem(caller.call("/steps/0/forward", change), 400, 422)["title"] in ("FrameError", "DataError")
    assert problem(caller.call("/evaluate", change), 400, 409, 422)
    caller.step(0)
    assert caller.commit(0).status_code == 200 and same(caller.state(), reference(DOUBLE, 1))


@pytest.mark.parametrize(
    "labels",
    [
        torch.full((8,), 10),
        torch.full((8,), -1),
        torch.full((8,), 1 << 62),
        torch.zeros(7).long(),
        torch.zeros(9).long(),
        torch.zeros(8, 2).long(),
        torch.zeros(8),
        torch.zeros(8).int(),
        torch.zeros(8).bool(),
        torch.zeros(8, dtype=torch.complex64),
        torch.zeros(0).long(),
        torch.tensor(3),
        torch.zeros(8, 11),
        torch.full((8,), -100),
        torch.full((8, 10), float("nan")),
        torch.zeros(8).to(torch.float8_e5m2),
        torch.zeros(8, dtype=torch.uint16),
    ],
)
def test_labels_that_do_not_fit_are_refused_by_the_server_too(app: Flask, labels: torch.Tensor) -> None:
    caller = Caller(app, SINGLE)

    def replaced(header: dict[str, Any], planes: dict[str, torch.Tensor]) -> None:
        planes["labels"] = labels

    name = problem(caller.call("/steps/0/forward", replaced), 400, 422)["title"]
    assert name in ("DataError", "FrameError", "NonFiniteError")
    caller.step(0)
    assert caller.commit(0).status_code == 200 and same(caller.state(), reference(SINGLE, 1))


def test_labels_are_needed_where_the_server_holds_the_loss(app: Flask) -> None:
    def without(header: dict[str, Any], planes: dict[str, torch.Tensor]) -> None:
        planes.pop("labels")
        header.pop("plain")

    assert "labels" in problem(Caller(app, SINGLE).call("/steps/0/forward", without), 400)["detail"]


def _second(scalars: list[Any], header: dict[str, Any], planes: dict[str, torch.Tensor]) -> None:
    header.update(scalars=scalars, commit={"step": 0, "learning_rate": 0.01, "clip": None}, step=1)


def test_numbers_at_a_cut_that_lie_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Sessions(allow=["harness:Reshaping"]))
    (opened,) = [on_app(monkeypatch, app)]
    split = se.split(se.load_model("harness:Reshaping"), at="pool", input_shape=(1, 8, 8))
    with se.Trainer(split, server="app") as trainer:
        trainer.step(*batch())
        _, _, body = opened[0].calls[0]
        assert json.loads(container.read(body)[1]["spliteasy"])["scalars"] == [8]
        for scalars in (
            [],
            [8, 8],
            [3],
            [-7],
            [0],
            [1 << 62],
            [1 << 80],
            ["8"],
            [8.5],
            [None],
            [[8]],
            [{}],
            [{"dtype": "float32"}],
            [{"dtype": "nn"}],
            [{"dtype": 3}],
            [{"device": "cuda"}],
        ):
            data = forged(
                body,
                lambda header, planes, s=scalars: header.update(
                    scalars=s, commit={"step": 0, "learning_rate": 0.01, "clip": None}, step=1
                ),
            )
            problem(opened[0].send("PUT", "/steps/1/forward", data), 400, 422)
        trainer.step(*batch(1))
    assert trainer.log[1].loss > 0


def test_gradients_that_lie_are_refused(app: Flask) -> None:
    caller = Caller(app)
    start = caller.state()
    for value, name in ((float("nan"), "NonFiniteError"), (float("inf"), "NonFiniteError"), (3e38, "NonFiniteError")):
        assert caller.call("/steps/0/forward").status_code == 200

        def large(header: dict[str, Any], planes: dict[str, torch.Tensor], value: float = value) -> None:
            planes["0:values"].fill_(value)

        assert problem(caller.call("/steps/0/backward", large), 422)["title"] == name
        again = caller.call("/steps/0/backward")
        assert again.status_code == 200 or problem(again, 409)["title"] == "OrderError"
        assert caller.commit(-1).status_code == 200 and same(caller.state(), start)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bodies_never_break_the_server(data: st.DataObject) -> None:
    caller = fuzzed()
    path = data.draw(st.sampled_from(["/steps/0/forward", "/steps/0/backward", "/evaluate", "/commit", "open"]))
    body = bytearray(caller.device.opening if path == "open" else caller.body(path))
    if data.draw(st.booleans()):
        del body[data.draw(st.integers(0, len(body))) :]
    head = min(len(body), 2000)  # most of what can lie is in the header
    for _ in range(data.draw(st.integers(0, 3)) if head else 0):
        body[data.draw(st.integers(0, head - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if path == "/steps/0/backward":
        assert caller.call("/steps/0/forward").status_code == 200
    if path == "open":
        response = caller.client.post("/v1/sessions", data=bytes(body))
        if response.status_code == 201:
            headers = {"Authorization": f"Bearer {response.get_json()['token']}"}
            caller.client.delete(f"/v1/sessions/{response.get_json()['session']}", headers=headers)
    else:
        response = caller.send("POST" if path in ("/evaluate", "/commit") else "PUT", path, bytes(body))
    if response.status_code not in (200, 201):
        problem(response, 400, 409, 422)
    assert caller.commit(-1).status_code == 200  # alive, and at the last committed step


@functools.cache
def fuzzed() -> Caller:
    return Caller(create_app(Sessions()))


def test_a_body_over_the_limit_is_refused() -> None:
    client = create_app(Sessions(limits=Limits(opening=1000))).test_client()
    assert "1000 bytes" in problem(client.post("/v1/sessions", data=bytes(1001)), 400, 413)["detail"]


@pytest.mark.parametrize(
    "method,path,status",
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v2/health", 404),
        ("POST", "/v1/health", 405),
        ("GET", "/v1/sessions", 405),
        ("DELETE", "/v1/sessions", 405),
        ("PATCH", "/v1/sessions/x", 405),
        ("PUT", "/v1/sessions/x/steps/0/sideways", 404),
        ("PUT", "/v1/sessions/x/steps/-1/forward", 404),
        ("PUT", "/v1/sessions/x/steps/1.5/forward", 404),
        ("PUT", "/v1/sessions/x/steps/one/forward", 404),
        ("POST", "/v1/sessions/x/steps/0/forward", 405),
        ("GET", "/v1/sessions/x/steps/0/backward", 405),
        ("GET", "/v1/sessions/x/evaluate", 405),
        ("GET", "/static/app.js", 404),
        ("OPTIONS", "/nothing", 404),
        ("PUT", f"/v1/sessions/x/steps/{'9' * 5000}/forward", 404),
        ("PUT", "/v1/sessions/x/steps/\u0661/forward", 404),
        ("PUT", f"/v1/sessions/x/steps/{'9' * 50}/forward", 404),
    ],
)
def test_other_routes_and_methods_are_problems(app: Flask, method: str, path: str, status: int) -> None:
    value = problem(app.test_client().open(path, method=method))
    assert value["status"] == status and value["title"] in ("SessionError", "ProtocolError")


# Opening


def _opening(change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any], at: tuple[str, ...] = DOUBLE) -> bytes:
    body = recorded(at).opening
    config, weights = json.loads(container.read(body)[1]["session"]), load_tensors(body)
    change(config, weights)
    return save_tensors(weights, {"session": json.dumps(config)})


CONFIGS: dict[str, dict[str, Any]] = {
    "an unknown network": {"model": "resnet51"},
    "a network that is no name": {"model": ""},
    "a factory that is not allowed": {"model": "os:system", "arguments": {"command": "true"}},
    "another factory": {"model": "harness:Reshaping"},
    "a path": {"model": "../../etc/passwd"},
    "arguments that it does not take": {"arguments": {"colour": 1}},
    "arguments that would load weights": {"arguments": {"weights": "DEFAULT"}},
    "arguments of a wrong type": {"arguments": {"num_classes": "ten"}},
    "negative classes": {"arguments": {"num_classes": -1}},
    "classes beyond memory": {"arguments": {"num_classes": 10**15}},
    "another network": {"model": "resnet18"},
    "unknown cuts": {"cuts": ["relu9", "relu3"]},
    "no cuts": {"cuts": []},
    "cuts in the wrong order": {"cuts": ["relu3", "relu1"]},
    "three cuts": {"cuts": ["relu1", "relu2", "relu3"]},
    "one cut twice": {"cuts": ["relu1", "relu1"]},
    "cuts that are numbers": {"cuts": [1, 2]},
    "other cuts": {"cuts": ["relu1", "pool"]},
    "another shape": {"input_shape": [3, 8, 8]},
    "a shape of text": {"input_shape": ["1", 8, 8]},
    "no shape": {"input_shape": []},
    "a flat shape": {"input_shape": [64]},
    "a shape with zero": {"input_shape": [1, 0, 8]},
    "a negative shape": {"input_shape": [1, -8, 8]},
    "a shape beyond memory": {"input_shape": [1, 1 << 20, 1 << 20]},
    "a longer shape": {"input_shape": [1] * 40},
    "an unknown dtype": {"dtype": "float33"},
    "a dtype that is a module": {"dtype": "nn"},
    "an integer network": {"dtype": "int8"},
    "a quantized network": {"dtype": "qint8"},
    "an integer input": {"input_dtype": "int64"},
    "a complex input": {"input_dtype": "complex64"},
    "an unknown codec": {"codecs": {"activations": "nothing"}},
    "an unknown message": {"codecs": {"weights": "raw"}},
    "codecs in the wrong order": {"codecs": {"activations": "zstd(1) | fp16"}},
    "a codec that computes": {"codecs": {"outputs": "topk(1-0.5)"}},
    "codecs of numbers": {"codecs": {"activations": 1}},
    "a codec's deep notation": {"codecs": {"activations": "(" * 3000}},
    "an unknown optimizer": {"optimizer": {"name": "SDG"}},
    "no optimizer": {"optimizer": {}},
    "LBFGS": {"optimizer": {"name": "LBFGS"}},
    "wrong arguments": {"optimizer": {"name": "SGD", "momentun": 0.9}},
    "a negative rate": {"optimizer": {"name": "SGD", "lr": -1}},
    "a rate that is NaN": {"optimizer": {"name": "SGD", "lr": float("nan")}},
    "a rate of text": {"optimizer": {"name": "SGD", "lr": "0.1"}},
    "an optimizer that is none": {"optimizer": {"name": "Optimizer"}},
    "a scheduler": {"optimizer": {"name": "lr_scheduler"}},
    "an optimizer of a list": {"optimizer": {"name": ["SGD"]}},
    "no momentum": {"optimizer": {"name": "SGD", "lr": 0.1, "momentum": float("inf")}},
    "a loss in a double split": {"loss": "cross_entropy"},
    "an unknown backward": {"backward": "magic"},
    "a seed of text": {"seed": "0"},
    "frozen numbers": {"frozen": [1]},
    "evaluating lists": {"evaluating": [[]]},
    "norms of text": {"norms": "yes"},
    "another digest": {"digest": "0" * 64},
    "no digest": {"digest": ""},
}


@pytest.mark.parametrize("lie", CONFIGS)
def test_configurations_that_cannot_be_are_refused_by_name(app: Flask, lie: str) -> None:
    response = app.test_client().post("/v1/sessions", data=_opening(lambda config, _: config.update(CONFIGS[lie])))
    problem(response, 400, 409, 422)
    assert app.test_client().get("/v1/health").get_json()["sessions"] == 0
    Caller(app).step(0)


@pytest.mark.parametrize("field", json.loads(container.read(recorded().opening)[1]["session"]))
def test_every_field_of_a_configuration_is_needed_and_typed(app: Flask, field: str) -> None:
    client = app.test_client()
    for change in (
        lambda config, _: config.pop(field),
        lambda config, _: config.update({field: 1.5}),
        lambda config, _: config.update(
            {field: {"deep": [None]}} if field not in ("codecs", "arguments") else {field: []}
        ),
        lambda config, _: config.update({f"{field}s": 1}),
    ):
        problem(client.post("/v1/sessions", data=_opening(change)), 400, 409, 422)


def test_an_unknown_loss_is_refused(app: Flask) -> None:
    for loss, statuses in (("cross_entrophy", (422,)), ("os", (422,)), (None, (400,)), (["l1_loss"], (400,))):
        body = _opening(lambda config, _, loss=loss: config.update(loss=loss), SINGLE)
        problem(app.test_client().post("/v1/sessions", data=body), *statuses)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("conv2.weight"),
        lambda weights: weights.update(more=torch.zeros(1)),
        lambda weights: weights.update({"conv2.bias": torch.zeros(1)}),
        lambda weights: weights.update({"conv2.bias": torch.zeros(32).double()}),
        lambda weights: weights.update({"conv2.bias": torch.zeros(32, 1)}),
        lambda weights: weights.update({"norm2.num_batches_tracked": torch.zeros(())}),
        lambda weights: weights.clear(),
    ],
)
def test_weights_that_do_not_fit_are_refused(app: Flask, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    body = _opening(lambda _, weights: change(weights))
    problem(app.test_client().post("/v1/sessions", data=body), 400, 422)
    assert app.test_client().get("/v1/health").get_json()["sessions"] == 0


@pytest.mark.parametrize("dtype", container.DTYPES)
def test_weights_of_any_dtype_are_read_without_a_crash(app: Flask, dtype: str) -> None:
    header = {
        "__metadata__": container.read(recorded().opening)[1],
        "a": {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]},
    }
    text = json.dumps(header).encode()
    response = app.test_client().post("/v1/sessions", data=len(text).to_bytes(8, "little") + text)
    assert problem(response, 400)["title"] == "FrameError"


def test_a_digest_mismatch_says_what_to_install(app: Flask) -> None:
    value = problem(
        app.test_client().post("/v1/sessions", data=_opening(lambda config, _: config.update(digest="0" * 64))), 422
    )
    assert value["title"] == "SplitError" and torch.__version__ in value["detail"] and "torchvision" in value["detail"]


def test_a_factory_needs_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    split = se.split(se.load_model("harness:Reshaping"), at="pool", input_shape=(1, 8, 8))
    for allow in ([], ["harness:digits"], ["harness"]):
        on_app(monkeypatch, create_app(Sessions(allow=allow)))
        with pytest.raises(se.errors.ModelError, match="--allow harness:Reshaping"):
            se.Trainer(split, server="app")
    on_app(monkeypatch, create_app(Sessions(allow=["harness:Reshaping"])))
    with se.Trainer(split, server="app") as trainer:
        trainer.step(*batch())
