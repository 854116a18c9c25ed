"""List a network's operations with torch.fx, without computing anything and without touching the network.

The tracer works on a copy whose parameters and buffers live on the meta device. It is run twice, in train and in eval
mode, because a module may read ``self.training`` while it is traced; what it reads is then frozen in the graph.

Graph capture is torch.fx's (Reed et al., *torch.fx: Practical Program Capture and Transformation for Deep Learning in
Python*, MLSys 2022, arXiv 2112.08429); the rules for leaves (`spliteasy.tracer`) and the retries are ours.
"""

from __future__ import annotations

import copy
import dis
import random
import threading
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spliteasy.errors import TraceError
from spliteasy.tracer import Tracer, has_hooks

__all__ = ["Attributes", "Trace", "meta_copy", "trace", "undrawn"]

_ONE_AT_A_TIME = threading.RLock()
"""torch.fx patches `nn.Module` while it traces."""

_LIBRARIES = (Path(torch.__file__).parent, Path(__file__).parent)


@dataclass(frozen=True)
class Trace:
    """The operations of one network in one mode.

    ``network`` is the meta copy that was traced, ``names`` gives each operation a name that reads like the module path,
    ``constants`` are tensors that the forward made while it was traced, and ``random_constants`` says whether random
    numbers were drawn for them (a split would repeat the same "random" numbers for ever). ``evaluating`` are layers
    that stay in eval mode in a network that trains (frozen ones), and ``assigned`` is an attribute through which the
    network's own forward hands something to the next, if there is one (a split would not).
    """

    graph: fx.Graph
    network: nn.Module
    names: dict[fx.Node, str]
    constants: dict[str, torch.Tensor]
    random_constants: bool
    training: bool
    evaluating: frozenset[str] = frozenset()
    assigned: str | None = None

    @property
    def operations(self) -> list[fx.Node]:
        """The nodes that compute, in execution order: neither the input, nor attributes, nor the output."""
        return [node for node in self.graph.nodes if node.op.startswith("call_")]

    def set_modes(self) -> None:
        """Put every module of ``network`` into the mode that was traced."""
        for name, module in self.network.named_modules():
            module.training = self.training and name not in self.evaluating


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with the same modules and no data: parameters and buffers are on the meta device.

    The copy has no hooks, which are not asked here. Raises `TraceError` for a network that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise TraceError(f"Expected parameters with shapes, found '{name}' without: run the network once first.")
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    for module in model.modules():
        for name, value in vars(module).items():
            if name.endswith("_hooks") and isinstance(value, dict):
                memo[id(value)] = OrderedDict()
            elif isinstance(value, torch.Tensor) and not value.is_leaf:  # computed by a hook, as weight_norm's is
                memo[id(value)] = torch.empty_like(value, device="meta").detach()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise TraceError(
            f"Expected a network that can be copied, found that {type(model).__name__} cannot: "
            f"{type(error).__name__}: {error}. Take out of it what is not a module, a tensor or a plain value."
        ) from error


def trace(model: nn.Module, network: nn.Module, training: bool, whole: set[type[nn.Module]]) -> Trace:
    """List the operations of ``network`` (a `meta_copy` of ``model``) in train or eval mode.

    Where Python control flow stops the tracer, the module that raised becomes one operation and the trace starts again;
    its type is added to ``whole``. So does a module that hands something from one forward to the next. Raises
    `TraceError`, naming the operation, when the module that raised is the network itself.
    """
    if "forward" in vars(model):
        raise TraceError(
            f"Expected the forward of {type(model).__name__}, found another one put on the object, as torch.compile "
            "and some wrappers do. Give the network as it was before."
        )
    evaluating = frozenset(
        name for name, module in model.named_modules() if model.training and not module.training and training
    )
    kept = {name for name, module in model.named_modules() if name and has_hooks(module)}
    result = Trace(fx.Graph(), network, {}, {}, False, training, evaluating)
    result.set_modes()
    attributes = Attributes(network)
    states = _RandomStates()
    with _ONE_AT_A_TIME, torch.inference_mode(False), torch.enable_grad():
        while True:
            tracer = Tracer(whole, kept)
            with _Draws() as draws:
                try:
                    graph = tracer.trace(network)
                    (failed, name), error = attributes.assigned(), None
                    assigned = name if failed is network else None
                except Exception as raised:
                    failed, error, assigned = tracer.failed, raised, None
                attributes.restore()
            random_constants = states.restore(draws.drawn)
            if error is not None and (failed is None or type(failed) in whole):
                problem = _cannot_trace(model, error)
                raise problem from (error if problem is not error else None)
            if failed is None or failed is network:
                break
            whole.add(type(failed))
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is torch._assert:
            graph.erase_node(node)
    constants = {
        str(node.target): tensor
        for node in graph.nodes
        if node.op == "get_attr" and (tensor := _own_attribute(network, str(node.target), model)) is not None
    }
    return Trace(graph, network, _names(graph), constants, random_constants, training, evaluating, assigned)


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
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(path) for path in _LIBRARIES)]
    if not own and isinstance(error, TraceError):
        return error
    where = f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else "its forward"
    return TraceError(
        f"The operations of {type(model).__name__} cannot be listed: its own forward stops the tracer at\n  {where}\n"
        f"  ({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'})\n"
        "Expected operations on tensors, on a path that does not depend on their values. Move that line into a module "
        "of its own (it then counts as one operation), or make the network an nn.Sequential of such modules."
    )


class Attributes:
    """What lies on a network's modules beside parameters: a forward may leave stand-ins there, or count in Python."""

    def __init__(self, network: nn.Module) -> None:
        self._before: list[tuple[nn.Module, dict[str, Any], dict[str, torch.Tensor | None]]] = [
            (module, dict(vars(module)), dict(module._buffers)) for module in network.modules()
        ]

    def assigned(self) -> tuple[nn.Module | None, str]:
        """A module on which a forward assigned something that the next forward reads, and its name, innermost first:
        another plain number, a new tensor for a buffer or for a tensor, or what the forward reads before it assigns it.
        """
        for module, before, buffers in reversed(self._before):
            for name, value in module._buffers.items():
                if value is not buffers.get(name):
                    return module, name
            for name, value in vars(module).items():
                if value is not before.get(name) and _handed_on(type(module), name, before.get(name), value):
                    return module, name
        return None, ""

    def restore(self) -> None:
        """Put everything back, but for the constants that tracing added."""
        for module, before, buffers in self._before:
            now = vars(module)
            constants = {name: value for name, value in now.items() if name.startswith("_tensor_constant")}
            now.clear()
            now.update(before | constants)
            module._buffers.clear()
            module._buffers.update(buffers)


def _handed_on(cls: type[nn.Module], name: str, before: Any, now: Any) -> bool:
    if type(before) in (int, float, bool) and type(now) in (int, float, bool):
        return repr(before) != repr(now)
    code = getattr(cls.forward, "__code__", None)
    mentions = [step.opname for step in dis.get_instructions(code) if step.argval == name] if code is not None else []
    reads_first = bool(mentions) and mentions[0].startswith("LOAD")
    return isinstance(now, fx.Proxy) and (isinstance(before, torch.Tensor) or reads_first)


@contextmanager
def undrawn() -> Iterator[None]:
    """Whatever runs inside leaves the generators as they were."""
    states = _RandomStates()
    with _Draws() as draws:
        try:
            yield
        finally:
            states.restore(draws.drawn)


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices random numbers that torch draws on this thread."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.drawn = self.drawn or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


class _RandomStates:
    """The states of the generators that a forward may draw from, to notice a draw and to take it back.

    torch's is put back only if this thread drew: another may be training meanwhile.
    """

    def __init__(self) -> None:
        self._torch, self._python = torch.get_rng_state(), random.getstate()
        self._numpy = np.random.get_state(legacy=False)

    def restore(self, torch_drew: bool) -> bool:
        """Put the states back; true if something had been drawn."""
        python = random.getstate() != self._python
        before, now = self._numpy["state"], np.random.get_state(legacy=False)["state"]
        numpy = now["pos"] != before["pos"] or not np.array_equal(now["key"], before["key"])
        if torch_drew:
            torch.set_rng_state(self._torch)
        if python:
            random.setstate(self._python)
        if numpy:
            np.random.set_state(self._numpy)
        return torch_drew or python or numpy
