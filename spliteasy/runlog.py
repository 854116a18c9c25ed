"""What a training step cost, and the log of a run: tables and pictures of loss, seconds by phase, bytes by message."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, overload

from spliteasy.volume import epoch_costs, message_costs, step_cost
from spliteasy.wire import MESSAGES, Bytes

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from spliteasy.device import Device
    from spliteasy.link import Link

__all__ = [
    "CODEC_PHASES",
    "DEVICE_PHASES",
    "PHASES",
    "SERVER_PHASES",
    "Evaluation",
    "RunLog",
    "StepRecord",
    "Stopwatch",
]

PHASES = (
    "a_forward", "encode", "transfer", "link", "b_forward", "decode",
    "c", "b_backward", "a_backward", "update", "total",
)  # fmt: skip
"""The phases of a step: what the device computes (A, C, its update, encoding and decoding), what the server computes
(B), what the calls took beyond that (`transfer`), and what an emulated link added (`link`)."""

DEVICE_PHASES = ("a_forward", "c", "a_backward", "update")
SERVER_PHASES = ("b_forward", "b_backward")
CODEC_PHASES = ("encode", "decode")
"""Who computes: the device, the server, and codecs on either side."""

_COLORS = {"a_forward": "#1b9e77", "a_backward": "#66c2a5", "c": "#a6d854", "update": "#c7e9c0", "encode": "#fdbf6f",
           "decode": "#ff7f00", "transfer": "#bdbdbd", "link": "#636363", "b_forward": "#7570b3",
           "b_backward": "#b3b0d8"}  # fmt: skip


_FITTED = "fitted, once"
"""The row of `RunLog.summary` for parameters shipped when the session opened."""


@dataclass(frozen=True)
class StepRecord:
    """One finished step: its loss, seconds by phase (`PHASES`), and bytes by message.

    ``gradient_error`` is the relative L2 error that the backward method added to the gradients across the cuts: 0 for
    ``exact``, more for ``auxiliary-label``. ``saturated`` has the elements of each message that its codecs cut off at
    the largest representable number. ``epoch`` counts the epochs of `Trainer.fit` from 1; steps on their own are in 0.
    ``parts`` are the micro-batches of a pipelined step, whose phases overlap: together they take more than the total.
    """

    step: int
    loss: float
    samples: int
    seconds: dict[str, float]
    bytes: dict[str, Bytes]
    learning_rate: float
    gradient_error: float = 0.0
    saturated: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    parts: int = 1

    @property
    def total(self) -> Bytes:
        """The bytes of all messages of the step."""
        return sum(self.bytes.values(), Bytes())


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over ``samples``, and the share of right answers (None where the output is no row of class scores)."""

    loss: float
    accuracy: float | None
    samples: int
    step: int = -1


class Stopwatch:
    """Seconds by phase, adding up where a phase comes more than once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def finish(self) -> dict[str, float]:
        """All phases, in order, with the total."""
        self.seconds["total"] = time.perf_counter() - self._started
        return {phase: self.seconds.get(phase, 0.0) for phase in PHASES}


@dataclass
class RunLog(Sequence[StepRecord]):
    """The steps of a run, in order, and the evaluations made on the way.

    ``fitted_bytes`` is the size of the parameters that codecs were fitted to, as they are shipped once, when the
    session opens (in-process they would have to be, so they count too); no step's bytes include it.

    ``device_macs`` are the multiply-accumulates of the device's segments in one sample's forward pass. With a
    ``device``, which `on` gives it, the tables say what the run costs there: bytes each way, megabytes an image, and
    joules if the device states energies.
    """

    title: str = "training"
    records: list[StepRecord] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    fitted_bytes: int = 0
    device_macs: int = 0
    device: Device | None = None
    now: int = field(default=0, repr=False, compare=False)
    """The epoch that is under way, 0 outside of one."""

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> StepRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[StepRecord]: ...
    def __getitem__(self, index: int | slice) -> StepRecord | list[StepRecord]:
        return self.records[index]

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [record.loss for record in self.records]

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """The next epoch, while it lasts."""
        self.now = 1 + max((record.epoch for record in self.records), default=0)
        try:
            yield
        finally:
            self.now = 0

    def on(self, link: Link | None = None, device: Device | None = None) -> RunLog:
        """The log as it would have been on this link (None: none), with this device: nothing is run or waited for.

        `spliteasy.virtual.virtual_log` says how, and how well it agrees with a run that waited.
        """
        from spliteasy.virtual import virtual_log

        return virtual_log(self, link, device)

    def to_pandas(self) -> pandas.DataFrame:
        """One row a step: loss, samples, epoch, learning rate, ``seconds.PHASE``, ``bytes.MESSAGE.KIND``,
        ``saturated.MESSAGE``; with a device the columns of `spliteasy.volume.step_cost` too; ``fitted_bytes`` is in its
        ``attrs``."""
        import pandas

        rows = []
        for record in self.records:
            row: dict[str, Any] = {
                "step": record.step,
                "loss": record.loss,
                "samples": record.samples,
                "epoch": record.epoch,
                "learning_rate": record.learning_rate,
                "gradient_error": record.gradient_error,
            }
            row |= {f"seconds.{phase}": record.seconds.get(phase, 0.0) for phase in PHASES}
            for message in MESSAGES:
                size = record.bytes.get(message, Bytes())
                row |= {f"bytes.{message}.{kind}": getattr(size, kind) for kind in ("raw", "frame", "http")}
            row |= {f"saturated.{message}": record.saturated.get(message, 0) for message in MESSAGES}
            if self.device is not None:
                row |= step_cost(record, self.device_macs, self.device)
            rows.append(row)
        frame = pandas.DataFrame(rows) if rows else pandas.DataFrame(columns=_columns(), dtype=float)
        frame.attrs["fitted_bytes"] = self.fitted_bytes
        return frame

    def summary(self) -> pandas.DataFrame:
        """Mean bytes a step by message and in total; the saving is raw over what was sent (HTTP, frames in-process).

        If codecs are fitted, a last row ``fitted, once`` has the bytes of their parameters, not divided by the steps
        and not in the total. With a device there are ``MB per image`` of what is sent, and ``joules`` a step, of the
        radio by message and with computing in the total, if it states energies. `epochs` adds up each epoch.
        """
        import pandas

        rows = {}
        steps = max(len(self.records), 1)
        sizes = {m: sum((r.bytes.get(m, Bytes()) for r in self.records), Bytes()) for m in MESSAGES}
        for name, size in [*sizes.items(), ("total", sum(sizes.values(), Bytes()))]:
            sent = size.sent
            rows[name] = {
                "raw": size.raw / steps,
                "frame": size.frame / steps,
                "http": size.http / steps,
                "saving": size.raw / sent if sent else float("nan"),
            }
        if self.device is not None:
            for name, cost in message_costs(self.records, self.device_macs, self.device).items():
                rows[name] |= cost
        if self.fitted_bytes:
            over_http = any(size.http for size in sizes.values())
            rows[_FITTED] = {
                "raw": 0.0,
                "frame": float(self.fitted_bytes),
                "http": float(self.fitted_bytes if over_http else 0),
                "saving": float("nan"),
            }
        table = pandas.DataFrame.from_dict(rows, orient="index")
        table.index.name = "message"
        return table

    def epochs(self) -> pandas.DataFrame:
        """One row an epoch: steps, samples, seconds, bytes up and down, megabytes an image; with a device that states
        energies ``joules``."""
        return epoch_costs(self.records, self.device_macs, self.device)

    def seconds(self) -> pandas.Series[float]:
        """The median seconds of each phase over the steps, the first one left out when there are more."""
        frame = self.to_pandas()
        kept = frame[[f"seconds.{phase}" for phase in PHASES]].iloc[1 if len(frame) > 1 else 0 :]
        kept.columns = kept.columns.str.removeprefix("seconds.")
        return kept.median()

    def plot(self) -> Figure:
        """Three pictures side by side: loss by step, seconds by phase, bytes by message (raw beside sent)."""
        from spliteasy.pictures import Picture

        figure = Picture(figsize=(12, 3.6), layout="constrained")
        loss, seconds, sizes = figure.subplots(1, 3, width_ratios=(1.2, 1, 1.2))
        loss.plot([record.step for record in self.records], self.losses, color="#1b9e77")
        loss.set(title="Loss", xlabel="step", ylabel="loss")
        _plot_seconds(seconds, self)
        _plot_bytes(sizes, self)
        for axes in (loss, seconds, sizes):
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(self.title)
        figure.alt = self._described()
        return figure

    def _described(self) -> str:
        """What `plot` shows, in words."""
        if not self.records:
            return f"{self.title}: no steps."
        sizes = self.summary().drop(index=_FITTED, errors="ignore")
        sent = sizes["http"].where(sizes["http"] > 0, sizes["frame"])
        bytes_by_message = ", ".join(
            f"{name.replace('_', ' ')} {sizes['raw'][name] / 1e6:.3g} MB raw and {sent[name] / 1e6:.3g} MB sent"
            for name in sizes.index
            if sizes["raw"][name]
        )
        return (
            f"{self.title}: the loss goes from {self.losses[0]:.3g} to {self.losses[-1]:.3g} in {len(self)} steps; the "
            f"median step takes {1e3 * self.seconds()['total']:.3g} ms; bytes of a step: {bytes_by_message or 'none'}."
        )

    def __repr__(self) -> str:
        if not self.records:
            return f"RunLog of {self.title}: no steps"
        return (
            f"RunLog of {self.title}: {len(self)} steps, loss {self.losses[0]:.4f} → {self.losses[-1]:.4f}\n"
            f"{self.summary().to_string(float_format=lambda value: f'{value:,.1f}')}"
        )

    def _repr_html_(self) -> str:
        if not self.records:
            return f"<p>{html.escape(repr(self))}</p>"
        line = f"{len(self)} steps, loss {self.losses[0]:.4f} → {self.losses[-1]:.4f}; bytes a step:"
        table = self.summary().to_html(float_format=lambda value: f"{value:,.1f}", border=0)
        return f"<p><b>{html.escape(self.title)}</b>: {html.escape(line)}</p>{table}"


def _columns() -> list[str]:
    """The columns of `RunLog.to_pandas`."""
    kinds = [field.name for field in fields(Bytes)]
    return [
        *("step", "loss", "samples", "epoch", "learning_rate", "gradient_error"),
        *(f"seconds.{phase}" for phase in PHASES),
        *(f"bytes.{message}.{kind}" for message in MESSAGES for kind in kinds),
        *(f"saturated.{message}" for message in MESSAGES),
    ]


def _plot_seconds(axes: Any, log: RunLog) -> None:
    """One bar of the median step, phases on top of each other."""
    if not log.records:
        return
    bottom = 0.0
    for phase, value in log.seconds().items():
        if phase != "total" and value > 0:
            axes.bar([0], [value * 1e3], bottom=bottom, width=0.5, color=_COLORS[str(phase)], label=str(phase))
            bottom += value * 1e3
    axes.set(title="A step's time", ylabel="ms (median)", xticks=[], xlim=(-0.4, 1.6))
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8, loc="center right")


def _plot_bytes(axes: Any, log: RunLog) -> None:
    """Two bars a message: uncompressed, and what was sent."""
    table = log.summary().drop(index=["total", _FITTED], errors="ignore")
    sent = table["http"].where(table["http"] > 0, table["frame"])
    places = range(len(table))
    axes.barh([p - 0.2 for p in places], table["raw"] / 1e6, 0.38, color="#d9d9d9", label="raw")
    axes.barh([p + 0.2 for p in places], sent / 1e6, 0.38, color="#7570b3", label="sent")
    axes.set(title="A step's bytes", xlabel="MB", yticks=list(places))
    axes.set_yticklabels([name.replace("_", "\n") for name in table.index])
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)
