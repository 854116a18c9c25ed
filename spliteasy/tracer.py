"""torch.fx's tracer, made to keep what torch.fx loses: what cannot be kept as operations stays one whole module.

torch.fx runs a forward with stand-ins for tensors and writes down what is called. Some things it does not see, and
would drop without a word: that ``x += y`` changes ``x``, a block under `torch.no_grad` or autocast, the backward of a
custom `torch.autograd.Function` (its forward would be inlined), and hooks of modules. A block and a hooked module
become one operation, which runs as it is; the others become operations of their own. Other threads may go on computing
while one traces.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils.checkpoint import CheckpointFunction

from spliteasy.errors import TraceError

__all__ = ["IN_PLACE", "AutogradFunction", "Tracer", "has_hooks", "setitem"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)

_FACTORIES = (
    "arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "randperm", "tensor", "zeros",
)  # fmt: skip

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


class Tracer(fx.Tracer):
    """fx's tracer with our leaf rule. ``whole`` are types that count as one operation, ``kept`` names of modules.

    When tracing raises, `failed` is the module to keep whole before trying again, or None if that is the network.
    """

    trace_asserts = True

    def __init__(self, whole: set[type[nn.Module]], kept: set[str]) -> None:
        super().__init__()
        self.proxy_buffer_attributes = True
        self.failed: nn.Module | None = None
        self._whole, self._kept = whole, kept
        self._thread = threading.get_ident()
        self._entered: list[tuple[nn.Module, tuple[bool, ...]]] = []
        self._surroundings = _surroundings()
        self._blamed = False

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of ``root``."""
        with self._autograd_functions(), self._factories():
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Layers of torch.nn and their subclasses, childless modules that read ``self.training``, and what is kept."""
        cls = type(m)
        named = cls in self._whole or module_qualified_name in self._kept
        return named or _is_layer(cls) or (not m._modules and _reads_training(m))

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """One operation for a leaf; else the operations of its forward."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        if self.is_leaf_module(m, self.path_of_module(m)):
            return super().call_module(m, forward, args, kwargs)
        self._entered.append((m, _surroundings()))
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self._blame(m)
            raise
        finally:
            self._entered.pop()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A parameter or buffer of the network as an operand."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a value while tracing."""
        return _Proxy(node, self)

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that knows the module it was made in."""
        if kind.startswith("call_") and _surroundings() != self._surroundings:
            inside = [module for module, entered in self._entered if entered == self._surroundings]
            self._blame(inside[-1] if inside else None)
            raise TraceError("an operation under torch.no_grad, inference_mode or autocast, which a split would lose")
        node = super().create_node(kind, *args, **kwargs)
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

    def _blame(self, module: nn.Module | None) -> None:
        if not self._blamed:
            self._blamed, self.failed = True, module

    def _takes(self, *arguments: Any) -> bool:
        """Whether a function was called while tracing, on stand-ins."""
        return threading.get_ident() == self._thread and _holds_proxy(arguments)

    @contextmanager
    def _factories(self) -> Iterator[None]:
        """``torch.zeros(x.shape[0], 4)`` and its like become operations: by themselves they refuse stand-ins."""
        originals = {name: getattr(torch, name) for name in _FACTORIES}

        def kept(original: Callable[..., Any]) -> Callable[..., Any]:
            def factory(*args: Any, **kwargs: Any) -> Any:
                if not self._takes(args, kwargs):
                    return original(*args, **kwargs)
                return self.create_proxy("call_function", original, args, kwargs)

            return factory

        for name, original in originals.items():
            setattr(torch, name, kept(original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(torch, name, original)

    @contextmanager
    def _autograd_functions(self) -> Iterator[None]:
        """Custom autograd functions become operations instead of being run on stand-ins."""
        original = vars(torch.autograd.Function)["apply"]

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._takes(args, kwargs):
                return original.__get__(None, cls)(*args, **kwargs)
            if cls is CheckpointFunction:  # saves memory, changes no number: run_function, preserve_rng_state, *inputs
                return args[0](*args[2:])
            return self.create_proxy("call_function", AutogradFunction(cls), args, kwargs)

        torch.autograd.Function.apply = classmethod(apply)
        try:
            yield
        finally:
            torch.autograd.Function.apply = original


class _Proxy(fx.Proxy):
    """A stand-in that can be changed in place: ``x += y`` and ``x[i] = y`` are operations on ``x``."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", setitem, (self, index, value), {})


def setitem(x: Any, index: Any, value: Any) -> Any:
    """``x[index] = value``; the operation returns ``x``."""
    x[index] = value
    return x


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    """``operator.iadd`` and its like as an operation, which is called ``add`` in the names of cuts."""
    change = vars(operator)[f"i{name}"]

    def operation(x: Any, y: Any) -> Any:
        return change(x, y)

    operation.__name__ = operation.__qualname__ = f"{name}_"
    setattr(_Proxy, f"__i{name}__", lambda x, y: x.tracer.create_proxy("call_function", operation, (x, y), {}))
    return operation


IN_PLACE = {
    name: _in_place(name)
    for name in (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift",
    )
}  # fmt: skip
"""The operators that change their left operand where it is a tensor."""


@dataclass(frozen=True)
class AutogradFunction:
    """A custom `torch.autograd.Function` as an operation, named like it."""

    function: Any

    def __post_init__(self) -> None:
        for name in ("__name__", "__qualname__", "__module__"):
            object.__setattr__(self, name, getattr(self.function, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Its forward, with its own backward."""
        return self.function.apply(*args, **kwargs)


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks run around this module's forward or backward, or another forward was put on the object."""
    return any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module)


def _is_layer(cls: type[nn.Module]) -> bool:
    return any(
        base.__module__.startswith("torch.nn.") and base is not nn.Module and not issubclass(base, _CONTAINERS)
        for base in cls.__mro__
    )


def _reads_training(module: nn.Module) -> bool:
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and "training" in code.co_names


def _surroundings() -> tuple[bool, ...]:
    """What changes an operation without being an argument of it."""
    autocast = [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")]
    return (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast)


def _holds_proxy(value: Any) -> bool:
    found: list[Any] = []
    fx.node.map_aggregate(value, lambda item: found.append(item) if isinstance(item, fx.Proxy) else item)
    return bool(found)
