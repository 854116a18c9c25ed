"""What a chain costs and saves on one tensor: size, error, speed."""

from __future__ import annotations

import html
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from spliteasy.codecs import Chain, Codec, Context, codec
from spliteasy.codecs.finite import all_finite
from spliteasy.errors import CodecError, NonFiniteError

__all__ = ["Measurement", "measure"]

T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """One chain on one tensor.

    ``raw_bytes`` is the tensor as it is, ``frame_bytes`` the whole frame, header included, and ``ratio`` the first by
    the second. ``relative_l2`` is the norm of the error by the norm of the tensor, ``cosine`` that of the angle
    between tensor and decoded tensor (0 and 1 if nothing was lost, also for a tensor of zeros), ``max_error`` the
    largest error of an element. Speeds are millions of raw bytes a second, for whole frames, with as many threads as
    PyTorch has here.
    """

    chain: str
    shape: tuple[int, ...]
    raw_bytes: int
    frame_bytes: int
    ratio: float
    relative_l2: float
    cosine: float
    max_error: float
    encode_mb_per_s: float
    decode_mb_per_s: float

    def to_dict(self) -> dict[str, Any]:
        """A row for a table."""
        return asdict(self)

    def __str__(self) -> str:
        sizes = "·".join(map(str, self.shape)) or "a scalar"
        return (
            f"{self.chain} on {sizes}: {self.raw_bytes:,} to {self.frame_bytes:,} bytes ({self.ratio:.2f}x), "
            f"relative error {self.relative_l2:.2g}, "
            f"encode {self.encode_mb_per_s:,.0f} MB/s, decode {self.decode_mb_per_s:,.0f} MB/s"
        )

    def _repr_html_(self) -> str:
        cells = {
            "chain": html.escape(self.chain),
            "shape": "·".join(map(str, self.shape)) or "scalar",
            "raw bytes": f"{self.raw_bytes:,}",
            "frame bytes": f"{self.frame_bytes:,}",
            "ratio": f"{self.ratio:.2f}x",
            "relative L2 error": f"{self.relative_l2:.3g}",
            "cosine": f"{self.cosine:.6f}",
            "largest error": f"{self.max_error:.3g}",
            "encode MB/s": f"{self.encode_mb_per_s:,.0f}",
            "decode MB/s": f"{self.decode_mb_per_s:,.0f}",
        }
        head = "".join(f"<th>{name}</th>" for name in cells)
        row = "".join(f"<td>{text}</td>" for text in cells.values())
        return f"<table><thead><tr>{head}</tr></thead><tbody><tr>{row}</tr></tbody></table>"


def measure(chain: str | Codec | Chain, tensor: torch.Tensor, repeats: int = 5) -> Measurement:
    """Encode and decode ``tensor`` (any shape) with ``chain``, once to warm up and ``repeats`` times for the median.

    Raises ``CodecError`` for a chain that does not exist or ``repeats`` below 1, ``NonFiniteError`` if the tensor
    holds NaN or infinity, since an error could not be computed.
    """
    chain = codec(chain)
    if repeats < 1:
        raise CodecError(f"expected at least 1 repeat, found {repeats}")
    if not isinstance(tensor, torch.Tensor):
        raise CodecError(f"expected a tensor to measure, found {type(tensor).__name__}")
    if not all_finite(tensor):
        raise NonFiniteError("the tensor to measure holds NaN or infinity; measure a finite one")
    frame, encode_seconds = _median(lambda: chain.encode(tensor, Context()), repeats)
    decoded, decode_seconds = _median(lambda: chain.decode(frame, Context()), repeats)
    raw_bytes = tensor.numel() * tensor.element_size()
    relative_l2, cosine, max_error = _errors(tensor.detach().cpu(), decoded)
    return Measurement(
        chain=repr(chain),
        shape=tuple(tensor.shape),
        raw_bytes=raw_bytes,
        frame_bytes=len(frame),
        ratio=raw_bytes / len(frame),
        relative_l2=relative_l2,
        cosine=cosine,
        max_error=max_error,
        encode_mb_per_s=raw_bytes / encode_seconds / 1e6,
        decode_mb_per_s=raw_bytes / decode_seconds / 1e6,
    )


def _median(call: Callable[[], T], repeats: int) -> tuple[T, float]:
    """What ``call`` returns, and the median of its seconds after a first, untimed call."""
    result = call()
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, max(statistics.median(seconds), 1e-9)


def _errors(x: torch.Tensor, decoded: torch.Tensor) -> tuple[float, float, float]:
    """Relative L2 error, cosine, largest error; computed in float64 on values scaled by the largest, so that nothing
    overflows."""
    if not x.numel():
        return 0.0, 1.0, 0.0
    x, decoded = (
        part.to(torch.complex128 if part.is_complex() else torch.float64).reshape(-1) for part in (x, decoded)
    )
    largest_error = float((decoded - x).abs().max())
    largest = float(x.abs().max())
    if not largest_error:
        return 0.0, 1.0, 0.0
    if not largest:
        return math.inf, 0.0, largest_error
    x, decoded = x / largest, decoded / largest
    norms = float(x.norm()), float(decoded.norm())
    cosine = float(torch.vdot(x, decoded).real) / (norms[0] * norms[1]) if norms[1] else 0.0
    return float((decoded - x).norm()) / norms[0], cosine, largest_error
