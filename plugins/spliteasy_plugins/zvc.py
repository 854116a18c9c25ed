"""Leave the zeros out, and what pooling repeats.

Zero-value compression (cDMA: Rhu et al., arXiv 1705.01626): one bit an element says which are not zero, and only those
are stored. Max pooling with overlapping windows also repeats each maximum beside and below itself; a second and third
bitmap take those out as well. What is left no neighbour tells anything about, so a cheap bytes codec does:
``zvc(repeats="both") | shuffle | zstd(1)``.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.errors import CodecError, FrameError

__all__ = ["ZeroValue"]

Bits: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
Mask: TypeAlias = npt.NDArray[np.bool_]

UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

REPEATS = {None: (False, False), "previous": (True, False), "above": (False, True), "both": (True, True)}
"""Which of the two masks for repeats there are: previous, above."""

CHAINED = 4
"""How many rows up the source of a repeat is looked for one by one, before all columns are gone through. Pooling
repeats a maximum in at most ceil(window / stride) rows."""


class ZeroValue(TensorCodec):
    """Stores the elements that are not zero, and where they stood. Lossless for every dtype: an element is zero when
    all of its bits are, so -0.0 is stored.

    ``repeats`` says what else is left out. ``"above"``: an element that equals, bit for bit, the one above it, which is
    ``shape[-1]`` elements before it in row-major order. ``"previous"``: one that equals the stored element before it.
    ``"both"``: above first, then previous among the others. None: zeros only.

    Planes: ``values``, flat, the elements left over in row-major order; ``mask``, one bit an element (uint8, lowest
    bit first), set where it is not zero; with ``"above"`` or ``"both"`` ``above``, one bit an element, set where it is
    not zero and repeats the one above (nothing for tensors of fewer than two dimensions); with ``"previous"`` or
    ``"both"`` ``previous``, one bit for each element that is neither zero nor repeats the one above, set where it
    repeats the one of these before it.

    Raises ``CodecError`` for other ``repeats``, and for tensors whose shape is known only once encoded.
    """

    name = "zvc"
    lossless = True
    summary = "zeros and repeated values left out, one bit an element"
    citation = "Rhu et al. (cDMA), arXiv 1705.01626"
    example = 'zvc(repeats="both")'

    def __init__(self, *, repeats: str | None = None) -> None:
        if repeats is not None and (not isinstance(repeats, str) or repeats not in REPEATS):
            raise CodecError(f"expected repeats of zvc as one of {', '.join(map(repr, REPEATS))}; found {repeats!r}")
        self.repeats = repeats
        self.elementwise = repeats is None

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """The values left over, and one to three bitmaps."""
        previous, above = REPEATS[self.repeats]
        bits = _bits(x)
        kept = bits != 0
        planes = {"mask": _packed(kept)}
        if above:
            repeated = _equal_above(bits, kept, tuple(x.shape))
            planes["above"] = _packed(repeated)
            if repeated.size:
                kept &= ~repeated
        values = bits[kept]
        if previous:
            repeated = np.zeros(values.size, np.bool_)
            np.equal(values[1:], values[:-1], out=repeated[1:])
            planes["previous"] = _packed(repeated)
            if repeated.any():
                values = values[~repeated]
        return {"values": torch.from_numpy(values).view(x.dtype), **planes}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """Zeros, the values in their places, and their repeats. Raises ``FrameError`` unless the bitmaps have the right
        lengths and fit each other, and there are as many values as they ask for."""
        shape = _known(spec)
        previous, above = REPEATS[self.repeats]
        bits = _bits(planes["values"])
        kept = _unpacked(planes, "mask", math.prod(shape))
        below: Mask = np.zeros(0, np.bool_)
        if above:
            below = _unpacked(planes, "above", math.prod(shape) if len(shape) > 1 else 0)
            if below[: shape[-1] if shape else 0].any() or (below > kept[: below.size]).any():
                raise FrameError("expected repeats only of an element that is above, and none that are zero")
            kept[: below.size] ^= below
        count = int(np.count_nonzero(kept))
        if previous:
            bits = _with_previous(bits, _unpacked(planes, "previous", count))
        if bits.size != count:
            raise FrameError(f"expected {count} values for the bits that are set, found {bits.size}")
        x = torch.zeros(shape, dtype=spec.dtype)
        dense = _bits(x)
        dense[kept] = bits
        if below.size:
            _copy_down(dense, below, shape[-1])
        return x

    def out(self, spec: TensorSpec) -> TensorSpec:
        """A flat vector of at most as many elements."""
        return TensorSpec(None, spec.dtype, max_numel=math.prod(_known(spec)))

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """As many values as elements, and bitmaps of one bit for each."""
        previous, above = REPEATS[self.repeats]
        bitmap = PlaneBound(torch.uint8, -(-math.prod(_known(spec)) // 8))
        masks = {"mask": True, "above": above, "previous": previous}
        return {"values": PlaneBound(spec.dtype, spec.max_numel)} | {name: bitmap for name in masks if masks[name]}


def _known(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of ``spec``."""
    if spec.shape is None:
        raise CodecError("zvc needs a tensor of known shape; put it before codecs that leave a flat vector")
    return spec.shape


def _bits(x: torch.Tensor) -> Bits:
    """The elements as unsigned integers, flat: a view."""
    return x.reshape(-1).view(SIGNED[x.dtype.itemsize]).numpy().view(UNSIGNED[x.dtype.itemsize])


def _packed(mask: Mask) -> torch.Tensor:
    return torch.from_numpy(np.packbits(mask, bitorder="little"))


def _unpacked(planes: Planes, name: str, count: int) -> Mask:
    """The mask of ``count`` elements in the bitmap ``name``."""
    bitmap = planes[name].numpy()
    if bitmap.size != -(-count // 8) or (count % 8 and bitmap[-1] >> count % 8):
        raise FrameError(f"expected {name!r} as a bitmap of exactly {count} bits, found {bitmap.size} bytes")
    return np.unpackbits(bitmap, count=count, bitorder="little").view(np.bool_)


def _equal_above(bits: Bits, kept: Mask, shape: tuple[int, ...]) -> Mask:
    """Where an element is kept and equals the one a row before it; empty if there are no rows."""
    if len(shape) < 2:
        return np.zeros(0, np.bool_)
    row = shape[-1]
    found = np.zeros(bits.size, np.bool_)
    np.equal(bits[row:], bits[:-row] if row else bits, out=found[row:])
    found &= kept
    return found


def _with_previous(values: Bits, repeated: Mask) -> Bits:
    """``values``, with each repeat behind the element that it repeats."""
    index, source = _runs(repeated)
    if repeated[:1].any() or values.size != repeated.size - index.size:
        raise FrameError(
            f"expected {repeated.size - index.size} values for {repeated.size} elements that do not begin with a "
            f"repeat, found {values.size}"
        )
    if not index.size:
        return values
    expanded = np.empty(repeated.size, values.dtype)
    expanded[~repeated] = values
    expanded[index] = expanded[source]
    return expanded


def _copy_down(dense: Bits, below: Mask, row: int) -> None:
    """Fill in the elements that repeat the one a row before, in place. The first row has none."""
    index = np.flatnonzero(below)
    source = index - row
    for _ in range(CHAINED):
        chained = below[source]
        if not chained.any():
            dense[index] = dense[source]
            return
        source[chained] -= row
    rows = dense.size // row
    index, source = _runs(below.reshape(rows, row).T.reshape(-1))  # column by column: above is previous
    column, place = np.divmod(index, rows)
    index, source = place * row + column, (place - index + source) * row + column
    dense[index] = dense[source]


def _runs(repeated: Mask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the repeats stand, and for each the element that its run of repeats begins with. In linear time, whatever
    the runs. The first element must be no repeat."""
    index = np.flatnonzero(repeated)
    source = index - 1
    source[repeated[source]] = 0  # within a run, so that the source of the run's first is the largest so far
    return index, np.maximum.accumulate(source)
