"""A few steps of real training: a server process of its own, sockets, digits. No widgets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from spliteasy.calibrating import calibrate
from spliteasy.errors import DataError
from spliteasy.explorer.randomness import OwnGenerator
from spliteasy.explorer.trial import FITTED_ON, SEED, Cancelled, build
from spliteasy.inputs import digit_batches
from spliteasy.runlog import RunLog, StepRecord
from spliteasy.server.process import LocalServer
from spliteasy.trainer import Trainer
from spliteasy.wire import Codecs

__all__ = ["OPTIMIZER", "STEPS", "Training", "TrainingPlan"]

STEPS = 10
"""How many steps are a few."""

OPTIMIZER = {"name": "Adam", "lr": 1e-3}
"""Goes down within a few steps in small networks and large ones."""


@dataclass(frozen=True)
class TrainingPlan:
    """What to train: a network (a catalogue name, or a module, of which a copy is used), cuts by name, chains, and the
    number of digits in a batch. ``classes`` is the width of the output, None if it is no row of class scores."""

    network: str | nn.Module
    num_classes: int | None
    input_shape: tuple[int, ...]
    at: tuple[str, ...]
    codecs: Codecs
    batch: int
    classes: int | None


class Training:
    """A run that can be stopped from another thread, also while the server computes; ``cancelled`` is then set.

    A network by name trains with a server process of its own; a module of yours, which no server can build, with both
    sides in this process.
    """

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        self.cancelled = threading.Event()
        self._server: LocalServer | None = None
        self._lock = threading.Lock()

    def run(
        self,
        shown: Callable[[list[StepRecord]], None] = lambda records: None,
        progress: Callable[[float, str], None] = lambda fraction, doing: None,
    ) -> RunLog:
        """Train, telling ``shown`` the steps so far after each. Raises `Cancelled` if it was stopped."""
        try:
            return self._run(shown, progress)
        except Exception:
            self._check()  # a stopped server looks like a lost connection
            raise
        finally:
            self._stop_server()

    def cancel(self) -> None:
        """Stop soon, wherever it is; may be called by any thread."""
        self.cancelled.set()
        self._stop_server()

    def _run(self, shown: Callable[[list[StepRecord]], None], progress: Callable[[float, str], None]) -> RunLog:
        plan = self.plan
        if plan.classes is None:
            raise DataError("Expected a network with one row of class scores to train on digits, found another output.")
        progress(0.02, "building the network")
        with OwnGenerator(SEED, self._check):
            parts = build(plan.network, plan.num_classes, plan.at, plan.input_shape)
            batches = digit_batches(plan.input_shape, plan.classes, plan.batch, STEPS + FITTED_ON)
            codecs = calibrate(parts, plan.codecs, batches[STEPS:], batches=FITTED_ON, progress=False)
        url = None
        if isinstance(plan.network, str):
            progress(0.1, "starting a server process")
            url = self._start_server()
        with OwnGenerator(SEED, self._check):
            trainer = Trainer(parts, server=url, codecs=codecs, optimizer=OPTIMIZER, seed=SEED)
            for number, (x, y) in enumerate(batches[:STEPS]):
                progress(0.2 + 0.8 * number / STEPS, f"step {number + 1} of {STEPS}, {plan.batch} digits each")
                trainer.step(x, y)
                shown(list(trainer.log))
            trainer.close()
        return trainer.log

    def _check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("Cancelled. The steps so far are shown.")

    def _start_server(self) -> str:
        server = LocalServer()
        with self._lock:
            self._server = server
        self._check()
        return server.start().url

    def _stop_server(self) -> None:
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.stop(patience=0 if self.cancelled.is_set() else 3)
