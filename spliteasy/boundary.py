"""The values alive at one cut: which tensors must cross, each once, and what is only a shape or a number.

A value may be a tensor, a number, a `torch.Size`, or a tuple of these; the same tensor may be reached by two names. A
boundary knows the pattern from the meta device and takes real values apart into *slots* (distinct tensors) and
*scalars* (metadata), and puts them together again on the other side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spliteasy.codecs.container import DTYPE_NAMES
from spliteasy.errors import DataError, FrameError, SplitError
from spliteasy.propagation import storage_of

__all__ = ["Boundary", "Scalar", "SlotRule"]

Scalar = int | float | bool | str | None | dict[str, str]


@dataclass(frozen=True)
class SlotRule:
    """The shape of one tensor as a function of the batch: each dimension is ``base + slope * batch``."""

    name: str
    dtype: torch.dtype
    base: tuple[int, ...]
    slope: tuple[int, ...]

    def shape(self, batch: int) -> tuple[int, ...]:
        """The shape for ``batch`` samples."""
        return tuple(base + slope * batch for base, slope in zip(self.base, self.slope, strict=True))


@dataclass(frozen=True)
class _Slot:
    index: int


@dataclass(frozen=True)
class _Scalar:
    index: int


@dataclass(frozen=True)
class _Sequence:
    kind: type
    items: tuple[Any, ...]


@dataclass(frozen=True)
class _Mapping:
    keys: tuple[Any, ...]
    items: tuple[Any, ...]


class Boundary:
    """What is alive at one cut of one mode.

    ``nodes`` are the operations whose values are alive, ``tensors`` the distinct meta tensors among them (by slot),
    ``slots`` the rule of each one's shape. Built from the values at two batch sizes, from which the rules follow.
    """

    def __init__(
        self,
        nodes: Sequence[fx.Node],
        names: Sequence[str],
        values: Mapping[fx.Node, Any],
        batch: int,
        others: Mapping[fx.Node, Any],
        other_batch: int,
    ) -> None:
        self.nodes, self.names = list(nodes), list(names)
        self.tensors: list[torch.Tensor] = []
        self._scalars = 0
        self._owners: list[str] = []
        self._templates = [self._template(values[node], name) for node, name in zip(nodes, names, strict=True)]
        twins = self.pack([others[node] for node in nodes])[0]
        self.slots = [
            _rule(owner, tensor, batch, twin, other_batch)
            for owner, tensor, twin in zip(self._owners, self.tensors, twins, strict=True)
        ]

    @property
    def storages(self) -> list[int]:
        """For each slot, the storage that its tensor lies in."""
        return [storage_of(tensor) for tensor in self.tensors]

    def slot_of(self, tensor: torch.Tensor) -> int | None:
        """The slot that holds exactly this meta tensor."""
        return next((index for index, held in enumerate(self.tensors) if held is tensor), None)

    def pack(self, values: Sequence[Any]) -> tuple[list[torch.Tensor], list[Scalar]]:
        """Take the values of ``nodes`` apart into the tensors by slot and the scalars."""
        tensors: dict[int, torch.Tensor] = {}
        scalars: list[Scalar] = []
        for template, value in zip(self._templates, values, strict=True):
            _take(template, value, tensors, scalars)
        return [tensors[index] for index in range(len(self.tensors))], scalars

    def unpack(self, tensors: Sequence[torch.Tensor | None], scalars: Sequence[Scalar]) -> list[Any]:
        """The inverse of `pack`. A slot that is None (a tensor that this side neither reads nor changes) stays None."""
        if len(scalars) != self._scalars:
            raise FrameError(f"Expected {self._scalars} numbers with the tensors of this cut, found {len(scalars)}.")
        return [_put(template, tensors, scalars) for template in self._templates]

    def check(self, tensors: Sequence[torch.Tensor], batch: int) -> None:
        """Raise `DataError` if a real tensor's shape or dtype is not what the rules say."""
        for rule, tensor in zip(self.slots, tensors, strict=True):
            if tuple(tensor.shape) != rule.shape(batch) or tensor.dtype != rule.dtype:
                raise DataError(
                    f"Expected '{rule.name}' as {rule.shape(batch)} {rule.dtype} for a batch of {batch}, found "
                    f"{tuple(tensor.shape)} {tensor.dtype}. Shapes that do not grow evenly with the batch cannot be "
                    "agreed in advance: use a fixed batch size that fits, or split elsewhere."
                )

    def _template(self, value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            slot = self.slot_of(value)
            if value.layout is not torch.strided or value.dtype not in DTYPE_NAMES:
                raise SplitError(
                    f"Expected dense tensors at the cut of a dtype that a frame can hold, found '{name}' with "
                    f"{value.layout} and {value.dtype}. Split elsewhere."
                )
            if slot is None:
                self.tensors.append(value)
                self._owners.append(name)
                slot = len(self.tensors) - 1
            return _Slot(slot)
        if isinstance(value, (tuple, list)):
            return _Sequence(type(value), tuple(self._template(item, name) for item in value))
        if isinstance(value, dict):
            return _Mapping(tuple(value), tuple(self._template(item, name) for item in value.values()))
        _to_json(value, name)
        self._scalars += 1
        return _Scalar(self._scalars - 1)


def _rule(name: str, tensor: torch.Tensor, batch: int, twin: torch.Tensor, other_batch: int) -> SlotRule:
    if tensor.ndim != twin.ndim:
        raise SplitError(
            f"Expected '{name}' with as many dimensions for any batch, found {tensor.ndim} for a batch of {batch} and "
            f"{twin.ndim} for {other_batch}. Split elsewhere."
        )
    slope = tuple((b - a) // (other_batch - batch) for a, b in zip(tensor.shape, twin.shape, strict=True))
    base = tuple(a - s * batch for a, s in zip(tensor.shape, slope, strict=True))
    return SlotRule(name, tensor.dtype, base, slope)


def _take(template: Any, value: Any, tensors: dict[int, torch.Tensor], scalars: list[Scalar]) -> None:
    if isinstance(template, _Slot):
        if tensors.setdefault(template.index, value) is not value:
            raise SplitError(
                "Expected one tensor where there are two now: at this cut an operation gave back its operand when the "
                "network was traced, and a copy of it here. Give inputs in the default memory format, or split "
                "elsewhere."
            )
    elif isinstance(template, _Scalar):
        scalars.append(_to_json(value, "a value"))
    else:
        items = value.values() if isinstance(template, _Mapping) else value
        for inner, item in zip(template.items, items, strict=True):
            _take(inner, item, tensors, scalars)


def _put(template: Any, tensors: Sequence[torch.Tensor | None], scalars: Sequence[Scalar]) -> Any:
    if isinstance(template, _Slot):
        return tensors[template.index]
    if isinstance(template, _Scalar):
        return _from_json(scalars[template.index])
    items = [_put(inner, tensors, scalars) for inner in template.items]
    if isinstance(template, _Mapping):
        return dict(zip(template.keys, items, strict=True))
    return template.kind(*items) if hasattr(template.kind, "_fields") else template.kind(items)


def _to_json(value: Any, name: str) -> Scalar:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise SplitError(
        f"Expected tensors, numbers and shapes at the cut, found {type(value).__name__} in '{name}'. Split elsewhere."
    )


def _from_json(value: Scalar) -> Any:
    if isinstance(value, dict) and set(value) == {"dtype"}:
        dtype = getattr(torch, value["dtype"], None)
        if isinstance(dtype, torch.dtype):
            return dtype
    elif isinstance(value, dict) and set(value) == {"device"}:
        return torch.device("cpu")
    elif value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise FrameError(f"Expected a number, a dtype or a device at the cut, found {value!r}.")
