"""What a chain costs on each message: bytes by cut, seconds as straight lines in the raw bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spliteasy.errors import PlanError
from spliteasy.wire import MESSAGES, Codecs

__all__ = ["ChainCost", "FrameBytes", "Line", "MessageCost", "fit_line"]

Floats = npt.NDArray[np.float64]

HEAD_BYTES = 900.0
"""A frame's header and its HTTP head, in round numbers, where a chain's cost is given and not measured."""


@dataclass(frozen=True)
class Line:
    """``fixed + slope × raw bytes``, with the largest error that it had on what it was fitted to, by the measured."""

    fixed: float
    slope: float
    error: float = 0.0


@dataclass(frozen=True)
class FrameBytes:
    """The bytes of a message on the wire: ``fixed`` (header and HTTP head) and ``slope`` for each raw byte of floating
    tensors, one number for every cut where it may cross, or a single one for all. 1 / ``slope`` is the ratio.

    ``error`` is how far the slopes are off where they were not measured, typically: each measured one against what
    its neighbours of the same kind would have said, the median.
    """

    fixed: Floats
    slope: Floats
    error: float = 0.0

    def at(self, cut: int) -> tuple[float, float]:
        """Fixed and slope at one cut."""
        return (
            (float(self.fixed), float(self.slope))
            if not self.fixed.ndim
            else (float(self.fixed[cut]), float(self.slope[cut]))
        )


@dataclass(frozen=True)
class MessageCost:
    """A chain on one message: its bytes on the wire, and seconds on this machine as lines in the raw bytes of its
    floating tensors."""

    nbytes: FrameBytes
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
        """The largest of the messages' errors of bytes at cuts where nothing was measured (`FrameBytes`)."""
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
        fixed = np.array(float(fixed_bytes))
        return cls(codecs, {m: MessageCost(FrameBytes(fixed, np.array(1 / ratios[m])), *speeds) for m in MESSAGES})


def fit_line(raw: Sequence[float], measured: Sequence[float]) -> Line:
    """The line of least squared relative error through measurements above zero, neither part below zero."""
    x, y = np.asarray(raw, dtype=float), np.asarray(measured, dtype=float)
    candidates = [(0.0, float((x / y).sum() / (x * x / y**2).sum())), (float((1 / y).sum() / (1 / y**2).sum()), 0.0)]
    if len(set(x.tolist())) > 1:
        both = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones_like(y), rcond=None)[0]
        candidates.append((float(both[0]), float(both[1])))
    fixed, slope = min(
        (pair for pair in candidates if min(pair) >= 0),
        key=lambda pair: float((((pair[0] + pair[1] * x) / y - 1) ** 2).sum()),
    )
    return Line(fixed, slope, float(np.abs((fixed + slope * x) / y - 1).max()))
