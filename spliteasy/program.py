"""A network as a list of operations in train and in eval mode, with what is alive between any two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from spliteasy.errors import CutError, DataError, suggest
from spliteasy.propagation import Propagation, propagate, tensors_in
from spliteasy.tracing import Trace, meta_copy, trace

__all__ = ["Mode", "Program"]


class Mode:
    """The operations in one mode. Position 0 is the input, position *k* follows the *k*-th operation."""

    def __init__(self, traced: Trace, propagation: Propagation) -> None:
        self.trace = traced
        self.propagation = propagation
        _drop_dead_shapes(traced.graph, propagation.values)
        inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
        self.nodes: list[fx.Node] = [*inputs, *traced.operations]
        self.output: fx.Node = next(node for node in traced.graph.nodes if node.op == "output")
        names = {inputs[0]: _input_name(traced), **traced.names}
        self.names: list[str] = [names[node] for node in self.nodes]
        self.position: dict[str, int] = {name: index for index, name in enumerate(self.names)}
        order = {node: index for index, node in enumerate(self.nodes)}
        self._last_use = [
            max((order.get(user, len(self.nodes)) for user in node.users), default=-1) for node in self.nodes
        ]

    def alive(self, position: int) -> list[fx.Node]:
        """The nodes computed up to ``position`` whose values are used after it."""
        return [node for node, last in zip(self.nodes[: position + 1], self._last_use, strict=False) if last > position]

    def dies(self) -> Sequence[int]:
        """For each position, the last position at which its value is used (past the end: by the output)."""
        return self._last_use

    def holds_tensor(self, position: int) -> bool:
        """Whether the operation at ``position`` returned a tensor, and not a shape or a number."""
        return next(tensors_in(self.propagation.values[self.nodes[position]]), None) is not None

    def attributes(self, lo: int, hi: int) -> set[fx.Node]:
        """The parameters and buffers that the operations after ``lo`` up to ``hi`` read directly."""
        nodes = self.nodes[lo + 1 : hi + 1] + ([self.output] if hi == len(self.nodes) - 1 else [])
        return {used for node in nodes for used in node.all_input_nodes if used.op == "get_attr"}


class Program:
    """Both modes of ``model``, traced for inputs of shape ``(batch, *input_shape)``."""

    def __init__(
        self, model: nn.Module, input_shape: Sequence[int], batch: int, dtype: torch.dtype | None = None
    ) -> None:
        self.model = model
        self.input_shape = _checked_shape(input_shape)
        self.batch = _checked_batch(batch)
        self.dtype = dtype or next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        network = meta_copy(model)
        train_trace, eval_trace = trace(model, network, True), trace(model, network, False)
        twins = _same_operations(train_trace.graph, eval_trace.graph)
        propagation = self._propagate(train_trace, self.batch)
        if twins is None:
            in_eval = self._propagate(eval_trace, self.batch)
        else:
            in_eval = Propagation(
                *({twins[node]: value for node, value in table.items()} for table in _tables(propagation))
            )
        self.train, self.eval = Mode(train_trace, propagation), Mode(eval_trace, in_eval)

    def mode(self, training: bool) -> Mode:
        """The operations in train or in eval mode."""
        return self.train if training else self.eval

    @cached_property
    def cut_names(self) -> list[str]:
        """Every position that exists in both modes, in execution order; the first is the input itself."""
        names = [
            name
            for position, name in enumerate(self.train.names)
            if name in self.eval.position and self.train.holds_tensor(position)
        ]
        kept: list[str] = []
        for name in names:
            if not kept or self.eval.position[name] > self.eval.position[kept[-1]]:
                kept.append(name)
        return kept

    def find(self, cut: str) -> str:
        """The full name of a cut: its own, or of a module, whose last operation is meant. Raises `CutError`."""
        if cut in self.train.position and cut in self.eval.position:
            return cut
        inside = [name for name in self.cut_names if name.startswith(f"{cut}.")]
        if not inside:
            raise CutError(
                f"Expected a cut of {type(self.model).__name__}, found {cut!r}."
                f"{suggest(cut, self.cut_names)} find_cuts(model, input_shape) lists all {len(self.cut_names)}."
            )
        return inside[-1]

    def values_at(self, training: bool, batch: int) -> Mapping[fx.Node, Any]:
        """What every operation returns for another batch size, on the meta device."""
        mode = self.mode(training)
        return mode.propagation.values if batch == self.batch else self._propagate(mode.trace, batch).values

    def _propagate(self, traced: Trace, batch: int) -> Propagation:
        inputs = torch.empty((batch, *self.input_shape), dtype=self.dtype, device="meta")
        return propagate(traced, inputs, self.model)


def _tables(propagation: Propagation) -> tuple[dict[fx.Node, Any], ...]:
    return propagation.values, propagation.mutates, propagation.macs


def _same_operations(first: fx.Graph, second: fx.Graph) -> dict[fx.Node, fx.Node] | None:
    """The twin of each node when both graphs list the same operations on the same operands, else None."""
    one, two = list(first.nodes), list(second.nodes)
    if len(one) != len(two):
        return None
    twins = dict(zip(one, two, strict=True))
    for a, b in twins.items():
        same_target = a.target == b.target or (a.op == "get_attr" and "_tensor_constant" in str(a.target))
        if a.op != b.op or not same_target or [twins[used] for used in a.all_input_nodes] != b.all_input_nodes:
            return None
    return twins


def _drop_dead_shapes(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> None:
    """Erase what computed shapes for dropped assertions. Tensor results stay: an in-place operation has no users."""
    for node in reversed(list(graph.nodes)):
        if node.op not in ("output", "placeholder") and not node.users and next(tensors_in(values[node]), None) is None:
            graph.erase_node(node)


def _input_name(traced: Trace) -> str:
    taken = set(traced.names.values())
    return "input" if "input" not in taken else "input_"


def _checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(input_shape)
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise DataError(
            f"Expected input_shape as positive whole numbers without the batch, such as (3, 224, 224); found {shape}."
        )
    return shape


def _checked_batch(batch: int) -> int:
    if not isinstance(batch, int) or batch < 1:
        raise DataError(f"Expected a batch of 1 or more samples, found {batch!r}.")
    return batch
