"""Every cut of every small network is exact, to the bit, or refused with a reason; and what a split shares."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import batches, differences, twin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import (
    SHAPE,
    SMALL,
    Base,
    Branches,
    Buffers,
    Dense,
    Dropouts,
    InPlace,
    Lengthwise,
    Outputs,
    Pieces,
    Plain,
    Residual,
    Shapes,
    Sliced,
    TiedOutside,
    TiedWithin,
    built,
)
from torch import Tensor, nn

import spliteasy as se
from spliteasy.errors import CutError, DataError, SplitError
from spliteasy.program import Program
from spliteasy.splitting import Split

EXACT = (*SMALL, Sliced)
REFUSED = ("is still alive", "that the device and the server both use", "share memory at this cut")


class Traced:
    """A network traced once, to be split in many ways; each split starts with the same weights."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        self.program = Program(model, shape, 2)
        self.names = self.program.cut_names
        self._state = copy.deepcopy(model.state_dict())

    def split(self, at: Sequence[str]) -> Split:
        """As `se.split` does it once the network is traced."""
        self.program.model.load_state_dict(self._state)
        return Split(self.program, tuple(at))


TRACED = {kind: Traced(built(kind), SHAPE) for kind in EXACT}


def exact_or_refused(kind: type[nn.Module], at: Sequence[str]) -> bool:
    """Train two steps and evaluate; False if the split was refused for one of the known reasons."""
    try:
        split = TRACED[kind].split(at)
    except SplitError as error:
        assert any(reason in str(error) for reason in REFUSED), error
        return False
    assert differences(split, batches(2, SHAPE)) == [], (kind.__name__, at)
    return True


# Every cut


@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.__name__)
def test_every_single_cut_is_exact_or_refused(kind: type[nn.Module]) -> None:
    done = [exact_or_refused(kind, (name,)) for name in TRACED[kind].names]
    least = {Residual: 0.3, TiedWithin: 0.3, TiedOutside: 0.2, Buffers: 0.5}.get(kind, 0.85)
    assert sum(done) >= least * len(done)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_double_split_is_exact_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(EXACT))
    names = TRACED[kind].names[1:]
    first = data.draw(st.integers(0, len(names) - 2))
    second = data.draw(st.integers(first + 1, len(names) - 1))
    exact_or_refused(kind, (names[first], names[second]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.__name__)
def test_every_double_split_is_exact_or_refused(kind: type[nn.Module]) -> None:
    assert any([exact_or_refused(kind, pair) for pair in itertools.combinations(TRACED[kind].names, 2)])


@pytest.mark.parametrize("at", [("expand",), ("norm1", "add_1"), ("qkv", "scaled_dot_product_attention"), ("chunk",)])
def test_tokens_and_attention(at: tuple[str, ...]) -> None:
    split = se.split(built(Lengthwise), at, (10,), dtype=torch.long)
    assert differences(split, batches(3, (10,), dtype=torch.long)) == []


RESNET = [
    ("conv1",), ("layer1.0.add",), ("layer2.0.downsample.0",), ("avgpool",), ("fc",), ("bn1", "layer1.0.bn2"),
    ("layer1.0.conv1", "layer1.0.bn1"), ("layer1.1.bn2", "layer4.0.downsample.1"), ("layer2.0.relu", "fc"),
]  # fmt: skip


@pytest.mark.parametrize("at", RESNET, ids="|".join)
def test_resnet_at_32(at: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    split = se.split(se.load_model("resnet18", num_classes=10), at, (3, 32, 32))
    assert differences(split, batches(2, (3, 32, 32), classes=10)) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_single_cut_of_resnet_at_32() -> None:
    torch.manual_seed(0)
    traced = Traced(se.load_model("resnet18", num_classes=10), (3, 32, 32))
    for name in traced.names:
        assert differences(traced.split((name,)), batches(2, (3, 32, 32), classes=10)) == [], name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("densenet121", 32, 8), ("inception_v3", 80, 6), ("googlenet", 64, 6), ("shufflenet_v2_x0_5", 64, 6),
        ("efficientnet_b0", 64, 6), ("swin_t", 64, 6), ("vit_b_32", 224, 3), ("maxvit_t", 224, 2),
        ("timm/levit_128s", 224, 6), ("timm/ghostnet_050", 64, 6), ("timm/res2net50d", 64, 6),
        ("timm/hrnet_w18_small", 64, 6), ("timm/dla34", 64, 6),
        ("timm/xcit_nano_12_p16_224", 224, 4), ("timm/mobilevit_s", 64, 6), ("timm/convnext_atto", 64, 6),
    ],
)  # fmt: skip
def test_random_cuts_of_larger_networks(name: str, size: int, count: int) -> None:
    generator = torch.Generator().manual_seed(len(name))
    torch.manual_seed(0)
    traced = Traced(se.load_model(name, num_classes=10), (3, size, size))
    for turn in range(count):
        picked = sorted(torch.randperm(len(traced.names) - 1, generator=generator)[: 1 + turn % 2].tolist())
        at = [traced.names[index + 1] for index in picked]
        try:
            split = traced.split(at)
        except SplitError:
            continue
        steps = batches(2, (3, size, size), size=2, classes=10)
        assert differences(split, steps, optimizer={"name": "SGD", "lr": 0.001}) == [], at


# Segments are modules


@pytest.mark.parametrize("kind", [Residual, Dense, Pieces, Shapes, InPlace, Branches], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_segments_one_after_the_other_are_the_network(kind: type[nn.Module], training: bool, every: int) -> None:
    x = batches(1, SHAPE)[0][0]
    whole = built(kind).train(training)
    torch.manual_seed(3)
    expected = whole(x)
    expected.sum().backward()
    for at in list(itertools.combinations(TRACED[kind].names[1::3], 2))[::every]:
        model = built(kind).train(training)
        try:
            split = se.split(model, at, SHAPE)
        except SplitError:
            continue
        assert split.a.training is training and split.b is not None and split.c is not None
        torch.manual_seed(3)
        out = split.c(split.b(split.a(x)))
        assert torch.equal(out, expected)
        out.sum().backward()
        for one, other in zip(model.parameters(), whole.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None)
            assert one.grad is None or torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_segments_share_the_parameters_of_the_network() -> None:
    model = se.load_model("resnet18", num_classes=10)
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    split = se.split(model, ("layer1", "layer3"), (3, 32, 32))
    names: list[str] = []
    for segment in split.segments:
        named = {**dict(segment.named_parameters()), **dict(segment.named_buffers())}
        assert all(tensor.data_ptr() == before[name] for name, tensor in named.items())
        names += named
    assert sorted(names) == sorted(before) and split.model is model
    assert list(split.state_dict()) == list(before)
    assert sum(1 for _ in split.parameters()) == sum(1 for _ in model.parameters())


def test_loading_a_state_reaches_the_segments() -> None:
    model, other = built(Buffers), built(Buffers, seed=1)
    split = se.split(model, "one", SHAPE)
    model.load_state_dict(other.state_dict())
    x = batches(1, SHAPE)[0][0]
    assert torch.equal(split.eval()(x), other.eval()(x))
    assert all(torch.equal(tensor, split.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_modes_pass_through() -> None:
    split = se.split(built(Dropouts), ("drop", "two"), SHAPE)
    assert split.eval() is split
    modules = [module for part in (split.model, *split.segments) for module in part.modules()]
    assert not any(module.training for module in modules)
    assert torch.equal(split(torch.ones(2, *SHAPE)), split(torch.ones(2, *SHAPE)))
    split.train()
    assert all(module.training for module in modules)


def test_a_network_in_eval_mode_stays_in_it() -> None:
    model = built(Residual).eval()
    model.norm.train()
    split = se.split(model, "one", SHAPE)
    assert not model.training and model.norm.training
    assert not any(segment.training for segment in split.segments)


@pytest.mark.parametrize("kind", [Residual, Buffers, Shapes, Dropouts], ids=lambda kind: kind.__name__)
def test_conversion_passes_through(kind: type[nn.Module]) -> None:
    at = TRACED[kind].names[-3]
    split = se.split(built(kind), at, SHAPE)
    assert split.to(torch.float64) is split and split.input_dtype == torch.float64
    assert all(parameter.dtype == torch.float64 for segment in split.segments for parameter in segment.parameters())
    steps = [(x.double(), y) for x, y in batches(2, SHAPE)]
    assert differences(split, steps) == []
    with se.Trainer(split) as trainer, pytest.raises(DataError, match=r"inputs of torch\.float64"):
        trainer.step(*batches(1, SHAPE)[0])
    named = {**dict(split.model.named_buffers()), **dict(split.model.named_parameters())}
    for segment in split.segments:
        for name, tensor in [*segment.named_parameters(), *segment.named_buffers()]:
            assert tensor.data_ptr() == named[name].data_ptr()  # also after the conversion
    assert split.to(torch.float32).input_dtype == torch.float32
    assert differences(split, batches(2, SHAPE)) == []


def test_inputs_that_are_not_floating_stay_so() -> None:
    split = se.split(built(Lengthwise), "norm1", (10,), dtype=torch.long).to(torch.float64)
    assert split.input_dtype == torch.long
    assert differences(split, batches(2, (10,), dtype=torch.long)) == []


def test_no_split() -> None:
    split = se.split(built(Branches), (), SHAPE)
    assert split.b is None and split.c is None and split.segments == [split.a] and split.cuts == ()
    assert differences(split, batches(3, SHAPE)) == []


def test_what_it_says_about_itself() -> None:
    lines = repr(se.split(built(Base), ("one", "two"), SHAPE)).splitlines()
    assert lines[0] == "Base, double split at one, two" and len(lines) == 4
    assert "Segment A: one … one (1 operations, 114 parameters)" in lines[1]
    assert "no split" in repr(se.split(built(Base), (), SHAPE))
    assert "single split at two" in repr(se.split(built(Base), "two", SHAPE))
    last = se.split(built(Base), "head", SHAPE)
    assert "nothing between the cuts" in repr(last.b)
    with pytest.raises(TypeError, match="copy the model"):
        copy.deepcopy(last.a)


def test_the_last_cut_leaves_the_server_the_loss_alone() -> None:
    assert differences(se.split(built(Branches), "head", SHAPE), batches(3, SHAPE)) == []


@pytest.mark.parametrize(
    ("kind", "at"), [(Shapes, ("two",)), (Pieces, ("chunk", "two")), (Lengthwise, ("norm1", "qkv"))], ids=str
)
def test_batches_of_other_sizes(kind: type[nn.Module], at: tuple[str, ...]) -> None:
    shape, dtype = ((10,), torch.long) if kind is Lengthwise else (SHAPE, torch.float32)
    split = se.split(built(kind), at, shape, dtype=dtype)
    assert differences(split, [batches(1, shape, size, dtype=dtype)[0] for size in (5, 1, 3, 2)]) == []


def test_several_outputs() -> None:
    def loss(outputs: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        return F.cross_entropy(outputs[0], y) + outputs[1].square().mean()

    for at in (("one",), ("relu",), ("one", "two"), ("one", "relu"), ("relu", "mean"), ("two", "head"), ("head",)):
        split = se.split(built(Outputs), at, SHAPE)
        with se.Trainer(split, loss=loss, optimizer={"name": "SGD", "lr": 0.1}, seed=5) as trainer:
            model = twin(split.model)
            update = torch.optim.SGD(model.parameters(), lr=0.1)
            for x, y in batches(3, SHAPE):
                expected = loss(model(x), y)
                expected.backward()
                update.step()
                update.zero_grad()
                assert trainer.step(x, y).loss == float(expected), at
        assert all(torch.equal(t, split.state_dict()[k]) for k, t in model.state_dict().items()), at


# What travels


def test_only_what_b_needs_travels() -> None:
    """A skip connection around B stays on the device; one into B and past it is sent once, and its gradient to B."""

    class Skips(Base):
        def forward(self, x: Tensor) -> Tensor:
            early = self.one(x)
            inner = torch.tanh(early)
            outer = self.two(inner)
            return self.pooled(F.relu(outer) + inner + early)

    route = se.split(built(Skips), ("tanh", "two"), SHAPE).routes[True]
    assert route.up == (1,) and route.down == (2,) and route.kept == {0: 0, 1: 1}
    assert route.shared == (1,) and route.back == (2, 1)
    with se.Trainer(se.split(built(Skips), ("tanh", "two"), SHAPE)) as trainer:
        record = trainer.step(*batches(1, SHAPE)[0])
    one = 3 * 6 * 144 * 4
    assert record.bytes["activations"].raw == record.bytes["outputs"].raw == record.bytes["input_gradients"].raw == one
    assert record.bytes["output_gradients"].raw == 2 * one
    assert differences(se.split(built(Skips), ("tanh", "two"), SHAPE), batches(3, SHAPE)) == []


def test_what_b_changes_in_place_comes_back_from_b() -> None:
    class Changes(Base):
        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            y = x * 2
            x.add_(1)
            return self.pooled(self.two(y) + x)

    split = se.split(built(Changes), ("mul", "add"), SHAPE)
    assert split.routes[True].down == (0,) and split.routes[True].kept == {1: 1}
    assert differences(split, batches(3, SHAPE)) == []


def test_a_missing_gradient_stays_missing() -> None:
    class Detached(Base):
        def __init__(self) -> None:
            super().__init__()
            self.three = nn.Conv2d(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(self.three(self.two(self.one(x)).detach()))

    for at in (("one",), ("two",), ("detach",), ("one", "three"), ("two", "three"), ("detach", "mean")):
        split = se.split(built(Detached), at, SHAPE)
        assert (
            differences(split, batches(3, SHAPE), optimizer={"name": "Adam", "lr": 0.01, "weight_decay": 0.1}) == []
        ), at
        assert split.model.one.weight.grad is None


@pytest.mark.parametrize("at", [("one",), ("two",), ("one", "two"), ("relu", "mean")], ids="|".join)
@pytest.mark.parametrize("frozen", [("one",), ("two",), ("head",), ("one", "two"), ("two", "head")], ids="+".join)
def test_parameters_that_do_not_train(at: tuple[str, ...], frozen: tuple[str, ...]) -> None:
    model = built(Base)
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    optimizer = {"name": "Adam", "lr": 0.01, "weight_decay": 0.1}
    assert differences(se.split(model, at, SHAPE), batches(3, SHAPE), optimizer=optimizer) == []


def test_constants_of_a_forward_are_not_state() -> None:
    class Constant(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(self.two(self.one(x) * torch.linspace(0, 1, 12)) + torch.eye(12))

    split = se.split(built(Constant), ("two",), SHAPE)
    assert list(split.state_dict()) == list(built(Base).state_dict())
    assert differences(split, batches(2, SHAPE)) == []


# What is refused


def refused(model: nn.Module, at: Any, match: str, shape: tuple[int, ...] = SHAPE) -> None:
    with pytest.raises(SplitError, match=match):
        se.split(model, at, shape)


def test_hidden_aliases_changed_later() -> None:
    class Views(Base):
        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            flat = x.view(x.shape[0], -1)
            F.relu_(flat)
            return self.pooled(self.two(x))

    refused(built(Views), ("view",), "'one' and 'view' share memory at this cut, and an operation behind it changes")
    for at in (("one",), ("relu",), ("one", "relu"), ("one", "two")):
        assert differences(se.split(built(Views), at, SHAPE), batches(2, SHAPE)) == []


def test_an_alias_of_a_buffer_changed_later() -> None:
    class Alias(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            column = self.seen.view(6, 1, 1)
            x = self.one(x)
            column.add_(1)
            return self.pooled(x + column)

    refused(built(Alias), ("one",), "'seen' and 'view' share memory")
    assert differences(se.split(built(Alias), ("add",), SHAPE), batches(3, SHAPE)) == []


def test_parameters_and_buffers_of_both_sides() -> None:
    refused(built(TiedWithin), ("tanh_1",), "'three.weight', which is 'two.weight' too, is a parameter or buffer that")
    refused(built(TiedOutside), ("two_1",), "'two.weight' is a parameter or buffer")
    refused(built(Residual), ("relu_1",), "'norm.weight' is a parameter or buffer")
    refused(built(Buffers), ("add",), "'steps' is a parameter or buffer")

    class Statistics(Base):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.one(x))
            return self.pooled(self.two(x) + self.norm.running_mean.view(6, 1, 1))

    refused(built(Statistics), ("two",), "'norm.running_mean' is a parameter or buffer")
    assert differences(se.split(built(Statistics), ("one",), SHAPE), batches(3, SHAPE)) == []

    class Functional(Base):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            norm, x = self.norm, self.one(x)
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=self.training)
            return self.pooled(self.two(x) * norm.running_var.view(6, 1, 1))

    refused(built(Functional), ("two",), "'norm.running_var' is a parameter or buffer")
    assert differences(se.split(built(Functional), ("one",), SHAPE), batches(3, SHAPE)) == []


def test_parameters_shared_by_a_and_c_are_summed_in_autograds_order() -> None:
    split = se.split(built(TiedOutside), ("tanh_3", "middle"), SHAPE)
    assert differences(split, batches(4, SHAPE)) == []


def test_random_constants() -> None:
    class Noise(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(self.one(x) + torch.randn(6, 1, 1))

    for at in ((), "one", ("one", "mean")):
        refused(built(Noise), at, r"draws random numbers while it is traced.*rand_like")

    class Alike(Base):
        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            return self.pooled(x + (torch.randn_like(x) + torch.rand(x.shape[0], 1, 1, 1) if self.training else 0))

    assert differences(se.split(built(Alike), ("one", "add"), SHAPE), batches(3, SHAPE)) == []


def test_constants_changed_in_place() -> None:
    class Sums(Base):
        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros(6, 12, 12)
            total += self.one(x)[0]
            return self.pooled(self.two(self.one(x)) + total)

    refused(built(Sums), "two", r"makes a tensor and changes it in place at 'add'.*total = total \+ x")

    class FromInput(Base):
        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros(x.shape[0], 6, 12, 12)
            total += self.one(x)
            return self.pooled(self.two(total))

    for at in (("one",), ("add",), ("one", "two")):
        assert differences(se.split(built(FromInput), at, SHAPE), batches(2, SHAPE)) == []


def test_a_forward_that_hands_something_to_the_next() -> None:
    class Counts(Base):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x) / self.calls

    class Average(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.mean = 0.9 * self.mean + x.mean()
            return super().forward(x - self.mean)

    class State(Base):
        def __init__(self) -> None:
            super().__init__()
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.last is not None:
                x = x + self.last
            self.last = x.detach()
            return super().forward(x)

    for kind, name in ((Counts, "calls"), (Average, "mean"), (State, "last")):
        refused(built(kind), "two", f"assigns its attribute '{name}', which the next one reads")

    class Keeps(Base):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.one(x)
            return self.pooled(self.two(self.seen))

    assert differences(se.split(built(Keeps), "one", SHAPE), batches(2, SHAPE)) == []


def test_hooks_of_the_network_itself() -> None:
    model = built(Base)
    handle = model.register_forward_hook(lambda module, args, out: out * 2)
    refused(model, "one", "Hooks of Base itself would never run")
    handle.remove()
    model.one.register_forward_hook(lambda module, args, out: out * 2)
    model.two.register_full_backward_hook(lambda module, ins, outs: (ins[0] * 0.5,))
    assert differences(se.split(model, ("one", "mean"), SHAPE), batches(2, SHAPE)) == []


def test_inputs_stay_on_the_device_in_a_double_split() -> None:
    class Again(Base):
        def forward(self, x: Tensor) -> Tensor:
            y = self.two(F.relu(self.one(x)))
            return self.pooled(y * x.mean(1, keepdim=True))

    refused(built(Again), ("one", "two"), r"cut 'one' the input itself is still alive.*Cut after 'mean'")
    refused(built(Again), ("input", "mul"), "cut 'input' the input itself")
    refused(built(Plain), ("0", "3"), r"cut '0' the input itself is still alive.*Cut after '1', the last operation")
    assert se.split(built(Plain), ("1", "3"), SHAPE).c is not None
    assert differences(se.split(built(Again), ("mul", "mean_1"), SHAPE), batches(2, SHAPE)) == []
    assert differences(se.split(built(Again), ("one",), SHAPE), batches(2, SHAPE)) == []

    class Copies(Base):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.transpose(2, 3)[:, :, 1:]
            return self.pooled(self.two(self.one(x)) * rows.mean())

    refused(built(Copies), ("two", "mean"), "Cut after 'mean'")


def test_the_input_may_be_alive_to_the_end() -> None:
    class Returns(Base):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), x

    with pytest.raises(SplitError, match=r"still alive.*device\. Use a single split"):
        se.split(built(Returns), ("one", "two"), SHAPE)


def test_values_that_cannot_travel() -> None:
    class Doubled(Base):
        def forward(self, x: Tensor) -> Tensor:
            wave = torch.fft.rfft2(self.one(x).double())
            return self.pooled(self.two(torch.fft.irfft2(wave).float()))

    refused(built(Doubled), "fft_rfft2", "dtype that a frame can hold, found 'fft_rfft2'.*complex128")
    assert differences(se.split(built(Doubled), "double", SHAPE), batches(2, SHAPE)) == []


def test_complex_tensors_travel_with_their_gradients() -> None:
    class Waves(Base):
        def forward(self, x: Tensor) -> Tensor:
            wave = torch.fft.rfft2(self.one(x))
            return self.pooled(self.two(torch.fft.irfft2(wave * 2)))

    for at in (("fft_rfft2",), ("fft_rfft2", "mul")):
        assert differences(se.split(built(Waves), at, SHAPE), batches(2, SHAPE)) == []


def test_shapes_that_do_not_grow_evenly_with_the_batch() -> None:
    class Uneven(Base):
        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            pairs = x.flatten(1) @ x.flatten(1).t()
            return self.pooled(x) + pairs.flatten().mean()

    split = se.split(built(Uneven), "flatten_2", SHAPE)
    with se.Trainer(split) as trainer, pytest.raises(DataError, match="do not grow evenly with the batch"):
        trainer.step(*batches(1, SHAPE, size=5)[0])


@pytest.mark.parametrize(
    ("at", "text"),
    [
        ("max_pool", r"a cut of ResNet, found 'max_pool'\. Did you mean 'maxpool'.*lists all 70"),
        (("maxpool", "avg_pool"), "found 'avg_pool'. Did you mean 'avgpool'"),
        (("avgpool", "maxpool"), "two different cuts in execution order, found 'avgpool' before 'maxpool'; swap them"),
        (("maxpool", "maxpool"), "they are the same"),
        (("layer1", "layer1.1"), "they are the same"),
        (("conv1", "maxpool", "fc"), "no cut, one or two, found 3"),
        ((3,), "name of a cut, such as 'fc'; found 3"),
        (None, "found None"),
        (5, "found 5"),
        ("", "found ''"),
    ],
)
def test_cuts_that_do_not_exist(at: Any, text: str) -> None:
    with pytest.raises(CutError, match=text):
        se.split(se.load_model("resnet18"), at, (3, 32, 32))


def test_shapes_and_numbers_are_no_cuts() -> None:
    with pytest.raises(CutError, match="found 'size'"):
        se.split(built(Shapes), "size", SHAPE)


# Modes that are part of the operations


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.5, self.training)


class Frozen(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Functional()

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.two(self.inner(self.one(x))))


def test_inner_modules_in_eval_mode_are_respected() -> None:
    model = built(Frozen)
    model.inner.eval()
    split = se.split(model, ("one", "two"), SHAPE)
    assert differences(split, batches(3, SHAPE)) == []
    assert not model.inner.training and not model.inner.layer.training


def test_inner_modules_that_change_their_mode_later_are_noticed() -> None:
    split = se.split(built(Frozen), ("one", "two"), SHAPE)
    split.model.inner.eval()
    x, y = batches(1, SHAPE)[0]
    with pytest.raises(SplitError, match=r"Expected 'inner' in the mode of the split.*then split"):
        split(x)
    with se.Trainer(split) as trainer:
        with pytest.raises(SplitError, match="'inner'"):
            trainer.step(x, y)
        split.train()
        trainer.step(x, y)
        trainer.evaluate([(x, y)])


def test_layers_that_change_their_mode_later_are_respected() -> None:
    split = se.split(built(Residual), "one", SHAPE)
    split.model.norm.eval()
    before = split.model.norm.running_mean.clone()
    with se.Trainer(split) as trainer:
        trainer.step(*batches(1, SHAPE)[0])
    assert torch.equal(before, split.model.norm.running_mean)
