"""Linear maps to fewer numbers and back, fitted to what crosses a cut: what `pca` and `bottleneck` share.

With an encoder E (k, d), a decoder D (d, k) and a mean m, a message x comes back as ``m + D E (x - m)``. Its gradient
is then sent by the adjoint, ``D^T g``, and comes back as ``E^T D^T g``, without the mean: exactly the gradient through
the map. One fitted codec on a message and on its gradient thus trains the network that has this map as a layer at the
cut.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch

from spliteasy.codecs import Context, FittedCodec, PlaneBound, TensorSpec
from spliteasy.codecs.base import Planes
from spliteasy.codecs.finite import all_finite
from spliteasy.errors import CodecError, FrameError
from spliteasy_plugins.magnitudes import working

__all__ = ["Projection"]

AXES = ("sample", "channel")

SHRINK = 2.0**-200
"""Makes room in float64 for products of anything finite: float64 numbers, float32 parameters, 2^40 of them."""

ALIGNMENT = 64
"""Where PyTorch allocates. The rounding of some matrix kernels depends on it, and planes of a frame lie anywhere."""


class _Place(NamedTuple):
    """A tensor as (outer, entries, inner); ``entries`` are what is projected."""

    outer: int
    entries: int
    inner: int


class Projection(FittedCodec):
    """A linear map to ``components`` numbers, along one axis.

    ``axis="sample"``: the d entries of each sample (dimension 0), values of shape (samples, components).
    ``axis="channel"``: the d channels at each place, values in the shape of the tensor with ``components`` channels on
    the same axis. For every d above ``components`` among the calibration tensors there is a map of its own; a tensor of
    d entries or fewer passes as it is, and so do single numbers and vectors.

    Plane: ``values``, float64 for float64 tensors, else float32. Numbers beyond the range of a dtype are cut off at its
    largest (counted as ``saturated`` on encoding); NaN and infinity are let through.

    Parameters, float32, named by d: ``mean.D`` of shape (d,), left out where the message was a gradient, and one
    (components, d) matrix for each of ``roles``.

    Raises ``CodecError`` for components that are no number above zero, for another axis, for parameters that do not
    fit, and for tensors that it was not fitted to or that have no samples or channels.
    """

    roles: ClassVar[tuple[str, ...]]
    """The names of the matrices: that of the encoder first, that of the decoder, transposed, last; one name if they are
    the same."""

    def __init__(self, components: int, *, axis: str = "sample", fitted: str = "") -> None:
        if type(components) is not int or components < 1:
            raise CodecError(f"expected 1 or more components for {self.name}, found {components!r}")
        if axis not in AXES:
            raise CodecError(f"expected an axis of {self.name} as one of {AXES}, found {axis!r}")
        self.components, self.axis = components, axis
        super().__init__(fitted=fitted)

    @abstractmethod
    def solve(self, rows: Sequence[torch.Tensor], felt: Sequence[torch.Tensor], centered: bool) -> _Maps:
        """The parameters of one d, by role: from rows (n_i, d) of messages and of the gradients there, if known
        (none: no gradients). ``mean`` is among them if ``centered``."""

    def fit(
        self,
        tensors: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor | None] | None = None,
        message: str = "activations",
    ) -> Any:
        """This codec, fitted for every d that occurs. On a gradient message no mean is taken off, since none is when
        it is sent. Raises ``CodecError`` for NaN or infinity, and for fewer samples (or places) than components."""
        rows: dict[int, list[torch.Tensor]] = {}
        felt: dict[int, list[torch.Tensor]] = {}
        for tensor, gradient in zip(tensors, gradients or [None] * len(tensors), strict=True):
            entries = self._place(TensorSpec.of(tuple(tensor.shape), tensor.dtype)).entries
            if entries > self.components:
                rows.setdefault(entries, []).append(self._rows(tensor))
                if gradient is not None:
                    felt.setdefault(entries, []).append(self._rows(gradient))
        parameters: dict[str, torch.Tensor] = {}
        for entries, found in rows.items():
            count = sum(map(len, found))
            if count < self.components:
                raise CodecError(
                    f"{self!r} needs {self.components} or more {self.axis} vectors of {entries} entries to be fitted, "
                    f"found {count}: give more batches, or ask for fewer components"
                )
            if not all(map(all_finite, [*found, *felt.get(entries, [])])):
                raise CodecError(f"{self!r} needs finite tensors to be fitted, found NaN or infinity")
            maps = self.solve(found, felt.get(entries, []), not message.endswith("gradients"))
            parameters |= {f"{role}.{entries}": tensor.float() for role, tensor in maps.items()}
        return self.with_parameters(parameters)

    def check(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Every matrix of a d is there, in float32 and of the right shape."""
        for name, tensor in parameters.items():
            named = re.fullmatch(r"(\w{1,20})\.([1-9][0-9]{0,11})", name, re.ASCII)
            role, entries = (named[1], int(named[2])) if named else ("", 0)
            expected = (entries,) if role == "mean" else (self.components, entries)
            if role not in (*self.roles, "mean") or entries <= self.components:
                raise CodecError(f"{self!r}: expected parameters {self._names()}, found {name!r:.80}")
            if tensor.dtype is not torch.float32 or tuple(tensor.shape) != expected:
                found = f"{tensor.dtype} of {tuple(tensor.shape)}"
                raise CodecError(f"{self!r}: expected {name!r} as torch.float32 of {expected}, found {found}")
            missing = [other for role in self.roles if (other := f"{role}.{entries}") not in parameters]
            if missing:
                raise CodecError(f"{self!r}: expected parameters {self._names()}, found no {missing[0]!r}")

    def encode(self, x: torch.Tensor, context: Context) -> dict[str, torch.Tensor]:
        """``E (x - m)``; of a gradient ``D^T x``."""
        place = self._place(context.spec or TensorSpec.of(tuple(x.shape), x.dtype))
        if not self._acts(place):
            return {"values": x}
        matrix = self._matrix(place, -1 if context.gradient else 0, x.dtype)
        shift = None if context.gradient else self._mean(place, x.dtype)
        parts = x.to(matrix.dtype).view(place)
        values = _affine(matrix, parts, None if shift is None else -(matrix @ shift))
        if not all_finite(values) and all_finite(x):
            values = _saturated(matrix, parts, None if shift is None else -(matrix.double() @ shift.double()))
            context.count("saturated", int((values.abs() == torch.finfo(values.dtype).max).sum()))
        return {"values": values}

    def decode(self, planes: Planes, spec: TensorSpec, context: Context) -> torch.Tensor:
        """``m + D values``; of a gradient ``E^T values``. Raises ``FrameError`` for another number of values."""
        place, values = self._place(spec), planes["values"]
        if values.numel() != self.bounds(spec)["values"].max_numel:
            raise FrameError(
                f"expected {self.bounds(spec)['values'].max_numel} values for {self!r}, found {values.numel()}"
            )
        if not self._acts(place):
            return values
        matrix = self._matrix(place, 0 if context.gradient else -1, spec.dtype).T
        shift = None if context.gradient else self._mean(place, spec.dtype)
        parts = _aligned(values).view(place.outer, self.components, place.inner)
        x = _affine(matrix, parts, shift)
        narrow = x.dtype is not spec.dtype
        if (narrow or not all_finite(x)) and all_finite(values):
            if not all_finite(x):
                x = _saturated(matrix, parts, None if shift is None else shift.double())
            if narrow:
                limit = torch.finfo(spec.dtype).max
                x.clamp_(-limit, limit)
        return x.to(spec.dtype).view(spec.shape or ())

    def out(self, spec: TensorSpec) -> TensorSpec:
        """(samples, components), or the same shape with that many channels; the components are the channels."""
        place = self._place(spec)
        if not self._acts(place):
            return spec
        if self.axis == "sample":
            return TensorSpec((place.outer, self.components), working(spec.dtype), 1)
        shape, axis = list(spec.shape or ()), spec.channel_axis or 0
        shape[axis] = self.components
        return TensorSpec(tuple(shape), working(spec.dtype), axis)

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """The values."""
        after = self.out(spec)
        return {"values": PlaneBound(after.dtype, after.max_numel)}

    def _names(self) -> str:
        names = ", ".join(f"'{role}.D'" for role in ("mean", *self.roles))
        return f"{names} for each number of entries D above {self.components}"

    def _place(self, spec: TensorSpec) -> _Place:
        """Where in a tensor of ``spec`` the vectors lie that are projected."""
        if spec.shape is None:
            raise CodecError(f"{self!r} needs a tensor with samples; put it before codecs that leave a flat vector")
        if len(spec.shape) < 2:
            return _Place(spec.max_numel, 1, 1)
        if self.axis == "sample":
            return _Place(spec.shape[0], math.prod(spec.shape[1:]), 1)
        axis = spec.channel_axis
        if axis is None:
            raise CodecError(f"{self!r} needs a tensor with channels, found shape {spec.shape}: put it first")
        return _Place(math.prod(spec.shape[:axis]), spec.shape[axis], math.prod(spec.shape[axis + 1 :]))

    def _rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """The vectors of a calibration tensor: (n, d)."""
        spec = TensorSpec.of(tuple(tensor.shape), tensor.dtype)
        place = self._place(spec)
        return tensor.reshape(place).movedim(1, 2).reshape(-1, place.entries).to(working(tensor.dtype))

    def _acts(self, place: _Place) -> bool:
        """Whether there is anything to project. Raises ``CodecError`` if there is, and it was not fitted to it."""
        held = self.parameters
        if place.entries <= self.components:
            return False
        if f"{self.roles[0]}.{place.entries}" not in held:
            known = sorted(int(name.partition(".")[2]) for name in held if name.startswith(self.roles[0]))
            raise CodecError(
                f"{self!r} was fitted for {self.axis} vectors of {' or '.join(map(str, known)) or 'fewer'} entries, "
                f"found {place.entries}: fit it to tensors of this shape"
            )
        return True

    def _matrix(self, place: _Place, role: int, dtype: torch.dtype) -> torch.Tensor:
        return self.parameters[f"{self.roles[role]}.{place.entries}"].to(working(dtype))

    def _mean(self, place: _Place, dtype: torch.dtype) -> torch.Tensor | None:
        mean = self.parameters.get(f"mean.{place.entries}")
        return None if mean is None else mean.to(working(dtype))


_Maps = dict[str, torch.Tensor]


def _affine(matrix: torch.Tensor, parts: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``matrix @ part + bias`` for every part: (i, d), (n, d, inner), (i,) to (n, i, inner)."""
    if parts.shape[2] == 1:
        flat = parts[:, :, 0]
        return (flat @ matrix.T if bias is None else torch.addmm(bias, flat, matrix.T))[:, :, None]
    product = torch.matmul(matrix, parts)
    return product if bias is None else product.add_(bias[:, None])


def _saturated(matrix: torch.Tensor, parts: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The same for finite numbers whose results leave the range of their dtype: those are cut off at its largest."""
    limit = torch.finfo(parts.dtype).max * SHRINK
    wide = _affine(matrix.double(), parts.double() * SHRINK, None if bias is None else bias * SHRINK)
    return (wide.clamp(-limit, limit) / SHRINK).to(parts.dtype)


def _aligned(values: torch.Tensor) -> torch.Tensor:
    return values if values.data_ptr() % ALIGNMENT == 0 else values.clone()
