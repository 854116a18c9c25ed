"""Seconds of every operation of a network, forward and backward, from real training passes.

Forward: the traced operations are run one by one, with the clock read between them. Backward: one ordinary backward of
the whole, in which every function of autograd reads the clock when it is done; what passed since the one before it is
its own, gradients summed on the way included. Functions belong to the operation that made them. So in-place operations,
views and shared parameters need no special case, and the parts add up to the whole by construction.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spliteasy.optimization import Loss
from spliteasy.propagation import tensors_in
from spliteasy.seeding import generator_state
from spliteasy.segment import Segment

__all__ = ["LOSS", "Look", "Timing", "run_operations", "time_operations"]

LOSS = "loss"
"""The name of the loss behind the last operation."""

Times = list[float]
Look = Callable[[int, Callable[[int], Any], Callable[[int, Any], None]], None]
"""Called with the position of an operation that has just run (0 is the input), a function that gives the value of any
position up to it that is still to be used, and one that puts another in its place for what comes after."""


@dataclass(frozen=True)
class Timing:
    """Medians over the passes, in seconds: of each operation's forward and backward, in execution order, the loss last.

    ``draws`` says which operations drew random numbers.
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    draws: tuple[bool, ...]


def time_operations(
    segment: Segment,
    x: torch.Tensor,
    y: torch.Tensor,
    loss: Loss,
    passes: int,
    progress: Callable[[], object] = lambda: None,
) -> Timing:
    """Run ``segment``, a whole network, forward and backward ``passes`` times after one to warm up.

    ``segment`` is in train mode. Parameters are left with gradients, buffers with what the passes made of them.
    ``progress`` is called after each pass.
    """
    run = _Run(segment, loss)
    _, _, draws = run.once(x, y, watch_draws=True)
    progress()
    forwards, backwards = [], []
    for _ in range(passes):
        forward, backward, _ = run.once(x, y)
        forwards.append(forward)
        backwards.append(backward)
        progress()
    return Timing(_medians(forwards), _medians(backwards), tuple(draws))


def run_operations(segment: Segment, x: torch.Tensor, y: torch.Tensor, loss: Loss, look: Look) -> None:
    """One pass as in `time_operations`, forward and backward, in which ``look`` sees every value before it is gone."""
    _Run(segment, loss).once(x, y, look=look)


class _Run:
    """The operations of a whole network, ready to be run one by one."""

    def __init__(self, segment: Segment, loss: Loss) -> None:
        graph = segment._graphs[True].graph
        self._inputs = next(node for node in graph.nodes if node.op == "placeholder")
        self._attributes = [node for node in graph.nodes if node.op == "get_attr"]
        self._operations = [node for node in graph.nodes if node.op.startswith("call_")]
        self._output = next(node for node in graph.nodes if node.op == "output")
        self._segment, self._loss = segment, loss
        last: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            for used in node.all_input_nodes:
                last[used] = node
        self._dead: dict[fx.Node, list[fx.Node]] = {}
        for node in self._operations:
            self._dead.setdefault(last.get(node, node), []).append(node)

    def once(
        self, x: torch.Tensor, y: torch.Tensor, watch_draws: bool = False, look: Look | None = None
    ) -> tuple[Times, Times, list[bool]]:
        """One pass: seconds forward, seconds backward, draws."""
        for parameter in self._segment.parameters():
            parameter.grad = None
        values: dict[fx.Node, Any] = {self._inputs: x}
        for node in self._attributes:
            values[node] = _attribute(self._segment, str(node.target))
        forward: Times = []
        draws: list[bool] = []
        functions = _Functions()
        places = [self._inputs, *self._operations]

        def seen(position: int) -> None:
            if look is not None:
                look(
                    position,
                    lambda place: values[places[place]],
                    lambda place, new: values.update({places[place]: new}),
                )

        seen(0)
        for index, node in enumerate(self._operations):
            state = generator_state() if watch_draws else None
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            started = time.perf_counter()
            value = self._call(node, args, kwargs)
            forward.append(time.perf_counter() - started)
            if state is not None:
                draws.append(not torch.equal(state, generator_state()))
            functions.belong_to(index, (value, args, kwargs))
            values[node] = value
            del value, args, kwargs
            for dead in self._dead.get(node, ()):
                del values[dead]
            seen(index + 1)
        output = fx.node.map_arg(self._output.args[0], values.__getitem__)[0]
        values.clear()
        started = time.perf_counter()
        total = self._loss(output, y)
        forward.append(time.perf_counter() - started)
        functions.belong_to(len(self._operations), (total,))
        del output
        return forward, functions.backward(total, len(forward)), [*draws, False]

    def _call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "call_module":
            return self._segment.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


class _Functions:
    """The functions that autograd will run in a backward, each with the operation that it belongs to."""

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}

    def belong_to(self, index: int, values: Any) -> None:
        """What leads to ``values`` and was not there before is operation ``index``'s. Operands count too: one that was
        changed in place leads to something new."""
        stack = [tensor.grad_fn for tensor in tensors_in(values) if tensor.grad_fn is not None]
        while stack:
            function = stack.pop()
            if function not in self._known:
                self._known[function] = index
                stack.extend(before for before, _ in function.next_functions if before is not None)

    def backward(self, total: torch.Tensor, count: int) -> Times:
        """Run it; the seconds by operation."""
        seconds = [0.0] * count
        if total.grad_fn is None:
            return seconds
        clock = [0.0]

        def finished(index: int) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                now = time.perf_counter()
                seconds[index] += now - clock[0]
                clock[0] = now

            return hook

        handles = [function.register_hook(finished(index)) for function, index in self._known.items()]
        clock[0] = time.perf_counter()
        total.backward()  # type: ignore[no-untyped-call]
        for handle in handles:
            handle.remove()
        return seconds


def _attribute(segment: Segment, target: str) -> Any:
    parent, _, name = target.rpartition(".")
    return getattr(segment.get_submodule(parent), name)


def _medians(passes: Sequence[Times]) -> tuple[float, ...]:
    return tuple(statistics.median(times) for times in zip(*passes, strict=True))
