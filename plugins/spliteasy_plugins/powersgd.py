"""A tensor as the product of two narrow matrices, found by one step of power iteration.

PowerSGD (Vogels, Karimireddy and Jaggi, arXiv 1905.13727), applied to what crosses a cut. The paper has the gradients
of several workers averaged between the two products; here there is one sender, which computes both factors.
"""

from __future__ import annotations

import math

import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.errors import CodecError
from spliteasy_plugins.magnitudes import saturated, scaled

__all__ = ["PowerSGD"]


class PowerSGD(TensorCodec):
    """The tensor as a matrix M (n × m), replaced by P Qᵀ of the given ``rank`` r:

        P = orthonormal basis of the columns of M Q₀,    Q = Mᵀ P

    Q₀ is the Q of the last committed step of this stream, at first drawn from N(0, 1); also when m has changed. It is
    the sender's own state, and in evaluation stays as it is. The first ``rows`` dimensions of the tensor (samples are
    dimension 0) index the rows of M and the others its columns; ``rows=None`` takes the number of dimensions that gives
    the fewest values, of equal ones the smallest.

    Plane: ``values``, flat, in the tensor's dtype: P (n × r), then Q (m × r), r (n + m) numbers. Each column of P is
    made about as large as its partner in Q, by powers of two: a codec behind this one may have one scale for all. Where
    r (n + m) is no saving the tensor travels as it is. Products beyond the largest number are cut off there.

    Raises ``CodecError`` unless ``rank`` and ``rows`` are whole numbers of 1 or more, and for tensors whose shape is
    known only once encoded.
    """

    name = "powersgd"
    summary = "two narrow matrices whose product is near the tensor"
    citation = "Vogels et al., arXiv 1905.13727"
    example = "powersgd(4)"

    def __init__(self, rank: int = 4, *, rows: int | None = None) -> None:
        for label, value in (("rank", rank), ("number of dimensions as rows", 1 if rows is None else rows)):
            if type(value) is not int or value < 1:
                raise CodecError(f"expected a {label} of 1 or more for powersgd, found {value!r}")
        self.rank, self.rows = rank, rows

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """Both factors, after one power iteration from the last Q."""
        height, width = self._sizes(tuple(x.shape))
        if not self._saves(height, width):
            return {"values": x}
        matrix, power = scaled(x.reshape(height, width))
        if math.isnan(power):  # no basis of NaN: let them be seen
            return {"values": torch.full((self.rank * (height + width),), math.nan, dtype=x.dtype)}
        start = context.state.get("q")
        if start is None or start.shape != (width, self.rank) or start.dtype is not matrix.dtype:
            start = torch.randn((width, self.rank), generator=context.generator, dtype=matrix.dtype)
        # Householder's QR gives an orthonormal basis whatever the rank of the product; where columns are missing it
        # puts in others, so that the iteration is never stuck in too small a space.
        p, _ = torch.linalg.qr(matrix @ start)
        q = matrix.T @ p
        if context.training:
            context.state["q"] = q
        exponent = math.frexp(power)[1] - 1
        shift = _balance(p, q, exponent)
        p, q = torch.ldexp(p, shift), torch.ldexp(q, exponent - shift)
        return {"values": torch.cat([p.reshape(-1), q.reshape(-1)]).to(x.dtype)}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """The product of the factors."""
        height, width = self._sizes(spec.shape)
        values = planes["values"]
        if not self._saves(height, width):
            return values
        (p, one), (q, other) = (scaled(part) for part in values.tensor_split([self.rank * height]))
        product = p.view(height, self.rank) @ q.view(width, self.rank).T
        x, _ = saturated(product * min(one, other), max(one, other), spec.dtype)
        return x.view(spec.shape or ())

    def out(self, spec: TensorSpec) -> TensorSpec:
        """Both factors as one vector, or the tensor itself."""
        height, width = self._sizes(spec.shape)
        return TensorSpec((self.rank * (height + width),), spec.dtype) if self._saves(height, width) else spec

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """Both factors."""
        return {"values": PlaneBound(spec.dtype, self.out(spec).numel)}

    def _saves(self, height: int, width: int) -> bool:
        return self.rank * (height + width) < height * width

    def _sizes(self, shape: tuple[int, ...] | None) -> tuple[int, int]:
        """The height and width of the matrix."""
        if shape is None:
            raise CodecError(f"{self!r} needs a tensor with samples; put it before codecs that leave a flat vector")
        splits = range(1, max(2, len(shape))) if self.rows is None else [self.rows]
        return min(((math.prod(shape[:rows]), math.prod(shape[rows:])) for rows in splits), key=sum)


def _balance(p: torch.Tensor, q: torch.Tensor, exponent: int) -> torch.Tensor:
    """For each column the powers of two to shift from Q, which is to be multiplied by 2^exponent, to P, so that their
    largest magnitudes are about the same."""
    tall, wide = (torch.frexp(part.abs().amax(0)).exponent for part in (p, q))
    return (wide + exponent - tall) // 2
