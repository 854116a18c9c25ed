"""Walk the traced operations on the meta device: shapes, aliases, in-place changes, multiply-accumulates. No data.

Tensors on the meta device have shapes, dtypes, strides and storages but no values, so what a network would do can be
followed exactly and costs nothing. Multiply-accumulates are half the floating-point operations of
``torch.utils.flop_counter``, which counts convolutions, matrix products and attention.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from spliteasy.errors import TraceError
from spliteasy.tracing import Trace

__all__ = ["Propagation", "propagate", "storage_of", "tensors_in"]


@dataclass
class Propagation:
    """What each operation produced, on the meta device. Tensors are compared by identity and by storage.

    ``mutates[node]`` holds the storages that the operation changed in place; ``macs[node]`` its multiply-accumulates.
    """

    values: dict[fx.Node, Any] = field(default_factory=dict)
    mutates: dict[fx.Node, frozenset[int]] = field(default_factory=dict)
    macs: dict[fx.Node, int] = field(default_factory=dict)


def storage_of(tensor: torch.Tensor) -> int:
    """A key that two tensors share exactly when one is a view of the other's memory."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in a value that an operation returned: a tensor, or tuples, lists and dictionaries of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def propagate(trace: Trace, inputs: torch.Tensor, model: nn.Module) -> Propagation:
    """Follow ``inputs`` (a meta tensor) through the traced operations.

    ``model`` is asked only when a module of data-dependent control flow cannot run on the meta device: a copy of that
    one module then runs on zeros to learn its output's shape. Raises `TraceError` naming the operation that stopped.
    """
    result = Propagation()
    trace.network.train(trace.training)
    counter = _MacCounter()
    with torch.no_grad(), torch.device("meta"), _CheapBatchNorm(), counter:
        for node in trace.graph.nodes:
            if node.op == "placeholder":
                result.values[node] = inputs
            elif node.op == "get_attr":
                value = _attribute(trace.network, str(node.target))
                result.values[node] = value.to("meta") if isinstance(value, torch.Tensor) else value
            elif node.op == "output":
                result.values[node] = fx.node.map_arg(node.args[0], lambda used: result.values[used])
            else:
                _step(node, trace, result, counter, model)
    return result


def _step(node: fx.Node, trace: Trace, result: Propagation, counter: _MacCounter, model: nn.Module) -> None:
    args = fx.node.map_arg(node.args, lambda used: result.values[used])
    kwargs = fx.node.map_arg(node.kwargs, lambda used: result.values[used])
    operands = [(tensor, tensor._version) for tensor in tensors_in((args, kwargs))]
    counter.macs = 0
    try:
        value = _function(node, trace.network, args)(*args[1:] if node.op == "call_method" else args, **kwargs)
    except Exception as error:
        if node.op != "call_module":
            raise _stopped(trace.names[node], error) from error
        value = _run_on_zeros(node, trace, model, args, kwargs, error)
    result.values[node] = value
    result.macs[node] = counter.macs
    result.mutates[node] = frozenset(storage_of(tensor) for tensor, version in operands if tensor._version != version)


def _function(node: fx.Node, network: nn.Module, args: tuple[Any, ...]) -> Callable[..., Any]:
    if node.op == "call_module":
        return network.get_submodule(str(node.target))
    if node.op == "call_method":
        method: Callable[..., Any] = getattr(args[0], str(node.target))
        return method
    assert callable(node.target)
    return node.target


def _attribute(network: nn.Module, target: str) -> Any:
    parent, _, name = target.rpartition(".")
    return getattr(network.get_submodule(parent), name)


def _run_on_zeros(node: fx.Node, trace: Trace, model: nn.Module, args: Any, kwargs: Any, reason: Exception) -> Any:
    """The output's shape of a module whose Python looks at values: a copy of it runs on zeros."""

    def zeros(value: Any) -> Any:
        return torch.zeros(value.shape, dtype=value.dtype, device="cpu") if isinstance(value, torch.Tensor) else value

    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        module = copy.deepcopy(model.get_submodule(str(node.target))).to("cpu").train(trace.training)
        try:
            value = module(*(zeros(arg) for arg in args), **{key: zeros(arg) for key, arg in kwargs.items()})
        except Exception:
            raise _stopped(trace.names[node], reason) from reason
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def _stopped(name: str, error: Exception) -> TraceError:
    text = str(error).strip().splitlines()
    return TraceError(
        f"The shapes behind operation '{name}' cannot be found: {type(error).__name__}: {text[0] if text else ''}\n"
        "Expected operations whose output shape follows from the input shape. Check input_shape, and move an operation "
        "that depends on values into a module of its own."
    )


class _CheapBatchNorm(TorchFunctionMode):
    """Batch normalization keeps the shape; its meta kernel costs 1.4 ms a call, so `torch.empty_like` stands in."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class _MacCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what ``torch.utils.flop_counter`` knows; two floating-point operations are one multiply-accumulate."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.macs += math.floor(formula(*args, **(kwargs or {}), out_val=out) / 2)
        return out
