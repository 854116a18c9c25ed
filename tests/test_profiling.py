"""Profiles: what they add up to, that they leave no trace, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spliteasy.errors import DataError, ProfileError
from spliteasy.explorer.randomness import OwnGenerator
from spliteasy.profiles import cache_folder
from spliteasy.profiling import Profile, profile


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPLITEASY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def quick(model: nn.Module | str, **more: object) -> Profile:
    arguments: dict[str, object] = {"input_shape": networks.SHAPE, "batch": 4, "repeats": 2, "progress": False, **more}
    return profile(model, **arguments)  # type: ignore[arg-type]


SMALL = [networks.Residual, networks.Dense, networks.Branches, networks.Pieces, networks.Shapes, networks.InPlace]


@pytest.mark.parametrize("make", SMALL)
def test_every_operation_has_a_time(make: type[nn.Module]) -> None:
    model = make()
    found = quick(model)
    assert found.operations[-1] == "loss" and list(found.operations[:-1]) == found.program.train.names[1:]
    assert (found.forward > 0).all() and (found.backward >= 0).all() and found.backward.sum() > 0
    assert found.seconds >= (found.forward + found.backward + found.update).sum()
    running = found.before(found.forward)
    assert running[0] == 0 and (np.diff(running) >= 0).all() and running[-1] < found.forward.sum()


def test_the_network_and_the_generator_stay_as_they_are() -> None:
    model = networks.Branches().eval()
    model.second.b[1].train()
    model.head.bias.grad = torch.ones(3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    quick(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert list(gradients) == ["head.bias"] and torch.equal(gradients["head.bias"], torch.ones(3))


def test_a_dropout_draws_and_a_convolution_does_not() -> None:
    found = quick(networks.Branches())
    assert [found.operations[i] for i in np.flatnonzero(found.draws)] == ["drop"]


def test_the_update_belongs_to_operations_with_parameters() -> None:
    found = quick(networks.Residual())
    moved = {name for name, seconds in zip(found.operations, found.update, strict=True) if seconds}
    assert moved == {"one", "two", "norm", "head"}


def test_it_is_kept_by_network_and_shape(own_cache: Path) -> None:
    model = networks.Base()

    class Plain(networks.Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(self.two(self.one(x)))

    first, again = quick(model), quick(model)
    assert cache_folder() == own_cache and (first.forward == again.forward).all()
    assert len(list(own_cache.rglob("*.json"))) == 1
    quick(model, batch=5)
    quick(Plain())
    assert len(list(own_cache.rglob("*.json"))) == 3
    quick(model, batch=6, cache=False)
    assert len(list(own_cache.rglob("*.json"))) == 3


def test_damage_in_the_cache_is_measured_anew(own_cache: Path) -> None:
    quick(networks.Base())
    (kept,) = own_cache.rglob("*.json")
    kept.write_text("{")
    quick(networks.Base())
    json.loads(kept.read_text())


def test_a_saved_profile_comes_back(tmp_path: Path) -> None:
    model = networks.Base()
    first = quick(model, cache=False)
    again = quick(model, saved=first.save(tmp_path / "base.json"))
    assert (first.backward == again.backward).all() and first.other == again.other


@pytest.mark.parametrize("key", ["machine", "torch", "threads", "network", "batch", "input_shape"])
def test_a_foreign_profile_is_refused(tmp_path: Path, key: str) -> None:
    model = networks.Base()
    path = quick(model).save(tmp_path / "base.json")
    text = json.loads(path.read_text())
    text["made"][key] = "another"
    path.write_text(json.dumps(text))
    with pytest.raises(ProfileError, match=rf"this {key}.*Profile again"):
        quick(model, saved=path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"made": 1, "timings": 2}', None])
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ProfileError, match="Profile again"):
        quick(networks.Base(), saved=path)


def test_missing_times_are_refused(tmp_path: Path) -> None:
    path = quick(networks.Base()).save(tmp_path / "base.json")
    text = json.loads(path.read_text())
    text["timings"]["forward"] = text["timings"]["forward"][1:]
    path.write_text(json.dumps(text))
    with pytest.raises(ProfileError, match="for each operation"):
        quick(networks.Base(), saved=path)


def test_bad_input() -> None:
    with pytest.raises(ProfileError, match="repeats"):
        quick(networks.Base(), repeats=0)
    with pytest.raises(ProfileError, match="on the CPU"):
        quick(networks.Base().to("meta"))
    convolution = nn.Sequential(nn.Conv2d(2, 3, 3))
    with pytest.raises(DataError, match="labels"):
        quick(convolution)
    found = quick(convolution, loss=nn.functional.mse_loss, labels=torch.zeros(4, 3, 10, 10))
    assert found.seconds > 0


def test_it_says_what_is_slow() -> None:
    found = profile("digits_cnn", batch=8, repeats=1, progress=False)
    assert found.input_shape == (1, 8, 8) and "conv" in repr(found) and "<pre>" in found._repr_html_()
    assert list(found.to_pandas()["operation"]) == list(found.operations)


def test_another_machine_later_is_noticed() -> None:
    found = quick(networks.Base())
    found.require_current()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ProfileError, match="threads"):
            found.require_current()
    finally:
        torch.set_num_threads(threads)


def test_another_batch_takes_forward_and_backward_in_proportion() -> None:
    found = quick(networks.Branches())
    larger = found.at_batch(12)
    assert (larger.batch, found.batch) == (12, 4) and found.at_batch(4) is found
    assert larger.forward == pytest.approx(3 * found.forward) and larger.backward == pytest.approx(3 * found.backward)
    assert (larger.update == found.update).all() and larger.other == found.other
    assert larger.cuts[3].nbytes == 3 * found.cuts[3].nbytes and larger.kept == {}


def test_progress_can_be_told_and_can_stop_it() -> None:
    told: list[float] = []
    quick(networks.Residual(), cache=False, progress=told.append)
    assert told == pytest.approx([1 / 3, 2 / 3, 1])

    def stop(fraction: float) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        quick(networks.Residual(), cache=False, progress=stop)


def test_in_a_thread_with_a_generator_of_its_own_draws_are_seen_and_the_global_one_stays() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(288, 3))
    state = torch.get_rng_state()
    with OwnGenerator(0):
        found = quick(model, cache=False)
    assert found.draws.tolist() == [False, True, False, False]
    assert torch.equal(torch.get_rng_state(), state)
