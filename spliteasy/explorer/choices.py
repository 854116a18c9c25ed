"""What can be chosen in the explorer: shapes as people write them, chains to offer, and what is wrong with a choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from spliteasy.codecs import codec, list_codecs
from spliteasy.errors import CutError, DataError, TrainingError, suggest
from spliteasy.explorer.wording import TIMES
from spliteasy.link import LINKS

__all__ = ["DOUBLE", "SINGLE", "check_plain", "parse_shape", "presets", "usual_chain"]

SINGLE, DOUBLE = "single", "double"

_PRESETS = ("raw", "zstd(1)", "fp16", "fp16 | zstd(1)", "topk(0.1) | fp16 | zstd(1)", "topk(0.01) | fp16 | zstd(1)")
_USUAL = "fp16 | zstd(1)"


def presets() -> list[str]:
    """The chains to offer, of codecs that are installed; the core itself has `raw` alone."""
    known = set(list_codecs())
    return [chain for chain in _PRESETS if {part.split("(")[0].strip() for part in chain.split("|")} <= known]


def usual_chain() -> str:
    """The chain to begin with."""
    return _USUAL if _USUAL in presets() else "raw"


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
    """Raise for a link or a chain that does not exist, or a mode that is none."""
    codec(values["chain"])
    if values["link"] not in LINKS:
        raise TrainingError(
            f"Expected a link, one of {', '.join(LINKS)}; found {values['link']!r}."
            f"{suggest(str(values['link']), LINKS)}"
        )
    if values["mode"] not in (SINGLE, DOUBLE, None):
        raise CutError(f"Expected a split that is {SINGLE!r} or {DOUBLE!r}, found {values['mode']!r}.")
    if type(values["batch"]) is not int or values["batch"] < 1:
        raise DataError(f"Expected a batch of 1 or more samples, found {values['batch']!r}.")
