"""The explorer's state without a browser: what is chosen, what it means, and that bad input changes nothing."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from spliteasy.errors import CodecError, CutError, DataError, ModelError, SplitEasyError, TrainingError
from spliteasy.explorer.choices import DOUBLE, SINGLE, parse_shape
from spliteasy.explorer.facts import facts
from spliteasy.explorer.network import Network, blueprint
from spliteasy.explorer.randomness import OwnGenerator
from spliteasy.explorer.state import ExplorerState
from spliteasy.explorer.trial import Cancelled, pictures, run_trial
from spliteasy.link import LINKS, Link
from spliteasy.models import load_model
from spliteasy.splitting import split


@pytest.fixture
def state() -> ExplorerState:
    return ExplorerState("resnet18", batch=32)


class Flat(nn.Module):
    """Its first operation is a view of the input; the second layer's weights are not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.one, self.two = nn.Flatten(), nn.Linear(12, 6), nn.Linear(6, 3)
        self.one.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = torch.relu(self.one(self.flatten(x)))
        result: torch.Tensor = self.two(hidden)
        return result


class Skipping(nn.Module):
    """What the first layer made is read by the second and, far behind it, by the last operation."""

    def __init__(self, read_by_second: bool) -> None:
        super().__init__()
        self.first, self.other, self.second = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.read_by_second = read_by_second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = self.first(x)
        late = self.other(early) if self.read_by_second else self.other(x)
        late = torch.relu(self.second(late))
        result: torch.Tensor = late + early
        return result


def test_the_papers_product() -> None:
    state = ExplorerState("resnet50", batch=32, at="maxpool")
    (cut,) = state.chosen
    assert cut.nbytes == 32 * 56 * 56 * 64 * 4
    known = state.facts
    assert [message.name for message in known.messages] == ["activations", "input_gradients"]
    assert known.nbytes == 2 * cut.nbytes and known.calls == 1 and known.label_bytes == 8 * 32
    assert known.seconds == pytest.approx(LINKS["lte"].seconds(cut.nbytes, cut.nbytes, 1))
    model = load_model("resnet50")
    before = sum(parameter.numel() for name in ("conv1", "bn1") for parameter in model.get_submodule(name).parameters())
    assert known.device_params == cut.params_before == before


def test_it_begins_after_the_first_pooling_and_keeps_the_classifier_on_the_device(state: ExplorerState) -> None:
    assert [cut.name for cut in state.chosen] == ["maxpool"]
    state.update(mode=DOUBLE)
    assert [cut.name for cut in state.chosen] == ["maxpool", "flatten"]
    shares = state.facts.segments
    assert [(share.letter, share.place) for share in shares] == [("A", "device"), ("B", "server"), ("C", "device")]
    assert sum(share.params for share in shares) == sum(p.numel() for p in load_model("resnet18").parameters())
    assert sum(share.operations for share in shares) == len(state.cuts) - 1
    assert shares[2].params == 512 * 1000 + 1000


@pytest.mark.parametrize(
    "bad",
    [
        {"model": "resnet5"},
        {"model": ""},
        {"batch": 0},
        {"batch": -3},
        {"batch": 2.5},
        {"batch": True},
        {"input_shape": "wide"},
        {"input_shape": ()},
        {"input_shape": "3, 0, 4"},
        {"input_shape": "5, 224, 224"},
        {"num_classes": -1},
        {"chain": "zstd(1) | fp16"},
        {"chain": "no_such_codec"},
        {"chain": "fp16 |"},
        {"link": "pigeon"},
        {"mode": "triple"},
        {"at": "layer9"},
        {"at": ("flatten", "maxpool")},
        {"at": ("maxpool", "maxpool")},
        {"at": ()},
        {"first": 10_000},
        {"first": -1},
        {"model": "densenet121", "chain": "no_such_codec"},
    ],
)
def test_bad_input_is_named_and_changes_nothing(state: ExplorerState, bad: dict[str, object]) -> None:
    before, told = _values(state), []
    state.observe(told.append)
    with pytest.raises(SplitEasyError):
        state.update(**bad)  # type: ignore[arg-type]
    assert _values(state) == before and not told
    assert state.facts.nbytes > 0


def test_messages_say_what_to_do(state: ExplorerState) -> None:
    with pytest.raises(ModelError, match=r"resnet5.*Did you mean 'resnet50'"):
        state.update(model="resnet5")
    with pytest.raises(CutError, match=r"Did you mean"):
        state.update(at="maxpol")
    with pytest.raises(CutError, match=r"swap them"):
        state.update(at=("flatten", "maxpool"))
    with pytest.raises(CodecError, match=r"fp16 \| zstd\(1\)"):
        state.update(chain="zstd(1) | fp16")
    with pytest.raises(TrainingError, match=r"lan.*'3gg'.*Did you mean '3g'"):
        state.update(link="3gg")
    with pytest.raises(DataError, match=r"1 or more.*found 0"):
        state.update(batch=0)
    with pytest.raises(TypeError, match=r"found 'bach'"):
        state.update(bach=3)


def test_traits_cannot_be_set_past_the_checks(state: ExplorerState) -> None:
    import traitlets

    with pytest.raises(traitlets.TraitError):
        state.batch = 0


def test_observers_see_one_finished_change(state: ExplorerState) -> None:
    seen: list[tuple[str, int, str]] = []
    state.observe(lambda change: seen.append((change["name"], state.batch, state.chosen[0].name)))
    state.update(model="vgg11", batch=4, at="features.5")
    assert {name for name, *_ in seen} >= {"model", "batch", "first"}
    assert {rest for _, *rest in map(tuple, seen) for rest in [tuple(rest)]} == {(4, "features.5")}


def test_a_new_model_keeps_the_nearest_cut(state: ExplorerState) -> None:
    state.update(model="resnet34", at=None)
    assert state.chosen[0].name == "maxpool"
    state.update(model="densenet121")
    assert state.chosen[0].name == "features.pool0"
    state.update(mode=DOUBLE)
    state.update(model="vgg11")
    first, last = state.chosen
    assert first.index < last.index
    state.update(model="timm/inception_resnet_v2")
    assert state.input_shape == (3, 299, 299)
    state.update(batch=1)
    assert state.input_shape == (3, 299, 299)


def test_classes(state: ExplorerState) -> None:
    assert state.classes == 1000 and state.num_classes == 0
    state.update(num_classes=10)
    assert state.classes == 10
    state.update(model="resnet34")
    assert state.classes == 10
    state.update(num_classes=None)
    assert state.classes == 1000


def test_a_module_of_your_own() -> None:
    model = Flat()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = ExplorerState(model, input_shape=(3, 2, 2), batch=5)
    assert state.model == "Flat (yours)" and state.own == ("Flat (yours)",)
    state.update(model="digits_cnn")
    assert state.input_shape == (1, 8, 8)
    state.update(model="Flat (yours)", input_shape=(3, 2, 2))
    assert len(state.cuts) == 5 and state.num_classes == 0
    other = Flat()
    state.update(model=other, input_shape=(3, 2, 2))
    assert state.model == "Flat (yours, 2)" and state.plan.network is other
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_double_split_starts_where_the_input_has_ended() -> None:
    state = ExplorerState(Flat(), input_shape=(3, 2, 2), batch=5)
    names = state.cuts.names
    assert names[state.first_private] == "one"  # the input and its flattened view come before
    for index in range(state.first_private):
        with pytest.raises(CutError, match=r"inputs stay on the device"):
            state.update(mode=DOUBLE, first=index, last=4)
    state.update(mode=DOUBLE)
    for first, last in itertools.combinations(range(state.first_private, len(state.cuts)), 2):
        state.update(first=first, last=last)
        split(Flat(), at=tuple(cut.name for cut in state.chosen), input_shape=(3, 2, 2))


def test_a_network_too_short_for_two_cuts() -> None:
    state = ExplorerState(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), input_shape=(3, 2, 2), batch=1)
    assert not state.can_double
    with pytest.raises(CutError, match=r"Use a single split"):
        state.update(mode=DOUBLE)
    assert state.mode == SINGLE


def test_only_what_depends_on_a_trained_parameter_has_a_gradient() -> None:
    network = Network(Flat(), (3, 2, 2), batch=5)
    for name, sent in (("input", ()), ("flatten", ()), ("relu", ()), ("two", ("two",))):
        gradients = network.traffic(network.cuts[name].index)["input_gradients"]
        assert tuple(tensor.name for tensor in gradients) == sent


@pytest.mark.parametrize("read_by_second", [True, False])
def test_a_tensor_that_passes_by_b_stays_on_the_device(read_by_second: bool) -> None:
    network = Network(Skipping(read_by_second), (4,), batch=2)
    lo = network.cuts["first" if read_by_second else "other"].index
    traffic = network.traffic(lo, network.cuts["relu"].index)
    names = {message: [tensor.name for tensor in tensors] for message, tensors in traffic.items()}
    if read_by_second:  # B reads it, so C's gradient for it goes to B; B sends only what it made
        assert names == {
            "activations": ["first"],
            "outputs": ["relu"],
            "output_gradients": ["first", "relu"],
            "input_gradients": ["first"],
        }
    else:
        assert names == {
            "activations": ["other"],
            "outputs": ["relu"],
            "output_gradients": ["relu"],
            "input_gradients": ["other"],
        }


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (3, 64, 64)),
        ("densenet121", (3, 64, 64)),
        ("inception_v3", (3, 96, 96)),
        ("vit_b_16", (3, 224, 224)),
        ("mobilenet_v3_small", (3, 64, 64)),
    ],
)
def test_messages_are_those_of_a_real_split(name: str, shape: tuple[int, int, int]) -> None:
    model = blueprint(name, None)
    network = Network(model, shape, batch=2)
    count = len(network.cuts)
    for first, last in [(network.first_private, count - 2), (count // 3, count // 3 + 7), (count // 2, 3 * count // 4)]:
        at = (network.cuts[first].name, network.cuts[last].name)
        real = split(model, at=at, input_shape=shape)
        route = real.routes[True]
        ends = [segment.exit[True] for segment in real.segments[:2]]
        assert ends[0] is not None and ends[1] is not None
        traffic = network.traffic(first, last)
        for message, boundary, slots in (
            ("activations", ends[0], route.up),
            ("outputs", ends[1], route.down),
            ("output_gradients", ends[1], route.back),
        ):
            expected = sorted((boundary.slots[slot].name, boundary.slots[slot].shape(2)) for slot in slots)
            assert sorted((tensor.name, tensor.shape) for tensor in traffic[message]) == expected


def test_seconds_add_up() -> None:
    link = Link(up_mbps=8, down_mbps=4, rtt_ms=100, name="test")
    network = Network(Skipping(True), (4,), batch=1000)
    known = facts(network, (network.cuts["first"].index, network.cuts["relu"].index), link)
    up = sum(message.nbytes for message in known.messages if message.up)
    down = known.nbytes - up
    assert known.seconds == pytest.approx(up / 1e6 + down / 5e5 + 0.2)
    assert sum(message.seconds for message in known.messages) + 0.2 == pytest.approx(known.seconds)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("224", (3, 224, 224)),
        (96, (3, 96, 96)),
        ("3x32x48", (3, 32, 48)),
        ("(1, 8, 8)", (1, 8, 8)),
        ("100,", (100,)),
        ([7], (7,)),
        ("3 × 8 × 8", (3, 8, 8)),
    ],
)
def test_shapes_as_people_write_them(text: object, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == shape


def test_exploring_draws_no_random_number_from_the_session() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    state = ExplorerState("digits_cnn", at=("pool", "dropout"))
    state.update(model="regnet_y_400mf")  # cannot be built without values
    state.update(model="digits_cnn", at=("pool", "dropout"))
    run_trial(state.plan)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_own_generator_draws_what_the_global_one_would() -> None:
    draws = [
        lambda: torch.rand(3),
        lambda: torch.randn_like(torch.ones(4)),
        lambda: torch.randperm(9),
        lambda: torch.randint(2, 10, (3,)),
        lambda: torch.bernoulli(torch.full((5,), 0.5)),
        lambda: nn.functional.dropout(torch.ones(32)),
        lambda: nn.init.trunc_normal_(torch.empty(5)),
        lambda: nn.Linear(3, 2).weight,
    ]
    for draw in draws:
        torch.manual_seed(3)
        expected = draw()
        before = torch.get_rng_state()
        with OwnGenerator(3):
            assert torch.equal(draw(), expected)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_trial_measures_what_crosses() -> None:
    state = ExplorerState("digits_cnn", batch=20, at=("pool", "dropout"), chain="raw")
    seen: list[float] = []
    trial = run_trial(state.plan, lambda fraction, doing: seen.append(fraction))
    assert [row.message for row in trial.messages] == ["activations", "outputs"]
    first, second = trial.messages
    assert first.raw_bytes == 20 * 32 * 4 * 4 * 4 and second.raw_bytes == 20 * 64 * 4 * 4 * 4
    assert first.relative_l2 == 0 and first.cosine == 1 and 0.9 < first.ratio <= 1
    assert seen == sorted(seen) and seen[-1] == 1
    state.update(chain="fp16 | zstd(1)")
    lossy = run_trial(state.plan).messages[0]
    assert lossy.ratio > 1.8 and 0 < lossy.relative_l2 < 1e-3


def test_trials_are_kept_by_cut_and_by_chain(state: ExplorerState) -> None:
    state.update(model="digits_cnn", at="pool", chain="fp16")
    for chain in ("fp16", "raw", "fp16"):
        state.update(chain=chain)
        state.remember(run_trial(state.plan))
    assert [chain for chain, _ in state.trials] == ["raw", "fp16"]
    state.update(at="relu1")
    assert state.trials == ()
    state.update(at="pool", link="3g")
    assert len(state.trials) == 2
    state.update(batch=7)
    assert state.trials == ()


def test_a_trial_takes_the_batch_where_that_is_quick() -> None:
    state = ExplorerState("resnet50", batch=32, at="maxpool")
    assert state.plan.photographs == 32
    state.update(at="flatten")
    assert state.plan.photographs == 3
    state.update(batch=1)
    assert state.plan.photographs == 2
    state.update(model="digits_cnn", batch=1000)
    assert state.plan.photographs == 64


def test_a_trial_can_be_cancelled_between_operations() -> None:
    cancel, plan = threading.Event(), ExplorerState("resnet18").plan

    def stop(fraction: float, doing: str) -> None:
        if "through segment" in doing:
            cancel.set()

    with pytest.raises(Cancelled):
        run_trial(plan, stop, cancel)


def test_pictures_take_the_networks_shape() -> None:
    assert pictures((3, 20, 30), 2).shape == (2, 3, 20, 30)
    grey = pictures((1, 8, 8), 2)
    assert grey.shape == (2, 1, 8, 8)
    with pytest.raises(DataError, match=r"se.measure"):
        pictures((100,), 2)


def test_the_state_needs_neither_widgets_nor_a_notebook() -> None:
    code = (
        "import sys; import spliteasy.explorer.state, spliteasy.explorer.render, spliteasy.explorer.tables;"
        "from spliteasy.explorer import explore;"
        "print([name for name in ('ipywidgets', 'IPython', 'matplotlib') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.fixture(autouse=True)
def _same_random_numbers_afterwards() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def _values(state: ExplorerState) -> dict[str, object]:
    return {name: getattr(state, name) for name in state.trait_names()}
