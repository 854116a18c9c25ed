"""Train a split network: the step, the loop and the evaluation, on the device's side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from types import TracebackType
from typing import Any

import torch
from torch import nn

from spliteasy.backward import Pass, backward_method
from spliteasy.boundary import Boundary
from spliteasy.checking import check_batch
from spliteasy.codecs.base import Codec
from spliteasy.codecs.chain import Chain
from spliteasy.errors import NonFiniteError, SplitEasyError, SplitError, TrainingError
from spliteasy.link import Link
from spliteasy.models import recipe_of
from spliteasy.optimization import (
    Loss,
    Updater,
    check_optimizer,
    correct_predictions,
    global_clip,
    make_loss,
)
from spliteasy.runlog import Evaluation, RunLog, StepRecord, Stopwatch
from spliteasy.seeding import StepRandom, preserved
from spliteasy.segment import Segment, evaluating
from spliteasy.server.opening import SessionConfig, boundary_digest
from spliteasy.server.session import Commit, Session, specs
from spliteasy.splitting import Split
from spliteasy.transport import HTTP, InProcess, Reply, Transport
from spliteasy.wire import Bytes, Codecs, Message, Streams, as_codecs

__all__ = ["Trainer"]

Batch = tuple[torch.Tensor, torch.Tensor]


class Trainer:
    """Trains a `Split`, in this process (``server=None``) or with a server.

    ``codecs`` are the chains of the four messages, ``optimizer`` is a `torch.optim` name with its arguments, ``loss`` a
    name of `torch.nn.functional` or a callable, ``backward`` is ``exact`` or ``auxiliary-label``, ``link`` an emulated
    network, ``clip_norm`` the largest global gradient norm. A and C share one optimizer; B has one of the same kind.

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
    ) -> None:
        self.split, self.codecs, self.seed, self.clip_norm = split, as_codecs(codecs), seed, clip_norm
        self.loss_name, self.loss = loss, make_loss(loss)
        self.optimizer = check_optimizer(optimizer or {"name": "SGD", "lr": 0.01})
        self.backward = backward
        self._method = backward_method(backward)
        self._streams = Streams(self.codecs, seed)
        self._updater = Updater(self._own_parameters(), self.optimizer)
        self._settings = Updater({"": nn.Parameter(torch.zeros(1, 1))}, self.optimizer).settings() or {}
        self.learning_rate: float = float(self._settings["lr"])
        self._finished = Commit()
        self._closed = False
        self._transport = self._connect(server, link, timeout) if split.cuts else None
        self.log = RunLog(repr(split).splitlines()[0])

    def step(self, x: torch.Tensor, y: torch.Tensor) -> StepRecord:
        """One training step on ``x`` (batch, *input_shape) and labels ``y``; in a double split both stay here."""
        self._require_open()
        check_batch(self.split, self.loss_name, x, y)
        step, watch, sizes = self._finished.step + 1, Stopwatch(), dict[str, Bytes]()
        if not (self.split.model.training and self.split.a.training):
            self.split.train()
        buffers = [(buffer, buffer.clone()) for segment in self._own_segments() for buffer in segment.buffers()]
        try:
            with preserved(), torch.enable_grad():
                call = _Calls(self, step, len(x), watch, sizes)
                steps = (self._unsplit_step, self._single_step, self._double_step)
                loss, error, norms = steps[len(self.split.cuts)](x, y, call)
            with watch.phase("update"):
                self._updater.check_gradients()
                clip = self._clip_factor(norms)
                self._updater.apply(self.learning_rate, clip)
        except BaseException:
            self._give_up(buffers)
            raise
        self._streams.commit()
        self._finished = Commit(step, self.learning_rate, None if clip is None else float(clip))
        if isinstance(self._transport, InProcess):  # the model is here: let it be up to date after every step
            with watch.phase("update"):
                self._transport.commit(self._finished)
        record = StepRecord(step, loss, len(x), watch.finish(), sizes, self.learning_rate, error)
        self.log.records.append(record)
        return record

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
        if not isinstance(epochs, int) or epochs < 1:
            raise TrainingError(f"Expected epochs of 1 or more, found {epochs!r}.")
        for epoch in range(epochs):
            if schedule is not None:
                self.learning_rate = float(schedule(epoch))
            for x, y in _with_bar(loader, f"epoch {epoch + 1}/{epochs}", progress, self.log):
                self.step(x, y)
            if validation is not None:
                self.log.evaluations.append(self.evaluate(validation))
        self.pull()
        return self.log

    def evaluate(self, loader: Iterable[Batch]) -> Evaluation:
        """Mean loss and accuracy in eval mode. No parameter, buffer or random number changes."""
        self._require_open()
        total, correct, samples = 0.0, 0, 0
        counted = True
        with evaluating([self.split.model, *self._own_segments()]), preserved(), torch.no_grad():
            for x, y in loader:
                check_batch(self.split, self.loss_name, x, y)
                loss, right = self._score(x, y)
                total, samples = total + loss * len(x), samples + len(x)
                counted, correct = counted and right is not None, correct + (right or 0)
        if not samples:
            raise TrainingError("Expected batches to evaluate, found none.")
        return Evaluation(total / samples, correct / samples if counted else None, samples, self._finished.step)

    def pull(self) -> None:
        """Commit the last step on the server and bring B's weights home into the model."""
        self._require_open()
        if self._transport is None or self.split.b is None:
            return
        self._transport.commit(self._finished)
        if isinstance(self._transport, InProcess):
            return
        weights = self._transport.weights()
        with torch.no_grad():
            for name, tensor in [*self.split.b.named_parameters(), *self.split.b.named_buffers()]:
                tensor.copy_(weights[name])

    def state_dict(self) -> dict[str, Any]:
        """``model`` and ``optimizer`` as the unsplit model and its optimizer would give them."""
        self.pull()
        states = self._updater.state() | (self._transport.optimizer_state() if self._transport else {})
        names = [name for name, _ in self.split.model.named_parameters()]
        group = {**self._settings, "lr": self.learning_rate, "params": list(range(len(names)))}
        state = {index: states[name] for index, name in enumerate(names) if name in states}
        return {"model": self.split.state_dict(), "optimizer": {"state": state, "param_groups": [group]}}

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
        with contextlib.suppress(SplitEasyError):  # the error that ended the block is the one to see
            self.close()

    def _unsplit_step(self, x: torch.Tensor, y: torch.Tensor, call: _Calls) -> _Outcome:
        StepRandom(self.seed, call.step)
        with call.watch.phase("a_forward"):
            loss = _finite(self.loss(Pass.of_input(self.split.a, x).output, y))
        with call.watch.phase("a_backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), 0.0, {}

    def _single_step(self, x: torch.Tensor, y: torch.Tensor, call: _Calls) -> _Outcome:
        a, _ = self._forward_a(x, call, labels=y)
        reply = call.answer
        gradients: list[torch.Tensor | None] = [None] * len(a.tensors_out)
        for slot, gradient in zip(self.split.routes[True].up, reply.tensors, strict=True):
            gradients[slot] = gradient
        with call.watch.phase("a_backward"):
            _, error = a.backward(gradients, self._method)
        return float(reply.meta["loss"]), error, _norms(reply)

    def _double_step(self, x: torch.Tensor, y: torch.Tensor, call: _Calls) -> _Outcome:
        route = self.split.routes[True]
        a, state = self._forward_a(x, call)
        outputs = call.answer
        tensors, needs = self._entering_c(a, outputs)
        with call.watch.phase("c"):
            StepRandom(self.seed, call.step, outputs.plain.get("generator", state))
            assert self.split.c is not None
            c = Pass(self.split.c, tensors, outputs.scalars, needs)
            loss = _finite(self.loss(c.output, y))
            loss.backward()  # type: ignore[no-untyped-call]
            from_c = c.input_gradients()
        reply = call.backward([from_c[slot] for slot in route.back])
        gradients: list[torch.Tensor | None] = [None] * len(a.tensors_out)
        for slot, first in route.kept.items():  # what B never saw; for the rest, B has added its own gradient to C's
            gradients[first] = from_c[slot]
        for slot, gradient in zip(route.up, reply.tensors, strict=True):
            gradients[slot] = gradient
        with call.watch.phase("a_backward"):
            _, error = a.backward(gradients, self._method)
        return float(loss.detach()), max(error, float(reply.meta.get("gradient_error", 0.0))), _norms(reply)

    def _forward_a(
        self, x: torch.Tensor, call: _Calls, labels: torch.Tensor | None = None
    ) -> tuple[Pass, torch.Tensor | None]:
        with call.watch.phase("a_forward"):
            random = StepRandom(self.seed, call.step)
            a = Pass.of_input(self.split.a, x)
            state = random.drawn()
        plain = {} if state is None else {"generator": state}
        call.forward(a, plain if labels is None else {**plain, "labels": labels})
        return a, state

    def _entering_c(self, a: Pass, outputs: Message) -> tuple[list[torch.Tensor | None], list[bool]]:
        """C's entry slots: what B sent, and what the device kept from A."""
        route = self.split.routes[True]
        tensors: list[torch.Tensor | None] = [None] * (len(route.down) + len(route.kept))
        needs = [False] * len(tensors)
        for slot, tensor, needed in zip(route.down, outputs.tensors, outputs.meta["needs_gradient"], strict=True):
            tensors[slot], needs[slot] = tensor, bool(needed)
        for slot, first in route.kept.items():
            tensors[slot], needs[slot] = a.tensors_out[first].detach(), a.needs_gradient[first]
        return tensors, needs

    def _score(self, x: torch.Tensor, y: torch.Tensor) -> tuple[float, int | None]:
        """Mean loss of a batch and the number of right answers, wherever the loss is held."""
        a = Pass.of_input(self.split.a, x)
        if self._transport is None:
            return float(self.loss(a.output, y)), correct_predictions(a.output, y)
        call = _Calls(self, -1, len(x), Stopwatch(), {})
        call.forward(a, {} if self.split.c is not None else {"labels": y}, training=False)
        if self.split.c is None:
            return float(call.answer.meta["loss"]), call.answer.meta["correct"]
        route = self.split.routes[False]
        tensors: list[torch.Tensor | None] = [None] * (len(route.down) + len(route.kept))
        for slot, tensor in zip(route.down, call.answer.tensors, strict=True):
            tensors[slot] = tensor
        for slot, first in route.kept.items():
            tensors[slot] = a.tensors_out[first]
        c = Pass(self.split.c, tensors, call.answer.scalars, [False] * len(tensors))
        return float(self.loss(c.output, y)), correct_predictions(c.output, y)

    def _clip_factor(self, theirs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        if self.clip_norm is None:
            return None
        norms = {**self._updater.norms(), **theirs}
        ordered = [norms[name] for name, _ in self.split.model.named_parameters() if name in norms]
        return global_clip(ordered, self.clip_norm) if ordered else None

    def _connect(self, server: str | None, link: Link | None, timeout: float) -> Transport:
        b, single = self.split.b, self.split.c is None
        assert b is not None
        if server is None:
            loss = self.loss if single else None
            session = Session(
                b, self.split.routes, self.codecs, self.optimizer,
                loss=loss, backward=self.backward, seed=self.seed, norms=self.clip_norm is not None,
            )  # fmt: skip
            return InProcess(session, link)
        recipe = recipe_of(self.split.model)
        if recipe is None:
            raise SplitError(
                f"A server builds a network by name, and this {type(self.split.model).__name__} was not loaded by "
                'name, or was changed since. Load it with se.load_model("package.module:factory"), start the server '
                "with `spliteasy serve --allow package.module:factory`, or train in this process with server=None."
            )
        if single and not isinstance(self.loss_name, str):
            raise SplitError(
                "In a single split the server holds the loss and knows losses by name; found a callable. Name one of "
                "torch.nn.functional, use a double split, or train in this process with server=None."
            )
        config = SessionConfig(
            model=recipe.name,
            arguments=recipe.arguments,
            cuts=list(self.split.cuts),
            input_shape=list(self.split.input_shape),
            input_dtype=str(self.split.input_dtype).removeprefix("torch."),
            dtype=str(next((p.dtype for p in b.parameters()), torch.float32)).removeprefix("torch."),
            codecs=self.codecs.to_dict(),
            optimizer=self.optimizer,
            loss=str(self.loss_name) if single else None,
            backward=self.backward,
            seed=self.seed,
            frozen=[name for name, parameter in b.named_parameters() if not parameter.requires_grad],
            evaluating=[name for name, module in b.named_modules() if b.training and not module.training],
            norms=self.clip_norm is not None,
            digest=boundary_digest(self.split),
        )
        weights = dict([*b.named_parameters(), *b.named_buffers()])
        return HTTP(server, config.to_dict(), weights, link=link, timeout=timeout)

    def _own_segments(self) -> list[Segment]:
        """The segments on the device: A, and C if there is one."""
        return [segment for segment in (self.split.a, self.split.c) if segment is not None]

    def _own_parameters(self) -> dict[str, nn.Parameter]:
        own = {id(parameter) for segment in self._own_segments() for parameter in segment.parameters()}
        return {name: parameter for name, parameter in self.split.model.named_parameters() if id(parameter) in own}

    def _give_up(self, buffers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        self._updater.drop()

    def _require_open(self) -> None:
        if self._closed:
            raise TrainingError(
                "This trainer is closed: its session has ended. Make a new Trainer; the model keeps its weights."
            )


_Outcome = tuple[float, float, dict[str, torch.Tensor]]
"""Loss, gradient error, and the gradient norms of B's parameters."""


class _Calls:
    """The calls of one step: encode, send, receive, decode; with the seconds and bytes of each."""

    def __init__(self, trainer: Trainer, step: int, batch: int, watch: Stopwatch, sizes: dict[str, Bytes]) -> None:
        self.trainer, self.step, self.batch, self.watch, self.sizes = trainer, step, batch, watch, sizes
        self.answer = Message("", [])

    def forward(self, a: Pass, plain: dict[str, torch.Tensor], training: bool = True) -> None:
        """Send the activations; `answer` is outputs (double split) or input gradients (single split)."""
        trainer, split = self.trainer, self.trainer.split
        route, first = split.routes[training], split.a.exit[training]
        assert first is not None and trainer._transport is not None
        first.check(a.tensors_out, self.batch)
        needs = a.needs_gradient
        meta = {
            "batch": self.batch,
            "commit": trainer._finished.to_dict(),
            "needs_gradient": [needs[slot] for slot in route.up],
        }
        message = Message("activations", [a.tensors_out[s] for s in route.up], a.scalars_out, plain, meta)
        trainer._streams.begin()
        if not training:
            self._exchange(
                message, lambda frame: _transport(trainer).evaluate(frame), *self._outputs(training), training
            )
        elif split.c is None:
            self._exchange(message, self._send_forward, "input_gradients", first, route.up)
        else:
            self._exchange(message, self._send_forward, *self._outputs(training))

    def backward(self, gradients: Sequence[torch.Tensor | None]) -> Message:
        """Send the output gradients; returns the input gradients."""
        first = self.trainer.split.a.exit[True]
        assert first is not None
        message = Message("output_gradients", gradients)
        send = lambda frame: _transport(self.trainer).backward(self.step, frame)  # noqa: E731
        self._exchange(message, send, "input_gradients", first, self.trainer.split.routes[True].up)
        return self.answer

    def _send_forward(self, frame: Any) -> Reply:
        return _transport(self.trainer).forward(self.step, frame)

    def _outputs(self, training: bool) -> tuple[str, Boundary | None, tuple[int, ...]]:
        split = self.trainer.split
        second = split.b.exit[training] if split.b is not None else None
        return "outputs", second, split.routes[training].down if second is not None else ()

    def _exchange(
        self,
        message: Message,
        send: Callable[[Any], Reply],
        expect: str,
        boundary: Boundary | None,
        slots: Sequence[int],
        training: bool = True,
    ) -> None:
        streams = self.trainer._streams
        with self.watch.phase("encode"):
            frame = streams.encode(message, self.step, training)
        watch = Stopwatch()
        with watch.phase("call"):
            reply = send(frame)
        with self.watch.phase("decode"):
            expected = specs(boundary, slots, self.batch) if boundary is not None else []
            plain = ("generator", "norms")
            self.answer = streams.decode(reply.frame, expect, self.step, expected, training, plain)
        theirs = self.answer.meta.get("seconds", {})
        for phase, seconds in theirs.items():
            self.watch.add(phase, float(seconds))
        self.watch.add("link", reply.link)
        self.watch.add("transfer", watch.seconds["call"] - reply.link - sum(theirs.values()))
        raw = sum(
            t.numel() * t.dtype.itemsize for t in [*self.answer.tensors, *self.answer.plain.values()] if t is not None
        )
        self.sizes[message.name] = Bytes(frame.raw, frame.nbytes, reply.sent)
        self.sizes[expect] = Bytes(raw, reply.frame.nbytes, reply.received)


def _transport(trainer: Trainer) -> Transport:
    assert trainer._transport is not None
    return trainer._transport


def _norms(reply: Message) -> dict[str, torch.Tensor]:
    norms = reply.plain.get("norms")
    names = reply.meta.get("norms_of", [])
    return dict(zip(names, norms.unbind(), strict=True)) if norms is not None else {}


def _finite(loss: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(loss).all():
        raise NonFiniteError(
            f"Expected a finite loss, found {float(loss)}. The step was given up and no parameter changed; lower the "
            "learning rate, or look at the inputs."
        )
    return loss


def _with_bar(loader: Iterable[Batch], label: str, progress: bool, log: RunLog) -> Iterator[Batch]:
    """The batches, behind a bar that shows the last loss and the bytes of a step."""
    from tqdm.auto import tqdm

    total = len(loader) if isinstance(loader, Sized) else None
    with tqdm(total=total, desc=label, unit="step", disable=not progress, leave=True) as bar:
        for batch in loader:
            yield batch
            last = log.records[-1]
            sent = last.total.http or last.total.frame
            bar.set_postfix_str(f"loss {last.loss:.4f}, {sent / 1e6:.2f} MB a step", refresh=False)
            bar.update()
