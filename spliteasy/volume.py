"""What training costs the device beside time, as the paper names it: mobile data and energy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from spliteasy.device import TRAINING_MACS, Device
from spliteasy.wire import MESSAGES, UPWARD, Bytes

if TYPE_CHECKING:
    import pandas

__all__ = ["Step", "epoch_costs", "message_costs", "sent_both_ways", "step_cost"]


class Step(Protocol):
    """What is asked of a step's record."""

    @property
    def samples(self) -> int:
        """Samples in the batch."""

    @property
    def epoch(self) -> int:
        """The epoch, 0 for steps on their own."""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase."""

    @property
    def bytes(self) -> dict[str, Bytes]:
        """Bytes by message."""


def sent_both_ways(step: Step) -> tuple[int, int]:
    """Bytes that the device sent and received in a step: over HTTP with headers, in-process the frames."""
    up = sum(size.sent for message, size in step.bytes.items() if message in UPWARD)
    return up, sum(size.sent for size in step.bytes.values()) - up


def step_cost(step: Step, device_macs: int, device: Device) -> dict[str, float]:
    """The columns that a device adds to a step: ``device.bytes_up``, ``device.bytes_down``,
    ``device.megabytes_per_image`` (10⁶ bytes, both ways), and ``device.joules`` if it states energies.

    ``device_macs`` are those of a sample's forward pass on the device; training takes `TRAINING_MACS` times as many.
    """
    up, down = sent_both_ways(step)
    columns: dict[str, float] = {
        "device.bytes_up": up,
        "device.bytes_down": down,
        "device.megabytes_per_image": (up + down) / 1e6 / max(step.samples, 1),
    }
    joules = device.joules(TRAINING_MACS * device_macs * step.samples, up, down)
    return columns if joules is None else {**columns, "device.joules": joules}


def message_costs(steps: Sequence[Step], device_macs: int, device: Device) -> dict[str, dict[str, float]]:
    """``MB per image`` of each message and in total, and ``joules`` a step where the device states energies: of the
    radio by message, with computing in the total."""
    count, samples = max(len(steps), 1), sum(step.samples for step in steps)
    costs: dict[str, dict[str, float]] = {}
    for message in MESSAGES:
        size = sum((step.bytes.get(message, Bytes()) for step in steps), Bytes())
        sent = size.sent
        joules = device.joules(0, *((sent, 0) if message in UPWARD else (0, sent)))
        costs[message] = _cost(sent / 1e6 / max(samples, 1), joules, count)
    ways = [sent_both_ways(step) for step in steps]
    up, down = sum(way[0] for way in ways), sum(way[1] for way in ways)
    joules = device.joules(TRAINING_MACS * device_macs * samples, up, down)
    costs["total"] = _cost((up + down) / 1e6 / max(samples, 1), joules, count)
    return costs


def _cost(megabytes: float, joules: float | None, steps: int) -> dict[str, float]:
    return {"MB per image": megabytes} | ({} if joules is None else {"joules": joules / steps})


def epoch_costs(steps: Iterable[Step], device_macs: int, device: Device | None) -> pandas.DataFrame:
    """One row an epoch: ``steps``, ``samples``, ``seconds``, ``bytes_up``, ``bytes_down``, ``megabytes_per_image``;
    with a device that states energies ``joules``. Bytes are of training, without evaluation and opening a session."""
    import pandas

    rows: dict[int, dict[str, float]] = {}
    for step in steps:
        up, down = sent_both_ways(step)
        row = rows.setdefault(step.epoch, {"steps": 0, "samples": 0, "seconds": 0.0, "bytes_up": 0, "bytes_down": 0})
        new = {"steps": 1, "samples": step.samples, "seconds": step.seconds.get("total", 0.0)}
        for name, value in {**new, "bytes_up": up, "bytes_down": down}.items():
            row[name] += value
    for row in rows.values():
        row["megabytes_per_image"] = (row["bytes_up"] + row["bytes_down"]) / 1e6 / max(row["samples"], 1)
        macs = TRAINING_MACS * device_macs * row["samples"]
        joules = device.joules(macs, row["bytes_up"], row["bytes_down"]) if device is not None else None
        if joules is not None:
            row["joules"] = joules
    table = pandas.DataFrame.from_dict(rows, orient="index")
    table.index.name = "epoch"
    return table
