"""List a network's operations with torch.fx, without computing anything and without touching the network.

The tracer works on a copy whose parameters and buffers live on the meta device. It is run twice, in train and in eval
mode, because a module may read ``self.training`` while it is traced; what it reads is then frozen in the graph.

Graph capture is torch.fx's (Reed et al., *torch.fx: Practical Program Capture and Transformation for Deep Learning in
Python*, MLSys 2022, arXiv 2112.08429); the rules for leaves and the retries are ours and stated below.
"""

from __future__ import annotations

import copy
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from spliteasy.errors import TraceError

__all__ = ["Trace", "meta_copy", "trace"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Trace:
    """The operations of one network in one mode.

    ``network`` is the meta copy that was traced, ``names`` gives each operation a name that reads like the module path,
    ``constants`` are tensors that the forward made while it was traced, and ``random_constants`` says whether random
    numbers were drawn for them (a split would repeat the same "random" numbers for ever).
    """

    graph: fx.Graph
    network: nn.Module
    names: dict[fx.Node, str]
    constants: dict[str, torch.Tensor]
    random_constants: bool
    training: bool

    @property
    def operations(self) -> list[fx.Node]:
        """The nodes that compute, in execution order: neither the input, nor attributes, nor the output."""
        return [node for node in self.graph.nodes if node.op.startswith("call_")]


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with the same modules and no data: parameters and buffers are on the meta device."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def trace(model: nn.Module, network: nn.Module, training: bool) -> Trace:
    """List the operations of ``network`` (a `meta_copy` of ``model``) in train or eval mode.

    Where Python control flow stops the tracer, the module that raised becomes one operation and the trace starts again.
    Raises `TraceError` naming the operation when that module is the network itself.
    """
    network.train(training)
    whole: set[type[nn.Module]] = set()
    states = _RandomStates()
    while True:
        tracer = _Tracer(whole)
        try:
            graph = tracer.trace(network)
        except Exception as error:
            failed = tracer.failed
            if failed is None or type(failed) in whole:
                states.restore()
                raise _cannot_trace(model, error) from error
            whole.add(type(failed))
            states.restore()
        else:
            break
    random_constants = states.restore()
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is torch._assert:
            graph.erase_node(node)
    constants = {
        str(node.target): tensor
        for node in graph.nodes
        if node.op == "get_attr" and (tensor := _own_attribute(network, str(node.target), model)) is not None
    }
    return Trace(graph, network, _names(graph), constants, random_constants, training)


class _Tracer(fx.Tracer):
    """fx's tracer with our leaf rule. `failed` is the innermost module whose forward raised."""

    trace_asserts = True

    def __init__(self, whole: set[type[nn.Module]]) -> None:
        super().__init__()
        self.proxy_buffer_attributes = True
        self.failed: nn.Module | None = None
        self._whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Layers of torch.nn and their subclasses, childless modules that read ``self.training``, and what failed."""
        return type(m) in self._whole or _is_layer(type(m)) or (not m._modules and _reads_training(m))

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None:
                self.failed = m
            raise

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["scope"] = self.scope.module_path
        return node

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """One traced input; Python itself binds the defaults of the others."""
        names = root_fn.__code__.co_varnames[1 : root_fn.__code__.co_argcount]
        required = len(names) - len(root_fn.__defaults__ or ())
        if required > 1:
            raise TraceError(
                f"Expected a network with one input, found forward({', '.join(names)}). "
                "Wrap it in a module that takes one tensor."
            )
        return root_fn, [self.root, self.create_proxy("placeholder", names[0] if names else "input", (), {})]


def _is_layer(cls: type[nn.Module]) -> bool:
    return any(
        base.__module__.startswith("torch.nn.") and base is not nn.Module and not issubclass(base, _CONTAINERS)
        for base in cls.__mro__
    )


def _reads_training(module: nn.Module) -> bool:
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and "training" in code.co_names


def _own_attribute(network: nn.Module, target: str, model: nn.Module) -> torch.Tensor | None:
    """A tensor that tracing added to the copy: it is there and not in the model."""
    return getattr(network, target) if "." not in target and not hasattr(model, target) else None


def _names(graph: fx.Graph) -> dict[fx.Node, str]:
    """Names that read like the module path: ``layer1.0.relu``; a second call of the same is ``layer1.0.relu_1``."""
    names: dict[fx.Node, str] = {}
    taken: set[str] = set()
    for node in graph.nodes:
        if node.op == "call_module":
            base = str(node.target)
        elif node.op.startswith("call_"):
            label = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
            scope = node.meta.get("scope", "")
            base = f"{scope}.{label.strip('_')}" if scope else label.strip("_")
        else:
            continue
        name, count = base, 0
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        names[node] = name
    return names


def _cannot_trace(model: nn.Module, error: Exception) -> TraceError:
    if isinstance(error, TraceError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not {"torch", "fx"} <= set(Path(frame.filename).parts)]
    where = f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else "its forward"
    return TraceError(
        f"The operations of {type(model).__name__} cannot be listed: its own forward stops the tracer at\n  {where}\n"
        f"  ({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'})\n"
        "Expected a forward whose path does not depend on the values in a tensor. Move that line into a module of its "
        "own (it then counts as one operation), or make the network an nn.Sequential of such modules."
    )


class _RandomStates:
    """The states of the generators that a forward may draw from, to notice a draw and to take it back."""

    def __init__(self) -> None:
        self._torch, self._python, self._numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()

    def restore(self) -> bool:
        """Put the states back; true if something had been drawn."""
        now = _RandomStates()
        drawn = not (
            torch.equal(now._torch, self._torch)
            and now._python == self._python
            and repr(now._numpy) == repr(self._numpy)
        )
        torch.set_rng_state(self._torch)
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        return drawn
