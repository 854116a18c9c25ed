"""Split training equals unsplit training to the bit: what is computed, and everything around it.

The acceptance test trains the large families; here are the circumstances.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from comparing import Batch, batches, differences, twin
from networks import (
    SHAPE,
    Base,
    Branches,
    Buffers,
    Custom,
    Dense,
    Dropouts,
    Frozen,
    Joined,
    Residual,
    Sliced,
    TiedWithin,
)  # fmt: skip
from torch import Tensor, nn

import spliteasy as se
from spliteasy.errors import NonFiniteError, SplitError, TrainingError

ADAM = {"name": "Adam", "lr": 0.003}
PLACES = ["in-process", "http"]


@pytest.fixture(params=PLACES)
def url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The address of a server, and None for in-process."""
    yield request.getfixturevalue("server").url if request.param == "http" else None


def loaded(name: str | type[nn.Module], seed: int = 0, **arguments: Any) -> nn.Module:
    """A network by a name that a server knows."""
    name = name if isinstance(name, str) else f"networks:{name.__name__}"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return se.load_model(name, **arguments)


def digits(at: tuple[str, ...], **arguments: Any) -> se.Split:
    return se.split(loaded("digits_cnn", **arguments), at, (1, 8, 8))


DIGITS = (1, 8, 8)
CUTS = [("input",), ("pool",), ("classifier",), ("pool", "flatten"), ("norm1", "dropout"), ("norm1", "relu1")]


# Optimizers


@pytest.mark.parametrize("at", [(), *CUTS], ids="|".join)
@pytest.mark.parametrize(
    "optimizer", [{"name": "SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True}, ADAM], ids=["sgd", "adam"]
)
def test_digits(at: tuple[str, ...], optimizer: dict[str, Any], url: str | None) -> None:
    if url is not None and not at:
        at = ("dropout",)
    assert differences(digits(at), batches(5, DIGITS, 4, 10), server=url, optimizer=optimizer) == []


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "SGD", "lr": 0.1}, {"name": "SGD", "lr": 0.1, "weight_decay": 0.01, "maximize": True},
        {"name": "AdamW", "lr": 0.01, "amsgrad": True}, {"name": "Adagrad", "lr": 0.05},
        {"name": "RMSprop", "lr": 0.01, "momentum": 0.5, "centered": True},
        {"name": "Adadelta", "lr": 1.0}, {"name": "Adamax", "lr": 0.01},
        {"name": "NAdam", "lr": 0.01}, {"name": "RAdam", "lr": 0.01}, {"name": "ASGD", "lr": 0.05},
        {"name": "Rprop", "lr": 0.01},
    ],
    ids=lambda optimizer: optimizer["name"],
)  # fmt: skip
def test_other_optimizers(optimizer: dict[str, Any], server: se.LocalServer) -> None:
    steps = batches(4, DIGITS, 4, 10)
    assert differences(digits(("norm1", "dropout")), steps, server=server.url, optimizer=optimizer) == []


@pytest.mark.parametrize("at", [("pool",), ("norm1", "dropout")], ids="|".join)
@pytest.mark.parametrize("optimizer", [{"name": "SGD", "lr": 0.05, "momentum": 0.9}, ADAM], ids=["sgd", "adam"])
def test_the_learning_rate_may_change(at: tuple[str, ...], optimizer: dict[str, Any], url: str | None) -> None:
    steps, rates = batches(5, DIGITS, 4, 10), [0.05, 0.05, 0.001, 0.0, 0.2]
    assert differences(digits(at), steps, server=url, optimizer=optimizer, rates=rates) == []


@pytest.mark.parametrize("clip", [1e-3, 0.7, 1e6])
@pytest.mark.parametrize("at", [(), ("pool",), ("norm1", "dropout"), ("norm1", "relu1")], ids="|".join)
def test_clipping_by_the_global_norm(at: tuple[str, ...], clip: float, url: str | None) -> None:
    split = digits(at or (() if url is None else ("conv1",)))
    assert differences(split, batches(4, DIGITS, 4, 10), server=url, clip_norm=clip) == []


def test_clipping_of_one_weight_under_two_names(url: str | None) -> None:
    split = se.split(loaded(TiedWithin), ("one", "mean"), SHAPE)
    assert differences(split, batches(4, SHAPE), server=url, clip_norm=0.01) == []


# Networks


@pytest.mark.parametrize(
    ("kind", "at"),
    [
        (Residual, ("one", "mean")), (Dense, ("convs.0", "norms.3")), (Dense, ("norms.2",)), (Branches, ("first.a",)),
        (Branches, ("first.relu", "second.b.2")), (Buffers, ("one", "two")), (Dropouts, ("drop", "two")),
        (Dropouts, ("dropout",)), (Custom, ("one", "mean")), (Frozen, ("add", "two")), (TiedWithin, ("one", "two")),
        (Joined, ("left",)), (Joined, ("left", "right")), (Joined, ("one", "cat")), (Sliced, ("getitem", "last")),
        (Sliced, ("expand",)),
    ],
    ids=lambda value: getattr(value, "__name__", None) or "|".join(value),
)  # fmt: skip
def test_small_networks(kind: type[nn.Module], at: tuple[str, ...], url: str | None) -> None:
    names = se.find_cuts(loaded(kind), SHAPE).names
    at = tuple(name if name in names else names[len(names) // 2] for name in at)
    assert differences(se.split(loaded(kind), at, SHAPE), batches(5, SHAPE), server=url) == []


LARGE = [
    ("resnet18", 64, ("layer1.0.bn1", "layer2.0.bn2")),
    ("densenet121", 64, ("features.denseblock1.denselayer3.conv1", "features.denseblock1.denselayer5.norm2")),
    ("densenet121", 64, ("features.denseblock2.denselayer2.norm1",)),
    ("inception_v3", 80, ("Mixed_5b.branch5x5_1.conv", "Mixed_6a.cat")),
]


@pytest.mark.parametrize(("name", "size", "at"), LARGE[:1], ids=str)
def test_large_networks(name: str, size: int, at: tuple[str, ...], url: str | None) -> None:
    split = se.split(loaded(name, num_classes=10), at, (3, size, size))
    optimizer = {"name": "SGD", "lr": 0.001, "momentum": 0.9}
    assert differences(split, batches(3, (3, size, size), 2, 10), server=url, optimizer=optimizer) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("optimizer", [{"name": "SGD", "lr": 0.001, "momentum": 0.9}, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize(("name", "size", "at"), LARGE, ids=str)
def test_large_networks_for_longer(
    name: str, size: int, at: tuple[str, ...], optimizer: dict[str, Any], url: str | None
) -> None:
    split = se.split(loaded(name, num_classes=10), at, (3, size, size))
    steps = batches(5, (3, size, size), 2, 10)
    assert differences(split, steps, server=url, optimizer=optimizer, clip_norm=0.5) == []


# Memory formats and dtypes


def channels_last(batch: Batch) -> Batch:
    return batch[0].contiguous(memory_format=torch.channels_last), batch[1]


@pytest.mark.parametrize("model_too", [True, False])
@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("resnet18", ("layer1.0.bn1", "layer3")),
        ("resnet18", ("maxpool",)),
        pytest.param("densenet121", ("features.denseblock1.denselayer3",), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_channels_last(name: str, at: tuple[str, ...], model_too: bool, url: str | None) -> None:
    model = loaded(name, num_classes=10)
    if model_too:
        model.to(memory_format=torch.channels_last)
    steps = [channels_last(batch) for batch in batches(3, (3, 48, 48), 2, 10)]
    optimizer = {"name": "SGD", "lr": 0.001, "momentum": 0.9}
    assert differences(se.split(model, at, (3, 48, 48)), steps, server=url, optimizer=optimizer) == []


def test_inputs_with_gaps_in_memory(url: str | None) -> None:
    steps = [(torch.nn.functional.pad(x, (1, 2, 3, 1))[..., 3:-1, 1:-2], y) for x, y in batches(3, SHAPE)]
    for at in (("input",), ("one",), ("one", "two")):
        assert differences(se.split(loaded(Base), at, SHAPE), steps, server=url) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("at", [("pool",), ("norm1", "relu1"), ("pool", "flatten"), ("norm1", "dropout")], ids="|".join)
def test_dtypes(at: tuple[str, ...], dtype: torch.dtype, url: str | None) -> None:
    split = se.split(loaded("digits_cnn").to(dtype), at, DIGITS)
    steps = [(x.to(dtype), y) for x, y in batches(3, DIGITS, 4, 10)]
    assert differences(split, steps, server=url, clip_norm=0.5) == []


# Batches, evaluation, random numbers


@pytest.mark.parametrize("at", [("pool",), ("norm1", "dropout")], ids="|".join)
def test_the_last_batch_may_be_smaller(at: tuple[str, ...], url: str | None) -> None:
    steps = [batches(1, DIGITS, size, 10)[0] for size in (8, 8, 3, 8, 1)]
    assert differences(digits(at), steps, server=url) == []


@pytest.mark.parametrize("at", [("pool",), ("norm1", "dropout")], ids="|".join)
def test_evaluation_changes_nothing(at: tuple[str, ...], url: str | None) -> None:
    states = []
    for evaluations in (0, 3):
        split = digits(at)
        with se.Trainer(split, server=url, seed=3) as trainer:
            for x, y in batches(3, DIGITS, 4, 10):
                for _ in range(evaluations):
                    before = torch.get_rng_state()
                    first = trainer.evaluate([(x, y), (x[:1], y[:1])])
                    assert first == trainer.evaluate([(x, y), (x[:1], y[:1])]) and first.samples == 5
                    assert torch.equal(before, torch.get_rng_state())
                    assert all(module.training for module in split.model.modules())
                trainer.step(x, y)
            states.append(trainer.state_dict())
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name])


def test_the_global_generator_is_left_alone(url: str | None) -> None:
    with se.Trainer(digits(("norm1", "dropout")), server=url) as trainer:
        before = torch.get_rng_state()
        trainer.step(*batches(1, DIGITS, 4, 10)[0])
        assert torch.equal(before, torch.get_rng_state())
        torch.rand(3)
        assert not torch.equal(before, torch.get_rng_state())


def test_seeds_make_the_numbers_and_nothing_else_does(url: str | None) -> None:
    def losses(seed: int) -> list[float]:
        torch.rand(int(torch.randint(1, 9, ())))  # whatever happened before
        with se.Trainer(digits(("conv2", "dropout")), server=url, seed=seed) as trainer:
            return [trainer.step(x, y).loss for x, y in batches(3, DIGITS, 4, 10)]

    assert losses(1) == losses(1) != losses(2)


def test_fit_is_its_steps(url: str | None) -> None:
    steps = batches(3, DIGITS, 4, 10)
    split = digits(("norm1", "dropout"))
    model = twin(split.model)
    rates = [0.05, 0.005]
    with se.Trainer(split, server=url, seed=5, optimizer={"name": "SGD", "lr": 1.0, "momentum": 0.9}) as trainer:
        trainer.fit(steps, epochs=2, schedule=rates.__getitem__, validation=steps, progress=False)
        assert len(trainer.log.evaluations) == 2
    other = se.split(model, ("norm1", "dropout"), DIGITS)
    found = differences(other, steps * 2, rates=[rates[0]] * 3 + [rates[1]] * 3)
    assert found == []
    assert all(torch.equal(tensor, split.state_dict()[name]) for name, tensor in other.state_dict().items())


# Frozen layers and parameters


@pytest.mark.parametrize("at", [("layer1.0.relu",), ("layer1.0.relu", "layer3")], ids="|".join)
def test_frozen_layers_and_parameters(at: tuple[str, ...], url: str | None) -> None:
    model = loaded("resnet18", num_classes=10)
    model.layer2.eval()
    model.bn1.eval()
    model.layer1.requires_grad_(False)
    split = se.split(model, at, (3, 40, 40))
    optimizer = {"name": "Adam", "lr": 0.001, "weight_decay": 0.1}
    assert differences(split, batches(3, (3, 40, 40), 3, 10), server=url, optimizer=optimizer) == []
    assert not model.layer2.training and not model.bn1.training and model.layer3.training


def test_dropout_functions_of_frozen_modules(url: str | None) -> None:
    model = loaded("densenet121", num_classes=10, drop_rate=0.3)
    model.features.denseblock1.eval()
    split = se.split(model, ("features.pool0", "features.denseblock2.denselayer1.conv1"), (3, 40, 40))
    optimizer = {"name": "SGD", "lr": 0.001}
    assert differences(split, batches(2, (3, 40, 40), 3, 10), server=url, optimizer=optimizer) == []


def test_freezing_after_the_first_step_is_noticed(server: se.LocalServer) -> None:
    freezes: list[Callable[[nn.Module], object]] = [
        lambda model: model.layer2.eval(),
        lambda model: model.layer3[0].conv1.requires_grad_(False),
    ]
    for freeze in freezes:
        split = se.split(loaded("resnet18", num_classes=10), "layer1", (3, 40, 40))
        (x, y), *_ = batches(1, (3, 40, 40), 3, 10)
        with se.Trainer(split, server=server.url) as trainer:
            trainer.step(x, y)
            freeze(split.model)
            with pytest.raises(TrainingError, match=r"frozen or\s+thawed since.*Make a new Trainer"):
                trainer.step(x, y)


def test_freezing_after_the_first_step_in_process() -> None:
    split = digits(("conv1", "dropout"))
    model = twin(split.model)
    update = torch.optim.SGD(model.parameters(), lr=0.1)
    with se.Trainer(split, optimizer={"name": "SGD", "lr": 0.1}) as trainer:
        for number, (x, y) in enumerate(batches(4, DIGITS, 4, 10)):
            if number == 2:
                for part in (model, split.model):
                    part.norm2.eval()
                    part.conv3.requires_grad_(False)
            with torch.random.fork_rng():
                torch.manual_seed(se.step_seed(0, number))
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
            update.step()
            update.zero_grad()
            assert trainer.step(x, y).loss == float(loss)


def test_gradients_of_someone_elses_backward_do_not_count(url: str | None) -> None:
    split = digits(("pool", "flatten"))
    split.model(torch.randn(3, *DIGITS)).sum().backward()
    steps = batches(3, DIGITS, 4, 10)
    assert differences(split, steps, server=url, prepare=lambda model: model.zero_grad()) == []


# Steps that are not finished


class Averages(nn.Module):
    """Assigns its buffer, as moving averages often do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3)).view(6, 1, 1)
        return x - self.mean


@pytest.mark.parametrize("at", [("one",), ("averages",), ("one", "two"), ("averages", "two")], ids="|".join)
def test_a_step_that_fails_leaves_no_trace(at: tuple[str, ...]) -> None:
    class WithBuffers(Base):
        def __init__(self) -> None:
            super().__init__()
            self.averages, self.norm = Averages(), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(self.norm(self.two(self.averages(self.one(x)))))

    calls = []

    def loss(output: Tensor, y: Tensor) -> Tensor:
        calls.append(len(calls))
        value = nn.functional.cross_entropy(output, y)
        return value * float("nan") if len(calls) == 3 else value

    torch.manual_seed(0)
    split = se.split(WithBuffers(), at, SHAPE)
    whole = twin(split.model)
    update = torch.optim.SGD(whole.parameters(), lr=0.1)
    steps = batches(4, SHAPE)
    with se.Trainer(split, loss=loss, optimizer={"name": "SGD", "lr": 0.1}) as trainer:
        for number, (x, y) in enumerate(steps):
            if number == 2:
                before = {name: tensor.clone() for name, tensor in split.state_dict().items()}
                with pytest.raises(NonFiniteError):
                    trainer.step(x, y)
                after = trainer.state_dict()["model"]
                assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
            expected = nn.functional.cross_entropy(whole(x), y)
            expected.backward()
            update.step()
            update.zero_grad()
            assert trainer.step(x, y).loss == float(expected)
    assert all(torch.equal(tensor, split.state_dict()[name]) for name, tensor in whole.state_dict().items())


# Several at once


def test_trainers_on_one_server_do_not_know_of_each_other(server: se.LocalServer) -> None:
    """Two threads of one device, two trainers in turns, and one network twice: each as if it were alone."""
    cases = [("norm1", "dropout"), ("pool",)]
    alone = {}
    for at in cases:
        split = digits(at)
        with se.Trainer(split, server=server.url, seed=9) as trainer:
            losses = [trainer.step(x, y).loss for x, y in batches(4, DIGITS, 4, 10)]
        alone[at] = losses, {name: tensor.clone() for name, tensor in split.state_dict().items()}
    splits = {at: digits(at) for at in cases}
    trainers = {at: se.Trainer(split, server=server.url, seed=9) for at, split in splits.items()}
    losses_of: dict[tuple[str, ...], list[float]] = {at: [] for at in cases}
    for x, y in batches(4, DIGITS, 4, 10):
        for at, trainer in trainers.items():
            losses_of[at].append(trainer.step(x, y).loss)
    for at, trainer in trainers.items():
        trainer.close()
        assert losses_of[at] == alone[at][0]
        assert all(torch.equal(tensor, splits[at].state_dict()[name]) for name, tensor in alone[at][1].items())


def test_an_unsplit_part_of_the_network_stays_as_it_is(url: str | None) -> None:
    """Layers that the forward never calls are in the state, untouched."""
    split = digits(("pool", "flatten"))
    split.model.unused = nn.Linear(2, 2)
    if url is not None:
        with pytest.raises(SplitError, match="changed since"):
            se.Trainer(se.split(split.model, ("pool", "flatten"), DIGITS), server=url)
        return
    split = se.split(split.model, ("pool", "flatten"), DIGITS)
    assert differences(split, batches(3, DIGITS, 4, 10), optimizer={**ADAM, "weight_decay": 0.1}) == []
    assert "unused.weight" in split.state_dict()


def test_training_in_a_thread(url: str | None) -> None:
    """A notebook's widgets train on another thread."""
    found: list[list[str]] = []
    thread = threading.Thread(
        target=lambda: found.append(differences(digits(("norm1", "dropout")), batches(3, DIGITS, 4, 10), server=url))
    )
    thread.start()
    thread.join()
    assert found == [[]]
