"""Fitted codecs: the maps they find, the parameters they take, calibration, and how parameters travel."""

from __future__ import annotations

import copy
import functools
import gc
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flask.testing import FlaskClient
from harness import DOUBLE, SINGLE, batch, batches, digits, digits_split, on_app, problem, same, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SHAPE, Dense
from torch import nn

import spliteasy as se
from spliteasy.codecs import Context, TensorSpec, container
from spliteasy.codecs.fitted import FittedCodec, find, remember
from spliteasy.codecs.shipping import receive_shipped, shipped_bytes, shipped_planes
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError, DataError, FrameError, SplitError, TrainingError
from spliteasy.server.app import create_app
from spliteasy.server.process import LocalServer
from spliteasy.server.sessions import Sessions
from spliteasy.weights import load_tensors, save_tensors
from spliteasy_plugins import subspace

NOTATIONS = ["pca(3)", "pca(3, axis='channel')", "bottleneck(3)", "bottleneck(3, axis='channel')"]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(samples: int, entries: int, rank: int = 6, seed: int = 0) -> torch.Tensor:
    """Samples near a space of a few dimensions, and off zero."""
    return (
        drawn(samples, rank, seed=seed) @ drawn(rank, entries, seed=99) + 0.1 * drawn(samples, entries, seed=seed) + 2
    )


def roundtrip(chain: se.Chain, x: torch.Tensor, message: str = "activations") -> torch.Tensor:
    return chain.decode(chain.encode(x, Context(message)), Context(message))


def parameters(chain: se.Chain) -> dict[str, torch.Tensor]:
    (codec,) = chain.codecs
    assert isinstance(codec, FittedCodec)
    return dict(codec.parameters)


# The maps


@pytest.mark.parametrize("notation", ["pca(2, axis='channel')", "bottleneck(2, axis='channel') | fp16 | zstd(1)"])
def test_along_channels_too_the_contract_is_kept(notation: str) -> None:
    check_codec(notation)


@pytest.mark.parametrize(("samples", "entries"), [(200, 24), (30, 500)], ids=["many samples", "many entries"])
def test_pca_is_the_best_of_its_rank(samples: int, entries: int) -> None:
    x = correlated(samples, entries)
    chain = se.codec("pca(4)").fit([x[:20], x[20:]])
    basis, mean = parameters(chain)[f"basis.{entries}"], parameters(chain)[f"mean.{entries}"]
    assert torch.allclose(mean, x.mean(0), atol=1e-5)
    assert torch.allclose(basis @ basis.T, torch.eye(4), atol=1e-5)
    lost = float((roundtrip(chain, x) - x).double().square().sum())
    least = float(torch.linalg.svdvals((x - x.mean(0)).double())[4:].square().sum())
    assert lost == pytest.approx(least, rel=1e-4)
    variances = chain.encode_planes(x)[0]["0.values"].view(samples, 4).var(0)
    assert (variances.diff() < 0).all(), "ordered by variance"


def test_where_samples_and_entries_are_many_a_sketch_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    x = correlated(120, 150)
    exact = se.codec("pca(4)").fit([x])
    monkeypatch.setattr(subspace, "LARGEST", 50)
    monkeypatch.setattr(subspace, "OVERSAMPLING", 8)
    sketched = se.codec("pca(4)").fit([x])
    assert sketched == se.codec("pca(4)").fit([x]), "the same each time"
    assert torch.allclose(roundtrip(sketched, x), roundtrip(exact, x), atol=1e-2)


def test_a_hundred_thousand_entries_need_no_square_matrix() -> None:
    x = correlated(40, 100_000)
    assert (roundtrip(se.codec("pca(8)").fit([x]), x) - x).norm() < 0.05 * x.norm()
    weighed = se.codec("bottleneck(8)").fit([x], gradients=[drawn(40, 100_000)])
    assert (roundtrip(weighed, x) - x).norm() < 0.05 * x.norm()


def test_a_small_tensor_is_fitted_where_it_has_less_rank_than_components() -> None:
    x = drawn(5, 1).expand(5, 12) + 1  # rank 1, of 5 samples
    for notation in ("pca(3)", "bottleneck(3)"):
        assert torch.allclose(roundtrip(se.codec(notation).fit([x]), x), x, atol=1e-5)
    constant = torch.full((5, 12), 7.0)
    for notation in ("pca(3)", "bottleneck(3)"):
        assert torch.equal(roundtrip(se.codec(notation).fit([constant]), constant), constant)


def test_channels_are_projected_place_by_place() -> None:
    x = drawn(6, 2, 5, 7).repeat(1, 4, 1, 1) + 0.01 * drawn(6, 8, 5, 7, seed=1)  # 8 channels, near a plane
    chain = se.codec("pca(2, axis='channel')").fit([x])
    spec = TensorSpec.of(tuple(x.shape), x.dtype)
    assert chain.out(spec) == TensorSpec((6, 2, 5, 7), torch.float32, 1)
    flat = x.movedim(1, -1).reshape(-1, 8)
    rows = se.codec("pca(2)").fit([flat])
    assert torch.allclose(roundtrip(chain, x), roundtrip(rows, flat).view(6, 5, 7, 8).movedim(-1, 1), atol=1e-5)
    other = drawn(2, 2, 3, 4).repeat(1, 4, 1, 1)  # rows and columns are free
    assert (roundtrip(chain, other) - other).norm() < 0.05 * other.norm()
    tokens = drawn(3, 5, 2).repeat(1, 1, 4)
    assert (roundtrip(chain, tokens) - tokens).norm() < 0.05 * tokens.norm(), "the channels of tokens are last"


def test_a_bottleneck_is_the_best_for_the_loss() -> None:
    """Against the textbook's way, which needs the square root of a d x d matrix."""
    x, g = correlated(300, 20).double(), (drawn(300, 5, seed=3) @ drawn(5, 20, seed=4)).double() * 1e-4
    chain = se.codec("bottleneck(3)").fit([x], gradients=[g])
    y, weight = x - x.mean(0), g.T @ g / 300
    trace, square = float(weight.trace()), float(weight.square().sum())
    share = (0.9 * square + trace**2) / (300.9 * (square - trace**2 / 20))
    weight = (1 - share) * weight + share * trace / 20 * torch.eye(20)
    values, vectors = torch.linalg.eigh(weight)
    root = vectors @ values.sqrt().diag() @ vectors.T
    top = torch.linalg.eigh(root @ (y.T @ y / 300) @ root)[1][:, -3:]
    best = y @ root @ top @ top.T @ root.inverse()
    assert torch.allclose(roundtrip(chain, x) - x.mean(0), best, atol=1e-3)

    def felt(decoded: torch.Tensor) -> float:
        return float((((decoded - x) @ g.T) ** 2).mean())

    assert felt(roundtrip(chain, x)) < 0.5 * felt(roundtrip(se.codec("pca(3)").fit([x]), x))


def test_a_bottleneck_projects_and_without_gradients_is_pca() -> None:
    x = correlated(100, 30)
    held = parameters(se.codec("bottleneck(4)").fit([x], gradients=[drawn(100, 30, seed=2)]))
    encoder, decoder = held["encoder.30"], held["decoder.30"]
    assert torch.allclose(encoder @ decoder.T, torch.eye(4), atol=1e-4)
    assert torch.allclose(decoder.norm(dim=1), torch.ones(4), atol=1e-5)
    for gradients in (None, [None], [torch.zeros(100, 30)]):
        plain = parameters(se.codec("bottleneck(4)").fit([x], gradients=gradients))
        basis = parameters(se.codec("pca(4)").fit([x]))["basis.30"]
        assert torch.allclose(plain["encoder.30"], basis, atol=1e-4)
        assert torch.allclose(plain["decoder.30"], basis, atol=1e-4)


@pytest.mark.parametrize("notation", NOTATIONS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-12, 1.0, 1e12]))
def test_a_gradient_goes_back_through_the_map(notation: str, seed: int, scale: float) -> None:
    """What comes back for a gradient is what autograd gives for m + D E (x - m)."""
    calibration = correlated(64, 60).view(64, 5, 3, 4)
    chain = se.codec(notation).fit([calibration], gradients=[drawn(64, 5, 3, 4, seed=7)])
    x, v = drawn(4, 5, 3, 4, seed=seed).double(), drawn(4, 5, 3, 4, seed=seed + 1).double()
    g = drawn(4, 5, 3, 4, seed=seed + 2).double() * scale
    forward = roundtrip(chain, x + v) - roundtrip(chain, x)  # the map is affine: this is J v
    back = roundtrip(chain, g, "input_gradients")  # and this is J^T g
    assert float((forward * g).sum()) == pytest.approx(float((v * back).sum()), rel=1e-9, abs=1e-9 * scale)


def test_a_codec_fitted_on_gradients_takes_no_mean_off() -> None:
    g = correlated(50, 20)
    chain = se.codec("pca(3)").fit([g], message="input_gradients")
    assert parameters(chain).keys() == {"basis.20"}
    moment = torch.linalg.eigh(g.double().T @ g.double())[1][:, -3:].T
    assert torch.allclose(roundtrip(chain, g, "input_gradients").double(), g.double() @ moment.T @ moment, atol=1e-4)


def test_every_number_of_entries_has_a_map_and_small_tensors_pass() -> None:
    one, two, small = correlated(40, 20), correlated(40, 35, seed=1).view(40, 5, 7), drawn(40, 3)
    chain = se.codec("pca(6)").fit([one, two, small, torch.arange(40)])
    assert parameters(chain).keys() == {"basis.20", "mean.20", "basis.35", "mean.35"}
    for x in (one, two):
        assert (roundtrip(chain, x) - x).norm() < 0.1 * x.norm()
    for x in (small, drawn(9), torch.tensor(1.0), torch.arange(12).view(3, 4)):
        assert torch.equal(roundtrip(chain, x), x)
    with pytest.raises(CodecError, match="fitted for sample vectors of 20 or 35 entries, found 21"):
        chain.encode(drawn(4, 21))
    frame = chain.encode(one)
    with pytest.raises(FrameError):
        chain.decode(frame.replace(b"[40,20]", b"[40,21]"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("notation", ["pca(3)", "bottleneck(3, axis='channel')"])
def test_extremes_are_cut_off_and_counted(notation: str, dtype: torch.dtype) -> None:
    chain = se.codec(notation).fit([correlated(64, 60).view(64, 5, 12, 1)])
    largest = torch.finfo(dtype).max
    x = torch.full((2, 5, 12, 1), largest, dtype=dtype)
    context = Context()
    decoded = chain.decode(chain.encode(x, context))
    assert torch.isfinite(decoded).all() and decoded.dtype is dtype and decoded.abs().max() > 0.1 * largest
    assert dtype.itemsize < 4 or "pca" not in notation or context.counts.get("saturated", 0) > 0


@pytest.mark.parametrize("notation", NOTATIONS)
def test_fits_that_cannot_be_say_why(notation: str) -> None:
    chain = se.codec(notation)
    with pytest.raises(CodecError, match=r"needs 3 or more .* found 2"):
        chain.fit([drawn(2, 9)])
    with pytest.raises(CodecError, match="finite"):
        chain.fit([drawn(9, 9) / 0])
    with pytest.raises(CodecError, match="shape of each tensor"):
        chain.fit([drawn(9, 9)], gradients=[drawn(9, 8)])
    with pytest.raises(CodecError, match="not fitted"):
        chain.encode(drawn(4, 9))


@pytest.mark.parametrize("notation", ["pca(0)", "pca(1.5)", "pca(True)", "pca(3, axis='row')", "pca(3, fitted=7)"])
def test_wrong_arguments_are_refused(notation: str) -> None:
    with pytest.raises(CodecError):
        se.codec(notation)


# Parameters from elsewhere


@pytest.mark.parametrize(
    "lie",
    [
        {"basis.20": torch.zeros(3, 21)},
        {"basis.20": torch.zeros(20, 3)},
        {"basis.20": torch.zeros(60)},
        {"basis.20": torch.zeros(3, 20, dtype=torch.float64)},
        {"basis.20": torch.full((3, 20), float("nan"))},
        {"basis.20": torch.full((3, 20), float("inf"))},
        {"basis.20": torch.zeros(3, 20), "mean.20": torch.zeros(19)},
        {"mean.20": torch.zeros(20)},
        {"basis.2": torch.zeros(3, 2)},
        {"basis.020": torch.zeros(3, 20)},
        {"basis.٢٠": torch.zeros(3, 20)},
        {"basis." + "9" * 5000: torch.zeros(3, 20)},
        {"basis.20": torch.zeros(3, 20), "more.20": torch.zeros(3, 20)},
        {"": torch.zeros(3, 20)},
    ],
    ids=lambda lie: str({name[:12]: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in lie.items()}),
)
def test_parameters_that_do_not_fit_are_refused(lie: dict[str, torch.Tensor]) -> None:
    held = remember(lie)
    with pytest.raises(CodecError):
        se.codec(f"pca(3, fitted={held.digest!r})")


def test_parameters_are_their_own_memory_and_known_while_held() -> None:
    tensor = torch.zeros(3, 20)
    held = remember({"basis.20": tensor})
    tensor += 1
    assert remember({"basis.20": torch.zeros(3, 20)}) is held and not held.tensors["basis.20"].any()
    assert remember({"basis.20": torch.zeros(20, 3).T}) is held, "by content, not by layout"
    digest = held.digest
    assert len(digest) == 22 and find(digest) is held
    del held
    gc.collect()
    with pytest.raises(CodecError, match="not in this process"):
        find(digest)


def test_the_digest_tells_names_shapes_dtypes_and_bytes_apart() -> None:
    zeros = torch.zeros(4)
    variants = [{"a": zeros}, {"b": zeros}, {"a": zeros.view(2, 2)}, {"a": zeros.to(torch.int32)}, {"a": zeros + 1}]
    variants += [{"a": zeros, "b": zeros}, {"a": zeros.double()}, {}]
    assert len({remember(variant).digest for variant in variants}) == len(variants)


def test_shipped_planes_come_back_and_lies_do_not() -> None:
    one, two = remember({"basis.20": drawn(3, 20)}), remember({})
    planes = {**shipped_planes([one, two]), "weight": torch.ones(2)}
    held, rest = receive_shipped(planes, [one.digest, two.digest])
    assert held == (one, two) and rest.keys() == {"weight"}
    assert shipped_bytes([]) == 0 and 0 < shipped_bytes([one]) - one.nbytes < 200
    changed = {name: plane + 1 for name, plane in planes.items()}
    for lie, digests in ((changed, [one.digest]), (planes, [one.digest, "A" * 22]), ({}, [one.digest])):
        with pytest.raises(FrameError, match="digest"):
            receive_shipped(lie, digests)


def test_chains_are_fitted_from_left_to_right_and_only_once() -> None:
    x = correlated(40, 20)
    chain = se.codec("pca(6) | bottleneck(2) | fp16").fit([x], gradients=[drawn(40, 20)])
    assert len(chain.shipped) == 2 and not chain.unfitted and chain.fit([drawn(9, 9)]) == chain
    assert se.codec(repr(chain)) == chain and chain != se.codec("pca(6) | bottleneck(2) | fp16").fit([x + x * x])
    assert roundtrip(chain, x).shape == x.shape
    twice = se.codec("pca(6) | pca(6, axis='channel') | pca(3) | pca(3)").fit([x])
    assert not twice.unfitted and torch.allclose(
        roundtrip(twice, x), roundtrip(se.codec("pca(3)").fit([x]), x), atol=1e-4
    )


# Calibration


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
def test_calibrating_leaves_everything_as_it_was(at: tuple[str, ...]) -> None:
    split = digits_split(at)
    split.model.train()
    next(module for module in split.model.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    for parameter in split.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, gradients = snapshot(split.model), [p.grad for p in split.model.parameters()]
    modes, state = [m.training for m in split.model.modules()], torch.get_rng_state()
    codecs = se.calibrate(split, "pca(4)", batches(3), batches=2, progress=False)
    assert same(snapshot(split.model), before) and torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in split.model.modules()] == modes
    for parameter, gradient in zip(split.model.parameters(), gradients, strict=True):
        assert parameter.grad is gradient and torch.equal(gradient, torch.ones_like(gradient))
    assert se.calibrate(split, "pca(4)", batches(3), batches=2, progress=False) == codecs
    split.model.eval()
    with pytest.raises(DataError):
        se.calibrate(split, "pca(4)", [batch(0), (torch.zeros(3), torch.zeros(3))], progress=False)
    assert same(snapshot(split.model), before) and not split.model.training


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
def test_it_fits_to_what_a_trainer_sends(at: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message's tensors, to the bit, of the steps that a trainer makes from the same state without updates."""
    sent: dict[str, list[torch.Tensor | None]] = {}
    record = se.wire.Streams.encode

    def spy(self: Any, message: Any, *args: Any) -> Any:
        sent.setdefault(message.name, []).extend(None if t is None else t.clone() for t in message.tensors)
        return record(self, message, *args)

    split = digits_split(at)
    with monkeypatch.context() as patch:
        patch.setattr("spliteasy.wire.Streams.encode", spy)
        with se.Trainer(split, optimizer={"name": "SGD", "lr": 0.0}) as trainer:
            for x, y in batches(2):
                trainer.step(x, y)
    fitted: dict[str, Any] = {}
    fit = se.Chain.fit

    def watch(self: se.Chain, tensors: Any, message: str = "activations", gradients: Any = None) -> se.Chain:
        fitted[message] = tensors
        fitted[{"activations": "input_gradients", "outputs": "output_gradients"}.get(message, "")] = gradients
        return fit(self, tensors, message, gradients)

    monkeypatch.setattr(se.Chain, "fit", watch)
    se.calibrate(digits_split(at), "pca(4)", batches(2), progress=False)
    for message, tensors in sent.items():
        assert len(tensors) == 2 and all(map(torch.equal, fitted[message], tensors)), message


@pytest.mark.parametrize("cuts", [1, 2])
@pytest.mark.parametrize("notation", ["pca(4)", "bottleneck(2, axis='channel')"])
def test_several_tensors_at_a_cut_are_fitted_together(cuts: int, notation: str) -> None:
    model = Dense().train()
    names = [cut.name for cut in se.find_cuts(model, SHAPE) if len(cut.tensors) > 1]
    split = se.split(model, at=(names[0], names[-1])[:cuts], input_shape=SHAPE)
    data = [(drawn(16, *SHAPE, seed=n), torch.arange(16) % 3) for n in range(2)]
    codecs = se.calibrate(split, notation, data, progress=False)
    with se.Trainer(split, codecs=codecs) as trainer:
        assert trainer.fit(data, progress=False).fitted_bytes == codecs.fitted_bytes > 0


def test_a_message_and_its_gradient_share_one_fit() -> None:
    split, data = digits_split(), batches(4)
    codecs = se.calibrate(split, se.Codecs(forward="pca(4) | fp16", backward="pca(4)"), data, progress=False)
    assert codecs.activations.codecs[0] == codecs.input_gradients.codecs[0] != codecs.outputs.codecs[0]
    assert codecs.outputs.codecs[0] == codecs.output_gradients.codecs[0] and len(codecs.shipped) == 2
    apart = se.calibrate(split, se.Codecs(forward="pca(4)", backward="pca(5)"), data, progress=False)
    assert len(apart.shipped) == 4 and not any("mean" in name for name in parameters(apart.input_gradients))
    again = se.calibrate(split, codecs, [], progress=False)
    assert again is codecs, "nothing is left to fit"


def test_a_gradient_of_what_the_device_kept_is_fitted_too() -> None:
    """C's gradient for a tensor of A that B read goes back through the chain of the outputs' gradients."""
    model = se.load_model("densenet121", num_classes=7)
    at = ("features.denseblock1.denselayer1.conv1", "features.denseblock1.denselayer4.conv2")
    parts = se.split(model, at=at, input_shape=(3, 32, 32))
    batch = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    codecs = se.calibrate(parts, "pca(2, axis='channel') | int8", [batch], progress=False)
    record = se.Trainer(parts, codecs=codecs).step(*batch)
    assert record.bytes["output_gradients"].frame < record.bytes["output_gradients"].raw / 4


def test_calibrating_says_what_it_needs() -> None:
    split = digits_split()
    with pytest.raises(DataError, match="found none"):
        se.calibrate(split, "pca(4)", [], progress=False)
    with pytest.raises(CodecError, match="needs 20 or more"):
        se.calibrate(split, "pca(20)", [batch(0)], progress=False)
    with pytest.raises(TrainingError, match="batches"):
        se.calibrate(split, "pca(4)", batches(1), batches=0)
    with pytest.raises(DataError, match="pairs"):
        se.calibrate(split, "pca(4)", [torch.zeros(2)], progress=False)  # type: ignore[list-item]
    with pytest.raises(SplitError, match="Cut it"):
        se.calibrate(se.split(digits(), input_shape=(1, 8, 8)), "pca(4)", batches(1))
    with pytest.raises(CodecError, match=r"se\.calibrate"):
        se.Trainer(split, codecs="pca(4) | zstd(1)")
    with pytest.raises(CodecError, match=r"se\.calibrate"):
        se.Trainer(split, server="http://127.0.0.1:9", codecs="fp16 | bottleneck(4)")


# Training


class Mapped(nn.Module):
    """A layer that does what a fitted codec does: m + D E (x - m)."""

    def __init__(self, held: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        role = ("encoder", "decoder") if f"encoder.{flat.shape[1]}" in self.held else ("basis", "basis")
        encoder, decoder = (self.held[f"{name}.{flat.shape[1]}"] for name in role)
        mean = self.held[f"mean.{flat.shape[1]}"]
        return (mean + (flat - mean) @ encoder.T @ decoder).view(x.shape)


@pytest.mark.parametrize("at", [SINGLE, DOUBLE], ids=["single", "double"])
@pytest.mark.parametrize("notation", ["pca(6)", "bottleneck(6)"])
def test_training_equals_training_with_the_map_as_a_layer(at: tuple[str, ...], notation: str) -> None:
    split, whole = digits_split(at), digits()
    codecs = se.calibrate(split, notation, batches(4), progress=False)
    parts = se.split(whole, at=at, input_shape=(1, 8, 8)).train()
    layers = [Mapped(parameters(codecs.chain(message))) for message in ("activations", "outputs")[: len(at)]]
    update = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step, (x, y) in enumerate(batches(5)):
        torch.manual_seed(se.step_seed(0, step))
        for segment, layer in zip(parts.segments, [*layers, nn.Identity()], strict=True):
            x = layer(segment(x))
        loss = F.cross_entropy(x, y)
        update.zero_grad()
        loss.backward()
        update.step()
        losses.append(loss.item())
    with se.Trainer(split, codecs=codecs, optimizer={"name": "SGD", "lr": 0.05, "momentum": 0.9}) as trainer:
        log = trainer.fit(batches(5), progress=False)
    assert log.losses == pytest.approx(losses, rel=1e-4)
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(split.state_dict()[name].double(), tensor.double(), rtol=1e-3, atol=1e-5), name


# Shipping


def test_over_http_the_result_is_the_same_to_the_bit(server: LocalServer) -> None:
    """Also beside a session with another fit."""
    chains = [se.Codecs(forward=f"{name} | fp16", backward=name) for name in ("pca(5)", "bottleneck(5)")]
    results = []
    for url in (None, server.url):
        splits = [digits_split() for _ in chains]
        fits = [se.calibrate(split, c, batches(3), progress=False) for split, c in zip(splits, chains, strict=True)]
        trainers = [se.Trainer(split, url, codecs) for split, codecs in zip(splits, fits, strict=True)]
        for x, y in batches(3):
            for trainer in trainers:
                trainer.step(x, y)
        evaluations = [trainer.evaluate(batches(2)) for trainer in trainers]
        for trainer, codecs in zip(trainers, fits, strict=True):
            trainer.close()
            assert trainer.log.fitted_bytes == codecs.fitted_bytes > 0
        results.append((evaluations, [trainer.log.losses for trainer in trainers], [snapshot(s.model) for s in splits]))
    assert results[0][:2] == results[1][:2]
    assert all(same(one, other) for one, other in zip(results[0][2], results[1][2], strict=True))


@functools.cache
def opening(codecs: str = "pca(4)") -> tuple[bytes, int]:
    """The body that opens a session with fitted codecs, and their bytes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened = on_app(monkeypatch, create_app(Sessions()))
        split = digits_split()
        fitted = se.calibrate(split, codecs, batches(2), progress=False)
        with se.Trainer(split, server="app", codecs=fitted):
            return opened[0].opening, fitted.fitted_bytes


def test_the_bytes_are_those_that_the_opening_grows_by() -> None:
    with_fit, counted = opening()
    without, none = opening("raw")
    assert none == 0 and abs(len(with_fit) - len(without) - counted) < 300
    planes = container.read(with_fit)[0]
    assert sum(p.nbytes for name, p in planes.items() if name.startswith("fitted:")) < counted


def test_a_server_keeps_parameters_as_long_as_the_session() -> None:
    body, _ = opening()
    digests = json.loads(container.read(body)[1]["session"])["fitted"]
    gc.collect()
    for digest in digests:
        with pytest.raises(CodecError):
            find(digest)
    client = create_app(Sessions()).test_client()
    answer = client.post("/v1/sessions", data=body).get_json()
    assert len(digests) == 2 and all(map(find, digests))
    headers = {"Authorization": f"Bearer {answer['token']}"}
    assert client.delete(f"/v1/sessions/{answer['session']}", headers=headers).status_code == 200
    gc.collect()
    for digest in digests:
        with pytest.raises(CodecError):
            find(digest)


def test_parameters_that_nobody_brought_are_a_named_error() -> None:
    body, _ = opening()
    gc.collect()
    planes, config = container.read(body)[0], json.loads(container.read(body)[1]["session"])
    lacking = {name: plane for name, plane in planes.items() if not name.startswith("fitted:")}
    alone = save_tensors(lacking, {"session": json.dumps({**config, "fitted": []})})
    answer = create_app(Sessions()).test_client().post("/v1/sessions", data=alone)
    assert problem(answer, 422)["title"] == "CodecError" and "not in this process" in problem(answer)["detail"]


@pytest.fixture(scope="module")
def honest() -> FlaskClient:
    """A server on which a session with fitted codecs is open."""
    client = create_app(Sessions()).test_client()
    assert client.post("/v1/sessions", data=opening()[0]).status_code == 201
    return client


Lie = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]


def _first(planes: dict[str, torch.Tensor]) -> str:
    return min(name for name in planes if name.startswith("fitted:") and "basis" in name)


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (lambda config, planes: planes.pop(_first(planes)), "FrameError"),
        (lambda config, planes: planes[_first(planes)].neg_(), "FrameError"),
        (lambda config, planes: planes.update({_first(planes): planes[_first(planes)].double()}), "FrameError"),
        (lambda config, planes: planes.update({_first(planes) + ".more": torch.zeros(1)}), "FrameError"),
        (lambda config, planes: planes.update({"fitted:AAAA:basis.9": torch.zeros(4, 9)}), "FrameError"),
        (lambda config, planes: config.update(fitted=[]), "CodecError"),
        (lambda config, planes: config["fitted"].pop(), "CodecError"),
        (lambda config, planes: config["fitted"].append("A" * 22), "FrameError"),
        (lambda config, planes: config["fitted"].append(7), "FrameError"),
        (lambda config, planes: config.update(fitted="A" * 22), "FrameError"),
        (lambda config, planes: config.pop("fitted"), "FrameError"),
        (lambda config, planes: config.update(codecs={"activations": "raw"}), "FrameError"),
        (lambda config, planes: config["codecs"].update(activations="pca(4)"), "CodecError"),
        (lambda config, planes: config["codecs"].update(outputs=f"pca(4, fitted='{'A' * 22}')"), "CodecError"),
        (lambda config, planes: config["codecs"].update(outputs=f"pca(5, fitted={config['fitted'][0]!r})"),
         "CodecError"),
        (lambda config, planes: config["codecs"].update(outputs=f"bottleneck(4, fitted={config['fitted'][0]!r})"),
         "CodecError"),
    ],
)  # fmt: skip
def test_an_opening_that_lies_is_refused(honest: FlaskClient, lie: Lie, error: str) -> None:
    """Also where another session, which is open, brought what this one lacks."""
    body, _ = opening()
    planes, config = load_tensors(body), json.loads(container.read(body)[1]["session"])
    lie(config, planes)
    answer = honest.post("/v1/sessions", data=save_tensors(planes, {"session": json.dumps(config)}))
    assert problem(answer, 400, 422)["title"] == error


def test_the_log_shows_what_was_shipped_once() -> None:
    split = digits_split()
    codecs = se.calibrate(split, "pca(4)", batches(2), progress=False)
    with se.Trainer(split, codecs=codecs) as trainer:
        log = trainer.fit(batches(2), progress=False)
    assert log.fitted_bytes == codecs.fitted_bytes == shipped_bytes(codecs.shipped)
    row = log.summary().loc["fitted, once"]
    assert row["frame"] == log.fitted_bytes and row["http"] == 0 == row["raw"]
    assert "fitted, once" in repr(log) and "fitted, once" in log._repr_html_()
    assert log.to_pandas().attrs["fitted_bytes"] == log.fitted_bytes
    assert log.summary().loc["total", "frame"] == pytest.approx(sum(r.total.frame for r in log) / 2)
    log.plot()
    bare = se.RunLog("nothing", copy.copy(log.records))
    assert bare.fitted_bytes == 0 and "fitted, once" not in bare.summary().index
