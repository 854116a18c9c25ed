"""Where profiles are kept, and what they are valid for: one network, input, machine, torch and number of threads."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spliteasy.errors import ProfileError
from spliteasy.program import Program
from spliteasy.replacing import replacing

__all__ = [
    "cache_folder",
    "cache_path",
    "circumstances",
    "digest_of",
    "here",
    "load_timings",
    "require_same",
    "save_timings",
]

_FORMAT = 1
_ADVICE = "Profile again on this machine: se.profile(model, input_shape, batch)."


def cache_folder() -> Path:
    """SPLITEASY_CACHE where it is set, else the user's cache folder of this platform, and ``spliteasy`` in it."""
    named = os.environ.get("SPLITEASY_CACHE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "spliteasy"


def circumstances(program: Program, optimizer: Mapping[str, Any], loss: str) -> dict[str, Any]:
    """Everything that seconds depend on, as JSON would give it back."""
    return {
        "format": _FORMAT,
        "network": digest_of(program),
        "input_shape": list(program.input_shape),
        "batch": program.batch,
        "dtype": str(program.dtype),
        "optimizer": json.dumps(dict(optimizer), sort_keys=True, default=repr),
        "loss": loss,
        **here(),
    }


def here() -> dict[str, Any]:
    """This machine, torch and its threads, now."""
    return {
        "machine": f"{platform.node()} {platform.machine()} {os.cpu_count()} cores",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def digest_of(program: Program) -> str:
    """A digest of the operations in both modes and of the state's shapes; not of any value."""
    model = program.model
    state = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in model.state_dict().items()]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    operations = [
        (name, node.op, str(node.target) if not callable(node.target) else getattr(node.target, "__name__", ""))
        for name, node in zip(program.train.names, program.train.nodes, strict=True)
    ]
    evaluating = [name for name, module in model.named_modules() if model.training and not module.training]
    text = repr((repr(model), state, trained, operations, evaluating))
    return hashlib.sha256(text.encode()).hexdigest()


def require_same(made: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raise `ProfileError`, naming what differs, unless ``made`` says what ``now`` says."""
    for key, value in now.items():
        if made.get(key) != value:
            raise ProfileError(
                f"Expected {what} of this {key}, {_brief(value)}; found one of {_brief(made.get(key))}. Its seconds do "
                f"not hold here. {_ADVICE}"
            )


def save_timings(path: Path, made: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
    """Write a profile as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(json.dumps({"made": dict(made), "timings": dict(timings)}).encode())


def load_timings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a profile was made in, and its timings. Raises `ProfileError` for a file that is no profile."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        made, timings = found["made"], found["timings"]
        good = isinstance(made, dict) and isinstance(timings, dict)
    except OSError as error:
        raise ProfileError(f"Expected a saved profile at {path}, found none to read: {error}. {_ADVICE}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ProfileError(f"Expected a saved profile at {path}, found another file. {_ADVICE}") from error
    if not good:
        raise ProfileError(f"Expected a saved profile at {path}, found another file. {_ADVICE}")
    return made, timings


def cache_path(made: Mapping[str, Any]) -> Path:
    """Where a profile made in these circumstances is kept."""
    key = hashlib.sha256(json.dumps(dict(made), sort_keys=True).encode()).hexdigest()
    return cache_folder() / "profiles" / f"{key[:32]}.json"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:24]}…"
