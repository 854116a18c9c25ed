"""What the package promises first: trained in segments, a network equals itself trained whole, to the bit.

Losses, parameters, buffers and optimizer state over five steps; residual, dense and inception blocks and dropout;
single and double splits and cuts inside a block; in this process and over HTTP.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spliteasy as se

SGD = {"name": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
ADAM = {"name": "Adam", "lr": 0.001}
SEED, STEPS = 11, 5

CASES = [
    ("digits_cnn", 8, ("pool",)),
    ("digits_cnn", 8, ("norm1", "dropout")),
    ("resnet18", 64, ("maxpool", "avgpool")),
    ("resnet18", 64, ("layer1.0.bn1", "layer2.0.bn2")),
    ("resnet18", 64, ("layer2.0.conv1",)),
    ("densenet121", 32, ("features.pool0",)),
    ("densenet121", 32, ("features.denseblock1.denselayer3.conv1", "features.denseblock2.denselayer5.norm2")),
    ("inception_v3", 96, ("Mixed_5b.branch5x5_1.conv", "Mixed_6a.cat")),
]


def batches(split: se.Split) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Five batches, the last one smaller, as at the end of an epoch."""
    generator = torch.Generator().manual_seed(3)
    sizes = [3] * (STEPS - 1) + [2]
    return [
        (torch.randn(n, *split.input_shape, generator=generator), torch.randint(0, 10, (n,), generator=generator))
        for n in sizes
    ]


def train_whole(model: nn.Module, config: dict[str, Any], data: list[Any]) -> tuple[list[float], torch.optim.Optimizer]:
    """The reference: plain eager PyTorch, the generator seeded for each step."""
    arguments = dict(config)
    optimizer = getattr(torch.optim, arguments.pop("name"))(model.parameters(), **arguments)
    model.train()
    losses = []
    for step, (x, y) in enumerate(data):
        torch.manual_seed(se.step_seed(SEED, step))
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, optimizer


RUNS = [
    pytest.param(
        *case,
        config,
        where,
        id=f"{case[0]}-{case[2]}-{config['name']}-{where}",
        marks=pytest.mark.slow if number > 3 and (config is ADAM or where == "in-process") else (),
    )
    for number, case in enumerate(CASES)
    for config in (SGD, ADAM)
    for where in ("in-process", "http")
]


@pytest.mark.parametrize(("name", "size", "cuts", "config", "where"), RUNS)
def test_split_equals_whole(
    name: str, size: int, cuts: tuple[str, ...], config: dict[str, Any], where: str, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(0)
    model = se.load_model(name, num_classes=10)
    whole = copy.deepcopy(model)
    split = se.split(model, at=cuts, input_shape=(1 if name == "digits_cnn" else 3, size, size))
    data = batches(split)
    url = request.getfixturevalue("server").url if where == "http" else None
    with se.Trainer(split, server=url, optimizer=config, seed=SEED) as trainer:
        losses = [trainer.step(x, y).loss for x, y in data]
        state = trainer.state_dict()
    expected, optimizer = train_whole(whole, config, data)
    assert losses == expected
    for key, value in whole.state_dict().items():
        assert torch.equal(value, state["model"][key]), key
    reference = optimizer.state_dict()
    assert state["optimizer"]["param_groups"] == reference["param_groups"]
    assert state["optimizer"]["state"].keys() == reference["state"].keys()
    for index, entries in reference["state"].items():
        for key, value in entries.items():
            ours = state["optimizer"]["state"][index][key]
            assert torch.equal(value, ours) if isinstance(value, torch.Tensor) else value == ours, (index, key)
