"""Train a split network: the step, the loop and the evaluation, on the device's side."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from spliteasy.answers import check_score
from spliteasy.backward import Pass, backward_method
from spliteasy.batches import Batch, pair, with_bar
from spliteasy.checking import check_batch, check_settings
from spliteasy.codecs.base import Codec
from spliteasy.codecs.chain import Chain
from spliteasy.connecting import connect
from spliteasy.errors import ConnectionLost, SplitEasyError, TrainingError
from spliteasy.exchange import Exchange, entering_c, norms_of
from spliteasy.link import Link
from spliteasy.micro_batch import MicroBatch, unsplit_step
from spliteasy.optimization import (
    Loss,
    Updater,
    check_learning_rate,
    check_optimizer,
    correct_predictions,
    global_clip,
    make_loss,
)
from spliteasy.parts import PartStreams
from spliteasy.pipelining import divided, run_pipelined
from spliteasy.resuming import load_training, save_training
from spliteasy.runlog import Evaluation, RunLog, StepRecord, Stopwatch
from spliteasy.seeding import StepRandom, preserved
from spliteasy.segment import Buffers, Segment, evaluating
from spliteasy.server.session import Commit
from spliteasy.splitting import Split
from spliteasy.transport import InProcess, Transport
from spliteasy.weights import copy_weights
from spliteasy.wire import Bytes, Codecs, as_codecs

__all__ = ["Trainer"]


class Trainer:
    """Trains a `Split`, in this process (``server=None``) or with a server.

    ``codecs`` are the chains of the four messages (fitted ones as `calibrate` returns them), ``optimizer`` is a
    `torch.optim` name with its arguments, ``loss`` a name of `torch.nn.functional` or a callable, ``backward`` is
    ``exact`` or ``auxiliary-label``, ``link`` an emulated network, ``clip_norm`` the largest global gradient norm. A
    and C share one optimizer; B has one of the same kind. An answer is waited for ``timeout`` seconds, and a call whose
    connection is lost is made again for ``retry`` seconds, without effect on what is computed. ``protocol`` is
    ``two-call``, or ``four-call``, the paper's way: answers are fetched by calls of their own after a pushed notice.

    ``pipeline`` divides every batch into so many micro-batches, which device, link and server work on at once. The
    gradients are then the sums over the micro-batches, each weighted by its share of the samples, for a loss that is a
    mean over samples: what the unsplit model gathers, to the bit, when it goes through them one after the other
    (``(loss * share).backward()``), each after ``torch.manual_seed(step_seed(part_seed(seed, part), step))``, both of
    `spliteasy.seeding`; only what adds to a gradient several times in one backward, as reentrant checkpoints do, is
    added in another order. Without batch statistics that is the whole batch's gradient but for rounding. Batch norm in
    training mode normalizes each micro-batch by its own statistics and moves its running averages once for each:
    another training, as if with smaller batches. Codecs keep a state for each micro-batch's place. Over HTTP the phases
    of a pipelined step overlap; in one process they follow each other.

    With chain ``raw`` and ``backward="exact"`` every parameter, buffer and optimizer state equals the unsplit model's
    after any number of steps, to the bit, for the same build, device and thread count. A step that fails leaves the
    parameters of the last finished step. Use it as a context manager: leaving it brings B's weights home and closes the
    session.

    Raises `TrainingError`, `SplitError`, `ServerError` and their kin, each saying what to do.
    """

    def __init__(
        self,
        split: Split,
        server: str | None = None,
        codecs: Codecs | Chain | Codec | str | None = None,
        optimizer: Mapping[str, Any] | None = None,
        loss: str | Loss = "cross_entropy",
        backward: str = "exact",
        link: Link | None = None,
        seed: int = 0,
        *,
        clip_norm: float | None = None,
        timeout: float = 600.0,
        retry: float = 60.0,
        protocol: str = "two-call",
        pipeline: int = 1,
    ) -> None:
        check_settings(split, server, link, seed, clip_norm, timeout, retry, protocol, pipeline)
        settings = check_optimizer(optimizer or {"name": "SGD", "lr": 0.01})
        self._transport: Transport | None = None
        self._set_up(split, as_codecs(codecs), settings, loss, backward, seed, clip_norm, protocol, pipeline)
        if split.cuts:
            self._transport = connect(
                split, server, self.codecs, self.optimizer,
                loss=loss, backward=backward, seed=seed, norms=clip_norm is not None,
                link=link, timeout=timeout, retry=retry, protocol=protocol, pipeline=pipeline,
            )  # fmt: skip

    def _set_up(
        self, split: Split, codecs: Codecs, optimizer: dict[str, Any], loss: str | Loss, backward: str, seed: int,
        clip_norm: float | None, protocol: str, pipeline: int,
    ) -> None:  # fmt: skip
        """All but the session."""
        self.split, self.codecs, self.seed, self.clip_norm = split, codecs, seed, clip_norm
        self.loss_name, self.loss = loss, make_loss(loss)
        self.optimizer, self._backward = optimizer, backward
        self.protocol, self.pipeline = protocol, pipeline
        fitted_bytes = self.codecs.fitted_bytes if split.cuts else 0
        self.log = RunLog(repr(split).splitlines()[0], fitted_bytes=fitted_bytes, device_macs=split.device_macs)
        self._method = backward_method(backward)
        self._streams = PartStreams(self.codecs, seed, pipeline)
        self._updater = Updater(self._own_parameters(), self.optimizer)
        self._settings = Updater({"": nn.Parameter(torch.zeros(1, 1))}, self.optimizer).settings() or {}
        self.learning_rate: float = float(self._settings["lr"])
        self._finished = Commit()
        self._closed = False
        self._busy = threading.Lock()
        self._agreed: tuple[list[bool], list[bool]] | None = None
        self._kept: int | None = None

    def step(self, x: torch.Tensor, y: torch.Tensor) -> StepRecord:
        """One training step on ``x`` (batch, *input_shape) and labels ``y``; in a double split both stay here."""
        with self._alone():
            return self._step(x, y)

    def gradients(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The gradients that the next step on this batch would give the device's parameters (A's and C's), by the
        model's names, with the same random numbers. The step is then given up: parameters, buffers and the codecs'
        state stay those of the last finished step."""
        with self._alone():
            buffers = self._prepare(x, y)
            try:
                self._backpropagate(x, y, Stopwatch(), {}, {})
                self._updater.check_gradients()
                own = self._own_parameters()
                return {name: own[name].grad.clone() for name in own if own[name].grad is not None}  # type: ignore[union-attr]
            finally:
                self._give_up(buffers)

    def _step(self, x: torch.Tensor, y: torch.Tensor) -> StepRecord:
        rate = check_learning_rate(self.learning_rate)
        buffers = self._prepare(x, y)
        step, watch, sizes, saturated = self._finished.step + 1, Stopwatch(), dict[str, Bytes](), dict[str, int]()
        try:
            loss, error, norms = self._backpropagate(x, y, watch, sizes, saturated)
            with watch.phase("update"):
                self._updater.check_gradients()
                clip = self._clip_factor(norms)
                self._updater.apply(rate, clip)
        except BaseException:
            self._give_up(buffers)
            raise
        self._streams.commit()
        self._finished = Commit(step, rate, None if clip is None else float(clip))
        if isinstance(self._transport, InProcess):  # the model is here: let it be up to date after every step
            with watch.phase("update"):
                self._transport.commit(self._finished)
        parts = min(self.pipeline, len(x)) if self._transport is not None else 1
        record = StepRecord(step, loss, len(x), watch.finish(), sizes, rate, error, saturated, self.log.now, parts)
        self.log.records.append(record)
        return record

    def _prepare(self, x: torch.Tensor, y: torch.Tensor) -> list[Buffers]:
        """Check the batch and what was agreed; the buffers as they are before the step."""
        self._require_open()
        check_batch(self.split, self.loss_name, x, y)
        if not (self.split.model.training and self.split.a.training):
            self.split.train()
        self.split.check_modes()
        self._require_agreed()
        self._updater.drop()  # what someone else's backward left
        return [Buffers(segment) for segment in self._own_segments()]

    def _backpropagate(
        self, x: torch.Tensor, y: torch.Tensor, watch: Stopwatch, sizes: dict[str, Bytes], saturated: dict[str, int]
    ) -> _Outcome:
        """Forward and backward of the next step; the gradients are then where the optimizers look for them."""
        step = self._finished.step + 1
        with preserved(), torch.enable_grad():
            if self._transport is None:
                StepRandom(self.seed, step)
                return unsplit_step(self.split, self.loss, x, y, watch), 0.0, {}
            if self.pipeline > 1:
                return self._pipelined(self._transport, x, y, step, watch, sizes, saturated)
            exchange = self._exchange(step, len(x), watch, sizes, saturated)
            part = MicroBatch(self.split, self.loss, self._method, exchange, x, y)
            reply = exchange.made(part.start())
            if self.split.c is not None:
                reply = exchange.made(part.turn(reply))
            part.end(reply)
            return part.loss_value, part.error, norms_of(reply)

    def _pipelined(
        self, transport: Transport, x: torch.Tensor, y: torch.Tensor, step: int, watch: Stopwatch,
        sizes: dict[str, Bytes], saturated: dict[str, int],
    ) -> _Outcome:  # fmt: skip
        parts: list[MicroBatch] = []
        batches = divided(x, y, self.pipeline)
        for number, (some, labels, share) in enumerate(batches):
            exchange = self._exchange(step, len(some), watch, sizes, saturated, number, len(batches), share)
            parts.append(MicroBatch(self.split, self.loss, self._method, exchange, some, labels))
        reply = run_pipelined(parts, transport, step, self._updater.parameters)
        return sum(part.loss_value for part in parts), max(part.error for part in parts), norms_of(reply)

    def fit(
        self,
        loader: Iterable[Batch],
        epochs: int = 1,
        *,
        validation: Iterable[Batch] | None = None,
        schedule: Callable[[int], float] | None = None,
        progress: bool = True,
    ) -> RunLog:
        """Train for some epochs, with a progress bar; B's weights come home at the end.

        ``validation`` is evaluated after every epoch, ``schedule`` gives the learning rate of an epoch (from 0).
        Returns the log of all steps of this trainer so far.
        """
        if type(epochs) is not int or epochs < 1:
            raise TrainingError(f"Expected epochs of 1 or more, found {epochs!r}.")
        for epoch in range(epochs):
            if schedule is not None:
                self.learning_rate = check_learning_rate(schedule(epoch))
            steps = len(self.log)
            with self.log.epoch():
                for batch in with_bar(loader, f"epoch {epoch + 1}/{epochs}", progress, self.log):
                    self.step(*pair(batch))
            if len(self.log) == steps:
                raise TrainingError(
                    f"Expected batches from the loader, found none in epoch {epoch + 1}. Give a DataLoader or a list, "
                    "which can be gone through again; a generator cannot."
                )
            if validation is not None:
                self.log.evaluations.append(self.evaluate(validation))
        self.pull()
        return self.log

    def evaluate(self, loader: Iterable[Batch]) -> Evaluation:
        """Mean loss and accuracy in eval mode. No parameter, buffer or random number changes."""
        self._require_open()
        total, correct, samples, counted = 0.0, 0, 0, True
        modules = [self.split.model, *self._own_segments()]
        with self._alone(), evaluating(modules), preserved(), torch.no_grad():
            for batch in loader:
                x, y = pair(batch)
                check_batch(self.split, self.loss_name, x, y)
                loss, right = self._score(x, y)
                total, samples = total + loss * len(x), samples + len(x)
                counted, correct = counted and right is not None, correct + (right or 0)
        if not samples:
            raise TrainingError("Expected batches to evaluate, found none.")
        return Evaluation(total / samples, correct / samples if counted else None, samples, self._finished.step)

    def _score(self, x: torch.Tensor, y: torch.Tensor) -> tuple[float, int | None]:
        """Mean loss of a batch and the number of right answers, wherever the loss is held."""
        run = Pass.of_input(self.split.a, x)
        if self._transport is not None:
            exchange = self._exchange(-1, len(x), Stopwatch(), {}, {})
            if self.split.c is None:
                return check_score(exchange.evaluate(run, {"labels": y}))
            outputs = exchange.evaluate(run, {})
            run = Pass(self.split.c, *entering_c(self.split.routes[False], run, outputs))
        return float(self.loss(run.output, y)), correct_predictions(run.output, y)

    def pull(self) -> None:
        """Commit the last step on the server and bring B's weights home into the model."""
        self._require_open()
        if self._transport is None or self.split.b is None:
            return
        self._transport.commit(self._finished)
        if isinstance(self._transport, InProcess):
            return
        own = dict([*self.split.b.named_parameters(), *self.split.b.named_buffers()])
        copy_weights(self._transport.weights(), own)

    def state_dict(self) -> dict[str, Any]:
        """``model`` and ``optimizer`` as the unsplit model and its optimizer would give them; where codecs keep state,
        also ``codecs``: that of the ``device`` and of the ``server``, by message and slot."""
        self.pull()
        states = self._updater.state() | self._named(self._transport.optimizer_state() if self._transport else {})
        names = [name for name, _ in self.split.model.named_parameters()]
        group = {**self._settings, "lr": self.learning_rate, "params": list(range(len(names)))}
        state = {index: states[name] for index, name in enumerate(names) if name in states}
        whole = {"model": self.split.state_dict(), "optimizer": {"state": state, "param_groups": [group]}}
        theirs = self._transport.codec_state() if self._transport else {}
        codecs = {"device": self._streams.state(), "server": theirs}
        return whole | ({"codecs": codecs} if any(codecs.values()) else {})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the training to a file, from which `load` goes on with the same bits.

        The server keeps B's state as of now (``serve --state``), and the file the session's token; without a server B
        is in the file. Raises `StateError` where the disk or the server refuses: an older file is still good then.
        """
        self._require_open()
        with self._alone():
            save_training(self, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        split: Split,
        server: str | None = None,
        loss: str | Loss | None = None,
        link: Link | None = None,
        *,
        timeout: float = 600.0,
        retry: float = 60.0,
    ) -> Trainer:
        """Go on with a training that `save` wrote, on a network of the same kind that is split the same way.

        Settings are those of the file; ``server`` is a new address, ``loss`` is needed where it was a callable. Steps
        are counted on, the log starts anew. Raises `StateError` for another file, network or server.
        """
        return load_training(cls.__new__(cls), path, split, server, loss, link, timeout, retry)

    def close(self) -> None:
        """Bring B's weights home and end the session on the server. Closing twice does no harm."""
        if self._closed:
            return
        try:
            self.pull()
        finally:
            self._closed = True
            if self._transport is not None:
                self._transport.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        waited = isinstance(error, ConnectionLost) or not isinstance(error, Exception)  # or was interrupted
        if waited and self._transport is not None:
            self._transport.hurry()
        with contextlib.suppress(SplitEasyError):  # the error that ended the block is the one to see
            self.close()

    def _exchange(
        self, step: int, batch: int, watch: Stopwatch, sizes: dict[str, Bytes], saturated: dict[str, int],
        part: int = 0, parts: int = 1, share: float = 1.0,
    ) -> Exchange:  # fmt: skip
        assert self._transport is not None
        streams, transport, last = self._streams[part], self._transport, self._finished
        return Exchange(self.split, streams, transport, last, step, batch, watch, sizes, saturated, part, parts, share)

    def _clip_factor(self, theirs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        if self.clip_norm is None:
            return None
        norms = {**self._updater.norms(), **self._named(theirs)}
        ordered = [norms[name] for name, _ in self.split.model.named_parameters() if name in norms]
        return global_clip(ordered, self.clip_norm) if ordered else None

    def _named(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        """What is B's by the model's names: a shared parameter may have another one there."""
        names = {id(parameter): name for name, parameter in self.split.model.named_parameters()}
        own = dict(self.split.b.named_parameters()) if self.split.b is not None else {}
        return {names[id(own[name])]: value for name, value in theirs.items()}

    def _require_agreed(self) -> None:
        """A server was told once which of B's parameters and layers are frozen."""
        b = self.split.b
        if b is None or isinstance(self._transport, InProcess):
            return
        now = [p.requires_grad for p in b.parameters()], [module.training for module in b.modules()]
        self._agreed = self._agreed or now
        if now != self._agreed:
            raise TrainingError(
                "Expected segment B frozen as it was in the first step, found parameters or layers that were frozen or "
                "thawed since, which the server does not know of. Make a new Trainer."
            )

    def _own_segments(self) -> list[Segment]:
        """The segments on the device: A, and C if there is one."""
        return [segment for segment in (self.split.a, self.split.c) if segment is not None]

    def _own_parameters(self) -> dict[str, nn.Parameter]:
        own = {id(parameter) for segment in self._own_segments() for parameter in segment.parameters()}
        return {name: parameter for name, parameter in self.split.model.named_parameters() if id(parameter) in own}

    def _give_up(self, buffers: Sequence[Buffers]) -> None:
        for segment in buffers:
            segment.restore()
        self._updater.drop()
        if self._transport is not None:
            self._transport.give_up()
        if isinstance(self._transport, InProcess):
            self._transport.commit(self._finished)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One step or evaluation at a time: two would mix up both."""
        if not self._busy.acquire(blocking=False):
            raise TrainingError("Expected one step at a time, found another step under way. Wait for it.")
        try:
            yield
        finally:
            self._busy.release()

    def _require_open(self) -> None:
        if self._closed:
            raise TrainingError(
                "This trainer is closed: its session has ended. Make a new Trainer; the model keeps its weights."
            )


_Outcome = tuple[float, float, dict[str, torch.Tensor]]
"""Loss, gradient error, and the gradient norms of B's parameters."""
