"""Real training steps of a network with a server process, and what they take an image on the paper's phone and link."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

from spliteasy.cuts import Cuts, find_cuts
from spliteasy.device import Device
from spliteasy.errors import ReproduceError
from spliteasy.inputs import photograph_labels, photographs
from spliteasy.link import Link
from spliteasy.models import input_size_of, load_model
from spliteasy.paper_memory import PAPER_NETWORKS
from spliteasy.reproduce.setting import Setting
from spliteasy.runlog import DEVICE_PHASES, SERVER_PHASES, RunLog, StepRecord
from spliteasy.seeding import preserved
from spliteasy.server.process import LocalServer
from spliteasy.splitting import Split, split
from spliteasy.trainer import Trainer
from spliteasy.volume import sent_both_ways

__all__ = ["PAPER_ARCHITECTURES", "Architecture", "Rig", "Times", "times"]


@dataclass(frozen=True)
class Architecture:
    """A network as `load_model` takes it, and the side of its image (None: what it is made for)."""

    title: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    side: int | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = input_size_of(self.name)
        return (channels, height, width) if self.side is None else (channels, self.side, self.side)

    def load(self) -> torch.nn.Module:
        """The network with weights of seed 0; torch's generator is left as it was."""
        with preserved():
            torch.manual_seed(0)
            return load_model(self.name, **self.arguments)

    def cuts(self) -> Cuts:
        """All cuts for one image."""
        return find_cuts(self.load(), self.input_shape)

    def usual_cuts(self) -> tuple[str, str]:
        """After the first max pooling, and before the classifier: what is assumed of the paper's Table 1.

        Raises `ReproduceError` for a network without pooling, or with nothing between the two.
        """
        cuts = self.cuts()
        pools = [cut for cut in cuts if cut.operation in ("MaxPool2d", "max_pool2d")]
        last = [cut for cut in cuts if cut.params_after]
        if not pools or last[-1].index <= pools[0].index:
            raise ReproduceError(f"Expected a max pooling in {self.title} with layers behind it, found none.")
        return pools[0].name, last[-1].name


PAPER_ARCHITECTURES: dict[str, Architecture] = {
    title: Architecture(title, name, arguments, side) for title, (name, arguments, side, _) in PAPER_NETWORKS.items()
}
"""The six networks of Table 1 by their names there."""


class Rig:
    """A server process and a progress bar, for as long as the ``with`` block. ``total`` runs will be made."""

    def __init__(self, name: str, total: int, setting: Setting, progress: bool) -> None:
        from tqdm.auto import tqdm

        self.setting = setting
        self._server = LocalServer()
        self._bar = tqdm(total=total, desc=name, unit="run", disable=not progress)

    def __enter__(self) -> Rig:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._server.stop()

    def parts(self, architecture: Architecture, at: Sequence[str]) -> Split:
        """The network cut there."""
        self._bar.set_postfix_str(architecture.title)
        return split(architecture.load(), tuple(at), architecture.input_shape)

    def measured(self, parts: Split) -> dict[str, Times]:
        """A run with each of the setting's chains, and what it takes in the setting."""
        logs = {label: self.run(parts, label) for label in self.setting.chains}
        return times(logs, self.setting.link, self.setting.device, self.setting.server)

    def run(self, parts: Split, chain: str = "raw") -> RunLog:
        """Training steps with the chain of that label: the server's if the network is cut, here if not. The one to
        warm up is left out."""
        batch = self.setting.batch
        x = photographs(parts.input_shape, batch)
        y = photograph_labels(batch, parts.classes or 2)
        codecs = self.setting.chains[chain]
        with preserved(), Trainer(parts, self._server.url if parts.cuts else None, codecs) as trainer:
            for _ in range(1 + self.setting.steps):
                trainer.step(x, y)
            log = trainer.log
        log.records = log.records[1:]
        self._bar.update()
        return log


@dataclass(frozen=True)
class Times:
    """Seconds an image: ``overall``, of it ``communication``; ``megabytes`` (10⁶ bytes) an image, both ways."""

    overall: float
    communication: float
    megabytes: float


def times(
    logs: Mapping[str, RunLog], link: Link | None, device: Device | None, server: float = 1.0
) -> dict[str, Times]:
    """The steps of one split, by the label of their chains, as they would be on a link, with a device, and a server of
    that speed: `RunLog.on`, with what the server computes divided by its speed.

    A machine with other work to do is sometimes slow, never fast: the shortest of each phase counts. What A, B and C
    compute is the same whatever the chain, so for these phases it is the shortest of all logs. All else is
    communication: framing or codecs (at this machine's speed), sockets and the link.
    """
    moved = {label: log.on(link, device).records for label, log in logs.items()}
    everything = [record for records in moved.values() for record in records]
    sides = ((DEVICE_PHASES, 1.0), (SERVER_PHASES, server))
    computing = sum(_least(everything, phase) / speed for phases, speed in sides for phase in phases)
    found = {}
    for label, records in moved.items():
        images = records[0].samples
        talking = sum(_least(records, phase) for phase in ("encode", "transfer", "link", "decode"))
        sent = statistics.median(sum(sent_both_ways(record)) for record in records) / images / 1e6
        found[label] = Times((computing + talking) / images, talking / images, sent)
    return found


def _least(records: Sequence[StepRecord], phase: str) -> float:
    return min(record.seconds.get(phase, 0.0) for record in records)
