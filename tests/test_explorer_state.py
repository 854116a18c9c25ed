"""The explorer's state without a browser: what is chosen, what it means, and that bad input changes nothing."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from spliteasy.errors import CodecError, CutError, DataError, ModelError, SplitEasyError, TrainingError
from spliteasy.explorer.choices import DOUBLE, SINGLE, parse_shape, preset_chains, preset_codecs, usual_codecs
from spliteasy.explorer.facts import facts
from spliteasy.explorer.network import Network, blueprint
from spliteasy.explorer.randomness import OwnGenerator
from spliteasy.explorer.state import ExplorerState
from spliteasy.explorer.training import STEPS, Training
from spliteasy.explorer.trial import Cancelled, run_trial
from spliteasy.inputs import digit_batches, photographs
from spliteasy.link import LINKS, Link
from spliteasy.models import load_model
from spliteasy.splitting import split
from spliteasy.trainer import Trainer
from spliteasy.wire import Codecs


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
        pytest.param("densenet121", (3, 64, 64), marks=pytest.mark.slow),
        pytest.param("inception_v3", (3, 96, 96), marks=pytest.mark.slow),
        pytest.param("vit_b_16", (3, 224, 224), marks=pytest.mark.slow),
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


def test_a_step_draws_from_an_own_generator_what_it_draws_from_the_global_one() -> None:
    losses = []
    for within in (contextlib.nullcontext(), OwnGenerator(7)):
        torch.manual_seed(0)
        parts = split(load_model("digits_cnn"), at=("pool", "flatten"), input_shape=(1, 8, 8))  # drops out at random
        x, y = torch.ones(4, 1, 8, 8), torch.arange(4)
        before = torch.get_rng_state()
        with within:
            trainer = Trainer(parts, codecs="topk(0.5)")
            losses.append([trainer.step(x, y).loss for _ in range(3)])
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]


def test_a_trial_measures_every_message_of_a_real_step() -> None:
    state = ExplorerState("digits_cnn", batch=20, at=("pool", "dropout"), codecs="raw")
    seen: list[float] = []
    trial = run_trial(state.plan, lambda fraction, doing: seen.append(fraction))
    rows = {row.message: row for row in trial.messages}
    assert list(rows) == ["activations", "outputs", "output_gradients", "input_gradients"]
    assert rows["activations"].raw_bytes == rows["input_gradients"].raw_bytes == 20 * 32 * 4 * 4 * 4
    assert rows["outputs"].raw_bytes == rows["output_gradients"].raw_bytes == 20 * 64 * 4 * 4 * 4
    assert all(row.relative_l2 == 0 and row.cosine == 1 and 0.9 < row.ratio <= 1 for row in rows.values())
    assert seen == sorted(seen) and seen[-1] == 1
    assert trial.seconds["b_forward"] > 0 and trial.seconds["a_backward"] > 0
    state.update(forward="fp16 | zstd(1)")
    lossy = run_trial(state.plan).messages
    assert lossy[0].ratio > 1.8 and 0 < lossy[0].relative_l2 < 1e-3
    assert lossy[3].chain == "raw" and lossy[3].relative_l2 == 0


def test_a_trial_fits_what_is_to_be_fitted() -> None:
    state = ExplorerState("digits_cnn", batch=16, at="pool", codecs="pca(2, axis='channel') | int8")
    trial = run_trial(state.plan)
    assert trial.fitted_bytes > 0 and all(row.ratio > 10 for row in trial.messages)


def test_without_class_scores_only_forward_messages_are_tried() -> None:
    state = ExplorerState(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), input_shape=(3, 16, 16), at="0")
    assert state.classes is None
    trial = run_trial(state.plan)
    assert [row.message for row in trial.messages] == ["activations"] and trial.seconds == {}
    state.remember(trial)
    assert state.budget.samples == 0 and state.budget.missing == ("input_gradients",)


def test_chains_for_each_message() -> None:
    state = ExplorerState("digits_cnn", at=("pool", "flatten"), codecs="fp16")
    state.update(backward="int8", outputs="raw")
    assert state.codecs == Codecs(activations="fp16", outputs="raw", output_gradients="int8", input_gradients="int8")
    state.update(chain="zstd(1)")
    assert state.codecs == Codecs(forward="zstd(1)", backward="zstd(1)")
    before = state.codecs
    with pytest.raises(CodecError, match="fp16"):
        state.update(activations="zstd(1) | fp16", outputs="raw")
    assert state.codecs == before


def test_every_preset_can_be_tried() -> None:
    state = ExplorerState("digits_cnn", batch=8, at=("pool", "flatten"))
    assert usual_codecs() in preset_codecs().values() and "raw" in preset_chains()
    for name, codecs in preset_codecs().items():
        state.update(codecs=codecs)
        trial = run_trial(state.plan)
        assert len(trial.messages) == 4, name


def test_trials_are_kept_by_cut_and_by_chain(state: ExplorerState) -> None:
    state.update(model="digits_cnn", at="pool")
    for chain in ("fp16", "raw", "fp16"):
        state.update(chain=chain)
        state.remember(run_trial(state.plan))
    assert [(row.chain, row.message) for row in state.trials] == [
        (chain, message) for chain in ("raw", "fp16") for message in ("activations", "input_gradients")
    ]
    state.update(at="relu1")
    assert state.trials == ()
    state.update(at="pool", link="3g")
    assert len(state.trials) == 4
    state.update(batch=7)
    assert state.trials == ()


def test_the_budget_is_the_links_until_it_is_measured_and_then_a_steps() -> None:
    state = ExplorerState("digits_cnn", batch=20, at=("pool", "flatten"), codecs="fp16")
    known = state.budget
    assert known.raw_seconds == pytest.approx(state.facts.seconds)
    assert known.sent is None and known.sent_seconds is None and known.samples == 0
    assert known.missing == ("activations", "outputs", "output_gradients", "input_gradients")
    state.update(chain="raw")
    assert state.budget.missing == () and state.budget.sent_seconds == pytest.approx(state.facts.seconds)
    state.update(chain="fp16")
    trial = run_trial(state.plan)
    state.remember(trial)
    known = state.budget
    assert known.samples == 20 and known.missing == () and known.sent is not None
    computing = sum(
        trial.seconds[phase] for phase in ("a_forward", "b_forward", "c", "b_backward", "a_backward", "update")
    )
    assert known.raw_seconds == pytest.approx(state.facts.seconds + computing)
    frames = {row.message: row.frame_bytes for row in trial.messages}
    assert {part.label: part.nbytes for part in known.sent if part.kind in ("up", "down")} == pytest.approx(frames)
    assert [part.kind for part in known.sent] == ["device", "codecs", "up", "up", "server", "down", "down", "trips"]
    state.update(batch=40)
    assert state.budget.missing != ()


def test_a_trial_takes_the_batch_where_that_is_quick() -> None:
    state = ExplorerState("resnet50", batch=32, at="maxpool")
    assert state.plan.photographs == 7
    state.update(batch=1)
    assert state.plan.photographs == 2
    state.update(model="digits_cnn", batch=1000)
    assert state.plan.photographs == 64
    state.update(model="vgg19", batch=32)
    assert state.plan.photographs == 2 and state.training_plan.batch == 2


def test_a_trial_can_be_cancelled_between_operations() -> None:
    cancel, plan = threading.Event(), ExplorerState("resnet18").plan

    def stop(fraction: float, doing: str) -> None:
        if "through the network" in doing:
            cancel.set()

    with pytest.raises(Cancelled):
        run_trial(plan, stop, cancel)


def test_a_few_steps_are_a_real_session() -> None:
    state = ExplorerState("digits_cnn", batch=16, at=("pool", "flatten"), codecs="fp16 | zstd(1)")
    shown: list[int] = []
    log = Training(state.training_plan).run(lambda records: shown.append(len(records)))
    assert shown == list(range(1, STEPS + 1)) and len(log) == STEPS
    assert log.losses[-1] < log.losses[0]
    assert all(size.http > size.frame > 0 and size.raw > size.http for size in log[-1].bytes.values())


def test_a_few_steps_of_a_module_of_your_own_run_here() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    before = [parameter.clone() for parameter in model.parameters()]
    state = ExplorerState(model, input_shape=(1, 8, 8), at="1")
    log = Training(state.training_plan).run()
    assert len(log) == STEPS and all(size.http == 0 < size.frame for size in log[0].bytes.values())
    assert all(map(torch.equal, before, model.parameters())), "a copy was trained"


def test_training_says_what_it_cannot_do() -> None:
    with pytest.raises(DataError, match="class scores"):
        Training(ExplorerState(nn.Conv2d(1, 2, 3), input_shape=(1, 8, 8)).training_plan).run()
    with pytest.raises(DataError, match=r"se\.Trainer"):
        Training(ExplorerState(nn.Linear(8, 3), input_shape=(8,)).training_plan).run()


@pytest.mark.parametrize("moment", ["starting a server", "step 2"])
def test_training_can_be_cancelled_wherever_it_is(moment: str) -> None:
    training = Training(ExplorerState("digits_cnn", batch=16, at="pool").training_plan)

    def stop(fraction: float, doing: str) -> None:
        if moment in doing:
            training.cancel()

    with pytest.raises(Cancelled):
        training.run(progress=stop)


def test_pictures_take_the_networks_shape() -> None:
    assert photographs((3, 20, 30), 2).shape == (2, 3, 20, 30)
    grey = photographs((1, 8, 8), 2)
    assert grey.shape == (2, 1, 8, 8)
    with pytest.raises(DataError, match=r"se.measure"):
        photographs((100,), 2)
    batches = digit_batches((3, 16, 24), 4, 5, 3)
    assert [(x.shape, int(y.max()) < 4) for x, y in batches] == [((5, 3, 16, 24), True)] * 3


def test_choices_are_taken_over_as_far_as_they_go() -> None:
    old = ExplorerState("resnet18", batch=4, at=("maxpool", "flatten"), codecs="int8")
    old.update(link="3g", log=True)
    new = ExplorerState("resnet34")
    new.take_over(old)
    assert [cut.name for cut in new.chosen] == ["maxpool", "flatten"]
    assert (new.batch, new.link, new.log, new.codecs) == (4, "3g", True, old.codecs)
    other = ExplorerState("digits_cnn")
    other.take_over(old)
    assert other.batch == 4 and other.mode == SINGLE


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
