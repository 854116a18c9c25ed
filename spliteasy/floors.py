"""How small a frame could be: the floors that `measure` holds a chain against.

Three kinds, and only the first is a floor in the strict sense:

- **side planes + b-bit values**: the codec states how many bits its side planes need where all that they could say is
  equally likely (`TensorCodec.floor`; for top-k, log2 of d choose k a sample, about d·H(k/d)), and each value takes its
  b bits. No coder does better on average on independent data whose values do not compress. Where the data are not
  independent (positions of real activations cluster) a frame can lie below.
- **side planes + order-0 entropy**: the same, with the values at their order-0 entropy, because bytes codecs follow or
  the values are small integers.
- **order-0 entropy**: what an ideal coder takes that knows how often each symbol occurs and codes each one by itself.
  For a lossless chain the symbols are those of the tensor as it is; for a lossy one those of the last codec's
  ``values``, plus the side planes at their size. A coder that looks at the neighbours can beat it, and LZ coders and
  predictors do: it tells how far the marginal distribution alone would carry, and is no bound.

The order-0 entropy is the plug-in estimate of Shannon (1948), −Σ n_s·log2(n_s/n) bits over the symbols s of counts n_s:
elements of one or two bytes are symbols as a whole; of wider ones each byte position has a distribution of its own, as
after a byte shuffle (hardly two fp32 numbers are equal, so counts of whole ones say nothing). It leaves out what it
costs to tell the counts, and is biased low where there are few elements for each symbol.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from spliteasy.codecs.base import Context, TensorSpec
from spliteasy.codecs.chain import Chain
from spliteasy.codecs.container import bytes_of
from spliteasy.codecs.planes import split

__all__ = ["Floor", "floor", "order0_bits"]

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Floor:
    """A size in whole bytes, without any header, and which kind of floor it is; see the head of this module."""

    nbytes: int
    kind: str


def floor(chain: Chain, tensor: torch.Tensor, context: Context | None = None) -> Floor | None:
    """How few bytes a frame of ``chain`` could have for ``tensor``; None where nothing is known to compare with.

    None for `raw`, for an empty tensor, and for chains that end in floats of which every pattern may occur (`fp16`): a
    frame is then its floor and a header. Raises what encoding raises.
    """
    context = context or Context()
    value = tensor.detach().cpu().contiguous()
    if not value.numel() or not chain.codecs:
        return None
    if chain.lossless:
        return Floor(_whole_bytes(order0_bits(value)), "order-0 entropy")
    spec = TensorSpec.of(tuple(value.shape), value.dtype)
    stated, side_bits = False, 0.0
    for index, stage in enumerate(chain.tensor_codecs):
        if not (stage.lossless or spec.dtype.is_floating_point):
            continue
        with context.turn(index, spec) as own:
            bits = stage.floor(value, own)
        with context.turn(index, spec) as own:
            value, side = split(stage, stage.encode(value, own), spec)
        sizes = sum(8 * plane.numel() * plane.dtype.itemsize for plane in side.values())
        stated, side_bits = stated or bits is not None, side_bits + (sizes if bits is None else bits)
        spec = stage.out(spec)
    coded = bool(chain.bytes_codecs) or not value.dtype.is_floating_point
    if not stated and not coded:
        return None
    width = 8 * value.dtype.itemsize
    value_bits = order0_bits(value) if coded else float(width * value.numel())
    kind = "order-0 entropy" if coded else f"{width}-bit values"
    return Floor(_whole_bytes(side_bits + value_bits), f"side planes + {kind}" if stated else kind)


def order0_bits(plane: torch.Tensor) -> float:
    """The order-0 entropy of all elements together, in bits; see the head of this module. 0 for an empty tensor."""
    data = np.frombuffer(bytes_of(plane.contiguous()), np.uint8)
    if plane.dtype.itemsize == 2:
        return _entropy_bits(data.view(np.uint16))
    width = plane.dtype.itemsize
    return sum(_entropy_bits(data[place::width]) for place in range(width))


def _entropy_bits(symbols: np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]) -> float:
    counts = np.zeros(1 << 8 * symbols.itemsize, np.int64)
    for begin in range(0, symbols.size, _BLOCK):  # bincount widens what it counts to 8 bytes each
        counts += np.bincount(symbols[begin : begin + _BLOCK], minlength=counts.size)
    seen = counts[counts > 0]
    return float(abs((seen * np.log2(symbols.size / seen)).sum())) if symbols.size else 0.0


def _whole_bytes(bits: float) -> int:
    return math.ceil(bits / 8)
