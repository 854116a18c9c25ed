"""Bad input: a named error that says what was expected and found; the model keeps the last finished step."""

import contextlib
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import DOUBLE, SINGLE, batch, batches, digits, digits_split, same, snapshot, trained_unsplit
from sockets import Proxy, no_session_left, sessions
from torch import nn

import spliteasy as se
from spliteasy.errors import (
    CodecError,
    ConnectionLost,
    CutError,
    DataError,
    ModelError,
    NonFiniteError,
    SplitEasyError,
    SplitError,
    TrainingError,
)
from spliteasy.server.process import LocalServer

NAN = float("nan")
WAYS = [(cuts, remote) for cuts in ((), SINGLE, DOUBLE) for remote in (False, True) if cuts or not remote]
everywhere = pytest.mark.parametrize(
    "at,remote", WAYS, ids=[f"{len(a)} cuts {'HTTP' if r else 'here'}" for a, r in WAYS]
)


@contextlib.contextmanager
def unharmed(trainer: se.Trainer) -> Iterator[None]:
    """What is tried inside leaves every tensor on the device as it was, the trainer's step and its random numbers."""
    own = [segment for segment in (trainer.split.a, trainer.split.c) if segment is not None]
    before, numbers = [snapshot(segment) for segment in own], torch.get_rng_state()
    steps = len(trainer.log)
    yield
    assert all(same(snapshot(segment), state) for segment, state in zip(own, before, strict=True))
    assert all(parameter.grad is None for segment in own for parameter in segment.parameters())
    assert torch.equal(torch.get_rng_state(), numbers) and len(trainer.log) == steps


def _url(server: LocalServer, remote: bool) -> str | None:
    return server.url if remote else None


# Names


@pytest.mark.parametrize(
    "attempt,error,said",
    [
        (lambda: se.load_model("resnet51"), ModelError, "resnet5"),
        (lambda: se.load_model("timm/nothing"), ModelError, "timm/nothing"),
        (lambda: digits_split(("relu9",)), CutError, "relu"),
        (lambda: digits_split(("relu3", "relu1")), CutError, "order"),
        (lambda: digits_split(("relu1", "relu1")), CutError, "relu1"),
        (lambda: digits_split(("relu1", "relu2", "relu3")), CutError, "two"),
        (lambda: se.codec("topc(0.1)"), CodecError, "topk"),
        (lambda: se.codec("zstd(1) | fp16"), CodecError, r"fp16 \| zstd\(1\)"),
        (lambda: se.codec("topk"), CodecError, "fraction"),
        (lambda: se.codec("topk(1.5)"), CodecError, "1.5"),
        (lambda: se.Codecs(activations="nothing"), CodecError, "nothing"),
        (lambda: se.find_cuts(digits(), input_shape=(1, 8, 8), batch=0), SplitEasyError, "batch"),
        (lambda: se.find_cuts(digits(), input_shape=(3, 8, 8)), SplitEasyError, "[Ee]xpected|input"),
    ],
)
def test_names_that_do_not_exist(attempt: Callable[[], Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        attempt()


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown codec": ({"codecs": "topc(0.1)"}, "topk"),
    "codecs in the wrong order": ({"codecs": "zstd(1) | fp16"}, "fp16"),
    "codecs as a dict": ({"codecs": {"activations": "raw"}}, r"se\.Codecs"),
    "an unknown optimizer": ({"optimizer": {"name": "SDG", "lr": 0.1}}, "SGD"),
    "a wrong argument": ({"optimizer": {"name": "SGD", "momentun": 0.9}}, "momentum"),
    "a negative learning rate": ({"optimizer": {"name": "SGD", "lr": -1}}, "learning rate"),
    "a learning rate of NaN": ({"optimizer": {"name": "SGD", "lr": NAN}}, "learning rate"),
    "an infinite learning rate": ({"optimizer": {"name": "Adam", "lr": math.inf}}, "learning rate"),
    "a learning rate in a tensor": ({"optimizer": {"name": "SGD", "lr": torch.tensor(0.1)}}, "learning rate"),
    "a momentum of NaN": ({"optimizer": {"name": "SGD", "lr": 0.1, "momentum": NAN}}, "finite"),
    "betas in a tensor": ({"optimizer": {"name": "Adam", "betas": torch.ones(2)}}, "numbers"),
    "LBFGS": ({"optimizer": {"name": "LBFGS"}}, "cannot be split"),
    "an optimizer by name alone": ({"optimizer": "SGD"}, "name"),
    "an optimizer without a name": ({"optimizer": {"lr": 0.1}}, "name"),
    "an optimizer as an object": ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, "name"),
    "an unknown loss": ({"loss": "cross_entrophy"}, "cross_entropy"),
    "a loss that is a number": ({"loss": 3}, "loss"),
    "a loss that is None": ({"loss": None}, "loss"),
    "a loss that is a list": ({"loss": ["cross_entropy"]}, "loss"),
    "an unknown backward": ({"backward": "exakt"}, "exact"),
    "a backward that is None": ({"backward": None}, "backward"),
    "a backward that is a list": ({"backward": ["exact"]}, "backward"),
    "a negative clip norm": ({"clip_norm": -1.0}, "clip_norm"),
    "a clip norm of zero": ({"clip_norm": 0}, "clip_norm"),
    "a clip norm of NaN": ({"clip_norm": NAN}, "clip_norm"),
    "a clip norm of text": ({"clip_norm": "1"}, "clip_norm"),
    "a seed of text": ({"seed": "0"}, "seed"),
    "a seed with a fraction": ({"seed": 1.5}, "seed"),
    "no seed": ({"seed": None}, "seed"),
    "a link that is a number": ({"link": 20}, "Link"),
    "a link by name": ({"link": "lte"}, "Link"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("remote", [False, True], ids=["here", "HTTP"])
def test_settings_of_a_trainer_that_do_not_fit(server: LocalServer, setting: str, remote: bool) -> None:
    settings, said = SETTINGS[setting]
    split = digits_split()
    before = snapshot(split.model)
    with no_session_left(server.url), pytest.raises(SplitEasyError, match=said) as caught:
        se.Trainer(split, server=_url(server, remote), **settings)
    assert any(word in str(caught.value) for word in ("xpected", "cannot", "refuses", "there is no"))
    assert same(snapshot(split.model), before)


def test_a_trainer_takes_a_split() -> None:
    for wrong in (digits(), "digits_cnn", None):
        with pytest.raises(TrainingError, match=r"se\.split"):
            se.Trainer(wrong)  # type: ignore[arg-type]


# Batches

X, Y = batch()
BATCHES: dict[str, tuple[Any, Any, type[SplitEasyError], str]] = {
    "no samples": (X[:0], Y[:0], DataError, "1 or more"),
    "another size": (torch.zeros(8, 1, 9, 9), Y, DataError, r"\(batch, 1, 8, 8\).*\(8, 1, 9, 9\)"),
    "more channels": (torch.zeros(8, 3, 8, 8), Y, DataError, "3, 8, 8"),
    "no batch dimension": (torch.zeros(1, 8, 8), Y, DataError, "batch"),
    "one dimension more": (X[None], Y, DataError, "batch"),
    "a number": (torch.tensor(1.0), Y, DataError, "batch"),
    "double precision": (X.double(), Y, DataError, "float32.*float64"),
    "half precision": (X.half(), Y, DataError, "float16"),
    "whole numbers": (X.long(), Y, DataError, "int64"),
    "bytes": (X.byte(), Y, DataError, "uint8"),
    "an array": (X.numpy(), Y, DataError, "ndarray"),
    "a list": (X.tolist(), Y, DataError, "list"),
    "None": (None, Y, DataError, "NoneType"),
    "labels in an array": (X, Y.numpy(), DataError, "labels.*ndarray"),
    "labels in a list": (X, Y.tolist(), DataError, "labels.*list"),
    "no labels": (X, None, DataError, "labels.*NoneType"),
    "a label too high": (X, Y.clone().fill_(10), DataError, r"0 to 9, found 10 at position 0.*num_classes=11"),
    "a negative label": (X, torch.tensor([0, 1, 2, -1, 4, 5, 6, 7]), DataError, "found -1 at position 3"),
    "a byte too high": (X, torch.full((8,), 200, dtype=torch.uint8), DataError, "found 200"),
    "too few labels": (X, Y[:7], DataError, "8.*7"),
    "too many labels": (X, torch.cat([Y, Y]), DataError, "8.*16"),
    "labels in two dimensions": (X, Y[:, None], DataError, r"\(8,\).*\(8, 1\)"),
    "labels of another width": (X, torch.zeros(8, 9), DataError, r"\(8, 9\)"),
    "labels as fractions": (X, Y.float(), DataError, "float32"),
    "labels of 32 bits": (X, Y.int(), DataError, r"int32.*y\.long\(\)"),
    "labels of truth": (X, Y > 4, DataError, "bool"),
    "one label": (X, Y[0], DataError, r"\(\)"),
    "NaN": (X.clone().index_fill_(0, torch.tensor(3), NAN), Y, NonFiniteError, "NaN"),
    "infinity": (X.clone().index_fill_(0, torch.tensor(3), math.inf), Y, NonFiniteError, "infinity"),
    "NaN in soft labels": (X, torch.full((8, 10), NAN), NonFiniteError, "labels"),
    "no label that counts": (X, torch.full((8,), -100), NonFiniteError, "nan"),
}


@everywhere
def test_batches_that_do_not_fit(server: LocalServer, at: tuple[str, ...], remote: bool) -> None:
    """All of them, between good ones; the run is as if they had never been."""
    with no_session_left(server.url), se.Trainer(digits_split(at), server=_url(server, remote)) as trainer:
        for number, (name, (x, y, error, said)) in enumerate(BATCHES.items()):
            if number % 8 == 0:
                trainer.step(*batch(number // 8))
            for attempt in (trainer.step, lambda x, y: trainer.evaluate([(x, y)])):
                if name == "no label that counts" and attempt != trainer.step:
                    continue  # the mean over no labels is no number, which a score may be
                with unharmed(trainer), pytest.raises(error, match=said):
                    attempt(x, y)
    unsplit = trained_unsplit(digits(), batches(math.ceil(len(BATCHES) / 8)))
    assert same(trainer.split.model.state_dict(), unsplit.state_dict())


@everywhere
def test_labels_that_are_unusual_but_right(server: LocalServer, at: tuple[str, ...], remote: bool) -> None:
    x, y = batch()
    ignored = torch.where(torch.arange(8) % 2 == 0, y, -100)
    kinds = [ignored, y.byte(), F.one_hot(y, 10).float()]
    with se.Trainer(digits_split(at), server=_url(server, remote)) as trainer:
        for labels in kinds:
            trainer.step(x, labels)
        assert 0 <= (trainer.evaluate([(x, ignored)]).accuracy or 0) <= 1
    unsplit = trained_unsplit(digits(), [(x, labels) for labels in kinds])
    assert same(trainer.split.model.state_dict(), unsplit.state_dict())


@pytest.mark.parametrize(
    "loss,y",
    [
        ("mse_loss", torch.zeros(8, 9)),
        ("nll_loss", torch.zeros(8, 10)),
        ("binary_cross_entropy", torch.zeros(8, 10)),
        ("ctc_loss", Y),
        ("triplet_margin_loss", Y),
        ("cosine_embedding_loss", Y),
        ("kl_div", Y),
    ],
    ids=str,
)
@pytest.mark.parametrize("at,remote", WAYS[1:], ids=str)
def test_a_loss_that_does_not_take_the_labels(
    server: LocalServer, at: tuple[str, ...], remote: bool, loss: str, y: torch.Tensor
) -> None:
    trainer = se.Trainer(digits_split(at), server=_url(server, remote), loss=loss)
    with trainer, unharmed(trainer), pytest.raises(DataError, match=loss):
        trainer.step(X, y)


@pytest.mark.parametrize("at", [(), SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize(
    "loss",
    [
        lambda output, y: F.cross_entropy(output, y, reduction="none"),
        lambda output, y: 1.5,
        lambda output, y: None,
    ],
)
def test_a_loss_that_is_not_one_number(at: tuple[str, ...], loss: Any) -> None:
    trainer = se.Trainer(digits_split(at), loss=loss)
    with unharmed(trainer), pytest.raises(TrainingError, match="one number"):
        trainer.step(X, Y)


# NaN that arises on the way


def _poisoned(split: se.splitting.Split, letter: str) -> nn.Parameter:
    """A parameter of a segment, grown until a step overflows there."""
    layer = {"a": "conv1", "b": "conv3", "c": "classifier"}[letter]
    return next(p for name, p in split.model.named_parameters() if name == f"{layer}.weight")


@pytest.mark.parametrize("at,remote", WAYS[1:], ids=str)
@pytest.mark.parametrize("letter", ["a", "b", "c"])
def test_nan_that_arises_in_a_segment(server: LocalServer, at: tuple[str, ...], remote: bool, letter: str) -> None:
    split = digits_split(at)
    with no_session_left(server.url), torch.no_grad():
        _poisoned(split, letter).mul_(1e38).mul_(10)
    start = snapshot(split.model)
    trainer = se.Trainer(split, server=_url(server, remote), optimizer={"name": "Adam", "lr": 0.1})
    for _ in range(2):
        with unharmed(trainer), pytest.raises(NonFiniteError, match=r"lower the\s+learning rate|given up"):
            trainer.step(*batch())
    assert same(snapshot(split.model), start) or remote or letter != "a"
    trainer.close()
    assert same(snapshot(split.model), start)


@pytest.mark.parametrize("at,remote", WAYS, ids=str)
def test_a_learning_rate_far_too_large(server: LocalServer, at: tuple[str, ...], remote: bool) -> None:
    split = digits_split(at)
    trainer = se.Trainer(split, server=_url(server, remote), optimizer={"name": "SGD", "lr": 1e30})
    with pytest.raises(NonFiniteError), trainer:
        for number in range(20):
            trainer.step(*batch(number))
    finished = len(trainer.log)
    assert finished >= 1
    unsplit = trained_unsplit(digits(), batches(finished), lr=1e30)
    ours, theirs = split.model.state_dict(), unsplit.state_dict()
    assert all(torch.equal(ours[name].nan_to_num(), theirs[name].nan_to_num()) for name in theirs)


@everywhere
def test_a_learning_rate_that_is_none(server: LocalServer, at: tuple[str, ...], remote: bool) -> None:
    with se.Trainer(digits_split(at), server=_url(server, remote)) as trainer:
        trainer.step(*batch(0))
        for rate in (NAN, math.inf, -0.1, "0.1", None, True, torch.tensor(0.1), 10**400):
            trainer.learning_rate = rate  # type: ignore[assignment]
            with unharmed(trainer), pytest.raises(TrainingError, match="learning rate"):
                trainer.step(*batch(1))
        trainer.learning_rate = 0.01
        trainer.step(*batch(1))
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), batches(2)).state_dict())


# What cannot be run elsewhere


class Own(nn.Sequential):
    """A network that only this process knows."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def test_a_network_without_a_name_is_refused_remotely(server: LocalServer) -> None:
    split = se.split(Own(), at=("1", "2"), input_shape=(1, 8, 8))
    with no_session_left(server.url), pytest.raises(SplitError, match=r"by name.*server=None"):
        se.Trainer(split, server=server.url)
    with se.Trainer(split) as trainer:
        trainer.step(*batch())


def test_a_network_that_was_changed_is_refused_remotely(server: LocalServer) -> None:
    model = digits()
    model.classifier = nn.Linear(1024, 7)
    split = se.split(model, at=DOUBLE, input_shape=(1, 8, 8))
    with pytest.raises(SplitError, match="changed"):
        se.Trainer(split, server=server.url)


def test_a_callable_loss_is_refused_in_a_remote_single_split(server: LocalServer) -> None:
    def loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, y) * 2

    with no_session_left(server.url), pytest.raises(SplitError, match=r"callable.*double split.*server=None"):
        se.Trainer(digits_split(SINGLE), server=server.url, loss=loss)
    for at, url in ((DOUBLE, server.url), (SINGLE, None)):
        with se.Trainer(digits_split(at), server=url, loss=loss) as trainer:
            trainer.step(*batch())


# A server that dies


@pytest.mark.parametrize(
    ("at", "call"),
    [
        pytest.param(SINGLE, "forward", marks=pytest.mark.slow),
        pytest.param(DOUBLE, "forward", marks=pytest.mark.slow),
        (DOUBLE, "backward"),
    ],
    ids=str,
)
def test_a_server_killed_in_mid_step(at: tuple[str, ...], call: str) -> None:
    with LocalServer() as own, Proxy(own.url) as proxy:
        pid = own.pid
        assert pid is not None

        def kill(data: bytes) -> None:
            if f"steps/2/{call}".encode() in data:
                os.kill(pid, signal.SIGKILL)

        proxy.before_up = kill
        trainer = se.Trainer(digits_split(at), server=proxy.url, timeout=10, retry=1)
        with pytest.raises(ConnectionLost, match=r"steps/2/.*last finished step") as caught, trainer:
            for x, y in batches(2):
                trainer.step(x, y)
            expected = trained_unsplit(digits(), batches(2)).state_dict()
            trainer.step(*batch(2))
        assert caught.value.__context__ is None or not isinstance(caught.value.__context__, ConnectionLost)
        a = trainer.split.a.state_dict()
        own_names = set(a) | set(trainer.split.c.state_dict() if trainer.split.c is not None else ())
        ours = trainer.split.model.state_dict()
        assert own_names and all(torch.equal(ours[name], expected[name]) for name in own_names)
        with pytest.raises(TrainingError, match="closed"):
            trainer.step(*batch())
    with pytest.raises(ConnectionLost):
        se.Trainer(digits_split(at), server=proxy.url, timeout=5)


def test_a_server_that_is_gone_at_the_end_is_not_passed_over() -> None:
    """B's weights cannot come home, and nothing else went wrong: that is the error to see."""
    with LocalServer(threads=1) as own:
        trainer = se.Trainer(digits_split(), server=own.url, retry=1)
        trainer.step(*batch())
    with pytest.raises(ConnectionLost, match="last pull"):
        trainer.close()
    trainer.close()


def test_a_server_that_was_started_again_does_not_know_the_session() -> None:
    with LocalServer(threads=1) as own:
        trainer = se.Trainer(digits_split(), server=own.url)
        trainer.step(*batch())
        trainer._transport._path = "/v1/sessions/forgotten"  # type: ignore[union-attr]
        with unharmed(trainer), pytest.raises(se.errors.SessionError, match="Open a new one"):
            trainer.step(*batch(1))
        trainer._transport._caller.headers = {"Authorization": "Bearer wrong"}  # type: ignore[union-attr]
        trainer._transport._path = f"/v1/sessions/{trainer._transport.session}"  # type: ignore[union-attr]
        with unharmed(trainer), pytest.raises(se.errors.SessionError, match="token"):
            trainer.step(*batch(1))


# Leaving a trainer


def _leave_by_close(trainer: se.Trainer) -> None:
    trainer.close()


def _leave_by_block(trainer: se.Trainer) -> None:
    with trainer:
        pass


def _leave_by_exception(trainer: se.Trainer) -> None:
    with contextlib.suppress(ZeroDivisionError), trainer:
        raise ZeroDivisionError


def _leave_by_bad_batch(trainer: se.Trainer) -> None:
    with contextlib.suppress(DataError), trainer:
        trainer.step(X, Y + 100)


def _leave_by_nan(trainer: se.Trainer) -> None:
    with contextlib.suppress(NonFiniteError), trainer:
        trainer.step(X, torch.full((8,), -100))


def _leave_by_interrupt(trainer: se.Trainer) -> None:
    """In the last moment: the gradients are there, and the server waits to hear that the step was finished."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    trainer._updater.check_gradients = interrupted  # type: ignore[method-assign]
    with contextlib.suppress(KeyboardInterrupt), trainer:
        trainer.step(X, Y)


def _leave_by_loader(trainer: se.Trainer) -> None:
    def loader() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        raise OSError("the disk is gone")
        yield X, Y

    with pytest.raises(OSError, match="the disk is gone"), trainer:
        trainer.fit(loader(), progress=False)


LEAVING = [
    _leave_by_close,
    _leave_by_block,
    _leave_by_exception,
    _leave_by_bad_batch,
    _leave_by_nan,
    _leave_by_interrupt,
    _leave_by_loader,
]


@everywhere
@pytest.mark.parametrize("leave", LEAVING, ids=lambda leave: leave.__name__)
def test_every_way_to_leave_gives_the_whole_model_and_ends_the_session(
    server: LocalServer, at: tuple[str, ...], remote: bool, leave: Callable[[se.Trainer], None]
) -> None:
    with no_session_left(server.url):
        trainer = se.Trainer(digits_split(at), server=_url(server, remote), optimizer={"name": "Adam", "lr": 0.01})
        for x, y in batches(2):
            trainer.step(x, y)
        numbers = torch.get_rng_state()
        leave(trainer)
        assert torch.equal(torch.get_rng_state(), numbers)
    unsplit = trained_unsplit(digits(), batches(2), name="Adam", lr=0.01)
    assert same(trainer.split.model.state_dict(), unsplit.state_dict())
    for call in (
        trainer.pull,
        trainer.state_dict,
        lambda: trainer.step(X, Y),
        lambda: trainer.evaluate([(X, Y)]),
        lambda: trainer.fit([(X, Y)]),
    ):
        with pytest.raises(TrainingError, match="closed"):
            call()
    trainer.close()
    assert same(trainer.split.model.state_dict(), unsplit.state_dict())


@everywhere
def test_the_model_can_be_read_in_the_middle(server: LocalServer, at: tuple[str, ...], remote: bool) -> None:
    with no_session_left(server.url), se.Trainer(digits_split(at), server=_url(server, remote)) as trainer:
        for number in range(4):
            trainer.step(*batch(number))
            unsplit = trained_unsplit(digits(), batches(number + 1)).state_dict()
            if number % 2:
                trainer.pull()
                assert same(trainer.split.model.state_dict(), unsplit)
            else:
                assert same(trainer.state_dict()["model"], unsplit)
        assert sessions(server.url) >= int(remote)


@pytest.mark.parametrize("at", [(), SINGLE, DOUBLE], ids=str)
def test_in_this_process_the_model_is_whole_at_any_time(at: tuple[str, ...]) -> None:
    """Also right after a step that failed, without closing anything."""
    trainer = se.Trainer(digits_split(at))
    trainer.step(*batch(0))
    unsplit = trained_unsplit(digits(), batches(1)).state_dict()
    assert same(trainer.split.model.state_dict(), unsplit)
    with pytest.raises(NonFiniteError):
        trainer.step(X, torch.full((8,), -100))
    assert same(trainer.split.model.state_dict(), unsplit)
    assert all(parameter.grad is None for parameter in trainer.split.model.parameters())


# Loaders


@everywhere
def test_loaders_without_batches(server: LocalServer, at: tuple[str, ...], remote: bool) -> None:
    with se.Trainer(digits_split(at), server=_url(server, remote)) as trainer:
        with unharmed(trainer), pytest.raises(TrainingError, match="found none"):
            trainer.evaluate([])
        with unharmed(trainer), pytest.raises(TrainingError, match="found none"):
            trainer.fit([], progress=False)
        once = (pair for pair in batches(2))
        with pytest.raises(TrainingError, match="epoch 2"):
            trainer.fit(once, epochs=2, progress=False)
        assert len(trainer.log) == 2


@pytest.mark.parametrize(
    "item", [X, (X,), (X, Y, Y), [], None, 5, {"x": X, "y": Y}, "xy"], ids=lambda item: type(item).__name__
)
def test_batches_that_are_no_pairs(item: Any) -> None:
    trainer = se.Trainer(digits_split())
    for call in (lambda: trainer.fit([item], progress=False), lambda: trainer.evaluate([item])):
        with unharmed(trainer), pytest.raises(DataError, match="inputs and labels"):
            call()


def test_a_loader_that_fails_in_the_middle(server: LocalServer) -> None:
    def loader() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from batches(2)
        raise OSError("the disk is gone")

    with no_session_left(server.url):
        trainer = se.Trainer(digits_split(), server=server.url)
        with pytest.raises(OSError, match="the disk"), trainer:
            trainer.fit(loader(), progress=False)
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), batches(2)).state_dict())


class Endless(torch.utils.data.IterableDataset[Any]):
    """A data set that does not know its length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(X[0], Y[0]), (X[1], Y[1])])


def test_a_loader_that_does_not_know_its_length() -> None:
    trainer = se.Trainer(digits_split())
    log = trainer.fit(torch.utils.data.DataLoader(Endless(), batch_size=2), progress=False)
    assert len(log) == 1


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "2", None, True])
def test_epochs_are_whole_numbers(epochs: Any) -> None:
    with pytest.raises(TrainingError, match="epochs"):
        se.Trainer(digits_split()).fit([(X, Y)], epochs=epochs, progress=False)


@pytest.mark.parametrize("schedule", [lambda epoch: NAN, lambda epoch: "fast", lambda epoch: None, lambda epoch: -1.0])
def test_a_schedule_gives_learning_rates(schedule: Any) -> None:
    trainer = se.Trainer(digits_split())
    with unharmed(trainer), pytest.raises(TrainingError, match="learning rate"):
        trainer.fit([(X, Y)], schedule=schedule, progress=False)


def test_two_threads_may_not_step_at_once(server: LocalServer) -> None:
    """A step that is called from within another, or beside it, would mix up both."""
    trainer = se.Trainer(digits_split(), server=server.url)
    failures: list[BaseException] = []

    def loss(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        trainer.loss = F.cross_entropy

        def beside() -> None:
            try:
                trainer.step(*batch(1))
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
        return F.cross_entropy(output, y)

    trainer.loss = loss
    with trainer:
        trainer.step(*batch(0))
        assert isinstance(failures[0], TrainingError) and "another step" in str(failures[0])
    assert same(trainer.split.model.state_dict(), trained_unsplit(digits(), batches(1)).state_dict())
