"""What chains are measured on is what crosses: tensors and gradients of the first step, at every cut."""

from __future__ import annotations

from pathlib import Path

import networks
import pytest
import torch
from torch import nn

import spliteasy as se
from spliteasy.errors import PlanError, SplitError
from spliteasy.planning import plan
from spliteasy.planning.calibration import calibrated
from spliteasy.planning.samples import kinds_of, samples_of
from spliteasy.profiling import Profile, profile

MADE = [networks.Residual, lambda: networks.Dense(2), networks.Branches, networks.InPlace]


def profiled(model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setenv("SPLITEASY_CACHE", str(folder))
    return profile(model, networks.SHAPE, 4, repeats=1, progress=False)


@pytest.mark.parametrize("make", MADE)
def test_samples_are_what_crosses_in_the_first_step(
    make: type[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = profiled(make(), tmp_path, monkeypatch)
    torch.manual_seed(3)
    x = torch.rand(known.batch, *known.input_shape)
    monkeypatch.setattr("spliteasy.planning.samples._inputs", lambda program, batch: x[:batch])
    samples = {sample.cut: sample for sample in samples_of(known, kinds_of(known.program, known.cuts.names))}
    assert set(samples) == set(range(len(known.cuts))), "all cuts of a small network"
    compared = 0
    for cut in known.cuts:
        try:
            split = se.split(known.program.model, cut.name, known.input_shape)
        except SplitError:
            continue
        labels = torch.arange(len(x)) % (split.classes or 1)
        crossing = se.crossing_tensors(split, x, labels)
        found = samples[cut.index]
        assert _alike(found.tensors, crossing["activations"]), cut.name
        assert _alike(found.gradients, crossing["input_gradients"]), cut.name
        compared += 1
    assert compared > 3


def _alike(some: object, others: object) -> bool:
    """The same tensors in any order; missing gradients apart."""
    one, two = (sorted((t.flatten() for t in tensors if t is not None and t.is_floating_point()),
                       key=lambda t: (len(t), float(t.double().abs().sum())))
                for tensors in (some, others))  # type: ignore[attr-defined]  # fmt: skip
    return len(one) == len(two) and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, two, strict=True))


def test_kinds_tell_a_branch_from_a_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = profiled(networks.Residual(), tmp_path, monkeypatch)
    kinds = dict(zip(known.cuts.names, kinds_of(known.program, known.cuts.names), strict=True))
    assert any(len(kind) > 1 for kind in kinds.values()), "where a skip connection is alive"
    assert len(set(kinds.values())) > 2


def test_predicted_bytes_of_a_lossless_chain_are_those_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ratio differs from cut to cut, and the plan knows it at each."""
    pytest.importorskip("zstandard")
    monkeypatch.setenv("SPLITEASY_CACHE", str(tmp_path))
    known = profile("resnet18", (3, 32, 32), 4, repeats=1, progress=False)
    (cost,) = calibrated(known, ["fp16 | zstd(1)"], progress=False)
    x, y = se.data.photos(4, size=32), torch.arange(4)
    for name in ("maxpool", "layer2.0.conv2", "layer3.0.bn2", "layer4.1.relu"):
        split = se.split(known.program.model, name, (3, 32, 32))
        with se.Trainer(split, codecs=cost.codecs, optimizer={"name": "SGD", "lr": 1e-9}) as trainer:
            record = trainer.step(x, y)
        index = known.cuts[name].index
        for message in ("activations", "input_gradients"):
            fixed, slope = cost.messages[message].nbytes.at(index)
            size = record.bytes[message]
            predicted = fixed + slope * known.traffic.single[message].coded[index]
            assert predicted == pytest.approx(size.frame, rel=0.15, abs=600), (name, message)


def test_a_cost_measured_on_another_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (profiled(make(), tmp_path, monkeypatch) for make in (networks.Residual, networks.Branches))
    (cost,) = calibrated(one, ["fp16"], progress=False)
    with pytest.raises(PlanError, match="of another"):
        plan(two, link="lte", chains=[cost], progress=False)
