"""C3: the operations are the ones of the paper, and a gradient that goes through them is the true one."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import SINGLE, batch, digits_split
from hypothesis import given, settings
from hypothesis import strategies as st

import spliteasy as se
from spliteasy.codecs import Context, TensorSpec, codec
from spliteasy.errors import CodecError
from spliteasy_plugins import c3
from spliteasy_plugins.c3 import CircularConvolution


def keys(count: int, features: int, seed: int = 0) -> torch.Tensor:
    """The keys (count, features), by sending a one: what is bound to it is the key."""
    one = torch.zeros(count, features, dtype=torch.float64)
    found = []
    for number in range(count):
        x = one.clone()
        x[number, 0] = 1
        found.append(CircularConvolution(max(2, count), seed=seed).encode(x, Context())["values"][0])
    return torch.stack(found)


def circulants(samples: int, features: int, ratio: int, seed: int = 0) -> torch.Tensor:
    """K for the whole batch: (groups · features) × (samples · features), by indices alone, without a transform."""
    groups = -(-samples // ratio)
    shift = (torch.arange(features)[:, None] - torch.arange(features)[None, :]) % features
    k = torch.zeros(groups, features, samples, features, dtype=torch.float64)
    for sample, key in zip(range(samples), keys(ratio, features, seed).repeat(groups, 1), strict=False):
        k[sample // ratio, :, sample] = key[shift]
    return k.view(groups * features, samples * features)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(2, 5), st.integers(0, 3))
def test_encoding_is_circular_convolution_and_decoding_its_transpose(
    samples: int, features: int, ratio: int, seed: int
) -> None:
    x = torch.randn(samples, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    k, made = circulants(samples, features, ratio, seed), CircularConvolution(ratio, seed=seed)
    values = made.encode(x, Context())["values"]
    assert values.shape == (-(-samples // ratio), features)
    torch.testing.assert_close(values.reshape(-1), k @ x.reshape(-1))
    decoded = made.decode({"values": values}, TensorSpec.of((samples, features), torch.float64), Context())
    torch.testing.assert_close(decoded.reshape(-1), k.T @ k @ x.reshape(-1))


@pytest.mark.parametrize("samples", [8, 7, 3, 1])
def test_the_gradient_through_the_codec_is_the_true_one(samples: int) -> None:
    """The same chain on both messages, against autograd through the explicit matrices."""
    chain, weight = codec("c3(4)"), torch.randn(30, 5, dtype=torch.float64)
    x = torch.randn(samples, 3, 2, 5, dtype=torch.float64, requires_grad=True)
    k = circulants(samples, 30, 4)
    decoded = (k.T @ (k @ x.reshape(-1))).view(samples, 30)
    (decoded @ weight).tanh().square().sum().backward()

    received = chain.decode(chain.encode(x.detach())).requires_grad_()
    (received.flatten(1) @ weight).tanh().square().sum().backward()
    assert received.grad is not None and x.grad is not None
    backward = Context("input_gradients")
    torch.testing.assert_close(chain.decode(chain.encode(received.grad, backward), backward), x.grad)


def test_a_trained_split_takes_the_true_gradient() -> None:
    """One step of a single split with c3 both ways is a step of the network with the codec as a layer of it."""
    chains = se.Codecs(activations="c3(4)", input_gradients="c3(4)")
    split, twin = digits_split(SINGLE), digits_split(SINGLE)
    twin.train()
    x, y = batch(0, 6)
    with se.Trainer(split, codecs=chains, optimizer={"name": "SGD", "lr": 0.1}) as trainer:
        loss = trainer.step(x, y).loss

    assert twin.b is not None
    with torch.random.fork_rng():
        torch.manual_seed(se.step_seed(0, 0))
        activations = _alone(twin.a(x))
        k = circulants(6, activations[0].numel(), 4).float()
        decoded = (k.T @ (k @ activations.reshape(-1))).view_as(activations)
        expected = F.cross_entropy(_alone(twin.b(decoded)), y)
        expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    for ours, theirs in zip(split.model.parameters(), twin.model.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.detach(), theirs.detach() - 0.1 * theirs.grad, rtol=1e-3, atol=1e-4)


def _alone(result: Any) -> torch.Tensor:
    """The one tensor that a segment gives."""
    (tensor,) = result if isinstance(result, tuple | list) else (result,)
    assert isinstance(tensor, torch.Tensor)
    return tensor


def test_keys_are_random_unit_vectors_of_their_own() -> None:
    found = keys(16, 2000)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(16, dtype=torch.float64))
    angles = found @ found.T - torch.eye(16)
    assert float(angles.abs().max()) < 5 / 2000**0.5
    spread = found * 2000**0.5
    assert float(spread.mean().abs()) < 0.04 and float(spread.std()) == pytest.approx(1, abs=0.03)
    assert not torch.allclose(found, keys(16, 2000, seed=1))


def test_a_group_that_is_not_full_has_the_first_keys() -> None:
    x = torch.randn(3, 50)
    made = CircularConvolution(4)
    alone, padded = (made.encode(rows, Context())["values"] for rows in (x, torch.cat([x, torch.zeros(1, 50)])))
    torch.testing.assert_close(alone, padded)


def test_another_process_has_the_same_keys() -> None:
    program = "from spliteasy.codecs import codec; import torch; x = torch.arange(60.0).view(4, 15); "
    program += "print(codec('c3(3, seed=5)').encode(x).hex())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert bytes.fromhex(found) == codec("c3(3, seed=5)").encode(torch.arange(60.0).view(4, 15))


def test_noise_is_the_root_of_the_group() -> None:
    x = torch.randn(32, 2000, generator=torch.Generator().manual_seed(1))
    for ratio in (2, 4, 8, 16):
        decoded = codec(f"c3({ratio})").decode(codec(f"c3({ratio})").encode(x))
        assert float((decoded - x).norm() / x.norm()) == pytest.approx(ratio**0.5, rel=0.1)
        cosine = F.cosine_similarity(decoded.reshape(-1), x.reshape(-1), dim=0)
        assert float(cosine) == pytest.approx(1 / (ratio + 1) ** 0.5, rel=0.1)


def test_few_keys_are_kept() -> None:
    for features in range(100, 120):
        codec("c3(2)").encode(torch.randn(2, features))
    info = c3._spectra.cache_info()
    assert info.maxsize is not None and info.currsize <= info.maxsize <= 16


def test_large_batches_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(23, 40)
    whole = codec("c3(4)").encode(x)
    monkeypatch.setattr(c3, "BLOCK", 200)
    assert codec("c3(4)").encode(x) == whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_sums_beyond_the_range_are_cut_off_and_counted(dtype: torch.dtype) -> None:
    x, context = torch.full((4, 64), torch.finfo(dtype).max, dtype=dtype), Context()
    frame = codec("c3(4)").encode(x, context)
    assert bool(codec("c3(4)").decode(frame).isfinite().all())
    small = x / 2**20
    decoded, spec = codec("c3(4)").decode(codec("c3(4)").encode(small)), TensorSpec.of((4, 64), dtype)
    assert decoded.dtype is spec.dtype and bool(decoded.isfinite().all())
    # Against its key backwards every term of a convolution's first sum has the same sign.
    signs = keys(2, 64)[0].sign().flip(0).roll(1).to(dtype)
    CircularConvolution(2).encode((signs * torch.finfo(dtype).max).repeat(2, 1), context)
    assert context.counts["saturated"] > 0


def test_the_size_of_a_tensor_does_not_matter() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    once = codec("c3(2)").decode(codec("c3(2)").encode(x))
    for power in (2.0**-120, 2.0**60):
        assert torch.equal(codec("c3(2)").decode(codec("c3(2)").encode(x * power)), once * power)


@pytest.mark.parametrize("arguments", [(1,), (0,), (2.0,), (True,), ("4",), (2, -1), (2, 1.5), (2, 1 << 63)])
def test_arguments_are_checked(arguments: tuple[Any, ...]) -> None:
    ratio, *seed = arguments
    with pytest.raises(CodecError, match="for c3"):
        CircularConvolution(ratio, **({"seed": seed[0]} if seed else {}))


def test_notation() -> None:
    assert repr(codec("c3(4)")) == "c3(4)" and repr(codec("c3(4, seed=3)")) == "c3(4, seed=3)"
    with pytest.raises(CodecError, match="before codecs that leave a flat vector"):
        CircularConvolution(2).out(TensorSpec(None, torch.float32, max_numel=9))
