"""Walk the traced operations on the meta device: shapes, aliases, in-place changes, multiply-accumulates. No data.

Tensors on the meta device have shapes, dtypes, strides and storages but no values, so what a network would do can be
followed exactly and costs nothing. Multiply-accumulates are half the floating-point operations of
``torch.utils.flop_counter``, which counts convolutions, matrix products and attention.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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

__all__ = [
    "Counter",
    "Kernel",
    "Propagation",
    "Replay",
    "ShapeError",
    "on_meta",
    "propagate",
    "storage_of",
    "tensors_in",
]


class ShapeError(TraceError):
    """An operation that stopped on the meta device; ``scope`` is the module in whose forward it stands."""

    def __init__(self, message: str, scope: str) -> None:
        super().__init__(message)
        self.scope = scope


@dataclass(frozen=True)
class Kernel:
    """One kernel that ran on the meta device: its name, and the shapes of what it returned."""

    name: str
    shapes: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        return f"{self.name} → {', '.join('·'.join(map(str, shape)) for shape in self.shapes) or 'nothing'}"


@dataclass
class Propagation:
    """What each operation produced, on the meta device. Tensors are compared by identity and by storage.

    ``mutates[node]`` holds the storages that the operation changed in place; ``macs[node]`` its multiply-accumulates.
    ``path`` lists the kernels that took something from the input, in order.
    """

    values: dict[fx.Node, Any] = field(default_factory=dict)
    mutates: dict[fx.Node, frozenset[int]] = field(default_factory=dict)
    macs: dict[fx.Node, int] = field(default_factory=dict)
    path: list[Kernel] = field(default_factory=list)


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
    one module then runs on zeros to learn its output's shape. Raises `ShapeError`, naming the operation that stopped.
    """
    result = Propagation()
    trace.set_modes()
    with on_meta(inputs) as counter:
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
    result.path = counter.path
    return result


class Replay:
    """Runs the operations of a trace again, one by one, as they are called in training: for those who watch what
    happens meanwhile. ``values`` are what they returned, ``alive`` what must not be given back before the end."""

    def __init__(self, trace: Trace, known: Propagation) -> None:
        trace.set_modes()
        self._trace, self._known = trace, known
        self.values: dict[fx.Node, Any] = {}
        self.alive: list[Any] = []

    def step(self, node: fx.Node, inputs: torch.Tensor) -> bool:
        """Run one operation; true if it could not run, and new tensors of the shapes that are known stand in."""
        if node.op == "placeholder":
            self.values[node] = inputs
        elif node.op == "get_attr":
            value = _attribute(self._trace.network, str(node.target))
            self.values[node] = value.to("meta") if isinstance(value, torch.Tensor) else value
        elif node.op != "output":
            args = fx.node.map_arg(node.args, lambda used: self.values[used])
            kwargs = fx.node.map_arg(node.kwargs, lambda used: self.values[used])
            function = _function(node, self._trace.network, args)
            try:
                self.values[node] = function(*args[1:] if node.op == "call_method" else args, **kwargs)
            except Exception:  # the propagation said already where this happens, and found the shapes another way
                known = self._known.values[node]
                alike = {id(tensor): torch.empty_like(tensor) for tensor in tensors_in(known)}
                for tensor in alike.values():
                    tensor.requires_grad_(tensor.is_floating_point())
                self.values[node] = _replaced(known, alike)
                return True
        return False


@contextmanager
def on_meta(inputs: torch.Tensor) -> Iterator[Counter]:
    """Run operations on meta tensors, counting what takes something from ``inputs``."""
    counter = Counter(inputs)
    with torch.no_grad(), torch.device("meta"), _CheapBatchNorm(), counter:
        yield counter


def _step(node: fx.Node, trace: Trace, result: Propagation, counter: Counter, model: nn.Module) -> None:
    args = fx.node.map_arg(node.args, lambda used: result.values[used])
    kwargs = fx.node.map_arg(node.kwargs, lambda used: result.values[used])
    operands = [(tensor, tensor._version) for tensor in tensors_in((args, kwargs))]
    counter.macs = 0
    try:
        value = _function(node, trace.network, args)(*args[1:] if node.op == "call_method" else args, **kwargs)
    except Exception as error:
        if node.op != "call_module":
            raise _stopped(trace.names[node], node.meta["scope"], error) from error
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
    """The output's shape of a module whose Python looks at values: a copy of it runs on zeros.

    With other values it may change its operands in place, or give one of them back: it is taken to do both.
    """
    operands = list(tensors_in((args, kwargs)))
    name = str(node.target)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        zeros = {id(tensor): torch.zeros(tensor.shape, dtype=tensor.dtype) for tensor in operands}
        try:
            module = copy.deepcopy(model.get_submodule(name)).to("cpu")
            for inner, traced in zip(module.modules(), trace.network.get_submodule(name).modules(), strict=True):
                inner.training = traced.training
            value = module(*_replaced(args, zeros), **_replaced(kwargs, zeros))
        except Exception:
            raise _stopped(trace.names[node], "", reason) from reason
    for tensor in operands:
        tensor.zero_()
    alike = {(tensor.shape, tensor.dtype): tensor for tensor in reversed(operands)}
    back = {}
    for tensor in tensors_in(value):
        operand = alike.get((tensor.shape, tensor.dtype))
        back[id(tensor)] = tensor.to("meta") if operand is None else operand.view_as(operand)
    return _replaced(value, back)


def _replaced(value: Any, tensors: Mapping[int, torch.Tensor]) -> Any:
    """``value`` with each tensor in it exchanged for another, by identity."""
    if isinstance(value, torch.Tensor):
        return tensors[id(value)]
    if isinstance(value, (tuple, list)):
        items = [_replaced(item, tensors) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return {key: _replaced(item, tensors) for key, item in value.items()} if isinstance(value, dict) else value


def _stopped(name: str, scope: str, error: Exception) -> ShapeError:
    text = str(error).strip().splitlines()
    return ShapeError(
        f"The shapes behind operation '{name}' cannot be found: {type(error).__name__}: {text[0] if text else ''}\n"
        "Expected operations whose output shape follows from the input shape. Check input_shape, and move an operation "
        "that depends on values into a module of its own.",
        scope,
    )


class _CheapBatchNorm(TorchFunctionMode):
    """Batch normalization keeps the shape; its meta kernel costs 1.4 ms a call, so `torch.empty_like` stands in.

    Running statistics that are operands are changed in place by training, and are marked so.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **kwargs)
        given = dict(zip(("input", "running_mean", "running_var", "weight", "bias", "training"), args, strict=False))
        given |= kwargs
        for name in ("running_mean", "running_var") if given.get("training") else ():
            if given.get(name) is not None:
                given[name].zero_()
        return torch.empty_like(given["input"])


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what ``torch.utils.flop_counter`` knows (two floating-point operations are one multiply-accumulate), and
    lists the kernels that took something from ``inputs``."""

    def __init__(self, inputs: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.path: list[Kernel] = []
        self._from_inputs = {storage_of(inputs): inputs.untyped_storage()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.macs += math.floor(formula(*args, **(kwargs or {}), out_val=out) / 2)
        if any(storage_of(tensor) in self._from_inputs for tensor in tensors_in((args, kwargs))):
            made = list(tensors_in(out))
            self.path.append(Kernel(str(func), tuple(tuple(tensor.shape) for tensor in made)))
            self._from_inputs |= {storage_of(tensor): tensor.untyped_storage() for tensor in made}
        return out
