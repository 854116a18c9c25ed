"""The gradient across a cut: exact, or by the paper's auxiliary label, whose error is measured."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import batches, differences, twin
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SHAPE, Base, Dense, TiedOutside, built
from torch import Tensor, nn

import spliteasy as se
from spliteasy.backward import METHODS, Pass, auxiliary_label, backward_method, exact
from spliteasy.errors import TrainingError
from spliteasy.strides import is_offset, is_pattern, laid_out, offset_of, pattern_of, placed


def one_step(model: nn.Module, at: tuple[str, ...], backward: str, **settings: Any) -> tuple[se.Split, Any]:
    split = se.split(model, at, SHAPE)
    settings = {"optimizer": {"name": "SGD", "lr": 1.0}, "seed": 5, **settings}
    with se.Trainer(split, backward=backward, **settings) as trainer:
        return split, trainer.step(*batches(1, SHAPE)[0])


def plain_gradients(model: nn.Module) -> dict[str, Tensor]:
    model = twin(model)
    x, y = batches(1, SHAPE)[0]
    F.cross_entropy(model(x), y).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# The two methods on their own


def test_exact_is_the_vector_jacobian_product() -> None:
    x = torch.randn(4, 5, requires_grad=True)
    gradients = [torch.randn(4, 5), torch.randn(4)]
    (expected,) = torch.autograd.grad([x.sin(), x.sum(1)], x, gradients)
    assert exact([x.sin(), x.sum(1)], gradients) == 0.0
    assert x.grad is not None and torch.equal(x.grad, expected)


def test_the_auxiliary_label_descends_with_the_gradient() -> None:
    x = torch.randn(4, 5, requires_grad=True)
    c, g = x * 3, torch.randn(4, 5)
    error = auxiliary_label([c], [g])
    assert x.grad is not None
    assert torch.allclose(x.grad, 3 * g, atol=1e-5)  # the sign of the gradient itself: c − (c − g)
    label = (c - g).detach()
    assert torch.equal(x.grad, 3 * (c - label).detach())
    assert error == pytest.approx(relative((c - label).detach(), g), rel=1e-6) and 0 < error < 1e-6


def test_the_printed_sign_would_climb() -> None:
    """Eq. 5 as printed, ĉ = c + g, gives −g: a step along it raises the loss that the auxiliary label lowers."""
    model, (x, y) = built(Base), batches(1, SHAPE)[0]
    split = se.split(model, "one", SHAPE)
    losses = {}
    for sign in (-1, +1):
        device = copy.deepcopy(model)
        c = device.one(x)
        rest = c.detach().requires_grad_()
        loss = F.cross_entropy(device.pooled(F.relu(device.two(F.relu(rest)))), y)
        loss.backward()
        assert rest.grad is not None
        label = (c + sign * rest.grad).detach()
        (0.5 * (label - c).square().sum()).backward()
        with torch.no_grad():
            for parameter in device.one.parameters():
                parameter -= 0.1 * parameter.grad
            losses[sign] = float(F.cross_entropy(device(x), y)) - float(loss)
    assert losses[-1] < 0 < losses[+1]
    with se.Trainer(split, backward="auxiliary-label", optimizer={"name": "SGD", "lr": 0.1}) as trainer:
        first = trainer.step(x, y).loss
        assert trainer.evaluate([(x, y)]).loss < first


@settings(max_examples=50, deadline=None)
@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(0, 1000))
def test_the_error_is_the_rounding_of_the_gradient_to_the_spacing_of_the_output(c: int, g: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    output = (torch.randn(20, generator=generator) * 2.0**c).requires_grad_()
    gradient = torch.randn(20, generator=generator) * 2.0**g
    error = auxiliary_label([output], [gradient])
    assert output.grad is not None
    found = float((output.grad - gradient).double().norm() / gradient.double().norm())
    assert error == pytest.approx(found, rel=1e-6)
    assert error <= 2.0 ** max(c - g - 20, -22)  # 24 bits, some lost by the spread of both


def test_gradients_of_zero_have_no_error() -> None:
    x = torch.randn(3, requires_grad=True)
    assert auxiliary_label([x], [torch.zeros(3)]) == 0.0
    assert auxiliary_label([], []) == 0.0


def test_names_of_methods() -> None:
    assert set(METHODS) == {"exact", "auxiliary-label"} and backward_method("exact") is exact
    with pytest.raises(TrainingError, match=r"one of \['auxiliary-label', 'exact'\], found 'auxilary'.*Did you mean"):
        backward_method("auxilary")
    with pytest.raises(TrainingError, match="found 3"):
        se.Trainer(se.split(built(Base), "one", SHAPE), backward=3)  # type: ignore[arg-type]


# In training


@pytest.mark.parametrize("at", [("one",), ("one", "two"), ("relu", "mean"), ("head",)], ids="|".join)
def test_training_by_auxiliary_labels(at: tuple[str, ...]) -> None:
    model = built(Base)
    before, expected = {k: v.clone() for k, v in model.state_dict().items()}, plain_gradients(model)
    split, record = one_step(model, at, "auxiliary-label")
    assert record.gradient_error < 1e-3
    assert record.gradient_error > 0 or at == ("head",)  # nine numbers there, and gradients as large as outputs
    for name, tensor in split.state_dict().items():
        assert relative(before[name] - tensor, expected[name]) < 1e-3, name
    assert one_step(built(Base), at, "exact")[1].gradient_error == 0.0


def test_the_error_grows_with_the_output() -> None:
    """The label is rounded to the spacing of numbers around the output: a larger one hides the gradient."""
    errors = []
    for scale in (1.0, 1e3, 1e6):
        model = built(Base)
        with torch.no_grad():
            model.one.weight.mul_(scale)
            model.two.weight.div_(scale)
        errors.append(
            one_step(model, ("one",), "auxiliary-label", optimizer={"name": "SGD", "lr": 1e-9})[1].gradient_error
        )
    assert errors[0] < errors[1] < errors[2] and errors[2] > 1e-2


def test_auxiliary_labels_over_http_are_those_in_process(server: se.LocalServer) -> None:
    results = []
    for url in (None, server.url):
        split = se.split(se.load_model("networks:Dense"), ("norms.1", "convs.2"), SHAPE)
        split.model.load_state_dict(built(Dense).state_dict())
        with se.Trainer(split, server=url, backward="auxiliary-label", seed=5) as trainer:
            records = [trainer.step(x, y) for x, y in batches(3, SHAPE)]
        results.append(([(r.loss, r.gradient_error) for r in records], split.state_dict()))
    assert results[0][0] == results[1][0] and results[0][0][0][1] > 0
    assert all(torch.equal(tensor, results[1][1][name]) for name, tensor in results[0][1].items())


def test_auxiliary_labels_with_parameters_shared_by_a_and_c() -> None:
    model = built(TiedOutside)
    before, expected = {k: v.clone() for k, v in model.state_dict().items()}, plain_gradients(model)
    split, record = one_step(model, ("tanh_3", "middle"), "auxiliary-label")
    assert record.gradient_error > 0
    for name, tensor in split.state_dict().items():
        assert relative(before[name] - tensor, expected[name]) < 1e-3, name


# Passes


def passes(at: tuple[str, ...], x: Tensor) -> tuple[se.Split, Pass, Pass]:
    split = se.split(built(Base), at, SHAPE)
    first = Pass.of_input(split.a, x)
    assert split.b is not None
    entering = [tensor.detach() for tensor in first.tensors_out]
    return split, first, Pass(split.b, entering, first.scalars_out, first.needs_gradient)


def test_a_pass_hands_its_gradients_on() -> None:
    x, y = batches(1, SHAPE)[0]
    split, first, second = passes(("one",), x)
    F.cross_entropy(second.output, y).backward()
    (gradient,) = second.input_gradients()
    assert gradient is not None and first.needs_gradient == [True]
    assert first.backward([gradient]) == ([], 0.0)
    expected = plain_gradients(built(Base))
    assert all(torch.equal(p.grad, expected[name]) for name, p in split.model.named_parameters() if p.grad is not None)


def test_a_gradient_that_nothing_asked_for_stays_missing() -> None:
    x, _ = batches(1, SHAPE)[0]
    split, first, second = passes(("one",), x)
    assert second.input_gradients() == [None]
    assert first.backward([None]) == ([], 0.0) and split.model.one.weight.grad is None


def test_entering_tensors_are_neither_changed_nor_tied_to_the_senders_graph() -> None:
    class Changes(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(self.two(F.relu_(self.one(x))))

    split = se.split(built(Changes), ("one",), SHAPE)
    first = Pass.of_input(split.a, batches(1, SHAPE)[0][0])
    sent = first.tensors_out[0].detach()
    before = sent.clone()
    assert split.b is not None
    Pass(split.b, [sent], [], [True]).output.sum().backward()
    assert torch.equal(sent, before) and split.model.one.weight.grad is None


def test_gradients_that_are_there_already_are_begun_with() -> None:
    """Parameters shared with a later segment: autograd adds one use after the other, beginning with the last."""
    split = se.split(built(TiedOutside), ("tanh_3", "middle"), SHAPE)
    x = batches(1, SHAPE)[0][0]
    first = Pass.of_input(split.a, x)
    begun = torch.randn(6, 6, 3, 3) * 1e4
    split.model.two.weight.grad = begun.clone()
    first.backward([torch.ones_like(first.tensors_out[0])])
    whole = built(TiedOutside)
    output = Pass.of_input(se.split(whole, ("tanh_3", "middle"), SHAPE).a, x).tensors_out[0]
    torch.autograd.backward([output, whole.two.weight], [torch.ones_like(output), begun])
    assert torch.equal(split.model.two.weight.grad, whole.two.weight.grad)
    assert differences(se.split(built(TiedOutside), ("tanh_3", "middle"), SHAPE), batches(4, SHAPE)) == []


# Strides


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Tensors of any strides: sliced, stepped, permuted, expanded."""
    shape = draw(st.lists(st.integers(1, 5), min_size=0, max_size=4))
    tensor = torch.arange(float(torch.Size(shape).numel())).view(shape)
    for dim, size in enumerate(shape):
        change = draw(st.sampled_from(("", "", "slice", "step", "expand", "narrow")))
        if change == "slice":
            tensor = tensor.narrow(dim, 0, max(1, size - 1))
        elif change == "step":
            tensor = tensor[(slice(None),) * dim + (slice(None, None, 2),)]
        elif change == "expand":
            tensor = tensor.narrow(dim, size - 1, 1).expand(*tensor.shape[:dim], 3, *tensor.shape[dim + 1 :])
        elif change == "narrow":
            tensor = tensor.narrow(dim, size - 1, 1)
    return tensor.permute(draw(st.permutations(range(tensor.ndim))))


@settings(max_examples=300, deadline=None)
@given(tensors())
def test_patterns_of_strides(tensor: Tensor) -> None:
    pattern = pattern_of(tensor)
    if pattern is None:
        dense = torch.empty_like(tensor, memory_format=torch.preserve_format)
        wide = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        assert [dense.stride(dim) for dim in wide] == [tensor.stride(dim) for dim in wide]
        return
    assert is_pattern(pattern, tensor.shape, 4)
    laid = laid_out(tensor.contiguous(), pattern)
    assert torch.equal(laid, tensor) and laid.data_ptr() != tensor.data_ptr()
    assert pattern_of(laid) == pattern
    assert laid.untyped_storage().nbytes() <= 64 * max(1, tensor.numel()) * 2**tensor.ndim
    assert laid.is_contiguous() == tensor.is_contiguous()
    order = sorted(range(tensor.ndim), key=tensor.stride)
    assert [laid.stride(dim) == 0 for dim in order] == [tensor.stride(dim) == 0 for dim in order] or 1 in tensor.shape


@pytest.mark.parametrize(
    "strides",
    [None, "1", [], [1], [1 << 40, 1], [-1, 1], [True, 1], [1.0, 1], [4, 1, 1], [3, 1], [100, 1], [1 << 70, 1], [2, 2]],
)
def test_what_is_no_pattern(strides: Any) -> None:
    assert not is_pattern(strides, (5, 3), 4)
    assert is_pattern([4, 1], (5, 3), 4) and is_pattern([0, 1], (5, 3), 4) and is_pattern([0, 0], (5, 3), 4)
    assert not is_pattern([0, 1], (5, 0), 4)


def test_rows_and_first_elements_lie_to_vectors_as_they_did() -> None:
    """Slices of one tensor, as attention makes them: which kernel runs depends on multiples of 64 bytes."""
    for part in torch.randn(3, 11, 24).chunk(3, -1):
        pattern, offset = pattern_of(part), offset_of(part)
        assert pattern == [11 * 24, 24, 1] and is_offset(offset, 4)
        laid = laid_out(part, pattern, offset)
        assert torch.equal(laid, part) and laid.data_ptr() % 64 == part.data_ptr() % 64
    dense = torch.randn(100)[3:]
    assert offset_of(dense) == 3 and placed(dense, 3) is dense
    assert placed(dense).data_ptr() % 64 == 0 and torch.equal(placed(dense), dense)
    assert pattern_of(torch.randn(7, 1000)[:, :20]) == [24, 1]  # 1000 and 24 leave the same rest
    for offset in (-1, 16, 1.0, True, None, "1", 1 << 70):
        assert not is_offset(offset, 4)


@pytest.mark.parametrize("at", [("relu_1",), ("relu_1", "relu_3")])
@pytest.mark.parametrize("backward", ["exact", "auxiliary-label"])
def test_a_step_leaves_nothing_behind(at: tuple[str, ...], backward: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass and the graph that it entered must not hold each other: the collector does not see through autograd."""
    passes: list[weakref.ref[Pass]] = []
    finish = Pass._finish

    def noted(self: Pass, *arguments: Any) -> None:
        passes.append(weakref.ref(self))
        finish(self, *arguments)

    monkeypatch.setattr(Pass, "_finish", noted)
    with se.Trainer(se.split(built(Dense), at, SHAPE), backward=backward) as trainer:
        for x, y in batches(4, SHAPE):
            trainer.step(x, y)
        gc.collect()
        alive = sum(reference() is not None for reference in passes)
        assert alive <= len(at) + 1, "those of the last step at most"
    del trainer
    gc.collect()
    assert len(passes) == 4 * (len(at) + 1) and not any(reference() for reference in passes)
