"""The gradient across a cut: the vector-Jacobian product, or the paper's auxiliary label.

Automatic differentiation stops where the graph is cut. A `Pass` is one forward of one segment that can be given the
gradients of its outputs and answers with those of its inputs, so that a backward goes on where the one after stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from spliteasy.boundary import Scalar
from spliteasy.errors import TrainingError, suggest
from spliteasy.segment import Segment
from spliteasy.strides import laid_out, offset_of

__all__ = ["METHODS", "Backward", "Pass", "auxiliary_label", "backward_method", "exact"]

Tensors = Sequence[torch.Tensor | None]
Begun = Sequence[tuple[nn.Parameter, torch.Tensor]]
"""Parameters with the gradients that they have already, from a later segment."""
Backward = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor], Begun], float]
"""Takes outputs, their gradients and what was begun, runs the backward, returns the relative L2 error of the gradients
it used."""


def exact(outputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], begun: Begun = ()) -> float:
    """The vector-Jacobian product, as autograd computes it inside a whole network. The error is 0."""
    torch.autograd.backward([*outputs, *(p for p, _ in begun)], [*gradients, *(g for _, g in begun)])
    return 0.0


def auxiliary_label(outputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], begun: Begun = ()) -> float:
    """The paper's way: an auxiliary label ĉ = c − g and the loss ½ Σ (ĉ − c)², whose gradient at c is c − ĉ ≈ g.

    Palanisamy et al., SplitEasy, HotMobile '21, section 2.1; its Eq. 5 prints ĉ = c + g, which would climb the loss.
    c − (c − g) rounds g to the float spacing around c; the returned relative L2 error says how much was lost.
    """
    labels = [(output - gradient).detach() for output, gradient in zip(outputs, gradients, strict=True)]
    with torch.no_grad():
        triples = zip(outputs, labels, gradients, strict=True)
        lost = sum(float(((c - label) - g).double().square().sum()) for c, label, g in triples)
        total = sum(float(gradient.double().square().sum()) for gradient in gradients)
    loss = sum(((label - output).square().sum() / 2 for output, label in zip(outputs, labels, strict=True)))
    if isinstance(loss, torch.Tensor):
        torch.autograd.backward([loss, *(p for p, _ in begun)], [torch.ones_like(loss), *(g for _, g in begun)])
    return float((lost / total) ** 0.5) if total else 0.0


METHODS: dict[str, Backward] = {"exact": exact, "auxiliary-label": auxiliary_label}


def backward_method(name: str) -> Backward:
    """The method of this name. Raises `TrainingError` for another."""
    if not isinstance(name, str) or name not in METHODS:
        near = suggest(name, METHODS) if isinstance(name, str) else ""
        raise TrainingError(f"Expected backward as one of {sorted(METHODS)}, found {name!r}.{near}")
    return METHODS[name]


class Pass:
    """One forward of one segment, with autograd recording, ready for its backward.

    ``tensors`` are the entry slots (None where this side lacks one that it does not use) and ``needs_gradient`` says
    which of them had a gradient to receive; slots that the segment changes in place are copied first. Segment A takes
    the network's input instead (`Pass.of_input`). ``tensors_out`` and ``scalars_out`` are the exit slots; the last
    segment has ``output`` instead.
    """

    def __init__(
        self, segment: Segment, tensors: Tensors, scalars: Sequence[Scalar], needs_gradient: Sequence[bool]
    ) -> None:
        entry = segment.entry[segment.training]
        assert entry is not None
        changed = segment.changed[segment.training]
        own = [
            laid_out(t, t.stride(), offset_of(t)) if t is not None and slot in changed else t
            for slot, t in enumerate(tensors)
        ]
        self._received: list[torch.Tensor | None] = []
        self._wanted = [slot for slot, needed in enumerate(needs_gradient) if needed and own[slot] is not None]
        if self._wanted:
            entered = _Enter.apply(self._received, torch.empty((), requires_grad=True), *(own[s] for s in self._wanted))
            for slot, tensor in zip(self._wanted, entered, strict=True):
                own[slot] = tensor
        self._slots = len(own)
        self._finish(segment, entry.unpack(own, scalars))

    @classmethod
    def of_input(cls, segment: Segment, x: torch.Tensor) -> Pass:
        """A forward of the first segment."""
        result = cls.__new__(cls)
        result._received, result._wanted, result._slots = [], [], 0
        result._finish(segment, (x,))
        return result

    def _finish(self, segment: Segment, values: Sequence[Any]) -> None:
        self._segment = segment
        results = segment.run(values)
        exit = segment.exit[segment.training]
        self.output: Any = results[0] if exit is None else None
        self.tensors_out, self.scalars_out = exit.pack(results) if exit is not None else ([], [])

    @property
    def needs_gradient(self) -> list[bool]:
        """Which exit slots have a gradient to receive."""
        return [isinstance(tensor, torch.Tensor) and tensor.requires_grad for tensor in self.tensors_out]

    def backward(self, gradients: Tensors, method: Backward = exact) -> tuple[list[torch.Tensor | None], float]:
        """Run the backward from the exit slots' gradients (None: missing); the entry slots' gradients and the error.

        A parameter that a later segment used too has a gradient already. Autograd on the whole network would have begun
        with that one and added this segment's uses one by one, and so does this: any other order of summing differs in
        the last bit.
        """
        pairs = [
            (tensor, gradient)
            for tensor, gradient in zip(self.tensors_out, gradients, strict=True)
            if gradient is not None and tensor.requires_grad
        ]
        if not pairs:
            return self.input_gradients(), 0.0
        begun = [(p, p.grad) for p in self._segment.parameters() if p.requires_grad and p.grad is not None]
        for parameter, _ in begun:
            parameter.grad = None
        tensors, own = zip(*pairs, strict=True)
        error = method(tensors, own, begun)
        return self.input_gradients(), error

    def input_gradients(self) -> list[torch.Tensor | None]:
        """The entry slots' gradients after a backward; a gradient that nothing asked for stays missing."""
        gradients: list[torch.Tensor | None] = [None] * self._slots
        for slot, gradient in zip(self._wanted, self._received, strict=False):
            gradients[slot] = gradient
        return gradients


class _Enter(torch.autograd.Function):
    """Tensors enter a graph: not leaves, so that a segment may begin in place, and their gradients are put into a list.

    The graph holds that list and must not hold the pass, which holds the graph: Python's collector does not see through
    autograd's nodes, so such a circle would keep the tensors of every step for ever.
    """

    @staticmethod
    def forward(ctx: Any, received: list[torch.Tensor | None], token: torch.Tensor, *tensors: torch.Tensor) -> Any:
        ctx.received = received
        ctx.set_materialize_grads(False)
        return tuple(tensor.detach() for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        ctx.received[:] = gradients
        return (None, None, *[None] * len(gradients))
