"""Data by name for a study: training, validation and test, so that chains are chosen on one and reported on another."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from spliteasy import data
from spliteasy.errors import DataError, suggest

__all__ = ["DATA", "Parts", "read_data"]

_HELD_OUT = 0.2
"""The share of the training data that becomes validation data, where the data have none of their own."""

_PROBES = 64
"""How many items of a data set without tensors are looked at to tell it from another."""


@dataclass(frozen=True)
class Parts:
    """The three parts of a data set. ``name`` and ``digest`` (of its contents) tell it from another."""

    name: str
    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    digest: str
    input_shape: tuple[int, ...]
    classes: int


DATA: Mapping[str, Callable[..., Sequence[Dataset[Any]]]] = {
    "digits": data.digits,
    "patches": data.patches,
    "cifar10": data.cifar10,
    "cifar100": data.cifar100,
    "image_folder": data.image_folder,
}
"""Data that a name stands for; arguments go in brackets, as in ``digits(size=32, channels=3)``."""


def read_data(given: str | Sequence[Dataset[Any]] | Callable[[], Sequence[Dataset[Any]]]) -> Parts:
    """The parts that a name, a function, or two or three data sets in a row stand for.

    Of two (training, test), a fifth of the training data is held out for validation, the same in every run. A name may
    carry literal arguments: ``patches(cells=3)``, ``cifar10("folder")``.

    Raises `DataError` for an unknown name, wrong arguments, and data that are not (input, class) pairs.
    """
    if isinstance(given, str):
        name, parts = given.strip(), _named(given)
    elif callable(given):
        name, parts = getattr(given, "__name__", type(given).__name__), given()
    else:
        name, parts = "own", given
    if not isinstance(parts, Sequence) or len(parts) not in (2, 3):
        raise DataError(
            f"Expected data as a name ({', '.join(DATA)}), or as training, validation and test data sets (or training "
            f"and test); found {type(parts).__name__}."
        )
    held: list[Dataset[Any]] = list(parts)
    for part in held:
        if not isinstance(part, Sized) or not hasattr(part, "__getitem__") or not len(part):
            raise DataError(f"Expected data sets with a length and items, found {type(part).__name__}, or none in it.")
    if len(held) == 2:
        held[:1] = _hold_out(held[0])
    x, _ = _item(held[0], 0)
    if not isinstance(x, torch.Tensor):
        raise DataError(f"Expected tensors as inputs, found {type(x).__name__}. Convert them in the data set.")
    digest = hashlib.sha256()
    for part in held:
        _identify(part, digest)
    classes = max(_highest(part) for part in held) + 1
    return Parts(name, held[0], held[1], held[2], digest.hexdigest()[:32], tuple(x.shape), classes)


def _named(text: str) -> Sequence[Dataset[Any]]:
    """What ``name(arguments)`` stands for; literals only, nothing is evaluated."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        arguments = [ast.literal_eval(argument) for argument in call.args]
        keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise DataError(f"Cannot read the data {text!r}. Write a name, or 'digits(size=32, channels=3)'.") from None
    if name not in DATA:
        raise DataError(f"Expected data by one of {', '.join(DATA)}, found {text!r}.{suggest(name or text, DATA)}")
    try:
        return DATA[name](*arguments, **keywords)
    except TypeError as error:
        raise DataError(f"Wrong arguments for the data {text!r}: {error}.") from error


def _hold_out(train: Dataset[Any]) -> list[Dataset[Any]]:
    """Training data without validation data, and validation data; shuffled by a fixed seed."""
    count = len(train)  # type: ignore[arg-type]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    held_out = max(1, round(_HELD_OUT * count))
    if held_out >= count:
        raise DataError(f"Expected enough training data to hold some out for validation, found {count} item.")
    if isinstance(train, TensorDataset):
        return [TensorDataset(*(t[part] for t in train.tensors)) for part in (order[held_out:], order[:held_out])]
    return [Subset(train, order[held_out:]), Subset(train, order[:held_out])]


def _item(part: Dataset[Any], index: int) -> tuple[Any, Any]:
    item = part[index]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"Expected (input, class) pairs in the data, found {type(item).__name__}.")
    return item[0], item[1]


def _identify(part: Dataset[Any], digest: Any) -> None:
    """Add what tells this part from another: all of a TensorDataset, some items of others."""
    count = len(part)  # type: ignore[arg-type]
    digest.update(f"{count};".encode())
    if isinstance(part, TensorDataset):
        tensors = list(part.tensors)
    else:
        probes = torch.linspace(0, count - 1, min(count, _PROBES)).long().tolist()
        tensors = [torch.as_tensor(value) for index in probes for value in _item(part, index)]
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def _highest(part: Dataset[Any]) -> int:
    """The highest class number."""
    if isinstance(part, TensorDataset):
        labels = part.tensors[1]
    elif hasattr(part, "targets"):
        labels = torch.as_tensor(part.targets)
    elif isinstance(part, Subset) and hasattr(part.dataset, "targets"):
        labels = torch.as_tensor(part.dataset.targets)
    else:
        labels = torch.tensor([int(_item(part, index)[1]) for index in range(len(part))])  # type: ignore[arg-type]
    if labels.is_floating_point() or labels.ndim != 1:
        raise DataError(f"Expected a class number for each input, found labels of {labels.dtype} {labels.shape}.")
    return int(labels.max())
