"""Codecs whose parameters come from data: a basis, found once on calibration tensors and agreed when a session opens.

A fitted codec stays a value: its notation holds the digest of its parameters, ``pca(32, fitted='...')``, and whoever
reads that notation must have them. A session ships them as safetensors when it opens; both sides then name the same
digest, and a refit is another one.
"""

from __future__ import annotations

import base64
import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self
from weakref import WeakValueDictionary

import torch

from spliteasy.codecs import container
from spliteasy.codecs.base import TensorCodec, arguments_of
from spliteasy.codecs.finite import all_finite
from spliteasy.errors import CodecError

__all__ = ["FittedCodec", "Parameters", "find", "remember"]


class Parameters:
    """Tensors by name, in memory of their own, and their digest: 128 bits of SHA-256 over names, dtypes, shapes and
    bytes. Raises ``CodecError`` for tensors that no safetensors file can hold."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        # Copies: what somebody else could write to would outlive its digest, and PyTorch allocates at multiples of 64
        # bytes, on which the rounding of some matrix kernels depends.
        self.tensors = {
            name: tensors[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in sorted(tensors)
        }
        seen = hashlib.sha256()
        for name, tensor in self.tensors.items():
            if tensor.dtype not in container.DTYPE_NAMES:
                raise CodecError(
                    f"expected fitted parameters of a dtype of safetensors, found {name!r}: {tensor.dtype}"
                )
            seen.update(f"{name} {container.DTYPE_NAMES[tensor.dtype]} {list(tensor.shape)};".encode())
            seen.update(container.bytes_of(tensor))
        self.digest = base64.urlsafe_b64encode(seen.digest()[:16]).decode().rstrip("=")

    @property
    def nbytes(self) -> int:
        """The size of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


_known: WeakValueDictionary[str, Parameters] = WeakValueDictionary()
"""What codecs of this process hold. Content-addressed, so nobody can replace another's."""


def remember(tensors: Mapping[str, torch.Tensor]) -> Parameters:
    """The parameters, known by their digest for as long as somebody holds them."""
    made = Parameters(tensors)
    return _known.setdefault(made.digest, made)


def find(digest: str) -> Parameters:
    """The parameters of this digest. Raises ``CodecError`` if nobody in this process holds them."""
    found = _known.get(digest)
    if found is None:
        raise CodecError(
            f"the fitted parameters {digest!r} are not in this process: fit the codec here (se.calibrate, or "
            "chain.fit(tensors)), or open a session, which ships them"
        )
    return found


class FittedCodec(TensorCodec):
    """A tensor codec with parameters. The constructor of a subclass takes ``fitted: str = ""``, the digest, as a
    keyword-only argument, and passes it on to this one as the last thing it does.

    Unfitted it can be named, chained and fitted, not used. Parameters may come from elsewhere: all of them are finite
    when ``check`` sees them, everything else is for it to hold against the codec's arguments.
    """

    def __init__(self, *, fitted: str = "") -> None:
        if not isinstance(fitted, str):
            raise CodecError(f"expected the digest of fitted parameters as text, found {fitted!r}")
        self.fitted = fitted
        self._parameters = find(fitted) if fitted else None
        if self._parameters is not None:
            wrong = [name for name, tensor in self._parameters.tensors.items() if not all_finite(tensor)]
            if wrong:
                raise CodecError(f"{self!r}: expected finite parameters, found NaN or infinity in {wrong[0]!r:.80}")
            self.check(self._parameters.tensors)

    @abstractmethod
    def fit(
        self,
        tensors: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor | None] | None = None,
        message: str = "activations",
    ) -> Self:
        """This codec with parameters found on calibration tensors, each one a tensor of ``message``, a batch.

        ``gradients`` are those of the loss with respect to each tensor, of its shape (None: not known), for codecs
        that weigh errors by them. The result is the same for the same tensors. Raises ``CodecError`` if they do not
        suffice.
        """

    @abstractmethod
    def check(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Raise ``CodecError`` unless names, dtypes and shapes of ``parameters`` are what this codec's arguments ask
        for."""

    @property
    def unfitted(self) -> tuple[TensorCodec, ...]:
        return () if self.shipped else (self,)

    @property
    def shipped(self) -> tuple[Parameters, ...]:
        return () if self._parameters is None else (self._parameters,)

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """The parameters by name. Raises ``CodecError`` before fitting."""
        if self._parameters is None:
            raise CodecError(
                f"{self!r} is not fitted: use the codecs that se.calibrate(split, codecs, loader) returns, or "
                "chain.fit(tensors) with calibration tensors"
            )
        return self._parameters.tensors

    def with_parameters(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """The same codec with these parameters; for ``fit``."""
        held = remember(tensors)  # known only while held
        arguments = {**arguments_of(self), "fitted": held.digest}
        return type(self)(**arguments)
