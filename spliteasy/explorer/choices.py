"""What can be chosen in the explorer: shapes as people write them, chains to offer, and what is wrong with a choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from spliteasy.codecs import list_codecs
from spliteasy.errors import CutError, DataError, TrainingError, suggest
from spliteasy.explorer.wording import TIMES
from spliteasy.link import LINKS
from spliteasy.wire import MESSAGES, Codecs, as_codecs

__all__ = [
    "DEVICE_CHOICES",
    "DOUBLE",
    "SINGLE",
    "changed_codecs",
    "check_plain",
    "parse_shape",
    "preset_chains",
    "preset_codecs",
    "usual_codecs",
]

SINGLE, DOUBLE = "single", "double"

DEVICE_CHOICES: dict[str, float | str] = {
    "as fast as this machine": 1.0,
    "4 times slower": 0.25,
    "10 times slower": 0.1,
    "100 times slower": 0.01,
    "iphone-xr": "iphone-xr",
}
"""Devices to offer: speeds relative to this machine, their memory unlimited, and the paper's phone with its own."""

_CHAINS = (
    "raw", "zstd(1)", "fp16", "fp16 | zstd(1)", "int8 | zstd(1)", "int4 | zstd(1)", "topk(0.1) | fp16 | zstd(1)",
    "topk(0.01) | int8 | zstd(1)", "sign", "pca(8, axis='channel') | int8",
)  # fmt: skip

_PRESETS = {
    "nothing: raw": {},
    "lossless": {"forward": "zvc | shuffle | zstd(1)", "backward": "shuffle | zstd(1)"},
    "half precision": {"forward": "fp16 | zstd(1)", "backward": "fp16 | zstd(1)"},
    "8 bits": {"forward": "int8 | zstd(1)", "backward": "int8 | zstd(1)"},
    "4 bits": {"forward": "int4 | zstd(1)", "backward": "int4 | zstd(1)"},
    "largest tenth": {"forward": "topk(0.1) | fp16 | zstd(1)", "backward": "topk(0.1) | fp16 | zstd(1)"},
    "largest tenth, its gradient": {
        "forward": "fp16 | zstd(1)", "activations": "topk(0.1, reuse=True) | int8 | zstd(1)",
        "backward": "fp16 | zstd(1)", "input_gradients": "topk(0.1, reuse=True) | int8 | zstd(1)",
    },
}  # fmt: skip
_USUAL = "half precision"


def preset_chains() -> list[str]:
    """The chains to offer for a message, of codecs that are installed; the core itself has `raw` alone."""
    return [chain for chain in _CHAINS if _installed(chain)]


def preset_codecs() -> dict[str, Codecs]:
    """Chains for all four messages to offer, by name, of codecs that are installed."""
    return {name: Codecs(**chains) for name, chains in _PRESETS.items() if all(map(_installed, chains.values()))}


def usual_codecs() -> Codecs:
    """The chains to begin with."""
    return preset_codecs().get(_USUAL, Codecs())


def _installed(chain: str) -> bool:
    return {part.split("(")[0].strip() for part in chain.split(" | ")} <= set(list_codecs())


def changed_codecs(before: Codecs | None, changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` with whatever it says of chains put together as ``codecs``; raises `CodecError` for what is none.

    ``codecs`` goes first, then ``chain`` for all messages, ``forward`` and ``backward`` for two each, and a message's
    own name.
    """
    given = {key: changes[key] for key in ("codecs", "chain", "forward", "backward", *MESSAGES) if key in changes}
    if not given:
        return changes
    kept = {key: value for key, value in changes.items() if key not in given}
    start = as_codecs(given.get("codecs", before))
    chains: dict[str, Any] = {message: start.chain(message) for message in MESSAGES}
    for message in MESSAGES:
        for key in ("chain", "backward" if message.endswith("gradients") else "forward", message):
            chains[message] = given.get(key, chains[message])
    return {**kept, "codecs": Codecs(**chains)}


def parse_shape(shape: object) -> tuple[int, ...]:
    """A shape without the batch, from numbers or from text: ``"3, 224, 224"``, ``"3x224x224"``, or ``"224"`` for a
    square picture of three channels. Raises `DataError`."""
    text = shape.strip("()[] ") if isinstance(shape, str) else ""
    if isinstance(shape, int) and not isinstance(shape, bool):
        sizes: list[object] = [3, shape, shape]
    elif isinstance(shape, str):
        parts = [part for part in re.split(rf"[\s,x{TIMES}·*]+", text) if part]
        numbers = [int(part) if part.isdecimal() else part for part in parts]
        sizes = [3, numbers[0], numbers[0]] if len(numbers) == 1 and "," not in text else list(numbers)
    elif isinstance(shape, Sequence):
        sizes = list(shape)
    else:
        sizes = []
    if not sizes or not all(type(part) is int and part > 0 for part in sizes):
        raise DataError(
            f"Expected an input size such as 3{TIMES}224{TIMES}224 (channels, height, width; without the batch), "
            f"found {shape!r}."
        )
    return tuple(part for part in sizes if isinstance(part, int))


def check_plain(values: dict[str, Any]) -> None:
    """Raise for a link or device that does not exist, a mode that is none, or a batch below one."""
    if values["link"] not in LINKS:
        raise TrainingError(
            f"Expected a link, one of {', '.join(LINKS)}; found {values['link']!r}."
            f"{suggest(str(values['link']), LINKS)}"
        )
    if values["device"] not in DEVICE_CHOICES:
        raise TrainingError(f"Expected a device, one of {', '.join(DEVICE_CHOICES)}; found {values['device']!r}.")
    if values["mode"] not in (SINGLE, DOUBLE, None):
        raise CutError(f"Expected a split that is {SINGLE!r} or {DOUBLE!r}, found {values['mode']!r}.")
    if type(values["batch"]) is not int or values["batch"] < 1:
        raise DataError(f"Expected a batch of 1 or more samples, found {values['batch']!r}.")
