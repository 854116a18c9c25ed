"""One run of a study: train, evaluate on validation and test data, and one flat row of what it cost."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from spliteasy import data
from spliteasy.calibrating import calibrate
from spliteasy.errors import NonFiniteError
from spliteasy.runlog import PHASES, RunLog
from spliteasy.splitting import Split
from spliteasy.sweeping.grid import Grid, Run
from spliteasy.trainer import Trainer
from spliteasy.wire import MESSAGES, UPWARD, Bytes, Codecs

__all__ = ["TIMES", "compute"]


TIMES = ("wall_seconds", *(f"seconds.{phase}" for phase in PHASES))
"""The columns of a row that differ when a run is repeated; all others are equal, for the same build and threads."""


def compute(grid: Grid, run: Run, server: str | None = None) -> dict[str, Any]:
    """The row of a run: what it is, how well the network does, what crossed the wire, and how long a step took.

    A run that meets NaN or infinity has no accuracies, and says why under ``problem``: that a chain makes training
    diverge is a result. Other errors are raised.
    """
    started = time.perf_counter()
    with _threads(grid.training.threads):
        row = _trained(grid, run, server)
    row = {
        "run": grid.digest(run),
        "model": run.model,
        "cut": run.cut,
        "chain": run.chain,
        "seed": run.seed,
        "data": grid.data.name,
        **{f"chain.{message}": chain for message, chain in grid.codecs[run.chain].to_dict().items()},
        "frozen": run.chain in grid.frozen,
        **row,
    }
    return {**row, "wall_seconds": time.perf_counter() - started}


def _trained(grid: Grid, run: Run, server: str | None) -> dict[str, Any]:
    training, parts = grid.training, grid.split(run)
    train = data.loader(grid.data.train, training.batch, seed=run.seed, drop_last=_is_full(grid))
    codecs = _calibrated(grid, run, parts)
    problem, validation, test = "", None, None
    trainer = Trainer(
        parts, server, codecs, training.optimizer, training.loss, training.backward,
        seed=run.seed, clip_norm=training.clip_norm,
    )  # fmt: skip
    with trainer:
        try:
            schedule = _schedule(training.schedule, trainer.learning_rate, training.epochs)
            trainer.fit(train, training.epochs, schedule=schedule, progress=False)
            validation, test = (
                trainer.evaluate(data.loader(part, training.batch, seed=0, shuffle=False))
                for part in (grid.data.validation, grid.data.test)
            )
        except NonFiniteError as error:
            problem = str(error)
    log = trainer.log
    return {
        "problem": problem,
        "validation_accuracy": validation and validation.accuracy,
        "test_accuracy": test and test.accuracy,
        "validation_loss": validation and validation.loss,
        "test_loss": test and test.loss,
        "train_loss": log.losses[-1] if log.losses and not problem else None,
        "steps": len(log),
        "samples": sum(record.samples for record in log),
        "calls_per_step": len(run.cuts),
        "threads": training.threads,
        "counted": grid.counted,
        **_sizes(log),
        **_seconds(log),
    }


def _calibrated(grid: Grid, run: Run, parts: Split) -> Codecs:
    """The chains of a run with their fitted codecs fitted to its network as it starts."""
    codecs = grid.codecs[run.chain]
    if not run.cuts:
        return codecs
    train = data.loader(grid.data.train, grid.training.batch, seed=run.seed, drop_last=_is_full(grid))
    return calibrate(parts, codecs, train, loss=grid.training.loss, progress=False)


def _schedule(name: str, rate: float, epochs: int) -> Callable[[int], float] | None:
    return None if name == "constant" else lambda epoch: rate * (1 + math.cos(math.pi * epoch / epochs)) / 2


def _is_full(grid: Grid) -> bool:
    """Whether the last, smaller batch is left out: every step is then alike, in bytes and in seconds."""
    return len(grid.data.train) >= grid.training.batch  # type: ignore[arg-type]


def _sizes(log: RunLog) -> dict[str, Any]:
    """Bytes per sample: by message raw, framed and on the socket; and what was sent each way, with fitted parameters
    (which the device ships once) spread over all samples of the training."""
    samples = max(sum(record.samples for record in log), 1)
    row: dict[str, Any] = {}
    way = {"up": log.fitted_bytes / samples, "down": 0.0}
    for message in MESSAGES:
        size = sum((record.bytes.get(message, Bytes()) for record in log), Bytes())
        row |= {f"bytes.{message}.{kind}": getattr(size, kind) / samples for kind in ("raw", "frame", "http")}
        way["up" if message in UPWARD else "down"] += size.sent / samples
    return {
        "raw_bytes_per_sample": sum(row[f"bytes.{message}.raw"] for message in MESSAGES),
        "up_bytes_per_sample": way["up"],
        "down_bytes_per_sample": way["down"],
        "fitted_bytes": log.fitted_bytes,
        **row,
    }


def _seconds(log: RunLog) -> dict[str, float]:
    """The median step, phase by phase."""
    if not log.records:
        return {f"seconds.{phase}": 0.0 for phase in PHASES}
    return {f"seconds.{phase}": float(value) for phase, value in log.seconds().items()}


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads: the order of sums, and so the last bit, depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
