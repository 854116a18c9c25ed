"""The one codec of the core: the tensor as it is."""

from __future__ import annotations

import torch

from spliteasy.codecs.base import Context, PlaneBound, Planes, TensorCodec, TensorSpec

__all__ = ["Raw"]


class Raw(TensorCodec):
    """Sends the values untouched, in memory order, without a copy.

    In a chain it says nothing, so chains drop it: ``raw | zstd(1)`` is ``zstd(1)``, and ``raw`` alone is the empty
    chain.
    """

    name = "raw"
    lossless = True
    elementwise = True
    summary = "the values as they are, without a copy"

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """``x`` itself."""
        return {"values": x}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """The plane itself."""
        return planes["values"]

    def out(self, spec: TensorSpec) -> TensorSpec:
        """Nothing changes."""
        return spec

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The tensor's own size."""
        return {"values": PlaneBound(spec.dtype, spec.max_numel)}
