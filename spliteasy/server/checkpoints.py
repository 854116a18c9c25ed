"""The states of sessions on the disk: written beside the training, found again by a server that was started anew.

A folder a session, a safetensors file a state, named by the step after which it was taken. Between two updates the
parameters and the optimizer's state do not change, so a thread writes them as they lie while the next step is under
way, and only the next update waits for it. A file is synced before it gets its name; what else a session needs (the
network's name, chains, seed) is what its device sent when it opened it.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spliteasy.codecs import container
from spliteasy.codecs.shipping import shipped_planes
from spliteasy.codecs.state import flatten, unflatten
from spliteasy.errors import FrameError, StateError
from spliteasy.replacing import replacing
from spliteasy.server.observing import Observer
from spliteasy.server.opening import SessionConfig
from spliteasy.server.session import Session
from spliteasy.weights import flatten_state, load_tensors, unflatten_state

__all__ = ["Checkpoints", "Keeper", "State"]

_FORMAT = "spliteasy-session/1"
_SUFFIX = ".safetensors"
_PARTS = ("opening", "optimizer", "codecs")


class State:
    """What a session is after a step: tensors and JSON. ``opening`` is what its device would send to open it now."""

    def __init__(self, session: Session, config: SessionConfig, seal: str) -> None:
        weights = session.weights()  # a step in hand has changed buffers already
        buffers = {name: weights[name].clone() for name, _ in session.segment.named_buffers()}
        opening = {**weights, **buffers, **shipped_planes(session.streams.codecs.shipped)}
        optimizer, numbers = flatten_state(session.updater.state())
        codecs, rest = flatten(session.streams.state())
        self.step = session.committed
        self._tensors = {
            f"{part}/{name}": tensor
            for part, tensors in zip(_PARTS, (opening, optimizer, codecs), strict=True)
            for name, tensor in tensors.items()
        }
        about = {"config": config.to_dict(), "seal": seal, "step": self.step, "optimizer": numbers, "codecs": rest}
        self._metadata = {"format": _FORMAT, "session": json.dumps(about)}

    def pieces(self) -> list[bytes | memoryview]:
        """A safetensors file in pieces, which are views of the tensors' memory."""
        return container.write(self._tensors, self._metadata)


class Checkpoints:
    """The states of all sessions under ``folder``. Raises `StateError` where nothing can be written.

    ``observer`` is told of every state: who wants to know sets it."""

    def __init__(self, folder: Path, every: int = 10) -> None:
        self.folder, self.every = folder, every
        self.observer: Observer | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StateError(
                f"Expected a folder for states that can be written to, found {folder}: {error}. Name another, or mend "
                "this one."
            ) from error

    def write(self, identifier: str, step: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Put a state in place in one piece. Raises `StateError` if the disk refuses; older ones are still there."""
        path, started, refused = self._path(identifier, step), time.perf_counter(), None
        try:
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as file:
                for piece in pieces:
                    file.write(piece)
        except OSError as error:
            refused = type(error).__name__
            raise StateError(
                f"Expected room for the state of a session after step {step}, found {path.parent}: {error}. No "
                "finished step is lost: free space or mend the folder, and go on."
            ) from error
        finally:
            if self.observer is not None:
                self.observer.saved(identifier, step, sum(map(len, pieces)), time.perf_counter() - started, refused)

    def steps(self, identifier: str) -> list[int]:
        """The steps after which there are states, in order."""
        folder = self.folder / identifier
        if not re.fullmatch(r"[A-Za-z0-9_\-]+", identifier) or not folder.is_dir():
            return []
        names = [path.name.removesuffix(_SUFFIX) for path in folder.glob(f"*{_SUFFIX}")]
        return sorted(int(name) for name in names if re.fullmatch(r"-?[0-9]+", name))

    def read(
        self, identifier: str, step: int | None, build: Callable[[SessionConfig, Mapping[str, torch.Tensor]], Session]
    ) -> tuple[Session, SessionConfig, str] | None:
        """The session after ``step`` (None: the last one that was written), built by ``build``, with its configuration
        and its token's seal; None if there is no such state. Raises `StateError` for a file that is none."""
        steps = self.steps(identifier)
        if not steps or (step is not None and step not in steps):
            return None
        path = self._path(identifier, steps[-1] if step is None else step)
        try:
            data = path.read_bytes()
            metadata = container.read(data)[1]
            about: dict[str, Any] = json.loads(metadata["session"])
            if metadata["format"] != _FORMAT:
                raise FrameError(f"its format is {metadata['format']!r}")
            config = SessionConfig.from_json(json.dumps(about["config"]))
            parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in _PARTS}
            for name, tensor in load_tensors(data).items():
                part, _, inner = name.partition("/")
                parts[part][inner] = tensor
            optimizer = unflatten_state(parts["optimizer"], about["optimizer"])
            codecs = unflatten(parts["codecs"], about["codecs"])
            seal, committed = str(about["seal"]), int(about["step"])
        except (OSError, FrameError, ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"Expected the state of a session in {path}, found something else ({error}). Remove it; its device has "
                "to open a new session."
            ) from error
        session = build(config, parts["opening"])
        session.restore(committed, optimizer, codecs)
        return session, config, seal

    def keep_only(self, identifier: str, steps: set[int]) -> None:
        """Remove the other states of a session."""
        for step in self.steps(identifier):
            if step not in steps:
                self._path(identifier, step).unlink(missing_ok=True)

    def remove(self, identifier: str) -> None:
        """Remove all states of a session."""
        if self.steps(identifier):
            shutil.rmtree(self.folder / identifier, ignore_errors=True)

    def _path(self, identifier: str, step: int) -> Path:
        return self.folder / identifier / f"{step}{_SUFFIX}"


class Keeper:
    """Writes the states of one session: after every so many updates, and when it is told to.

    ``saved`` is the last step on the disk, ``pinned`` are those that the device may ask to go back to.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        identifier: str,
        config: SessionConfig,
        seal: str,
        saved: int | None = None,
        pinned: Collection[int] = (),
    ) -> None:
        self._checkpoints, self._identifier, self._config, self._seal = checkpoints, identifier, config, seal
        self.saved, self.pinned = saved, set(pinned)
        self._due = False
        self._thread: threading.Thread | None = None
        self._error: StateError | None = None

    def before_update(self, session: Session) -> None:
        """Wait until what is being written may change. Raises `StateError` if it could not be written: the update is
        not made, and is due still."""
        self.wait()
        if self._error is not None:
            self._error = None
            self._due = True
        if self._due:
            self.write(session)

    def after_update(self, session: Session) -> None:
        """Begin to write the state, if its turn has come."""
        if (session.committed + 1) % self._checkpoints.every:
            return
        state = State(session, self._config, self._seal)
        self._thread = threading.Thread(target=self._write_aside, args=(state,), name="checkpoint", daemon=True)
        self._thread.start()

    def write(self, session: Session, pin: bool = False, also: int | None = None) -> None:
        """Write the state now. ``pin`` it for the device to come back to; ``also`` is the pinned one that stays, until
        the device has taken note of this one."""
        self.wait()
        state = State(session, self._config, self._seal)
        if self.saved != state.step:
            self._write(state)
        self._due = False
        if pin:
            self.pinned = {state.step} if also is None else {state.step, also}
            self._tidy()

    def wait(self) -> None:
        """Until nothing is being written."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _write_aside(self, state: State) -> None:
        try:
            self._write(state)
        except StateError as error:
            self._error = error

    def _write(self, state: State) -> None:
        self._checkpoints.write(self._identifier, state.step, state.pieces())
        self.saved = state.step
        self._tidy()

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):
            self._checkpoints.keep_only(
                self._identifier, self.pinned | ({self.saved} if self.saved is not None else set())
            )
