"""Several samples in the place of one: bound to random keys by circular convolution, and added up.

C3-SL (Hsieh, Chuang and Wu, arXiv 2207.12397), after the holographic reduced representations of Plate (1995).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator

import torch

from spliteasy.codecs import Context, PlaneBound, TensorCodec, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.errors import CodecError
from spliteasy_plugins.magnitudes import saturated, scaled

__all__ = ["CircularConvolution"]

BLOCK = 1 << 20
"""About as many numbers are transformed at a time."""


class CircularConvolution(TensorCodec):
    """Groups of ``ratio`` samples (dimension 0, in order; the last group may be smaller), each flattened to d features:

        s = sum over j of k_j ∗ x_j        decoded:  x'_j = k_j ⋆ s

    with ∗ circular convolution and ⋆ circular correlation. The key k_j of the j-th sample of every group has d numbers
    drawn from N(0, 1/d), normalised to length 1, from a generator of ``seed``, d and j alone: both sides have the same
    keys, and none are sent. What comes back is x_j and noise of the others, whose size is about that of x_j times the
    root of the group's size.

    Written with the keys' circulant matrices side by side, K, encoding is K and decoding its transpose. Their product
    is symmetric, so a gradient that goes through the same operations, encoded by K where the activations were decoded
    and decoded by the transpose where they were encoded, is the true gradient through the codec: give both messages the
    same ``c3``.

    Plane: ``values`` of shape (groups, d) in the tensor's dtype, computed in float32 (float64 for float64); sums beyond
    the largest number are cut off there and counted as ``saturated``. Raises ``CodecError`` unless ``ratio`` is a whole
    number of 2 or more and ``seed`` one of 0 or more, and for tensors whose shape is known only once encoded.
    """

    name = "c3"
    summary = "groups of samples added up, each bound to a random key"
    citation = "Hsieh et al. (C3-SL), arXiv 2207.12397"
    example = "c3(4)"

    def __init__(self, ratio: int, *, seed: int = 0) -> None:
        if type(ratio) is not int or ratio < 2:
            raise CodecError(f"expected groups of 2 or more samples for c3, found {ratio!r}")
        if type(seed) is not int or not 0 <= seed < 1 << 63:
            raise CodecError(f"expected a seed from 0 to 2^63 - 1 for c3, found {seed!r}")
        self.ratio, self.seed = ratio, seed

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """K x: each group's convolutions, added up."""
        samples, features, groups = self._sizes(tuple(x.shape))
        if not x.numel():
            return {"values": x.new_empty((groups, features))}
        plain, power = scaled(x.reshape(samples, features))
        keys = self._keys(samples, features, plain.dtype)
        sums = torch.empty((groups, features), dtype=plain.dtype)
        for begin, end, size in self._runs(samples, features):
            rows = plain[begin * self.ratio :][: (end - begin) * size].view(end - begin, size, features)
            bound = torch.fft.rfft(rows).mul_(keys[:size]).sum(1)
            sums[begin:end] = torch.fft.irfft(bound, n=features)
        values, cut = saturated(sums, power, x.dtype)
        if cut:
            context.count("saturated", cut)
        return {"values": values}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """The transpose of K times the sums: each group's sum correlated with all its keys."""
        samples, features, _ = self._sizes(spec.shape)
        x = torch.empty((samples, features), dtype=spec.dtype)
        if not x.numel():
            return x.view(spec.shape or ())
        sums, power = scaled(planes["values"])
        keys = self._keys(samples, features, sums.dtype).conj()
        for begin, end, size in self._runs(samples, features):
            bound = torch.fft.rfft(sums[begin:end]).unsqueeze(1) * keys[:size]
            rows, _ = saturated(torch.fft.irfft(bound, n=features), power, spec.dtype)
            x[begin * self.ratio :][: (end - begin) * size] = rows.view(-1, features)
        return x.view(spec.shape or ())

    def out(self, spec: TensorSpec) -> TensorSpec:
        """A row of d sums for each group; convolution leaves no channels."""
        _, features, groups = self._sizes(spec.shape)
        return TensorSpec((groups, features), spec.dtype)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The sums."""
        return {"values": PlaneBound(spec.dtype, self.out(spec).numel)}

    def _sizes(self, shape: tuple[int, ...] | None) -> tuple[int, int, int]:
        """Samples, features of each, and groups."""
        if shape is None:
            raise CodecError(f"{self!r} needs a tensor with samples; put it before codecs that leave a flat vector")
        samples, features = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        return samples, features, -(-samples // self.ratio)

    def _runs(self, samples: int, features: int) -> Iterator[tuple[int, int, int]]:
        """The groups, some at a time: the first, the one after the last, and the samples of each."""
        full, rest = divmod(samples, self.ratio)
        stride = max(1, BLOCK // (self.ratio * features))
        for begin in range(0, full, stride):
            yield begin, min(begin + stride, full), self.ratio
        if rest:
            yield full, full + 1, rest

    def _keys(self, samples: int, features: int, dtype: torch.dtype) -> torch.Tensor:
        return _spectra(min(self.ratio, samples), features, self.seed, dtype)


@functools.lru_cache(maxsize=8)
def _spectra(count: int, features: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """The Fourier transforms of the first keys: shape (count, features // 2 + 1), about as large as a group."""
    keys = torch.empty((count, features), dtype=torch.float64)
    for number, key in enumerate(keys):
        digest = hashlib.blake2b(f"c3/{seed}/{features}/{number}".encode(), digest_size=8).digest()
        own = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        torch.randn(features, generator=own, dtype=torch.float64, out=key)
    keys /= keys.norm(dim=1, keepdim=True)
    spectra: torch.Tensor = torch.fft.rfft(keys.to(dtype))
    return spectra
