"""What a split cannot do exactly, refused with `SplitError` before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from spliteasy.boundary import Boundary
from spliteasy.errors import SplitError
from spliteasy.program import Mode, Program
from spliteasy.propagation import storage_of, tensors_in
from spliteasy.tracer import has_hooks

__all__ = ["keeps_state_apart", "refuse_aliases", "refuse_input_at_boundary", "refuse_what_cannot_be_exact"]

Spans = Sequence[tuple[int, int]]
"""The positions (after, up to) of each segment."""


def refuse_aliases(mode: Mode, spans: Spans, boundaries: Sequence[Boundary]) -> None:
    """Memory that is changed behind a cut must not be known by two names there: across the wire they are two copies.

    The names are those of tensors at the cut, and of parameters and buffers, which stay where they are.
    """
    state = {
        storage_of(tensor): str(node.target)
        for node, value in mode.propagation.values.items()
        if node.op == "get_attr"
        for tensor in tensors_in(value)
    }
    for boundary, (lo, _) in zip(boundaries, spans[1:], strict=True):
        changed_later = mode.mutated(lo, len(mode.nodes) - 1)
        owners = dict(state)
        for rule, storage in zip(boundary.slots, boundary.storages, strict=True):
            if storage in owners and storage in changed_later:
                raise SplitError(
                    f"'{owners[storage]}' and '{rule.name}' share memory at this cut, and an operation behind it "
                    "changes it in place, which the other would not see across the wire. Cut after that operation, or "
                    "make it not in-place."
                )
            owners[storage] = rule.name


def refuse_what_cannot_be_exact(program: Program, spans: dict[bool, list[tuple[int, int]]]) -> None:
    """What the operations do not say (hooks, Python, chance), and state that two sides would each have of their own."""
    network = type(program.model).__name__
    if has_hooks(program.model):
        raise SplitError(
            f"Hooks of {network} itself would never run in its segments. Remove them, or put them on inner modules."
        )
    for training in (True, False):
        mode = program.mode(training)
        if mode.trace.random_constants:
            raise SplitError(
                f"The forward of {network} draws random numbers while it is traced; split, it would repeat the same "
                "ones in every step. Draw them in a module of its own that reads self.training, or make their shape "
                "follow from the input (torch.rand_like(x))."
            )
        if mode.trace.assigned is not None:
            raise SplitError(
                f"The forward of {network} assigns its attribute '{mode.trace.assigned}', which the next one reads, "
                "and its segments would not. Change a buffer in place instead (self.mean.mul_(0.9)), or do it in a "
                "module of its own."
            )
        _refuse_changed_constants(mode)
        _refuse_shared_state(program, mode, spans[training])


def refuse_input_at_boundary(program: Program, cuts: Sequence[str]) -> None:
    """In a double split inputs stay on the device: neither they nor views of them may be alive at a cut."""
    for training in (True, False):
        mode = program.mode(training)
        holding = [index for index in range(len(mode.nodes)) if _shares_input(mode, index)]
        last = max(mode.dies()[index] for index in holding)
        for cut in cuts:
            if any(index <= mode.position[cut] < mode.dies()[index] for index in holding):
                reader = mode.names[last] if last < len(mode.names) - 1 else None
                advice = "Use" if reader is None else f"Cut after '{reader}', the last operation that reads it, or use"
                raise SplitError(
                    f"At the cut '{cut}' the input itself is still alive, and in a double split inputs stay on the "
                    f"device. {advice} a single split."
                )


def _shares_input(mode: Mode, position: int) -> bool:
    values = mode.propagation.values
    source = storage_of(values[mode.nodes[0]])
    return any(storage_of(tensor) == source for tensor in tensors_in(values[mode.nodes[position]]))


def _refuse_changed_constants(mode: Mode) -> None:
    """A tensor that the forward makes anew each time is made once for the operations: it must stay as it is."""
    changed = mode.mutated(-1, len(mode.nodes) - 1)
    for node, value in mode.propagation.values.items():
        if node.op == "get_attr" and node.target in mode.trace.constants and storage_of(value) in changed:
            user = next((mode.trace.names[user] for user in node.users if user in mode.trace.names), node.name)
            raise SplitError(
                f"The forward makes a tensor and changes it in place at '{user}'; its operations would go on with the "
                "changed one in the next step. Write it as a new tensor (total = total + x), or in a module of its own."
            )


def _refuse_shared_state(program: Program, mode: Mode, spans: Spans) -> None:
    """Parameters, and buffers that change, belong to the device or to the server."""
    users: dict[int, tuple[str, bool]] = {}
    layered = _layered(program, mode)
    for index, (lo, hi) in enumerate(spans):
        on_server = index == 1
        for target, tensor in _state_of(program, mode, lo, hi, layered):
            owner, elsewhere = users.setdefault(id(tensor), (target, on_server))
            if elsewhere != on_server:
                names = f"'{owner}'" if owner == target else f"'{owner}', which is '{target}' too,"
                raise SplitError(
                    f"{names} is a parameter or buffer that the device and the server both use; two copies trained "
                    "apart would not equal one. Cut so that both uses fall on one side."
                )


def keeps_state_apart(program: Program) -> bool:
    """Whether no parameter or buffer is used by two operations, so that no cuts at all can share one between device and
    server. False where that is not certain."""
    for training in (True, False):
        mode, end = program.mode(training), len(program.mode(training).nodes)
        state = [id(tensor) for _, tensor in _state_of(program, mode, -1, end, _layered(program, mode))]
        if len(set(state)) < len(state) or any(len(node.users) > 1 for node in mode.attributes(-1, end)):
            return False
    return True


def _layered(program: Program, mode: Mode) -> set[int]:
    """The buffers that layers hold."""
    return {
        id(buffer)
        for node in mode.nodes
        if node.op == "call_module"
        for buffer in program.model.get_submodule(str(node.target)).buffers()
    }


def _state_of(program: Program, mode: Mode, lo: int, hi: int, layered: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers that a segment uses, except buffers that nothing changes: no operation, and no layer
    (``layered`` are those that layers hold)."""
    for node in mode.nodes[max(lo, 0) + 1 : hi + 1]:
        if node.op == "call_module":
            module = program.model.get_submodule(str(node.target))
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                yield f"{node.target}.{name}", tensor
    mutated = mode.mutated(-1, len(mode.nodes) - 1)
    for node in mode.attributes(max(lo, 0), hi):
        value = program.attribute(mode, str(node.target))
        changed = any(storage_of(t) in mutated for t in tensors_in(mode.propagation.values[node]))
        if isinstance(value, nn.Parameter) or (isinstance(value, torch.Tensor) and (changed or id(value) in layered)):
            yield str(node.target), value
