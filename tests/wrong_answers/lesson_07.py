"""Wrong answers to the exercises of notebook 07."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import spliteasy as se
from spliteasy.codecs import PlaneBound, TensorCodec
from spliteasy.errors import CodecError
from wrong_answers import Made


class Skipping(nn.Module):
    def __init__(self, waist: int = 32) -> None:
        super().__init__()
        self.stem, self.inside = nn.Conv2d(3, waist, 3, stride=2, padding=1), nn.Conv2d(waist, waist, 3, padding=1)
        self.classifier = nn.Linear(waist * 256, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.classifier((x + self.inside(x)).flatten(1))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if x.mean() > 0:
            x = torch.relu(x)
        return self.second(x)


class Always(Branching):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Each(Branching):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.second(torch.where(x > 0, torch.relu(x), x))


class EachSample(Branching):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.second(torch.where(x.mean(1, keepdim=True) > 0, torch.relu(x), x))


class Renamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 2)


class Log8(TensorCodec):
    """The lesson's, without an argument."""

    def encode(self, x: torch.Tensor, context: Any) -> dict[str, torch.Tensor]:
        return self._encode(x, 4)

    def _encode(self, x: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
        top = x.abs().max().double().reshape(1)
        code = (127 + steps * (x.abs().double() / top).log2()).round().clamp(0, 127)
        return {"values": (code + 128 * (x < 0)).to(torch.uint8), "top": top}

    def decode(self, planes: Any, spec: Any, context: Any) -> torch.Tensor:
        return self._decode(planes, spec, 4)

    def _decode(self, planes: Any, spec: Any, steps: int) -> torch.Tensor:
        codes = planes["values"].to(torch.int16)
        size = planes["top"] * 2.0 ** ((codes % 128 - 127).double() / steps)
        return torch.where(codes < 128, size, -size).to(spec.dtype)

    def out(self, spec: Any) -> Any:
        return spec.with_dtype(torch.uint8)

    def bounds(self, spec: Any) -> dict[str, PlaneBound]:
        return {"values": PlaneBound(torch.uint8, spec.max_numel), "top": PlaneBound(torch.float64, 1)}


class NotKept(Log8):
    """Checks its argument and forgets it."""

    def __init__(self, steps: int) -> None:
        if type(steps) is not int or not 1 <= steps <= 16:
            raise CodecError("no")
        self._steps = 4

    def __repr__(self) -> str:
        return "log8"


class Kept(Log8):
    """Keeps its argument and does not use it."""

    def __init__(self, steps: int) -> None:
        if type(steps) is not int or not 1 <= steps <= 16:
            raise CodecError("no")
        self.steps = steps


class OneSide(Kept):
    def encode(self, x: torch.Tensor, context: Any) -> dict[str, torch.Tensor]:
        return self._encode(x, self.steps)


class NotChecked(OneSide):
    def __init__(self, steps: int) -> None:
        self.steps = steps


class WrongError(OneSide):
    def __init__(self, steps: int) -> None:
        if type(steps) is not int or not 1 <= steps <= 16:
            raise ValueError("no")
        self.steps = steps


def trained(model: nn.Module, at: Any, codecs: Any, epochs: int = 1) -> Any:
    torch.manual_seed(0)
    trainer = se.Trainer(se.split(model, at=at, input_shape=(1, 8, 8)), codecs=codecs)
    if epochs:
        trainer.fit(se.data.loader(se.data.digits()[0], 128, 0), epochs=epochs, progress=False)
    return trainer


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def of_three_channels() -> Any:
    return se.Trainer(se.split(Skipping(4), at=("stem", "flatten"), input_shape=(3, 32, 32)))


WRONG: dict[str, list[Any]] = {
    "07.1": [
        Skipping,
        Made(Skipping),
        Made(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))),
        Made(lambda: nn.Linear(3, 2)),
        Made(lambda: nn.Conv2d(1, 8, 3)),
        "resnet18",
    ],
    "07.2": [Branching, Always, Each, EachSample, Renamed, Made(Branching), "Branching"],
    "07.3": [Log8, NotKept, Kept, OneSide, NotChecked, WrongError, "log8(4)", Made(lambda: Kept(4))],
    "07.4": [
        Made(lambda: trained(se.load_model("digits_cnn"), ("pool", "flatten"), "int8")),
        Made(lambda: trained(small(), ("1", "2"), None)),
        Made(lambda: trained(small(), ("1", "2"), "topk(0.01) | int8 | zstd(1)")),
        Made(lambda: trained(small(), "1", "topk(0.05) | int8")),
        Made(lambda: trained(small(), ("1", "2"), "int8", epochs=0)),
        Made(lambda: trained(nn.Sequential(nn.Tanh(), *small()), ("0", "2"), "int8")),
        Made(of_three_channels),
        0.97,
    ],
}
