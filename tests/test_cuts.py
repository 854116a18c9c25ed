"""Where networks can be cut: every family, the numbers in the table, and that listing them leaves no trace."""

from __future__ import annotations

import copy
import itertools
import random
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import SHAPE, SMALL, Base, Dense, Lengthwise, LooksAtValues, Outputs, Residual, Sliced, Values, built
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import spliteasy as se
from spliteasy.errors import CutError, DataError, TraceError
from spliteasy.models import input_size_of
from spliteasy.program import Program

FAMILIES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet50", "shufflenet_v2_x0_5",
    "squeezenet1_0", "swin_t", "vgg11", "vit_b_32",
]  # fmt: skip
TORCHVISION = [name for name in se.list_models() if not name.startswith("timm/") and name != "digits_cnn"]
TIMM = [
    "timm/efficientvit_b0", "timm/inception_resnet_v2", "timm/levit_128s", "timm/mixer_s32_224",
    "timm/mobilenetv4_conv_small", "timm/resnetv2_18", "timm/xcit_nano_12_p16_224",
]  # fmt: skip


def check_list(model: nn.Module, cuts: se.Cuts) -> None:
    """What must hold for the cuts of any network."""
    assert cuts[0].name == "input" and cuts[0].params_before == cuts[0].macs_before == 0
    assert cuts[0].tensors[0].shape == (cuts.batch, *cuts.input_shape)
    assert len(set(cuts.names)) == len(cuts) == len(cuts.names)
    assert [cut.index for cut in cuts] == list(range(len(cuts)))
    total = sum(parameter.numel() for parameter in model.parameters())
    for cut in cuts:
        assert cut.tensors and cut.params_before + cut.params_after == total
        assert cut.nbytes == sum(tensor.numel * tensor.dtype.itemsize for tensor in cut.tensors) > 0
        assert all(tensor.shape[0] == cuts.batch for tensor in cut.tensors[:1] if tensor.name == "input")
    for before, after in itertools.pairwise(cuts):
        assert before.params_before <= after.params_before and before.macs_before <= after.macs_before
    assert len({cut.macs_before + cut.macs_after for cut in cuts}) <= 2  # rounded down on either side
    assert cuts[-1].params_after == cuts[-1].macs_after == 0


# Every family


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision_family(name: str) -> None:
    model = se.load_model(name)
    check_list(model, se.find_cuts(model, input_size_of(model)))


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_every_torchvision_network(name: str) -> None:
    model = se.load_model(name)
    check_list(model, se.find_cuts(model, input_size_of(model), batch=2))


def test_there_are_eighty_of_them() -> None:
    assert len(TORCHVISION) == 80


@pytest.mark.parametrize("name", TIMM)
def test_timm_family(name: str) -> None:
    model = se.load_model(name)
    check_list(model, se.find_cuts(model, input_size_of(model)))


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.__name__)
def test_small_network(kind: type[nn.Module]) -> None:
    model = built(kind)
    cuts = se.find_cuts(model, SHAPE, batch=2)
    assert cuts[0].name == "input" and cuts[-1].params_after == 0 and len(cuts) > 5


@pytest.mark.parametrize(
    ("name", "count", "most"),
    [("resnet50", 176, 2), ("densenet201", 712, 49), ("inception_v3", 315, 5), ("timm/inception_resnet_v2", 620, 4)],
)
def test_counts_of_cuts_and_of_tensors_alive(name: str, count: int, most: int) -> None:
    model = se.load_model(name)
    cuts = se.find_cuts(model, input_size_of(model))
    assert len(cuts) == count and max(len(cut.tensors) for cut in cuts) == most


def test_table_2_of_the_paper() -> None:
    """The first seven layers of InceptionResNetV2 at 299 x 299: rows, columns, channels."""
    cuts = se.find_cuts(se.load_model("timm/inception_resnet_v2"), (3, 299, 299), batch=32)
    layers = {
        "conv2d_1a": (149, 149, 32), "conv2d_2a": (147, 147, 32), "conv2d_2b": (147, 147, 64),
        "maxpool_3a": (73, 73, 64), "conv2d_3b": (73, 73, 80), "conv2d_4a": (71, 71, 192), "maxpool_5a": (35, 35, 192),
    }  # fmt: skip
    indices = []
    for name, (rows, columns, channels) in layers.items():
        (tensor,) = cuts[name].tensors
        assert tensor.shape == (32, channels, rows, columns)
        assert cuts[name].nbytes == 32 * rows * columns * channels * 4
        indices.append(cuts[name].index)
    assert indices == sorted(indices)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "vgg11", "swin_t", "convnext_tiny"])
def test_multiply_accumulates_are_those_that_torchvision_publishes(name: str) -> None:
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
    cuts = se.find_cuts(se.load_model(name), (3, 224, 224), batch=3)
    assert cuts[0].macs_after / 1e9 == pytest.approx(published, rel=0.002)


@pytest.mark.parametrize("name", ["vit_b_32", "swin_v2_t", "shufflenet_v2_x0_5"])
def test_multiply_accumulates_are_half_of_the_flops_of_the_whole(name: str) -> None:
    model = se.load_model(name)
    cuts = se.find_cuts(model, (3, 256, 256) if name == "swin_v2_t" else (3, 224, 224))
    size = cuts[0].tensors[0].shape
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model.to("meta").train()(torch.empty(size, device="meta"))
    assert cuts[0].macs_after == pytest.approx(flops.get_total_flops() / 2, rel=1e-6)


def test_numbers_on_either_side_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 3))
    cuts = se.find_cuts(model, (2, 5, 5), batch=7)
    assert cuts.names == ["input", "0", "1", "2", "3"]
    assert [cut.operation for cut in cuts] == ["input", "Conv2d", "ReLU", "Flatten", "Linear"]
    assert [cut.params_before for cut in cuts] == [0, 76, 76, 76, 379]
    assert [cut.macs_before for cut in cuts] == [0, 1800, 1800, 1800, 2100]  # of one sample
    assert [cut.nbytes for cut in cuts] == [7 * n * 4 for n in (50, 100, 100, 100, 3)]
    assert cuts["1"].tensors[0].shape == (7, 4, 5, 5) and cuts["1"].shapes == "7·4·5·5"


def test_parameters_used_twice_count_once_and_where_first_used() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    cuts = se.find_cuts(model, (4,))
    assert [cut.params_before for cut in cuts] == [0, 20, 20, 24]


# It leaves no trace


class OnlyMeta(TorchDispatchMode):
    """Fails when anything is computed with data."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.device.type != "meta" and out.is_floating_point():
            raise AssertionError(f"{func} computed with data")
        return out


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "swin_t", "mobilenet_v3_small"])
def test_nothing_is_computed_and_nothing_is_touched(name: str) -> None:
    model = se.load_model(name).train()
    next(iter(model.children())).eval()  # modes of inner modules stay, too
    expected = se.find_cuts(model, (3, 64, 64), batch=2).to_pandas()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 7)  # poison
    model(torch.zeros(2, 3, 64, 64)).sum().backward()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    gradients = [parameter.grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    attributes = [dict(vars(module)) for module in model.modules()]
    versions = [tensor._version for tensor in [*model.parameters(), *model.buffers()]]
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    with OnlyMeta():
        found = se.find_cuts(model, (3, 64, 64), batch=2)
    assert found.to_pandas().equals(expected)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) or after[key].isnan().all() for key in before)
    assert [tensor._version for tensor in [*model.parameters(), *model.buffers()]] == versions
    assert all(one is other for one, other in zip(gradients, (p.grad for p in model.parameters()), strict=True))
    assert [module.training for module in model.modules()] == modes
    assert all(vars(module).keys() == kept.keys() for module, kept in zip(model.modules(), attributes, strict=True))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), repr(np.random.get_state()))


def test_a_network_without_data_can_be_listed() -> None:
    with torch.device("meta"):
        model = se.load_model("resnet18")
    assert len(se.find_cuts(model, (3, 64, 64))) == 70


@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_surroundings_do_not_matter(surroundings: Any) -> None:
    with surroundings():
        assert se.find_cuts(built(Residual), SHAPE).names == se.find_cuts(built(Residual), SHAPE).names


def test_train_and_eval_list_the_same_cuts() -> None:
    for kind in SMALL:
        model = built(kind)
        assert se.find_cuts(model.eval(), SHAPE).names == se.find_cuts(model.train(), SHAPE).names


def test_random_numbers_drawn_by_a_forward_are_given_back() -> None:
    class Draws(Base):
        def forward(self, x: Tensor) -> Tensor:
            scale = torch.rand(6, 1, 1) * random.random() * np.random.rand()
            return self.pooled(self.one(x) * scale)

    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    se.find_cuts(Draws(), SHAPE)
    model = Draws()
    torch.set_rng_state(states[0])
    se.find_cuts(model, SHAPE)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), repr(np.random.get_state()))


def test_hooks_are_neither_called_nor_copied() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.lock = threading.Lock()  # which cannot be copied
            self.seen: list[Any] = []

        def __call__(self, *arguments: Any) -> None:
            self.seen.append(arguments)

    model, recorder = built(Dense), Recorder()
    for module in model.modules():
        module.register_forward_hook(recorder.__call__)
        module.register_forward_pre_hook(recorder.__call__)
    assert len(se.find_cuts(model, SHAPE)) > 10
    assert not recorder.seen and all(module._forward_hooks for module in model.modules())


def test_another_thread_may_compute_meanwhile() -> None:
    """torch.fx patches `nn.Module` for every thread."""
    model, x = built(Base), torch.randn(2, *SHAPE)
    expected, wrong, done = model(x), [], threading.Event()

    def compute() -> None:
        while not done.is_set():
            try:
                wrong.extend([] if torch.equal(model(x), expected) else ["another result"])
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=compute)]
    threads += [threading.Thread(target=lambda: se.find_cuts(built(Dense), SHAPE)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert len(se.find_cuts(built(Dense), SHAPE)) == len(se.find_cuts(built(Dense), SHAPE))
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


# What a forward may do


class Names(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.block(x) + x)
        y += self.act(x)
        return torch.flatten(self.block(y).relu(), 1)


def test_names_read_like_the_module_path() -> None:
    cuts = se.find_cuts(Names(), (4,))
    expected = "input block.0 block.1 add act act_1 add_1 block.0_1 block.1_1 relu flatten"
    assert cuts.names == expected.split()
    cuts = se.find_cuts(se.load_model("resnet18"), (3, 224, 224))
    assert {"conv1", "maxpool", "layer1.0.relu", "layer1.0.add", "layer1.0.relu_1", "avgpool", "fc"} <= set(cuts.names)


def test_a_module_names_its_last_cut() -> None:
    cuts = se.find_cuts(se.load_model("resnet18"), (3, 224, 224))
    assert cuts["layer1"].name == cuts["layer1.1"].name == "layer1.1.relu_1"
    assert cuts["layer2.0.downsample"].name == "layer2.0.downsample.1"
    assert "layer1" not in cuts and "maxpool" in cuts and cuts["maxpool"] in cuts


class WithNoGrad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.body(x)


class Decorated(WithNoGrad):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * 2


class Autocast(WithNoGrad):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu"):
            return self.body(x).float()


class Counts(WithNoGrad):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(x) / self.calls


class Assigns(WithNoGrad):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.body(x) - self.mean


class Item(WithNoGrad):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * x.abs().max().item()


class Hooked(WithNoGrad):
    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(lambda module, args, out: out * 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Loops(WithNoGrad):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * len([row for row in x])


@pytest.mark.parametrize(
    "kind", [WithNoGrad, Decorated, Autocast, Counts, Assigns, Item, Hooked, Loops, Values], ids=lambda k: k.__name__
)
def test_a_module_that_cannot_be_taken_apart_stays_whole(kind: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), kind(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    assert se.find_cuts(model, (4,)).names == ["input", "0", "1", "2.0", "2.1"]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (WithNoGrad, "return self.body(x)"),
        (Decorated, "return self.body(x) * 2"),
        (Loops, "for row in x"),
        (Values, "float(x.detach().sum())"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_network_that_cannot_be_listed_says_where_and_what_to_do(kind: type[nn.Module], line: str) -> None:
    with pytest.raises(TraceError) as caught:
        se.find_cuts(kind(), (4,))
    text = str(caught.value)
    assert kind.__name__ in text and line in text and "Move that line into a module of its own" in text
    assert "test_cuts.py:" in text or "networks.py:" in text


def test_an_operation_that_depends_on_values_is_named() -> None:
    with pytest.raises(TraceError, match=r"operation 'item' cannot be found.*item.*\n.*module of its own"):
        se.find_cuts(Item(), (4,))


class AsksWhatItIsGiven(Base):
    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, torch.Tensor):
            x = x * 2
        return super().forward(x)


def test_a_forward_that_answers_a_tracer_otherwise_is_noticed() -> None:
    with pytest.raises(TraceError, match=r"another path when it is traced: .*aten.mul.*isinstance\(x, torch.Tensor\)"):
        se.find_cuts(AsksWhatItIsGiven(), SHAPE)


def test_a_wrong_input_shape_names_the_operation_that_stops() -> None:
    with pytest.raises(TraceError, match=r"operation 'one' cannot be found.*\n.*Check input_shape"):
        se.find_cuts(Base(), (5, 12, 12))
    with pytest.raises(TraceError, match="operation 'head'"):
        se.find_cuts(Headed(), (4,))


class Headed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class TwoInputs(Base):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x + y)


class OneNeeded(Base):
    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None, **more: Any) -> Tensor:
        return super().forward(x * scale if mask is None else x * mask)


def test_one_input_is_expected() -> None:
    with pytest.raises(TraceError, match=r"one input, found forward\(x, y\).*Wrap it") as caught:
        se.find_cuts(TwoInputs(), SHAPE)
    assert caught.value.__cause__ is not caught.value
    assert se.find_cuts(OneNeeded(), SHAPE).names[:3] == ["input", "mul", "one"]


def test_other_networks_that_cannot_be_taken() -> None:
    with pytest.raises(TraceError, match=r"'1\.weight' without: run the network once"):
        se.find_cuts(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), SHAPE)
    model = built(Base)
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(TraceError, match="can be copied, found that Base cannot"):
        se.find_cuts(model, SHAPE)
    model = built(Base)
    model.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(TraceError, match="another one put on the object"):
        se.find_cuts(model, SHAPE)


def test_shapes_numbers_and_several_outputs_are_followed() -> None:
    cuts = se.find_cuts(built(Outputs), SHAPE, batch=2)
    assert [tensor.name for tensor in cuts[-1].tensors] == ["one", "head"]
    cuts = se.find_cuts(built(Sliced), SHAPE, batch=2)
    assert cuts["getitem"].tensors[0].shape == (2, 6, 12, 11)
    cuts = se.find_cuts(built(Lengthwise), (10,), batch=2, dtype=torch.long)
    assert cuts[0].tensors[0].dtype == torch.int64 and cuts[0].nbytes == 2 * 10 * 8


def test_the_dtype_is_the_networks() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        cut = se.find_cuts(built(Base).to(dtype), SHAPE, batch=2)["one"]
        assert cut.tensors[0].dtype == dtype and cut.nbytes == 2 * 6 * 144 * dtype.itemsize


def test_a_tensor_known_by_two_names_counts_once() -> None:
    class Twice(Base):
        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            y = nn.functional.dropout(x, 0.0, training=False)  # x itself
            return self.pooled(self.two(x) + y)

    cut = se.find_cuts(Twice(), SHAPE)["dropout"]
    assert len(cut.tensors) == 1


def test_gradient_checkpoints_are_seen_through() -> None:
    model = se.load_model("densenet121", memory_efficient=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cuts = se.find_cuts(model, (3, 64, 64))
    assert len(cuts) > 60 and cuts[-1].params_before == sum(p.numel() for p in model.parameters())


def test_running_statistics_without_momentum_are_followed() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=None), nn.ReLU())
    assert se.find_cuts(model, SHAPE).names == ["input", "0", "1", "2"]
    assert int(model[1].num_batches_tracked) == 0


# The sequence and its pictures


def test_a_sequence_of_cuts() -> None:
    cuts = se.find_cuts(built(Dense), SHAPE, batch=2)
    assert cuts[1:3].names == cuts.names[1:3] and isinstance(cuts[1:3], se.Cuts)
    assert cuts[-1] is list(cuts)[-1] and cuts[cuts[3].name] is cuts[3]
    with pytest.raises(IndexError):
        cuts[len(cuts)]


def test_a_near_name_is_suggested() -> None:
    cuts = se.find_cuts(se.load_model("resnet18"), (3, 64, 64))
    with pytest.raises(CutError, match=r"one of the 70 cuts of ResNet, found 'max_pool'\. Did you mean 'maxpool'"):
        cuts["max_pool"]
    with pytest.raises(LookupError, match="found 'layer9'"):
        cuts["layer9"]


@pytest.mark.parametrize("batch", [0, -1, 1.5, "2", None])
def test_batches_that_are_none(batch: Any) -> None:
    with pytest.raises(DataError, match="batch of 1 or more"):
        se.find_cuts(Base(), SHAPE, batch=batch)


@pytest.mark.parametrize("shape", [224, (3, 0, 5), (3, -1), (3.0, 4), "abc", None])
def test_shapes_that_are_none(shape: Any) -> None:
    with pytest.raises(DataError, match=r"whole numbers without the batch, such as \(3, 224, 224\)"):
        se.find_cuts(Base(), shape)


def test_the_table_as_text_and_as_html() -> None:
    cuts = se.find_cuts(built(Residual), SHAPE, batch=2)
    text = repr(cuts)
    assert text.splitlines()[0] == f"Residual: {len(cuts)} cuts for inputs of 2 × 2·12·12"
    assert (
        "one" in text
        and "Conv2d" in text
        and "2·6·12·12 + 2·6·12·12" in text
        and len(text.splitlines()) == len(cuts) + 2
    )
    page = cuts._repr_html_()
    assert page.count("<tr>") == len(cuts) + 1 and "2·6·12·12" in page
    long = se.find_cuts(se.load_model("resnet50"), (3, 64, 64))
    assert "116 more" in repr(long) and "116 more" in long._repr_html_() and len(repr(long).splitlines()) == 63


def test_markup_in_names_is_escaped() -> None:
    model = nn.Sequential()
    model.add_module("<b>", nn.ReLU())
    assert "<b>" not in se.find_cuts(model, (3,))._repr_html_()


def test_as_a_pandas_table() -> None:
    table = se.find_cuts(built(Dense), SHAPE, batch=2).to_pandas()
    assert table.index.name == "index"
    assert {"name", "operation", "shapes", "tensors", "nbytes", "params_before", "macs_before"} <= set(table.columns)
    assert table["nbytes"].iloc[0] == 2 * 2 * 144 * 4 and (table["nbytes"] > 0).all()


# Programs


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    yield Program(built(Dense), SHAPE, 2)


def test_modes_that_are_frozen_in_operations_are_known(program: Program) -> None:
    class Functional(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(F.dropout(self.one(x), 0.5, self.training))

    assert not program.reads_modes
    assert Program(Functional(), SHAPE, 2).reads_modes


def test_eval_mode_is_followed_on_its_own() -> None:
    """A dropout is a new tensor in train mode and its operand in eval mode."""

    class Dropped(Base):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            return self.pooled(x + self.drop(x))

    program = Program(Dropped(), SHAPE, 2)
    for mode, same in ((program.train, False), (program.eval, True)):
        before, after = (mode.propagation.values[mode.nodes[mode.position[name]]] for name in ("one", "drop"))
        assert (before is after) is same


def test_looking_at_values_may_change_or_return_the_operand() -> None:
    mode = Program(built(LooksAtValues), SHAPE, 2).train
    values = mode.propagation.values
    operand, out = (values[mode.nodes[mode.position[name]]] for name in ("one", "values"))
    assert operand is not out and operand.untyped_storage()._cdata == out.untyped_storage()._cdata
    assert mode.propagation.mutates[mode.nodes[mode.position["values"]]]


def test_a_copy_of_the_network_gives_the_same_cuts() -> None:
    model = built(Residual)
    assert repr(se.find_cuts(copy.deepcopy(model), SHAPE)) == repr(se.find_cuts(model, SHAPE))
