"""Virtual time: what a run would have taken on another link or device, computed from what was measured."""

from __future__ import annotations

from dataclasses import replace

from spliteasy.device import Device
from spliteasy.errors import TrainingError
from spliteasy.link import Link
from spliteasy.runlog import DEVICE_PHASES, RunLog, StepRecord
from spliteasy.volume import sent_both_ways

__all__ = ["virtual_log"]


def virtual_log(log: RunLog, link: Link | None = None, device: Device | None = None) -> RunLog:
    """``log`` as it would have been on ``link`` (None: on none) and with ``device`` (None: this machine, no costs).

    The phase ``link`` of each step becomes what its bytes and calls take: one call in a single split, two in a double,
    each with the round trip that the link draws for it. What the device computes (A, C, its update) is divided by its
    speed; all other phases stay as measured, encoding and decoding too, which both sides share. In-process the update
    is that of both sides. The log that is asked should have been taken without a link, and over HTTP if HTTP is to
    count: in-process there are no headers (some 300 bytes a call). ``benchmarks/links.py`` compares with runs that
    waited.

    Losses, bytes and evaluations are the same: time changes nothing of them. Raises `TrainingError` for pipelined
    steps, whose phases overlap: on another link they would do so in another way.
    """
    if any(record.parts > 1 for record in log.records):
        raise TrainingError(
            "Expected steps whose phases follow each other, found pipelined ones. Train on that link: "
            "se.Trainer(..., link=link, pipeline=N)."
        )
    speed = 1.0 if device is None else device.speed
    records = [_on(record, link, speed) for record in log.records]
    places = " and ".join(place.name or "a link" for place in (link, device) if place is not None)
    title = f"{log.title}, computed for {places}" if places else log.title
    return replace(log, now=0, title=title, records=records, evaluations=list(log.evaluations), device=device)


def _on(record: StepRecord, link: Link | None, speed: float) -> StepRecord:
    seconds = dict(record.seconds)
    if any(record.bytes):
        up, down = sent_both_ways(record)
        trips = range(2 if "outputs" in record.bytes else 1)
        taken = link.seconds(up, down, 0) + sum(link.round_trip(record.step, call) for call in trips) if link else 0.0
        seconds["link"] = taken
    seconds |= {phase: seconds.get(phase, 0.0) / speed for phase in DEVICE_PHASES}
    change = sum(
        seconds[phase] - record.seconds.get(phase, 0.0) for phase in (*DEVICE_PHASES, "link") if phase in seconds
    )
    seconds["total"] = record.seconds.get("total", 0.0) + change
    return replace(record, seconds=seconds)
