"""A codec for spliteasy: zero what is small, and send only what is left.

Hard thresholding (Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 81(3), 1994), with
the threshold relative to the tensor's largest magnitude. It is also the example to start from for a codec of your own;
the comments say which part of the contract (the head of ``spliteasy/codecs/base.py``) each line keeps.
"""

from __future__ import annotations

import numpy as np
import torch

from spliteasy.codecs import Context, PlaneBound, Planes, TensorCodec, TensorSpec
from spliteasy.errors import CodecError, FrameError

__all__ = ["Threshold"]


class Threshold(TensorCodec):
    """Zeroes every element whose magnitude is below ``fraction`` of the largest in the tensor; the others are exact.

    ``fraction`` lies from 0 (drop zeros only, so that nothing but the sign of zeros is lost) to 1 (keep the largest
    alone). Planes, for a tensor of n elements of which m are kept:

    - ``values``: the m kept elements, flat, in the tensor's dtype and order;
    - ``kept``: one bit an element, uint8 of length ceil(n / 8), lowest bit first; 1 where an element was kept.

    NaN and infinity are always kept, so that they stay visible. Raises ``CodecError`` for another fraction.
    """

    # What `spliteasy codecs` shows. `name` is the name of the entry point and of the notation.
    name = "threshold"
    summary = "zero what is below a fraction of the largest magnitude; a bit an element says where"
    citation = "Donoho and Johnstone, Biometrika 81(3), 1994"
    example = "threshold(0.05)"

    # Where an element stands does not matter here, only that both sides walk the tensor in the same order. So the
    # chain may hand over channels-last tensors as they lie in memory, which saves a copy.
    elementwise = True

    def __init__(self, fraction: float) -> None:
        # A codec is a value: check the arguments, keep them under their own names, hold nothing else. The notation
        # `threshold(0.05)`, equality and hash follow from these attributes.
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
            raise CodecError(f"expected a fraction from 0 to 1 for threshold, found {fraction!r}")
        self.fraction = float(fraction)

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The kept elements, and where they stood. ``x`` belongs to the caller: nothing is written to it."""
        flat = x.reshape(-1)
        magnitude = flat.abs()
        edge = magnitude.amax() * self.fraction if flat.numel() else 0.0
        # "Not below" instead of "at least": every comparison with NaN is false, so NaN is kept, not hidden.
        kept = ~(magnitude < edge) & (flat != 0)
        return {"values": flat[kept], "kept": torch.from_numpy(np.packbits(kept.numpy(), bitorder="little"))}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """Zeros, with the kept elements in their places. Raises ``FrameError`` if the planes do not fit together.

        The chain has checked dtypes and largest sizes against ``bounds``; everything else a frame may lie about, and
        it is checked before memory is taken.
        """
        values, bits = planes["values"], planes["kept"].numpy()
        # A tensor that comes from an earlier codec of the chain may have a length known only once encoded. Its number
        # of bytes then leaves up to seven bits open, which this codec has no plane for: `out` refuses such tensors.
        count = spec.numel
        if bits.size != -(-count // 8):
            raise FrameError(f"expected {-(-count // 8)} bytes of bits for {count} elements, found {bits.size}")
        flags = np.unpackbits(bits, bitorder="little")
        if flags[count:].any() or np.count_nonzero(flags) != values.numel():
            found = f"{np.count_nonzero(flags)} bits for {values.numel()} values"
            raise FrameError(f"expected a bit for each value and none after element {count}, found {found}")
        x = torch.zeros(count, dtype=spec.dtype)
        x[torch.from_numpy(flags[:count]).bool()] = values
        return x.view(spec.shape or ())

    def out(self, spec: TensorSpec) -> TensorSpec:
        """What the next codec of the chain gets: a flat vector, as long as the data wants it to be (``shape=None``),
        at most as long as the tensor."""
        if spec.shape is None:
            raise CodecError(f"{self!r} needs a tensor of known shape; put it before codecs that leave a flat vector")
        return TensorSpec(None, spec.dtype, max_numel=spec.numel)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The dtype and the largest size of every plane; what exceeds them never reaches ``decode``."""
        return {"values": PlaneBound(spec.dtype, spec.max_numel), "kept": PlaneBound(torch.uint8, -(-spec.numel // 8))}
