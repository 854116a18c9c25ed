"""What really crosses the cuts in a step: the tensors of its four messages, before any codec.

A step's forward and backward run in this process, segment by segment as in training. `crossing_tensors` leaves no
trace: parameters, their ``grad``, buffers, modes and the global generator are as before, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spliteasy.backward import Pass
from spliteasy.boundary import Scalar
from spliteasy.errors import TrainingError
from spliteasy.optimization import Loss, make_loss, scalar_loss
from spliteasy.restoring import untouched
from spliteasy.seeding import StepRandom
from spliteasy.segment import Segment
from spliteasy.splitting import Split

__all__ = ["Tensors", "crossing", "crossing_tensors"]

Tensors = list[torch.Tensor | None]


def crossing_tensors(
    split: Split,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    loss: str | Loss = "cross_entropy",
    seed: int = 0,
    gradients: bool = True,
) -> dict[str, Tensors]:
    """The tensors of each message in the first training step on a batch, without codecs: ``activations`` and
    ``input_gradients``, in a double split ``outputs`` and ``output_gradients`` too.

    They are in the order of the slots that cross; a gradient that nothing asks for is None. Without ``gradients`` the
    last segment and the loss are not computed, and only the forward messages are there. Raises `TrainingError` for
    no split, and what the loss raises.
    """
    if split.b is None:
        raise TrainingError("Expected a split at one cut or two, found none. Nothing crosses a network that is whole.")
    criterion = make_loss(loss)
    with untouched(split), torch.enable_grad():
        split.train().check_modes()
        messages = crossing(split, x, y, criterion if gradients else None, seed, 0)
    return {name: [None if t is None else t.detach().clone() for t in tensors] for name, tensors in messages.items()}


def crossing(
    split: Split, x: torch.Tensor, y: torch.Tensor, loss: Loss | None, seed: int, step: int
) -> dict[str, Tensors]:
    """The messages of step ``step`` by name, on a split in train mode, whose parameters are left with gradients.
    Without ``loss``, those that go forward."""
    route, (a_segment, b_segment, c_segment) = split.routes[True], (split.a, split.b, split.c)
    assert b_segment is not None
    StepRandom(seed, step)
    a = Pass.of_input(a_segment, x)
    messages: dict[str, Tensors] = {"activations": [a.tensors_out[slot] for slot in route.up]}
    if c_segment is None and loss is None:
        return messages
    b = _entered(b_segment, len(a.tensors_out), {slot: (a, slot) for slot in route.up}, a.scalars_out)
    if c_segment is None:
        assert loss is not None
        scalar_loss(loss(b.output, y)).backward()  # type: ignore[no-untyped-call]
        inputs = b.input_gradients()
        return {**messages, "input_gradients": [inputs[slot] for slot in route.up]}
    messages["outputs"] = [b.tensors_out[slot] for slot in route.down]
    if loss is None:
        return messages
    entering = {**{slot: (b, slot) for slot in route.down}, **{slot: (a, first) for slot, first in route.kept.items()}}
    c = _entered(c_segment, len(entering), entering, b.scalars_out)
    scalar_loss(loss(c.output, y)).backward()  # type: ignore[no-untyped-call]
    from_c = c.input_gradients()
    returned: Tensors = [None] * len(b.tensors_out)
    for slot in route.back:
        returned[slot] = from_c[slot]
    inputs, _ = b.backward(returned)
    back = {"output_gradients": [from_c[slot] for slot in route.back], "input_gradients": [inputs[s] for s in route.up]}
    return messages | back


def _entered(segment: Segment, slots: int, sources: dict[int, tuple[Pass, int]], scalars: Sequence[Scalar]) -> Pass:
    """A forward of ``segment``, each entry slot of which comes from a slot of a pass before."""
    tensors: Tensors = [None] * slots
    needs = [False] * slots
    for slot, (before, place) in sources.items():
        tensors[slot], needs[slot] = before.tensors_out[place].detach(), before.needs_gradient[place]
    return Pass(segment, tensors, scalars, needs)
