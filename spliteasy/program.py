"""A network as a list of operations in train and in eval mode, with what is alive between any two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from spliteasy.errors import CutError, DataError, TraceError, suggest
from spliteasy.propagation import Propagation, ShapeError, propagate, tensors_in
from spliteasy.tracing import Trace, meta_copy, trace, undrawn
from spliteasy.verifying import verify

__all__ = ["Mode", "Program", "input_dtype"]


class Mode:
    """The operations in one mode. Position 0 is the input, position *k* follows the *k*-th operation."""

    def __init__(self, traced: Trace, propagation: Propagation) -> None:
        self.trace = traced
        self.propagation = propagation
        _drop_dead_shapes(traced.graph, propagation)
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
        """The parameters and buffers that the operations after ``lo`` up to ``hi`` read directly.

        Here and in `read` the output is at the position behind the last operation.
        """
        nodes = [*self.nodes, self.output][lo + 1 : hi + 1]
        return {used for node in nodes for used in node.all_input_nodes if used.op == "get_attr"}

    def mutated(self, lo: int, hi: int) -> set[int]:
        """The storages that the operations after ``lo`` up to ``hi`` change in place."""
        mutates = self.propagation.mutates
        return {storage for node in self.nodes[max(lo, 0) + 1 : hi + 1] for storage in mutates[node]}

    def read(self, lo: int, hi: int) -> set[int]:
        """The identities of the meta tensors that the operations after ``lo`` up to ``hi`` read."""
        nodes = [*self.nodes, self.output][max(lo, 0) + 1 : hi + 1]
        values = self.propagation.values
        return {id(tensor) for node in nodes for used in node.all_input_nodes for tensor in tensors_in(values[used])}


class Program:
    """Both modes of ``model``, traced for inputs of shape ``(batch, *input_shape)``.

    Shapes are followed when they are asked for. Raises `TraceError` when the operations or their shapes cannot be
    listed, `DataError` for a batch below 1 or a shape that is none.
    """

    def __init__(
        self, model: nn.Module, input_shape: Sequence[int], batch: int, dtype: torch.dtype | None = None
    ) -> None:
        self.model = model
        self.input_shape = _checked_shape(input_shape)
        self.batch = _checked_batch(batch)
        self.dtype = dtype or input_dtype(model)
        self._followed: dict[tuple[bool, int], Propagation] = {}
        with torch.inference_mode(False):
            self._traces, self._followed[True, self.batch] = self._trace(meta_copy(model), set(), None)
        self.train = Mode(self._traces[True], self._followed[True, self.batch])

    def _trace(
        self, network: nn.Module, whole: set[type[nn.Module]], earlier: ShapeError | None
    ) -> tuple[dict[bool, Trace], Propagation]:
        """Both modes, and the shapes in train mode. A module in which an operation depends on values is kept whole."""
        try:
            traces = {training: trace(self.model, network, training, whole) for training in (True, False)}
            return traces, self._propagate(traces[True], self.batch)
        except ShapeError as error:
            inside = type(network.get_submodule(error.scope))
            if not error.scope or inside in whole:
                raise TraceError(str(earlier or error)) from error
            return self._trace(network, {*whole, inside}, earlier or error)

    @cached_property
    def eval(self) -> Mode:
        """The operations in eval mode, with shapes and aliases of their own: a dropout is no copy there."""
        return Mode(self._traces[False], self._propagation(False, self.batch))

    def mode(self, training: bool) -> Mode:
        """The operations in train or in eval mode."""
        return self.train if training else self.eval

    @cached_property
    def cut_names(self) -> list[str]:
        """Every position that exists in both modes, in execution order; the first is the input itself."""
        traced = self._traces[False]
        order = {name: index for index, name in enumerate([_input_name(traced), *traced.names.values()])}
        kept: list[str] = []
        for position, name in enumerate(self.train.names):
            if name in order and self.train.holds_tensor(position) and (not kept or order[name] > order[kept[-1]]):
                kept.append(name)
        return kept

    @cached_property
    def reads_modes(self) -> bool:
        """Whether train or eval is frozen in the operations, as in ``F.dropout(x, training=self.training)``."""
        return not _same_operations(self._traces[True].graph, self._traces[False].graph)

    def find(self, cut: str) -> str:
        """The full name of a cut: its own, or of a module, whose last operation is meant. Raises `CutError`."""
        if not isinstance(cut, str):
            raise CutError(f"Expected the name of a cut, such as {self.cut_names[-1]!r}; found {cut!r}.")
        if cut in self.cut_names:
            return cut
        inside = [name for name in self.cut_names if name.startswith(f"{cut}.")]
        if not inside:
            raise CutError(
                f"Expected a cut of {type(self.model).__name__}, found {cut!r}."
                f"{suggest(cut, self.cut_names)} find_cuts(model, input_shape) lists all {len(self.cut_names)}."
            )
        return inside[-1]

    def attribute(self, mode: Mode, target: str) -> Any:
        """What a layer's or attribute's name stands for: the model's own, or a constant that its forward makes."""
        if target in mode.trace.constants:
            return mode.trace.constants[target]
        parent, _, name = target.rpartition(".")
        return getattr(self.model.get_submodule(parent), name)

    def values_at(self, training: bool, batch: int) -> Mapping[fx.Node, Any]:
        """What every operation returns for another batch size, on the meta device."""
        return self._propagation(training, batch).values

    def _propagation(self, training: bool, batch: int) -> Propagation:
        if (training, batch) not in self._followed:
            try:
                self._followed[training, batch] = self._propagate(self._traces[training], batch)
            except ShapeError as error:
                raise TraceError(str(error)) from error
        return self._followed[training, batch]

    def _propagate(self, traced: Trace, batch: int) -> Propagation:
        with torch.inference_mode(False), undrawn():
            inputs = torch.empty((batch, *self.input_shape), dtype=self.dtype, device="meta")
            propagation = propagate(traced, inputs, self.model)
            if batch == self.batch:
                verify(traced, propagation, inputs)
            return propagation


def input_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of inputs unless said otherwise: that of the parameters."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _same_operations(first: fx.Graph, second: fx.Graph) -> bool:
    """Whether both graphs list the same operations on the same operands, constants included."""
    one, two = list(first.nodes), list(second.nodes)
    if len(one) != len(two):
        return False
    twins = dict(zip(one, two, strict=True))
    for a, b in twins.items():
        same_target = a.target == b.target or (a.op == "get_attr" and "_tensor_constant" in str(a.target))
        same_operands = fx.node.map_arg((a.args, a.kwargs), twins.__getitem__) == (b.args, b.kwargs)
        if a.op != b.op or not same_target or not same_operands:
            return False
    return True


def _drop_dead_shapes(graph: fx.Graph, propagation: Propagation) -> None:
    """Erase what computed shapes for dropped assertions. What changes a tensor in place has no users, and stays."""
    for node in reversed(list(graph.nodes)):
        dead = not node.users and node.op in ("call_function", "call_method", "get_attr")
        if dead and not propagation.mutates.get(node) and next(tensors_in(propagation.values[node]), None) is None:
            graph.erase_node(node)


def _input_name(traced: Trace) -> str:
    taken = set(traced.names.values())
    return "input" if "input" not in taken else "input_"


def _checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(input_shape) if isinstance(input_shape, Iterable) else None
    if shape is None or not all(isinstance(size, int) and size > 0 for size in shape):
        raise DataError(
            "Expected input_shape as positive whole numbers without the batch, such as (3, 224, 224); found "
            f"{input_shape!r}."
        )
    return shape


def _checked_batch(batch: int) -> int:
    if not isinstance(batch, int) or batch < 1:
        raise DataError(f"Expected a batch of 1 or more samples, found {batch!r}.")
    return batch
