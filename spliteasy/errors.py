"""Every error the package raises, in one tree.

    SplitEasyError
    ├── ModelError           a network that cannot be found or built
    ├── TraceError           a network whose operations cannot be listed
    ├── CutError             a cut that does not exist, or cuts in the wrong order
    ├── SplitError           a split that could not be exact, or could not be run where it was asked to
    ├── CodecError           a codec that does not exist, wrong arguments, or a chain in the wrong order
    ├── FrameError           a frame that is damaged, lies about its contents, or was not agreed
    │   └── DamagedError     a body that is not the one that was sent
    ├── TrainingError        an optimizer, loss or argument of training that does not exist or does not fit
    │   ├── DataError        a batch, an input or a label that does not fit the network
    │   └── NonFiniteError   NaN or infinity, stopped before it reached an optimizer
    ├── ProfileError         timings of another machine, torch or network, or that cannot be taken
    ├── PlanError            a plan under constraints that cannot be met
    ├── ReproduceError       a table of the paper that does not exist, or a place that it cannot be saved in
    ├── ExerciseError        an exercise of the course that does not exist
    └── ServerError          anything that went wrong between device and server
        ├── ConnectionLost   no server there, or it went away in the middle of a call
        ├── ProtocolError    an answer that is not this package's protocol
        ├── SessionError     a session that is unknown, expired, refused, or not this device's
        │   └── OrderError   a call out of order: it knows the step and phase that were expected
        ├── BusyError        a server that has no place or memory left for now
        └── StateError       the state of a session or training that cannot be written or read

Messages say what was expected, what was found, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BusyError",
    "CodecError",
    "ConnectionLost",
    "CutError",
    "DamagedError",
    "DataError",
    "ExerciseError",
    "FrameError",
    "ModelError",
    "NonFiniteError",
    "OrderError",
    "PlanError",
    "ProfileError",
    "ProtocolError",
    "ReproduceError",
    "ServerError",
    "SessionError",
    "SplitEasyError",
    "SplitError",
    "StateError",
    "TraceError",
    "TrainingError",
    "suggest",
]


class SplitEasyError(Exception):
    """The root of the tree: catch it to catch everything this package raises on purpose."""


class ModelError(SplitEasyError):
    """A network that cannot be found or built."""


class TraceError(SplitEasyError):
    """A network whose operations cannot be listed."""


class CutError(SplitEasyError, LookupError):
    """A cut that does not exist, or cuts in the wrong order."""


class SplitError(SplitEasyError):
    """A split that could not be exact, or could not be run where it was asked to."""


class CodecError(SplitEasyError):
    """A codec that does not exist, wrong arguments, or a chain in the wrong order."""


class FrameError(SplitEasyError):
    """A frame that is damaged, lies about its contents, or was not agreed."""


class DamagedError(FrameError):
    """A body that is not the one that was sent, by its digest: what the network did to it is found out by sending it
    again."""


class TrainingError(SplitEasyError):
    """An optimizer, loss or argument of training that does not exist or does not fit."""


class DataError(TrainingError):
    """A batch, an input or a label that does not fit the network."""


class NonFiniteError(TrainingError):
    """NaN or infinity, stopped before it reached an optimizer."""


class ProfileError(SplitEasyError):
    """Timings of another machine, torch or network, or that cannot be taken."""


class PlanError(SplitEasyError):
    """A plan under constraints that cannot be met, or with a device, link or chain that it cannot use."""


class ReproduceError(SplitEasyError):
    """A table or figure of the paper that does not exist, with settings that it cannot use, or a place that it cannot
    be saved in."""


class ExerciseError(SplitEasyError, LookupError):
    """An exercise of the course that does not exist."""


class ServerError(SplitEasyError):
    """Anything that went wrong between device and server."""


class ConnectionLost(ServerError):
    """No server there, or it went away in the middle of a call."""


class ProtocolError(ServerError):
    """An answer that is not this package's protocol."""


class SessionError(ServerError):
    """A session that is unknown, expired, refused, or not this device's."""


class OrderError(SessionError):
    """A call out of order. ``step`` and ``phase`` are what the session expected (None and "" where it did not say)."""

    def __init__(self, message: str, step: int | None = None, phase: str = "") -> None:
        super().__init__(message)
        self.step, self.phase = step, phase

    def __reduce__(self) -> tuple[type[OrderError], tuple[str, int | None, str]]:
        return OrderError, (str(self), self.step, self.phase)


class BusyError(ServerError):
    """A server that has no place or memory left for now. ``seconds``: when to try again."""

    def __init__(self, message: str, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class StateError(ServerError):
    """The state of a session or of a training that cannot be written or read."""


def suggest(wrong: str, known: Iterable[str]) -> str:
    """The part of a message that names what may have been meant: ``" Did you mean 'a', 'b'?"`` or ``""``."""
    names = list(known)
    near = difflib.get_close_matches(wrong, names, n=3, cutoff=0.5)
    if not near:
        lowered = wrong.lower()
        near = [name for name in names if lowered and lowered in name.lower()][:3]
    return f" Did you mean {', '.join(repr(name) for name in near)}?" if near else ""
