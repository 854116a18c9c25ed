"""One segment of a split network: a module that shares its layers with the whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from spliteasy.boundary import Boundary
from spliteasy.program import Mode

__all__ = ["Buffers", "Segment", "evaluating", "segment_graph"]


class Segment(nn.Module):
    """Segment A, B or C. Its parameters are the model's own, under the model's own names.

    Called with what is alive at the cut before it (one value, or several as arguments or as a tuple), it returns what
    is alive at the cut after it, so that ``c(b(a(x)))`` is the whole network. ``entry`` and ``exit`` are the boundaries
    by mode (``None`` at the network's own ends); ``changed`` are the entry slots that it changes in place.
    """

    def __init__(
        self,
        letter: str,
        graphs: Mapping[bool, fx.Graph],
        attributes: Mapping[str, Any],
        entry: Mapping[bool, Boundary | None],
        exit: Mapping[bool, Boundary | None],
        changed: Mapping[bool, frozenset[int]],
        span: tuple[str, str, int],
    ) -> None:
        super().__init__()
        self.letter = letter
        self.entry, self.exit, self.changed = dict(entry), dict(exit), dict(changed)
        self._first, self._last, self.operations = span
        for target, value in sorted(attributes.items(), key=lambda item: not isinstance(item[1], nn.Module)):
            _attach(self, target, value)
        self._graphs = {training: _bind(graph, self) for training, graph in graphs.items()}

    def forward(self, *values: Any) -> Any:
        """Run the segment; see the class."""
        entry = self.entry[self.training]
        if entry is not None and len(values) == 1 and len(entry.nodes) > 1 and isinstance(values[0], tuple):
            values = values[0]
        results = self.run(values)
        return results[0] if self.exit[self.training] is None or len(results) == 1 else results

    def run(self, values: Any) -> tuple[Any, ...]:
        """The same with tuples on both ends; the last segment returns the network's output as the only item."""
        result: tuple[Any, ...] = self._graphs[self.training](*values)
        return result

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        if not self.operations:
            return f"Segment {self.letter}: nothing between the cuts"
        return (
            f"Segment {self.letter}: {self._first} … {self._last} ({self.operations} operations, {count:,} parameters)"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Segment:
        raise TypeError("A segment shares its layers with the model: copy the model and split the copy.")


class Buffers:
    """What the buffers of a segment hold, to put it back after a step that was not finished.

    A layer may change a buffer, or assign another tensor to its name: both are undone. ``named`` are the copies, by the
    model's own names.
    """

    def __init__(self, segment: Segment) -> None:
        self._places = [
            (module, key, f"{prefix}.{key}".lstrip("."), buffer, buffer.clone())
            for prefix, module in segment.named_modules()
            for key, buffer in module._buffers.items()
            if buffer is not None
        ]

    @property
    def named(self) -> dict[str, torch.Tensor]:
        """The copies by name."""
        return {name: before for _, _, name, _, before in self._places}

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for module, key, _, buffer, before in self._places:
                buffer.copy_(before)
                module._buffers[key] = buffer


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Eval mode for a while. Layers that were in eval mode before (frozen batch norms, say) stay in it afterwards."""
    training = [inner for module in modules for inner in module.modules() if inner.training]
    for inner in training:
        inner.training = False
    try:
        yield
    finally:
        for inner in training:
            inner.training = True


def segment_graph(mode: Mode, lo: int, hi: int) -> fx.Graph:
    """The operations after position ``lo`` up to ``hi`` as a graph of their own: from the input on if ``lo`` is −1, and
    to the output if ``hi`` is behind the last operation.

    Its inputs are what is alive at ``lo``, its output a tuple of what is alive at ``hi``, or of the network's output.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if lo < 0:
        copies[mode.nodes[0]] = graph.placeholder("input")
    else:
        for node in mode.alive(lo):
            copies[node] = graph.placeholder(node.name)
    for attribute in sorted(mode.attributes(max(lo, 0), hi), key=lambda node: str(node.target)):
        copies[attribute] = graph.get_attr(str(attribute.target))
    for node in mode.nodes[max(lo, 0) + 1 : hi + 1]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    if hi == len(mode.nodes):
        graph.output((fx.node.map_arg(mode.output.args[0], copies.__getitem__),))
    else:
        graph.output(tuple(copies[node] for node in mode.alive(hi)))
    return graph


def _attach(root: nn.Module, target: str, value: Any) -> None:
    """Put ``value`` (a layer, parameter or tensor) under its dotted name, with empty modules in between."""
    *parents, name = target.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    if hasattr(root, name):  # it came with a layer that was put here whole
        return
    if isinstance(value, nn.Module):
        root.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(name, value)
    elif isinstance(value, torch.Tensor):
        root.register_buffer(name, value)
    else:
        setattr(root, name, value)


def _bind(graph: fx.Graph, owner: nn.Module) -> fx.GraphModule:
    """Code for ``graph`` that reads its layers from ``owner``, so that `nn.Module.to` reaches them once and for all."""
    module = fx.GraphModule(owner, graph)
    module._modules, module._parameters, module._buffers = owner._modules, owner._parameters, owner._buffers
    return module
