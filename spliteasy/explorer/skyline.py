"""What the picture of a network shows, before anything is drawn: bars, stages, the axis, and who owns what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from spliteasy.cuts import Cut, Cuts
from spliteasy.explorer.wording import size, tooltip

__all__ = ["MAX_BARS", "Axis", "Bar", "Skyline", "Stage", "skyline"]

MAX_BARS = 300
"""More bars than this are grouped: a bar thinner than a pixel shimmers."""

_MAX_STAGES = 32


@dataclass(frozen=True)
class Bar:
    """The cuts ``first`` to ``last`` (one, unless grouped), the bytes of the largest, its segment and its tooltip."""

    first: int
    last: int
    nbytes: int
    segment: str
    tooltip: str


@dataclass(frozen=True)
class Stage:
    """A part of the network, as the names of its modules have it: cuts ``first`` to ``last``."""

    label: str
    first: int
    last: int


@dataclass(frozen=True)
class Axis:
    """The axis of bytes, from ``low`` at the bottom to ``high`` at the top; logarithmic if ``log``."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool

    def height(self, nbytes: float) -> float:
        """How high a bar of ``nbytes`` reaches: 0 at the bottom, 1 at the top."""
        if not self.log:
            return nbytes / self.high
        if nbytes <= self.low:
            return 0.0
        return math.log(nbytes / self.low) / math.log(self.high / self.low)


@dataclass(frozen=True)
class Skyline:
    """A network of ``count`` cuts with one or two of them chosen, ready to be drawn. ``title`` says what it shows."""

    title: str
    count: int
    bars: tuple[Bar, ...]
    stages: tuple[Stage, ...]
    axis: Axis
    at: tuple[Cut, ...]

    @property
    def spans(self) -> dict[str, tuple[float, float]]:
        """Where each segment begins and ends, in bars from the left; the cuts lie between."""
        edges = [0, *(cut.index + 1 for cut in self.at), self.count]
        return dict(zip("ABC", pairwise(edges), strict=False))

    @property
    def summary(self) -> str:
        """The picture in a sentence, for readers who cannot see it."""
        chosen = " and ".join(f"after {cut.name}, where {size(cut.nbytes)} cross" for cut in self.at)
        largest = max((bar.nbytes for bar in self.bars), default=0)
        return f"{self.title}. {self.count} bars, the highest {size(largest)}. Cut {chosen}."


def skyline(cuts: Cuts, at: Sequence[int], name: str, log: bool = False) -> Skyline:
    """The picture of ``cuts`` of the network ``name``, cut at the one or two numbers ``at``."""
    chosen = tuple(cuts[index] for index in at)
    each = math.ceil(len(cuts) / MAX_BARS)
    bars = []
    for start in range(0, len(cuts), each):
        group = [cuts[index] for index in range(start, min(start + each, len(cuts)))]
        segment = "ABC"[sum(group[0].index > cut.index for cut in chosen)]
        bars.append(Bar(group[0].index, group[-1].index, max(cut.nbytes for cut in group), segment, _told(group)))
    noun = "image" if len(cuts.input_shape) == 3 else "sample"
    title = f"{name}: bytes at each of its {len(cuts)} cuts, for a batch of {cuts.batch} {noun}{'s' * (cuts.batch > 1)}"
    values = [cut.nbytes for cut in cuts if cut.nbytes]
    axis = _log_axis(min(values, default=1), max(values, default=1)) if log else _axis(max(values, default=1))
    return Skyline(title, len(cuts), tuple(bars), tuple(_stages(cuts.names)), axis, chosen)


def _told(group: Sequence[Cut]) -> str:
    if len(group) == 1:
        return tooltip(group[0])
    low, high = min(cut.nbytes for cut in group), max(cut.nbytes for cut in group)
    span = size(high) if low == high else f"{size(low)} to {size(high)}"
    return f"{group[0].index} to {group[-1].index}: {group[0].name} to {group[-1].name}\n{span}"


def _axis(highest: float) -> Axis:
    """From zero, with ticks at round numbers: 1, 2 or 5 of a power of ten apart."""
    rough = highest / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    ticks = [index * step for index in range(math.floor(highest * 1.0001 / step) + 1)]
    return Axis(0, highest * 1.02, tuple(ticks), log=False)


def _log_axis(lowest: float, highest: float) -> Axis:
    """Whole powers of ten, the lowest below the smallest bar so that it still has a height."""
    first = math.floor(math.log10(lowest / 2))
    last = math.ceil(math.log10(highest))
    every = math.ceil((last - first) / 6)
    return Axis(
        10.0**first,
        highest * 1.3,
        tuple(10.0**power for power in range(first, last + 1, every) if 10.0**power <= highest * 1.3),
        log=True,
    )


def _stages(names: Sequence[str]) -> list[Stage]:
    """Runs of cuts inside the same module, as deep as gives a readable number of them.

    A module that holds more than half of the network is opened, again and again, while what comes out is still few.
    """
    depth: dict[str, int] = {}
    stages = _runs(names, depth)
    while True:
        largest = max(stages, key=lambda stage: stage.last - stage.first)
        covered = largest.last - largest.first + 1
        if covered * 2 <= len(names):
            return stages
        depth[largest.label] = 1
        opened = _runs(names, depth)
        inside = [stage for stage in opened if largest.first <= stage.first <= largest.last]
        if len(opened) > _MAX_STAGES or len(inside) * 2 > covered or inside == [largest]:
            return stages
        stages = opened


def _runs(names: Sequence[str], opened: dict[str, int]) -> list[Stage]:
    stages: list[Stage] = []
    for label, run in groupby(enumerate(names), key=lambda item: _prefix(item[1], opened)):
        positions = [index for index, _ in run]
        stages.append(Stage(label, positions[0], positions[-1]))
    return stages


def _prefix(name: str, opened: dict[str, int]) -> str:
    """The module of a cut: its first name, and one more for each that has been opened."""
    parts = name.split(".")
    length = 1
    while length < len(parts) and ".".join(parts[:length]) in opened:
        length += 1
    return ".".join(parts[:length])
