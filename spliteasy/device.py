"""The machine that runs segments A and C: how fast it computes beside this one, its memory, its energy."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from spliteasy.errors import TrainingError, suggest
from spliteasy.seeding import preserved

__all__ = ["DEVICES", "PHONE_MACS_A_SECOND", "TRAINING_MACS", "Device", "this_machines_macs_a_second"]

TRAINING_MACS = 3
"""Multiply-accumulates of a training step for each of its forward pass: the forward, the gradient of what entered an
operation, and that of its weights, each as many (the usual count; the first operation needs none of its input)."""

_GIGABYTE = 1 << 30


@dataclass(frozen=True)
class Device:
    """A device. What is not stated is not estimated.

    Arguments:
        name: for tables and messages.
        speed: how fast it computes relative to this machine: 0.1 takes ten times as long.
        memory_bytes: its memory.
        share: the part of the memory that an app may take, above 0 and up to 1.
        joules_per_mac: energy of a multiply-accumulate, None if unknown.
        joules_per_mb_up: energy of sending 10⁶ bytes, None if unknown.
        joules_per_mb_down: energy of receiving 10⁶ bytes, None if unknown.
        source: where the figures come from; not compared.

    Raises:
        TrainingError: for a speed, a memory, a share or an energy that no device has.
    """

    name: str
    speed: float
    memory_bytes: int
    share: float = 1.0
    joules_per_mac: float | None = None
    joules_per_mb_up: float | None = None
    joules_per_mb_down: float | None = None
    source: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TrainingError(f"Device: expected a name, found {self.name!r}. Give one, such as 'my phone'.")
        if not _is_number(self.speed) or not 0 < self.speed < math.inf:
            raise TrainingError(
                f"Device {self.name}: expected speed as a number above zero, relative to this machine, found "
                f"{self.speed!r}. Give 1 if it is as fast as this one."
            )
        if type(self.memory_bytes) is not int or self.memory_bytes <= 0:
            raise TrainingError(
                f"Device {self.name}: expected memory_bytes as a whole number above zero, found {self.memory_bytes!r}. "
                "A device without memory trains nothing; 3 GB are 3 * 2**30."
            )
        if not _is_number(self.share) or not 0 < self.share <= 1:
            raise TrainingError(
                f"Device {self.name}: expected share, the part of its memory that an app gets, above 0 and up to 1; "
                f"found {self.share!r}."
            )
        for energy in ("joules_per_mac", "joules_per_mb_up", "joules_per_mb_down"):
            value = getattr(self, energy)
            if value is not None and not (_is_number(value) and 0 <= value < math.inf):
                raise TrainingError(
                    f"Device {self.name}: expected {energy} as joules, zero or more, or None if unknown; found "
                    f"{value!r}."
                )

    @property
    def available_bytes(self) -> int:
        """The memory that an app gets: ``share`` of ``memory_bytes``."""
        return int(self.share * self.memory_bytes)

    @property
    def states_energy(self) -> bool:
        """Whether any of its three energies is known."""
        return any(value is not None for value in (self.joules_per_mac, self.joules_per_mb_up, self.joules_per_mb_down))

    def joules(self, macs: float, up_bytes: float, down_bytes: float) -> float | None:
        """The energy of computing ``macs`` multiply-accumulates, sending and receiving: the sum of what is stated, so
        a lower bound where some are None; None where all are."""
        if not self.states_energy:
            return None
        radio = (self.joules_per_mb_up or 0.0) * up_bytes + (self.joules_per_mb_down or 0.0) * down_bytes
        return (self.joules_per_mac or 0.0) * macs + radio / 1e6


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TABLE_1_PHONE = {"resnet50": (4_089_184_256, 9.6), "densenet121": (2_834_161_664, 11.5)}
"""Multiply-accumulates of a forward pass for an image of 224² (as `find_cuts` counts them), and the seconds that the
paper's phone took to train on one, unsplit (Table 1 of SplitEasy, HotMobile '21)."""

PHONE_MACS_A_SECOND: float = math.prod(TRAINING_MACS * macs / s for macs, s in _TABLE_1_PHONE.values()) ** 0.5
"""Multiply-accumulates a second of the paper's phone in training: 0.97·10⁹, the geometric mean of 1.28·10⁹ on ResNet50
and 0.74·10⁹ on DenseNet121, so either is missed by 31 %. Table 1 is per image; a batch is taken to need as many times
one image's seconds."""


@functools.cache
def this_machines_macs_a_second(threads: int | None = None) -> float:
    """Multiply-accumulates a second of this machine in training, by ResNet-50 on two images of 224²: the best of five
    steps after one to warm up. Measured once a process for each number of threads (None: torch's now).

    Weights and random numbers of others are not touched.
    """
    from torchvision.models import resnet50

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with preserved(), torch.inference_mode(False), torch.enable_grad():
            model = resnet50().train()
            x, y = torch.rand(2, 3, 224, 224), torch.arange(2)
            seconds = []
            for _ in range(6):
                started = time.perf_counter()
                F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return len(x) * TRAINING_MACS * _TABLE_1_PHONE["resnet50"][0] / min(seconds[1:])


class _Devices(Mapping[str, Device]):
    """Devices by name. A phone's speed beside this machine is known once this machine was measured, when it is asked
    for."""

    _NAMES = ("this-machine", "iphone-xr")

    def __getitem__(self, name: str) -> Device:
        if name == "this-machine":
            return Device(name, 1.0, _own_memory(), source="this machine's physical memory, as its system states it")
        if name == "iphone-xr":
            speed = PHONE_MACS_A_SECOND / this_machines_macs_a_second(torch.get_num_threads())
            return Device(name, speed, 3 * _GIGABYTE, share=0.5, source=_PHONE)
        raise KeyError(f"Expected one of the devices {', '.join(self)}, found {name!r}.{suggest(str(name), self)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._NAMES)

    def __len__(self) -> int:
        return len(self._NAMES)

    def __contains__(self, name: object) -> bool:
        return name in self._NAMES  # without measuring

    def __repr__(self) -> str:
        return f"DEVICES: {', '.join(self)}"


_PHONE = (
    "the paper's phone, an iPhone XR with 3 GB (SplitEasy, HotMobile '21), with TensorFlow.js on its GPU: 0.97·10⁹ "
    "multiply-accumulates a second, the geometric mean over its Table 1 (ResNet50 9.6 s, DenseNet121 11.5 s an image, "
    "unsplit), over those of this machine as measured. Its system states no limit of an app's memory: half is an "
    "assumption. No energies were found for it, so none are stated"
)


def _own_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError) as error:  # Windows has no sysconf
        raise TrainingError(
            'Expected this system to say how much memory it has, found that it does not. Use se.Device("this machine", '
            "speed=1, memory_bytes=...)."
        ) from error


DEVICES: Mapping[str, Device] = _Devices()
"""Devices by name: `this-machine` and `iphone-xr`, the paper's phone. Asking for the phone measures this machine
once, in some seconds; the `source` of each says where its figures come from, and which are assumed."""
