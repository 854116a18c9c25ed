"""What a chain costs and saves on one tensor: size, error, speed, distance to its floor, and what learning feels of it.

`docs/codecs.md` says how to read each number.
"""

from __future__ import annotations

import html
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

import torch

from spliteasy.calls import call_bytes, call_frame
from spliteasy.codecs import Chain, Codec, Context, codec
from spliteasy.codecs.finite import all_finite
from spliteasy.errors import CodecError, NonFiniteError
from spliteasy.floors import floor
from spliteasy.gradients import gradient_cosine
from spliteasy.optimization import Loss
from spliteasy.splitting import Split
from spliteasy.wire import MESSAGES, Codecs

__all__ = ["Measurement", "measure"]

T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """One chain on one tensor, as one message.

    Sizes, in bytes: ``raw_bytes`` is the tensor as it is; ``frame_bytes`` the whole frame of `Chain.encode`, header
    included; ``http_bytes`` what a step's call puts on the socket for it, the wire's frame with the head of the
    request or answer (`spliteasy.calls`). ``ratio`` is raw by frame, ``ratio_fp32`` 4 bytes an element by frame,
    ``http_ratio`` raw by HTTP.

    Errors, of the decoded tensor y against the tensor x, in float64: ``relative_l2`` ‖y − x‖ / ‖x‖; ``cosine`` of the
    angle between x and y; ``max_error`` max |y − x|; ``bias`` Σ(y − x) / Σ|x|, the mean error by the mean magnitude,
    negative where elements shrink that are positive. 0, 1, 0 and 0 if nothing was lost, also for a tensor of zeros.
    ``saturated`` counts the elements that were cut off at the largest number that the codec can represent.

    Speeds are millions of raw bytes a second, medians of warm runs, for whole frames, with ``threads`` threads of
    PyTorch.

    ``floor_bytes`` is how small the frame could be where that is known, ``floor_kind`` what kind of floor that is
    (`spliteasy.floors`), and ``floor_ratio`` the floor by the frame: 1 is as good as it gets on independent data, more
    is possible where neighbours tell of each other.

    ``gradient_cosine`` is that of `spliteasy.gradients.gradient_cosine`, None where no split and batch were given.
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
    message: str = "activations"
    threads: int = 1
    ratio_fp32: float = math.nan
    http_bytes: int = 0
    http_ratio: float = math.nan
    bias: float = 0.0
    saturated: int = 0
    floor_bytes: int | None = None
    floor_ratio: float | None = None
    floor_kind: str | None = None
    gradient_cosine: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """A row for a table."""
        return asdict(self)

    def __str__(self) -> str:
        sizes = "·".join(map(str, self.shape)) or "a scalar"
        floor = "" if self.floor_ratio is None else f"floor/frame {self.floor_ratio:.2f} ({self.floor_kind}), "
        angle = "" if self.gradient_cosine is None else f"cosine of A's gradients {self.gradient_cosine:.4f}, "
        return (
            f"{self.chain} on {sizes}: {self.raw_bytes:,} to {self.frame_bytes:,} bytes ({self.ratio:.2f}x), "
            f"{self.http_bytes:,} over HTTP, relative error {self.relative_l2:.2g}, {floor}{angle}"
            f"encode {self.encode_mb_per_s:,.0f} MB/s, decode {self.decode_mb_per_s:,.0f} MB/s "
            f"({self.threads} thread{'s' if self.threads > 1 else ''})"
        )

    def _repr_html_(self) -> str:
        cells = {
            "chain": html.escape(self.chain),
            "shape": "·".join(map(str, self.shape)) or "scalar",
            "message": self.message,
            "raw bytes": f"{self.raw_bytes:,}",
            "frame bytes": f"{self.frame_bytes:,}",
            "HTTP bytes": f"{self.http_bytes:,}",
            "ratio": f"{self.ratio:.2f}x",
            "ratio to fp32": f"{self.ratio_fp32:.2f}x",
            "relative L2 error": f"{self.relative_l2:.3g}",
            "cosine": f"{self.cosine:.6f}",
            "largest error": f"{self.max_error:.3g}",
            "bias": f"{self.bias:.2g}",
            "saturated": f"{self.saturated:,}",
            "floor / frame": "–" if self.floor_ratio is None else f"{self.floor_ratio:.3f} ({self.floor_kind})",
            "cosine of A's gradients": "–" if self.gradient_cosine is None else f"{self.gradient_cosine:.6f}",
            "encode MB/s": f"{self.encode_mb_per_s:,.0f}",
            "decode MB/s": f"{self.decode_mb_per_s:,.0f}",
            "threads": f"{self.threads}",
        }
        head = "".join(f"<th>{name}</th>" for name in cells)
        row = "".join(f"<td>{text}</td>" for text in cells.values())
        return f"<table><thead><tr>{head}</tr></thead><tbody><tr>{row}</tr></tbody></table>"


def measure(
    chain: str | Codec | Chain,
    tensor: torch.Tensor,
    repeats: int = 5,
    *,
    message: str = "activations",
    split: Split | None = None,
    batch: tuple[torch.Tensor, torch.Tensor] | None = None,
    loss: str | Loss = "cross_entropy",
) -> Measurement:
    """Encode and decode ``tensor`` (any shape) with ``chain``, once to warm up and ``repeats`` times for the median.

    ``message`` is the one of the four that the tensor stands for: codecs may treat gradients in another way. With
    ``split`` and ``batch``, a pair of inputs and labels, two steps are run in this process to compare the gradients of
    A's parameters with the chain on that message and without; the split is left as it was.

    Raises ``CodecError`` for a chain or message that does not exist or ``repeats`` below 1, ``NonFiniteError`` if the
    tensor holds NaN or infinity, since an error could not be computed, and what `gradient_cosine` raises.
    """
    chain = codec(chain)
    if type(repeats) is not int or repeats < 1:
        raise CodecError(f"expected at least 1 repeat, found {repeats}")
    if not isinstance(tensor, torch.Tensor):
        raise CodecError(f"expected a tensor to measure, found {type(tensor).__name__}")
    if message not in MESSAGES:
        raise CodecError(f"expected a message, one of {', '.join(MESSAGES)}; found {message!r}")
    if (split is None) != (batch is None):
        lacks = "batch=(x, y)" if batch is None else "split"
        raise CodecError(f"expected split and batch together, to compare gradients; {lacks} is missing")
    if not all_finite(tensor):
        raise NonFiniteError("the tensor to measure holds NaN or infinity; measure a finite one")
    context = Context(message)
    chain.encode(tensor, context)
    frame, encode_seconds = _median(lambda: chain.encode(tensor, Context(message)), repeats)
    chain.decode(frame, Context(message))
    decoded, decode_seconds = _median(lambda: chain.decode(frame, Context(message)), repeats)
    raw_bytes = tensor.numel() * tensor.element_size()
    http_bytes = call_bytes(call_frame(chain, tensor, message), message)
    lowest = floor(chain, tensor, Context(message))
    return Measurement(
        chain=repr(chain),
        shape=tuple(tensor.shape),
        raw_bytes=raw_bytes,
        frame_bytes=len(frame),
        ratio=raw_bytes / len(frame),
        **_errors(tensor.detach().cpu(), decoded)._asdict(),
        encode_mb_per_s=raw_bytes / encode_seconds / 1e6,
        decode_mb_per_s=raw_bytes / decode_seconds / 1e6,
        message=message,
        threads=torch.get_num_threads(),
        ratio_fp32=4 * tensor.numel() / len(frame),
        http_bytes=http_bytes,
        http_ratio=raw_bytes / http_bytes,
        saturated=context.counts.get("saturated", 0),
        floor_bytes=None if lowest is None else lowest.nbytes,
        floor_ratio=None if lowest is None else lowest.nbytes / len(frame),
        floor_kind=None if lowest is None else lowest.kind,
        gradient_cosine=_learning(chain, message, split, batch, loss),
    )


def _learning(
    chain: Chain,
    message: str,
    split: Split | None,
    batch: tuple[torch.Tensor, torch.Tensor] | None,
    loss: str | Loss,
) -> float | None:
    """The cosine of A's gradients, where there is something to compute it from."""
    if split is None or batch is None:
        return None
    if split.c is None and message in ("outputs", "output_gradients"):
        raise CodecError(f"a single split has no {message}; split at two cuts, or measure activations")
    return gradient_cosine(split, Codecs(**{message: chain}), *batch, loss=loss)


def _median(call: Callable[[], T], repeats: int) -> tuple[T, float]:
    """What ``call`` returns, and the median of its seconds."""
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, max(statistics.median(seconds), 1e-9)


class _Errors(NamedTuple):
    relative_l2: float = 0.0
    cosine: float = 1.0
    max_error: float = 0.0
    bias: float = 0.0


def _errors(x: torch.Tensor, decoded: torch.Tensor) -> _Errors:
    """The errors as `Measurement` defines them; computed in float64 on values scaled by the largest, so that nothing
    overflows."""
    if not x.numel():
        return _Errors()
    x, decoded = (
        part.to(torch.complex128 if part.is_complex() else torch.float64).reshape(-1) for part in (x, decoded)
    )
    largest_error = float((decoded - x).abs().max())
    largest = float(x.abs().max())
    if not largest_error:
        return _Errors()
    if not largest:
        total = float(decoded.real.sum())
        return _Errors(math.inf, 0.0, largest_error, math.copysign(math.inf, total) if total else 0.0)
    x, decoded = x / largest, decoded / largest
    error = decoded - x
    norms = float(x.norm()), float(decoded.norm())
    cosine = float(torch.vdot(x, decoded).real) / (norms[0] * norms[1]) if norms[1] else 0.0
    bias = float(error.real.sum()) / float(x.abs().sum())
    return _Errors(float(error.norm()) / norms[0], cosine, largest_error, bias)
