"""What a plan says: the best choice, the runners-up, where the time goes, and time against cut."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spliteasy.device import TRAINING_MACS, Device
from spliteasy.link import Link
from spliteasy.planning.costs import PARTS
from spliteasy.profiling import Seconds
from spliteasy.wire import UPWARD, Codecs

if TYPE_CHECKING:
    import pandas

    from spliteasy.pictures import Picture

__all__ = ["Choice", "Curve", "Plan"]

_WORDS = {
    "a": "device computes A", "c": "device computes C", "b": "server computes B", "encode": "codecs encode",
    "decode": "codecs decode", "up": "bytes to the server", "down": "bytes to the device", "trips": "round trips",
    "calls": "calls besides",
}  # fmt: skip
_KINDS = {"single": "single split A|B", "double": "double split A|B|C", "none": "no split, all on the device"}


@dataclass(frozen=True)
class Choice:
    """One way to train: a mode, its cuts by name (for `split`), chains (for `Trainer`), and what a step then takes.

    ``parts`` are seconds by part (`spliteasy.planning.costs.PARTS`), which add up to ``seconds``; ``nbytes`` bytes on
    the wire by message; ``chain`` the chains in words; ``device_macs`` the multiply-accumulates of the device's
    segments in one sample's forward pass.
    """

    mode: str
    cuts: tuple[str, ...]
    numbers: tuple[int, ...]
    chain: str
    codecs: Codecs
    seconds: float
    parts: Mapping[str, float]
    nbytes: Mapping[str, float]
    device_macs: int

    @property
    def bytes_up(self) -> float:
        """What the device sends in a step."""
        return sum(size for message, size in self.nbytes.items() if message in UPWARD)

    @property
    def bytes_total(self) -> float:
        """All messages of a step."""
        return sum(self.nbytes.values())

    def __str__(self) -> str:
        where = f" at {', '.join(self.cuts)}, {self.chain}" if self.cuts else ""
        return (
            f"{_KINDS[self.mode]}{where}: {_seconds(self.seconds)} a step"
            f"{f', {self.bytes_total / 1e6:.3g} MB' if self.cuts else ''}"
        )


@dataclass(frozen=True)
class Curve:
    """The least seconds of a step by first cut in one mode, over all chains (and second cuts); infinite where a limit
    excludes all."""

    mode: str
    seconds: Seconds


@dataclass(frozen=True)
class Plan:
    """The cheapest ways to train a network across a device and a server.

    ``best`` is the least step time over all cuts, chains and modes, ``runners_up`` the next ones at other cuts,
    ``by_mode`` and ``by_chain`` the best of each mode and of each chain, best first. ``error`` is by how much the
    bytes of the best chain are off, typically, at cuts where it was not measured. ``cuts`` names all cuts, ``curves``
    are what `plot` draws. ``hardware`` is the device where one was named, which may state energies. ``private`` is the
    number of the first cut at which the input is no longer sent.
    """

    network: str
    batch: int
    link: Link | None
    device: float
    server: float
    best: Choice
    runners_up: tuple[Choice, ...]
    by_mode: tuple[Choice, ...]
    by_chain: tuple[Choice, ...]
    error: float
    cuts: tuple[str, ...]
    curves: tuple[Curve, ...]
    considered: int
    hardware: Device | None = None
    private: int = 0

    def megabytes_per_image(self, choice: Choice) -> float:
        """Mobile data of one sample in training, 10⁶ bytes, both ways."""
        return choice.bytes_total / 1e6 / self.batch

    def joules_per_image(self, choice: Choice) -> float | None:
        """The device's energy for one sample in training, computing and radio; None if it states no energy."""
        if self.hardware is None:
            return None
        up = choice.bytes_up
        joules = self.hardware.joules(TRAINING_MACS * choice.device_macs * self.batch, up, choice.bytes_total - up)
        return None if joules is None else joules / self.batch

    def budget(self) -> dict[str, float]:
        """The best choice's seconds by part, in words, and their total."""
        parts = {_WORDS[name]: self.best.parts[name] for name in PARTS if self.best.parts[name] > 0}
        return {**parts, "total": self.best.seconds}

    def to_pandas(self) -> pandas.DataFrame:
        """One row a choice, best first: the best, the runners-up, then the best of every other mode and chain. Columns:
        mode, first and second cut, chain, seconds, ``seconds.PART``, ``bytes.MESSAGE``, ``device.megabytes_per_image``,
        and ``device.joules_per_image`` where the device states energies."""
        import pandas

        listed = (self.best, *self.runners_up, *self.by_mode, *self.by_chain)
        rows = [
            {
                "mode": choice.mode,
                "first": choice.cuts[0] if choice.cuts else "",
                "second": choice.cuts[1] if len(choice.cuts) == 2 else "",
                "chain": choice.chain if choice.cuts else "",
                "seconds": choice.seconds,
                **{f"seconds.{part}": choice.parts[part] for part in PARTS},
                **{f"bytes.{name}": size for name, size in choice.nbytes.items()},
                "bytes": choice.bytes_total,
                "device.megabytes_per_image": self.megabytes_per_image(choice),
                **({} if (joules := self.joules_per_image(choice)) is None else {"device.joules_per_image": joules}),
            }
            for choice in {(choice.mode, choice.cuts, choice.chain): choice for choice in listed}.values()
        ]
        return pandas.DataFrame(rows).sort_values("seconds", ignore_index=True)

    def plot(self) -> Picture:
        """Step time against the (first) cut in each mode, the optimum marked; see `spliteasy.planning.figures`."""
        from spliteasy.planning.figures import plot_plan

        return plot_plan(self)

    def _lines(self) -> list[tuple[str, list[str]]]:
        """The plan as headings and lines."""
        link = "no link" if self.link is None else self.link.name or (
            f"{self.link.up_mbps:g}/{self.link.down_mbps:g} Mbit/s, {self.link.rtt_ms:g} ms"
        )  # fmt: skip
        total = self.best.seconds
        budget = [
            f"{_seconds(seconds):>9}  {100 * seconds / total:5.1f} %  {name}"
            for name, seconds in self.budget().items()
            if name != "total"
        ]
        title = (
            f"Plan for {self.network}, batch {self.batch}, {link}, device {self.device:g} × and server "
            f"{self.server:g} × this machine: {self.considered:,} choices"
        )
        return [
            (title, [f"best: {self.best}", self._costs(), *self._warnings()]),
            ("where its time goes:", budget),
            ("runners-up:", [str(choice) for choice in self.runners_up]),
            ("the best of each mode:", [str(choice) for choice in self.by_mode]),
            ("to run it:", [self.code()]),
        ]

    def _warnings(self) -> list[str]:
        """What the best gives away that one may not want to."""
        if not self.best.numbers or self.best.numbers[0] >= self.private:
            return []
        return ["it sends the inputs themselves: A must be deeper to keep them, Constraints(min_operations=...)"]

    def _costs(self) -> str:
        """What the best costs the device beside time."""
        joules = self.joules_per_image(self.best)
        energy = "" if joules is None else f" and {joules:.3g} J of its energy"
        data = self.megabytes_per_image(self.best)
        return f"an image costs the device {data:.3g} MB of data{energy}; 1,000 images {1000 * data:,.3g} MB"

    def code(self) -> str:
        """The lines that train as the best choice says."""
        if not self.best.cuts:
            return "se.Trainer(se.split(model, (), input_shape))"
        chains = self.best.codecs.to_dict()
        chosen = (
            repr(self.best.chain)
            if len(set(chains.values())) == 1
            else f"se.Codecs({', '.join(f'{message}={chain!r}' for message, chain in chains.items())})"
        )
        return f"se.Trainer(se.split(model, {self.best.cuts!r}, input_shape), server=url, codecs={chosen})"

    def __repr__(self) -> str:
        return "\n".join(
            "\n".join([heading, *(f"  {line}" for line in lines)]) for heading, lines in self._lines() if lines
        )

    def _repr_html_(self) -> str:
        return "".join(
            f"<p><b>{html.escape(heading)}</b></p><pre>{html.escape(chr(10).join(lines))}</pre>"
            for heading, lines in self._lines()
            if lines
        )


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"
