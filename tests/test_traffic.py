"""The bytes of all pairs of cuts at once are those of each pair by itself."""

from __future__ import annotations

import itertools
import random

import networks
import pytest
from torch import nn

from spliteasy.cuts import list_cuts
from spliteasy.explorer.network import blueprint
from spliteasy.program import Program
from spliteasy.traffic import Traffic, all_traffic

SMALL = [
    networks.Residual, networks.Dense, networks.Branches, networks.Pieces, networks.Shapes, networks.InPlace,
    networks.Buffers,
]  # fmt: skip


def traffic_of(model: nn.Module, shape: tuple[int, ...]) -> Traffic:
    program = Program(model, shape, 2)
    return Traffic(program, list_cuts(program))


def compare(traffic: Traffic, pairs: list[tuple[int, int]]) -> None:
    everything = all_traffic(traffic)
    for first, last in [*pairs, *((cut.index, None) for cut in traffic.cuts)]:
        sizes, place = (everything.single, first) if last is None else (everything.double, (first, last))
        for name, tensors in traffic.between(first, last).items():
            found = sizes[name]
            coded = sum(tensor.nbytes for tensor in tensors if tensor.dtype.is_floating_point)
            expected = (coded, sum(tensor.nbytes for tensor in tensors) - coded, len(tensors))
            assert (found.coded[place], found.plain[place], found.tensors[place]) == expected, (name, first, last)


@pytest.mark.parametrize("make", SMALL)
def test_every_pair_of_small_networks(make: type[nn.Module]) -> None:
    traffic = traffic_of(make(), networks.SHAPE)
    compare(traffic, list(itertools.combinations(range(len(traffic.cuts)), 2)))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "inception_v3", "vit_b_16"])
def test_random_pairs_of_real_networks(name: str) -> None:
    shape = {"vit_b_16": (3, 224, 224), "inception_v3": (3, 96, 96)}.get(name, (3, 64, 64))
    traffic = traffic_of(blueprint(name, None), shape)
    chosen = random.Random(0)
    pairs = [tuple(sorted(chosen.sample(range(len(traffic.cuts)), 2))) for _ in range(60)]
    compare(traffic, pairs)
