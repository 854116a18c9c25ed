"""Segment B on the server: one session, one step at a time. Nothing here knows of HTTP.

A step is `forward` (activations in; outputs back) and `backward` (output gradients in; input gradients back). In a
single split the server holds the loss, and `forward` does both: labels come with the activations, input gradients go
back. The update is committed late: B keeps its gradients until the next call says that the device finished the step,
and with which learning rate and clip factor. A step that is repeated or given up leaves no trace.

A pipelined step has several parts, each a micro-batch with a forward and a backward of its own. Forwards come in the
order of the parts and so do backwards, however the two are interleaved: gradients are added up in that order.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from spliteasy.answers import stated
from spliteasy.backward import Backward, Pass, backward_method
from spliteasy.errors import DataError, FrameError, OrderError, SplitEasyError, TrainingError
from spliteasy.optimization import Loss, Updater, check_learning_rate, correct_predictions, scalar_loss, shared
from spliteasy.parts import GradientSum, Parts, PartStreams
from spliteasy.seeding import StepRandom, check_generator_state, part_seed, preserved
from spliteasy.segment import Buffers, Segment, evaluating
from spliteasy.server.limits import LARGEST_BATCH, LARGEST_MESSAGE, SessionLimits, specs
from spliteasy.splitting import Route
from spliteasy.wire import Codecs, Frame, Message

__all__ = ["Commit", "Session"]


@dataclass(frozen=True)
class Commit:
    """The last step that the device finished (−1: none), and what its update used."""

    step: int = -1
    learning_rate: float | None = None
    clip: float | None = None

    @classmethod
    def of(cls, value: Any) -> Commit:
        """Read from JSON. Raises `FrameError` if it is none."""
        if not isinstance(value, dict) or not set(value) <= {"step", "learning_rate", "clip"}:
            raise FrameError(f"Expected a commit with step, learning_rate and clip, found {value!r}.")
        step, rate, clip = value.get("step"), value.get("learning_rate"), value.get("clip")
        try:
            rate, clip = (None if number is None else check_learning_rate(number) for number in (rate, clip))
        except TrainingError:
            step = None
        if type(step) is not int or step < -1 or (clip is not None and clip > 1):
            raise FrameError(f"Expected a commit of a whole step, a learning rate and a clip factor, found {value!r}.")
        return cls(step, rate, clip)

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"step": self.step, "learning_rate": self.learning_rate, "clip": self.clip}


class StateKeeper(Protocol):
    """What is told of updates, to write states."""

    def before_update(self, session: Session) -> None:
        """The parameters are about to change."""

    def after_update(self, session: Session) -> None:
        """They have changed."""


class Session:
    """Segment B with its optimizer and codecs.

    ``loss`` is given in a single split and None in a double split; ``largest_message`` are the bytes that the tensors
    of one message may take uncompressed. Every method raises `OrderError` for a call out
    of order, `FrameError` for a frame that was not agreed, `NonFiniteError` for NaN or infinity.
    """

    def __init__(
        self,
        segment: Segment,
        routes: dict[bool, Route],
        codecs: Codecs,
        optimizer: dict[str, Any],
        *,
        loss: Loss | None,
        backward: str,
        seed: int,
        norms: bool = False,
        parts: int = 1,
        largest_message: int = LARGEST_MESSAGE,
    ) -> None:
        self.segment, self.routes, self.loss, self.seed = segment, routes, loss, seed
        self.streams = PartStreams(codecs, seed, parts)
        self.updater = Updater(dict(segment.named_parameters()), optimizer)
        self._method: Backward = backward_method(backward)
        self._norms, self._largest_message = norms, largest_message
        self._committed = -1
        self._pending: int | None = None
        self._step: int | None = None
        self._parts = Parts(1, GradientSum({}))
        self._buffers: Buffers | None = None
        self.keeper: StateKeeper | None = None
        self._spent: dict[str, float] = {}

    def forward(self, step: int, frame: Frame, part: int = 0) -> Frame:
        """Activations (and labels, in a single split) to outputs, or to input gradients with the loss."""
        header = self._header(frame, "activations", step, True, part)
        parts, share = _parts_of(header, part, len(self.streams))
        if part:
            if step != self._step or not self._parts.is_next(part, parts):
                raise self._out_of_order(f"part {part} of step {step}", "Repeat the step from its first part.")
        else:
            self._begin(step, Commit.of(header.get("commit")), parts)
        message = self._decode(frame, "activations", step, True, part, _batch_of(header))
        started = time.perf_counter()
        with preserved(), torch.enable_grad():
            random = StepRandom(part_seed(self.seed, part), step, _generator_state(message))
            with _explained("the activations"):
                run = self._run(message)
            state = random.drawn()
            plain = {} if state is None else {"generator": state}
            if self.loss is not None:
                return self._with_loss(step, part, share, run, message, started)
        self._parts.begun(part, run, _batch_of(header))
        route = self.routes[True]
        needs = run.needs_gradient
        seconds = {"b_forward": self._spend("b_forward", started)}
        meta = {"needs_gradient": [needs[slot] for slot in route.down], "seconds": stated(seconds)}
        tensors = [run.tensors_out[slot] for slot in route.down]
        return self._encode(Message("outputs", tensors, run.scalars_out, plain, meta), step, part)

    def backward(self, step: int, frame: Frame, part: int = 0) -> Frame:
        """Output gradients to input gradients; after those of the last part the update is pending."""
        if step != self._step or not self._parts.is_open(part):
            raise self._out_of_order(f"backward of part {part} of step {step}", "Repeat the step from its forward.")
        route = self.routes[True]
        message = self._decode(frame, "output_gradients", step, True, part, self._parts.batch_of(part))
        run = self._parts.taken(part)  # autograd goes back through a forward once, whatever comes of it
        started = time.perf_counter()
        gradients: list[torch.Tensor | None] = [None] * len(run.tensors_out)
        for slot, gradient in zip(route.back, message.tensors, strict=True):
            gradients[slot] = gradient
        with preserved(), _explained("the output gradients"):
            inputs, error = run.backward(gradients, self._method)
        seconds = {"b_backward": self._spend("b_backward", started)}
        return self._finish(step, part, inputs, {"gradient_error": error}, seconds)

    def evaluate(self, frame: Frame) -> Frame:
        """Activations in eval mode to outputs; in a single split to the loss and the number of right answers."""
        header = self._header(frame, "activations", -1, False)
        self.settle(Commit.of(header.get("commit")))
        message = self._decode(frame, "activations", -1, False, 0, _batch_of(header))
        started = time.perf_counter()
        with evaluating([self.segment]), preserved(), torch.no_grad():
            with _explained("the activations"):
                run = self._run(message)
            if self.loss is None:
                self._spend("evaluate", started)
                tensors = [run.tensors_out[slot] for slot in self.routes[False].down]
                return self._encode(Message("outputs", tensors, run.scalars_out), -1, 0, False)
            labels = message.plain["labels"]
            meta = {"loss": float(self.loss(run.output, labels)), "correct": correct_predictions(run.output, labels)}
        self._spend("evaluate", started)
        return self._encode(Message("outputs", [], (), {}, meta), -1, 0, False)

    def settle(self, commit: Commit) -> None:
        """Commit the pending update if the device finished that step, drop it if not."""
        if self._pending is not None and commit.step == self._pending:
            if self.keeper is not None:
                self.keeper.before_update(self)
            clip = None if commit.clip is None else torch.tensor(commit.clip, dtype=torch.float64)
            self.updater.apply(commit.learning_rate, clip)
            self.streams.commit()
            self._committed, self._pending, self._buffers = self._pending, None, None
            if self.keeper is not None:
                self.keeper.after_update(self)
        else:
            self._give_up()
        if commit.step != self._committed:
            raise self._out_of_order(
                f"a device that finished step {commit.step}",
                "Send the steps since then again, or open a new session with the weights of the last finished step.",
            )
        self.streams.begin()

    def weights(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers of B, by the model's own names, as of the last committed step."""
        committed = self._buffers.named if self._buffers is not None else {}
        buffers = {name: committed.get(name, buffer) for name, buffer in self.segment.named_buffers()}
        return {**dict(self.segment.named_parameters()), **buffers}

    def restore(
        self, step: int, optimizer: Mapping[str, Mapping[str, Any]], codecs: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Go on after ``step``, with the state that the optimizer and the codecs had then; weights are set already."""
        self.updater.load_state(optimizer)
        self.streams.load_state(codecs)
        self._committed = step

    @functools.cached_property
    def limits(self) -> SessionLimits:
        """The largest batch and bodies. Raises `DataError` if a single sample is too large."""
        single = self.loss is not None
        return SessionLimits.agreed(self.segment, self.routes, self.streams.codecs, single, self._largest_message)

    @property
    def committed(self) -> int:
        """The last step whose update was made; −1: none."""
        return self._committed

    def take_seconds(self) -> dict[str, float]:
        """What was spent since they were last taken: on B's forward and backward, evaluating, encoding, decoding."""
        taken, self._spent = self._spent, {}
        return taken

    def _spend(self, phase: str, started: float) -> float:
        seconds = time.perf_counter() - started
        self._spent[phase] = self._spent.get(phase, 0.0) + seconds
        return seconds

    def _begin(self, step: int, commit: Commit, parts: int) -> None:
        """The first part of ``step`` is here: what came before is settled."""
        self.settle(commit)
        if step != self._committed + 1:
            raise self._out_of_order(f"step {step}", "Repeat the last step that was not finished.")
        if not self.segment.training:
            self.segment.train()
        self._buffers = Buffers(self.segment)
        self._step, self._parts = step, Parts(parts, GradientSum(self.updater.parameters))

    def _header(self, frame: Frame, name: str, step: int, training: bool, part: int = 0) -> dict[str, Any]:
        if part >= len(self.streams):
            raise FrameError(f"Expected a step of at most {len(self.streams)} parts, found part {part}.")
        return self.streams[part].header(frame, name, step, training)

    def _encode(self, message: Message, step: int, part: int, training: bool = True) -> Frame:
        started = time.perf_counter()
        frame = self.streams[part].encode(message, step, training)
        self._spend("encode", started)
        return frame

    def _out_of_order(self, found: str, todo: str) -> OrderError:
        """What a session expects next: its step and its phase."""
        step, phase = self._committed + 1, "forward"
        if self._pending is not None:
            step = self._pending + 1
        elif self._step is not None and self._parts.awaited:
            step, phase = self._step, self._parts.awaited
        return OrderError(f"Expected {phase} of step {step}, found {found}. {todo}", step, phase)

    def _run(self, message: Message) -> Pass:
        route, training = self.routes[self.segment.training], self.segment.training
        entry = self.segment.entry[training]
        assert entry is not None
        needs = message.meta.get("needs_gradient", [False] * len(route.up))
        if not isinstance(needs, list) or len(needs) != len(route.up):
            raise FrameError(f"Expected needs_gradient for {len(route.up)} tensors, found {needs!r}.")
        tensors: list[torch.Tensor | None] = [None] * len(entry.slots)
        wanted = [False] * len(entry.slots)
        for slot, tensor, needed in zip(route.up, message.tensors, needs, strict=True):
            if tensor is None:
                raise FrameError(f"Expected every tensor of the activations, found none in slot {slot}.")
            differentiable = tensor.is_floating_point() or tensor.is_complex()
            tensors[slot], wanted[slot] = tensor, bool(needed) and differentiable
        return Pass(self.segment, tensors, message.scalars, wanted)

    def _with_loss(self, step: int, part: int, share: float, run: Pass, message: Message, started: float) -> Frame:
        assert self.loss is not None
        loss = shared(scalar_loss(self.loss(run.output, message.plain["labels"])), share)
        seconds = {"b_forward": self._spend("b_forward", started)}
        started = time.perf_counter()
        with _explained("activations and labels"):
            loss.backward()  # type: ignore[no-untyped-call]
        seconds["b_backward"] = self._spend("b_backward", started)
        return self._finish(step, part, run.input_gradients(), {"loss": float(loss.detach())}, seconds)

    def _finish(
        self,
        step: int,
        part: int,
        inputs: Sequence[torch.Tensor | None],
        meta: dict[str, Any],
        seconds: dict[str, float],
    ) -> Frame:
        last = self._parts.ended()
        if last:
            self.updater.check_gradients()
        norms = self.updater.norms() if self._norms and last else {}
        plain = {"norms": torch.stack(list(norms.values()))} if norms else {}
        meta = {**meta, "seconds": stated(seconds), **({"norms_of": list(norms)} if norms else {})}
        gradients = [inputs[slot] for slot in self.routes[True].up]
        frame = self._encode(Message("input_gradients", gradients, (), plain, meta), step, part)
        self._pending = step if last else None
        return frame

    def _decode(self, frame: Frame, name: str, step: int, training: bool, part: int, batch: int) -> Message:
        route = self.routes[training]
        boundary = self.segment.entry[training] if name == "activations" else self.segment.exit[training]
        slots = route.up if name == "activations" else route.back
        labels = ("labels",) if self.loss is not None else ()
        plain = {"activations": (*labels, "generator"), "output_gradients": ()}[name]
        expected = specs(boundary, slots, batch)
        size = sum(spec.nbytes for spec in expected)
        if size > self._largest_message:
            raise DataError(
                f"Expected {name} of at most {self._largest_message} bytes, found a batch of {batch}, which "
                f"takes {size}. Use batches of at most {self.limits.batch} samples, or serve a larger --max-message."
            )
        started = time.perf_counter()
        message = self.streams[part].decode(frame, name, step, expected, training, plain)
        self._spend("decode", started)
        if name == "activations" and self.loss is not None:
            _check_labels(message.plain.get("labels"), batch)
        return message

    def _give_up(self) -> None:
        """Restore what a step changed that was not finished: buffers; gradients and codec state are dropped."""
        if self._buffers is not None:
            self._buffers.restore()
        self.updater.drop()
        self._pending, self._step, self._buffers = None, None, None
        self._parts = Parts(1, GradientSum({}))


@contextmanager
def _explained(sent: str) -> Iterator[None]:
    """Whatever the network's operations trip over in what was sent, as a `DataError`."""
    try:
        yield
    except SplitEasyError:
        raise
    except Exception as error:
        raise DataError(
            f"Expected {sent} that segment B can compute with, found that it cannot: {type(error).__name__}: {error}. "
            "The step was given up and no parameter changed."
        ) from error


def _check_labels(labels: torch.Tensor | None, batch: int) -> None:
    if labels is None:
        raise FrameError("Expected labels with the activations, since the server holds the loss; found none.")
    if labels.ndim and len(labels) != batch:
        raise DataError(f"Expected a label for each of the {batch} samples, found {len(labels)}.")


def _parts_of(header: dict[str, Any], part: int, most: int) -> tuple[int, float]:
    """How many parts the step has, and the part of its loss that this one's samples are."""
    parts, share = header.get("parts", 1), header.get("share", 1.0)
    if type(parts) is not int or not part < parts <= most or header.get("part", 0) != part:
        raise FrameError(
            f"Expected part {part} of a step of up to {most}, found part {header.get('part', 0)!r:.20} of "
            f"{parts!r:.20}."
        )
    if type(share) is not float or not 0 < share <= 1:
        raise FrameError(f"Expected a part's share of the loss above 0 and up to 1, found {share!r:.40}.")
    return parts, share


def _batch_of(header: dict[str, Any]) -> int:
    batch = header.get("batch")
    if type(batch) is not int or not 1 <= batch <= LARGEST_BATCH:
        raise DataError(f"Expected a batch of 1 or more samples, found {batch!r}.")
    return batch


def _generator_state(message: Message) -> torch.Tensor | None:
    state = message.plain.get("generator")
    return None if state is None else check_generator_state(state)
