"""Every error the package raises, in one tree.

    SplitEasyError
    ├── ModelError           a network that cannot be found or built
    ├── TraceError           a network whose operations cannot be listed
    ├── CutError             a cut that does not exist, or cuts in the wrong order
    ├── SplitError           a split that could not be exact, or could not be run where it was asked to
    ├── CodecError           a codec that does not exist, wrong arguments, or a chain in the wrong order
    ├── FrameError           a frame that is damaged, lies about its contents, or was not agreed
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
        ├── SessionError     an unknown, expired or refused session, or a call out of order
        └── TokenError       a token that does not open this session

Messages say what was expected, what was found, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CodecError",
    "ConnectionLost",
    "CutError",
    "DataError",
    "ExerciseError",
    "FrameError",
    "ModelError",
    "NonFiniteError",
    "PlanError",
    "ProfileError",
    "ProtocolError",
    "ReproduceError",
    "ServerError",
    "SessionError",
    "SplitEasyError",
    "SplitError",
    "TokenError",
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
    """An unknown, expired or refused session, or a call out of order."""


class TokenError(ServerError):
    """A token that does not open this session."""


def suggest(wrong: str, known: Iterable[str]) -> str:
    """The part of a message that names what may have been meant: ``" Did you mean 'a', 'b'?"`` or ``""``."""
    names = list(known)
    near = difflib.get_close_matches(wrong, names, n=3, cutoff=0.5)
    if not near:
        lowered = wrong.lower()
        near = [name for name in names if lowered and lowered in name.lower()][:3]
    return f" Did you mean {', '.join(repr(name) for name in near)}?" if near else ""
