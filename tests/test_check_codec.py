"""check_codec finds what is wrong with codecs that talk, remember, draw, fit or trust; faultless ones pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spliteasy.codecs import (
    BytesCodec,
    Context,
    FittedCodec,
    PlaneBound,
    Planes,
    TensorCodec,
    TensorSpec,
    codec,
    register,
    registry,
    remember,
)
from spliteasy.codecs.testing import check_codec
from spliteasy.errors import CodecError, FrameError


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


class Plain(TensorCodec):
    """Lossy in name only: the ground for the others."""

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        return {"values": x.clone()}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        return planes["values"].clone().view(spec.shape or ())

    def out(self, spec: TensorSpec) -> TensorSpec:
        return spec

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        return {"values": PlaneBound(spec.dtype, spec.max_numel)}


class Masked(Plain):
    """A gradient is zero where the forward tensor was, on both sides by the pair: faultless."""

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        if context.gradient:
            mask = context.pair.get("mask")
            return {"values": x.clone() if mask is None else torch.where(mask, x, 0)}
        self.keep(x, context)
        return {"values": x.clone()}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        x = planes["values"].clone().view(spec.shape or ())
        if context.gradient:
            mask = context.pair.get("mask")
            return x if mask is None else torch.where(mask, x, 0)
        self.keep(x, context)
        return x

    def keep(self, x: torch.Tensor, context: Context) -> None:
        context.pair["mask"] = x != 0


class Disagrees(Masked):
    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        x = super().decode(planes, spec, context)
        if not context.gradient:
            context.pair["mask"] = x == 0
        return x


class KeepsTheTensor(Masked):
    def keep(self, x: torch.Tensor, context: Context) -> None:
        super().keep(x, context)
        context.pair["forward"] = x


class Difference(Plain):
    """Sends the difference to the last tensor, which both sides keep as state: faultless, up to rounding."""

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        last = context.state.get("last", torch.zeros((), dtype=x.dtype))
        change = x - last if x.shape == last.shape else x.clone()
        context.state["last"] = last + change if x.shape == last.shape else x.clone()
        return {"values": change.to(x.dtype)}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        last = context.state.get("last", torch.zeros((), dtype=spec.dtype))
        change = planes["values"].view(spec.shape or ())
        x = last + change if change.shape == last.shape else change.clone()
        context.state["last"] = x.clone()
        return x


class StateOfTheObject(Plain):
    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        if not context.training:
            return {"values": x.clone()}
        calls = self.__dict__.setdefault("calls", {})
        seen = calls[context.step] = calls.get(context.step, 0) + (context.seed == 7)
        return {"values": x * (1 + seen)}


class Rounded(Plain):
    """Stochastic rounding, from the context's generator: faultless."""

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        noise = torch.rand(x.shape, generator=self.draw(context), dtype=torch.float64)
        wide = x.double() * 8
        rounded = ((wide + noise).floor() / 8).clamp(torch.finfo(x.dtype).min, torch.finfo(x.dtype).max)
        return {"values": torch.where(wide.abs() < 1e4, rounded, x.double()).to(x.dtype)}

    def draw(self, context: Context) -> torch.Generator:
        return context.generator


class AlwaysTheSame(Rounded):
    def draw(self, context: Context) -> torch.Generator:
        return context.generator.manual_seed(1)


class Everyones(Rounded):
    def draw(self, context: Context) -> torch.Generator:
        return torch.default_generator.manual_seed(context.step)


class Scaled(Plain):
    """int8 with one scale for the tensor: faultless."""

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        scale = (x.double().abs().amax() / 127).reshape(1) if x.numel() else torch.ones(1, dtype=torch.float64)
        levels = (x.double() / scale.clamp(min=5e-324)).round()
        return {"values": levels.clamp(-127, 127).nan_to_num().to(torch.int8), "scale": scale}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        scale = planes["scale"]
        self.check(scale)
        limits = torch.finfo(spec.dtype)
        return (planes["values"].double() * scale).clamp(limits.min, limits.max).to(spec.dtype).view(spec.shape or ())

    def check(self, scale: torch.Tensor) -> None:
        if scale.numel() != 1 or not 0 <= scale.item() < float("inf"):
            raise FrameError(f"expected one scale, finite and not negative; found {scale.tolist()}")

    def out(self, spec: TensorSpec) -> TensorSpec:
        return spec.with_dtype(torch.int8)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        return {"values": PlaneBound(torch.int8, spec.max_numel), "scale": PlaneBound(torch.float64, 1)}


class TrustsItsScale(Scaled):
    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        if not x.isfinite().all():
            raise CodecError("expected finite numbers")
        return super().encode(x, context)

    def check(self, scale: torch.Tensor) -> None:
        scale.nan_to_num_(0.0, 1.0, 1.0)


class Mean(FittedCodec):
    """Subtracts the mean of the calibration tensors, one number a channel: faultless."""

    def __init__(self, *, fitted: str = "") -> None:
        super().__init__(fitted=fitted)

    def check(self, parameters: Mapping[str, torch.Tensor]) -> None:
        if [*parameters] != ["mean"]:
            raise CodecError(f"expected a mean, found {[*parameters]}")

    def fit(
        self,
        tensors: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor | None] | None = None,
        message: str = "activations",
    ) -> Self:
        if any(tensor.ndim < 2 or not tensor.numel() for tensor in tensors):
            raise CodecError("expected batches with channels to fit on")
        over = [dim for dim in range(tensors[0].ndim) if dim != 1]
        mean = torch.stack([tensor.double().mean(over, keepdim=True) for tensor in tensors]).mean(0)
        held = remember({"mean": self.round(mean)[0]})
        return type(self)(fitted=held.digest)

    def round(self, mean: torch.Tensor) -> torch.Tensor:
        return mean.float()

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        mean = self.parameters["mean"].to(x.dtype)
        shifted = x - mean
        return {"values": torch.where(shifted.isfinite(), shifted, x)}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        shifted = planes["values"] + self.parameters["mean"].to(spec.dtype)
        return torch.where(shifted.isfinite(), shifted, planes["values"])

    def out(self, spec: TensorSpec) -> TensorSpec:
        if spec.shape is None or len(spec.shape) < 2 or self.parameters["mean"].shape[0] != spec.shape[1]:
            raise CodecError(f"expected {self.parameters['mean'].shape[0]} channels, found {spec.shape}")
        return spec

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        return {"values": PlaneBound(spec.dtype, spec.max_numel)}


class NeverTheSameMean(Mean):
    def round(self, mean: torch.Tensor) -> torch.Tensor:
        return (mean + torch.rand(())).float()


class WorksUnfitted(Mean):
    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        return dict(super().parameters) if self.fitted else {"mean": torch.zeros(50)}


class Reversed(BytesCodec):
    """The bytes in reverse order; ``check`` is what makes it faultless."""

    def encode(self, array: npt.NDArray[Any]) -> bytes:
        return array.tobytes()[::-1]

    def decode(self, data: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
        self.check(data, count * dtype.itemsize)
        return np.frombuffer(bytes(data)[::-1][: count * dtype.itemsize], dtype)

    def check(self, data: memoryview, expected: int) -> None:
        if len(data) != expected:
            raise FrameError(f"expected {expected} bytes, found {len(data)}")


class LeavesBytes(Reversed):
    def check(self, data: memoryview, expected: int) -> None:
        if len(data) < expected:
            raise FrameError(f"expected {expected} bytes, found {len(data)}")


@pytest.mark.parametrize("cls", [Masked, Rounded, Scaled, Reversed, Difference])
def test_faultless_codecs_pass(cls: type[TensorCodec]) -> None:
    register(cls.__name__.lower(), cls)
    check_codec(cls())


@pytest.mark.parametrize(
    ("cls", "complaint"),
    [
        (Disagrees, "the pairs of both sides hold different things"),
        (KeepsTheTensor, "keep a copy"),
        (StateOfTheObject, "differ when step 0 is tried again"),
        (AlwaysTheSame, "three steps make the same frame"),
        (Everyones, "use context.generator"),
        (TrustsItsScale, "nan in it, yet a finite tensor came back"),
        (LeavesBytes, "expected a FrameError"),
    ],
)
def test_faults_are_found(cls: type[TensorCodec], complaint: str) -> None:
    register(cls.__name__.lower(), cls)
    with pytest.raises(AssertionError, match=complaint):
        check_codec(cls())


def test_a_fitted_codec_is_fitted_and_checked() -> None:
    register("mean", Mean)
    check_codec("mean")
    check_codec("mean | fp16 | zstd(1)")
    check_codec(codec("mean | zstd(1)"))


@pytest.mark.parametrize(
    ("cls", "complaint"),
    [(NeverTheSameMean, "the parameters differ"), (WorksUnfitted, "works though it is not fitted")],
)
def test_faults_of_fitting_are_found(cls: type[FittedCodec], complaint: str) -> None:
    register(cls.__name__.lower(), cls)
    with pytest.raises(AssertionError, match=complaint):
        check_codec(cls())
