"""What a chain costs on each message, as a straight line in the raw bytes, and how well such a line fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spliteasy.errors import PlanError
from spliteasy.wire import MESSAGES, Codecs

__all__ = ["ChainCost", "Line", "MessageCost", "fit_line"]

HEAD_BYTES = 900.0
"""A frame's header and its HTTP head, in round numbers, where a chain's cost is given and not measured."""


@dataclass(frozen=True)
class Line:
    """``fixed + slope × raw bytes``, with the largest error that it had on what it was fitted to, by the measured."""

    fixed: float
    slope: float
    error: float = 0.0


@dataclass(frozen=True)
class MessageCost:
    """A chain on one message: bytes on the wire (HTTP head included) and seconds on this machine, as lines in the raw
    bytes of its floating tensors. 1 / ``nbytes.slope`` is the ratio."""

    nbytes: Line
    encode: Line
    decode: Line


@dataclass(frozen=True)
class ChainCost:
    """A set of chains with what it costs on each of the four messages."""

    codecs: Codecs
    messages: Mapping[str, MessageCost]

    @property
    def name(self) -> str:
        """The notation of the chain, of both ways where they differ."""
        chains = self.codecs.to_dict()
        if len(set(chains.values())) == 1:
            return chains["activations"]
        return "; ".join(f"{message}={chains[message]}" for message in MESSAGES)

    @property
    def error(self) -> float:
        """The largest relative error of predicted bytes over the tensors that it was calibrated on."""
        return max(cost.nbytes.error for cost in self.messages.values())

    @classmethod
    def given(
        cls,
        codecs: Codecs,
        ratio: float | Mapping[str, float],
        encode_mb_per_s: float,
        decode_mb_per_s: float,
        fixed_bytes: float = HEAD_BYTES,
    ) -> ChainCost:
        """A cost that is known: a ratio (one, or one a message) and speeds in 10^6 raw bytes a second.

        Raises `PlanError` for a ratio or speed that is not above zero.
        """
        ratios = {message: ratio[message] if isinstance(ratio, Mapping) else ratio for message in MESSAGES}
        if not all(value > 0 for value in (*ratios.values(), encode_mb_per_s, decode_mb_per_s)) or fixed_bytes < 0:
            raise PlanError(
                f"Expected a ratio and speeds above zero, found ratio={ratio}, encode_mb_per_s={encode_mb_per_s}, "
                f"decode_mb_per_s={decode_mb_per_s}, fixed_bytes={fixed_bytes}. se.measure gives measured ones."
            )
        speeds = Line(0.0, 1e-6 / encode_mb_per_s), Line(0.0, 1e-6 / decode_mb_per_s)
        return cls(codecs, {m: MessageCost(Line(fixed_bytes, 1 / ratios[m]), *speeds) for m in MESSAGES})


def fit_line(raw: Sequence[float], measured: Sequence[float], *, rising: bool = False) -> Line:
    """The line of least squared relative error through measurements above zero, neither part below zero.

    ``rising`` rules out a level line: bytes grow with the tensor, even where those measured happened not to, and a
    level line would promise that a larger one costs nothing.
    """
    x, y = np.asarray(raw, dtype=float), np.asarray(measured, dtype=float)
    head = min(HEAD_BYTES, 0.5 * float(y.min())) if rising else 0.0
    candidates = [(fixed, float((x * (y - fixed) / y**2).sum() / (x * x / y**2).sum())) for fixed in {0.0, head}]
    if not rising:
        candidates.append((float((1 / y).sum() / (1 / y**2).sum()), 0.0))
    if len(set(x.tolist())) > 1:
        both = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones_like(y), rcond=None)[0]
        candidates.append((float(both[0]), float(both[1])))
    allowed = [pair for pair in candidates if min(pair) >= 0 and (pair[1] > 0 or not rising)]
    fixed, slope = min(allowed, key=lambda pair: float((((pair[0] + pair[1] * x) / y - 1) ** 2).sum()))
    return Line(fixed, slope, float(np.abs((fixed + slope * x) / y - 1).max()))
