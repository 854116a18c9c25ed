"""Predicted training memory, against what autograd really saves and optimizers really keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spliteasy as se
from spliteasy.errors import CutError, TrainingError
from spliteasy.memory import MemoryProfile, optimizer_bytes
from spliteasy.paper_memory import paper_memory, separating_share
from spliteasy.program import Program

ADAM = {"name": "Adam", "lr": 0.001}


class Views(nn.Module):
    """In-place operations, views, a tensor that two operations save, one that none does, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.frozen = nn.Conv2d(3, 4, 3), nn.Linear(36, 5), nn.Linear(36, 5)
        self.frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu_(self.first(x))
        shifted = x + 1
        flat = shifted.view(x.shape[0], -1)
        flat += 2
        return self.second(flat) * 2 + self.frozen(flat).exp_()


def really_saved(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Bytes of the distinct storages that autograd saves in a real forward, parameters and buffers left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(*inputs)
    del output
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Views, (3, 5, 5)),
        (lambda: se.load_model("digits_cnn"), (1, 8, 8)),
        (lambda: se.load_model("resnet18"), (3, 64, 64)),
        (lambda: se.load_model("densenet121"), (3, 32, 32)),
        (lambda: se.load_model("vgg11"), (3, 32, 32)),
        (lambda: se.load_model("mobilenet_v2"), (3, 64, 64)),
        (lambda: se.load_model("inception_v3", aux_logits=False, init_weights=False), (3, 96, 96)),
        (lambda: se.load_model("swin_t"), (3, 64, 64)),
    ],
    ids=["views", "digits_cnn", "resnet18", "densenet121", "vgg11", "mobilenet_v2", "inception_v3", "swin_t"],
)
def test_saved_activations_are_what_autograd_saves(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = make().train()
    predicted = se.training_memory(model, (), shape, batch=3)
    assert len(predicted) == 1 and predicted["A"].activations == really_saved(model, torch.rand(3, *shape))


@pytest.mark.parametrize("at", [("relu1",), ("pool", "flatten"), ("norm2",)])
def test_each_segment_saves_what_is_predicted(at: tuple[str, ...]) -> None:
    """Segment by segment, each on detached inputs as a device and a server run them."""
    model = se.load_model("digits_cnn")
    predicted, split = se.training_memory(model, at, (1, 8, 8), batch=4), se.split(model, at, (1, 8, 8))
    values: Any = torch.rand(4, 1, 8, 8)
    for memory, segment in zip(predicted, split.segments, strict=True):
        assert memory.segment == segment.letter
        assert memory.activations == really_saved(segment, values)
        assert memory.parameters == sum(p.nbytes for p in segment.parameters())
        values = segment(values).detach().requires_grad_()


def test_activations_grow_with_the_batch_and_the_rest_does_not() -> None:
    model = se.load_model("resnet18")
    one, four = (se.training_memory(model, (), (3, 64, 64), batch)[0] for batch in (1, 4))
    assert (one.parameters, one.gradients, one.buffers) == (four.parameters, four.gradients, four.buffers)
    assert 3.5 * one.activations < four.activations <= 4 * one.activations


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "SGD", "lr": 0.1},
        {"name": "SGD", "lr": 0.1, "momentum": 0.9},
        ADAM,
        {"name": "AdamW", "lr": 0.1, "amsgrad": True},
        {"name": "RMSprop", "lr": 0.1, "centered": True},
        {"name": "Adagrad", "lr": 0.1},
    ],
    ids=lambda optimizer: "-".join(map(str, optimizer.values())),
)
def test_optimizer_state_is_what_the_optimizer_keeps(optimizer: dict[str, Any]) -> None:
    model = se.load_model("digits_cnn")
    arguments = {key: value for key, value in optimizer.items() if key != "name"}
    update = getattr(torch.optim, optimizer["name"])(model.parameters(), **arguments)
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    update.step()
    kept = [value for state in update.state.values() for value in state.values()]
    real = sum(value.nbytes for value in kept if isinstance(value, torch.Tensor))
    assert optimizer_bytes(model.parameters(), optimizer) == real
    assert se.training_memory(model, (), (1, 8, 8), 2, optimizer)[0].optimizer == real


def test_frozen_parameters_have_no_gradients_and_no_state() -> None:
    model = Views()
    memory = se.training_memory(model, (), (3, 5, 5), 1, ADAM)[0]
    frozen = sum(parameter.nbytes for parameter in model.frozen.parameters())
    assert memory.gradients == memory.parameters - frozen and memory.optimizer < 2.1 * memory.gradients


@pytest.mark.parametrize(("name", "shape"), [("digits_cnn", (1, 8, 8)), ("resnet18", (3, 64, 64))])
def test_the_profile_of_all_cuts_is_that_of_each(name: str, shape: tuple[int, ...]) -> None:
    profile = MemoryProfile(Program(se.load_model(name), shape, 2), ADAM)
    before, after, end = profile.before(), profile.after(), len(profile.program.train.nodes)
    for position in range(end):
        assert before[position] == profile.segment("A", -1, position).total
        assert after[position] == profile.segment("C", position, end).total


def test_nothing_is_changed_by_predicting() -> None:
    model = se.load_model("digits_cnn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    se.training_memory(model, ("pool",), (1, 8, 8), 2, ADAM)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in model.parameters())


def test_what_runs_on_the_device_must_fit_there() -> None:
    memory = se.training_memory(se.load_model("digits_cnn"), ("pool", "flatten"), (1, 8, 8), 4)
    assert memory.on_device == memory["A"].total + memory["C"].total
    assert memory.fits(se.Device("enough", 1, memory.on_device))
    assert not memory.fits(se.Device("too small", 1, memory.on_device, share=0.99))
    table = memory.to_pandas()
    assert list(table.index) == ["A", "B", "C"] and table.loc["B", "total"] == memory["B"].total
    assert "batch 4" in repr(memory) and "activations" in repr(memory)


def test_bad_input_is_refused() -> None:
    model = se.load_model("digits_cnn")
    with pytest.raises(CutError, match="order"):
        se.training_memory(model, ("flatten", "pool"), (1, 8, 8))
    with pytest.raises(CutError, match="'D'"):
        se.training_memory(model, (), (1, 8, 8))["D"]
    with pytest.raises(TrainingError, match="Adma"):
        se.training_memory(model, (), (1, 8, 8), optimizer={"name": "Adma"})
    with pytest.raises(TrainingError, match="memory_bytes"):
        paper_memory(memory_bytes=0)


def test_the_share_that_separates_the_papers_networks() -> None:
    table = pandas.DataFrame({"total": [1.0, 2.0, 3.0], "paper_trained": [True, True, False]})
    assert separating_share(table, 10_000_000) == (pytest.approx(0.2), pytest.approx(0.3))
    table["total"] = [1.0, 3.0, 2.0]
    assert separating_share(table, 10_000_000) is None


@pytest.mark.slow
def test_the_papers_table_says_what_its_docstring_says() -> None:
    table = paper_memory()
    assert list(table["fits"]) == list(table["paper_trained"])
    for batch, window in ((1, None), (2, (0.117, 0.120)), (3, (0.144, 0.151)), (4, None)):
        found = separating_share(paper_memory(batch))
        assert found == (window if window is None else pytest.approx(window, abs=6e-4))
