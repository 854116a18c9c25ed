"""What autograd saves for the backward of each traced operation, found on the meta device: sizes, no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from spliteasy.program import Mode, Program
from spliteasy.propagation import Replay, storage_of, tensors_in

__all__ = ["Saved", "saved_storages"]


@dataclass(frozen=True)
class Saved:
    """``by_position[k]`` has the storages that operation k saves, with their bytes; ``values`` what each returned.

    Two tensors share a storage exactly when they are views of one memory, as an in-place result is of its operand.
    Parameters and buffers are not among them.
    """

    by_position: list[dict[int, int]]
    values: Mapping[fx.Node, Any]

    def between(self, start: int, stop: int) -> dict[int, int]:
        """The storages that the operations from ``start`` up to before ``stop`` save, each once."""
        return {key: size for saved in self.by_position[start:stop] for key, size in saved.items()}

    def boundary(self, mode: Mode, lo: int, hi: int) -> dict[int, int]:
        """The storages that enter after ``lo`` (the input at −1) or leave at ``hi`` (the output behind the last
        operation), with their bytes."""
        entering = mode.nodes[:1] if lo < 0 else mode.alive(lo)
        leaving = mode.alive(hi) if hi < len(mode.nodes) else mode.output.all_input_nodes
        found = [tensor for node in [*entering, *leaving] for tensor in tensors_in(self.values[node])]
        return {storage_of(tensor): int(tensor.untyped_storage().nbytes()) for tensor in found}


def saved_storages(program: Program) -> Saved:
    """Run the operations of train mode on the meta device with gradients on, watching what is saved.

    A module that cannot run there, because its Python looks at values, is taken to save what it returns.
    """
    mode = program.train
    replay = Replay(mode.trace, mode.propagation)
    inputs = torch.empty((program.batch, *program.input_shape), dtype=program.dtype, device="meta")
    layers = [*mode.trace.network.parameters(), *mode.trace.network.buffers()]
    own = {storage_of(tensor) for tensor in layers}
    now: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        replay.alive.append(tensor.untyped_storage())  # or its place would be given to another
        if storage_of(tensor) not in own:
            now[storage_of(tensor)] = int(tensor.untyped_storage().nbytes())
        return tensor

    by_position: dict[fx.Node, dict[int, int]] = {}
    with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
        for node in mode.trace.graph.nodes:
            now.clear()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                unknown = replay.step(node, inputs)
            if unknown:
                now |= {storage_of(t): int(t.untyped_storage().nbytes()) for t in tensors_in(replay.values[node])}
            by_position[node] = dict(now)
    return Saved([by_position[node] for node in mode.nodes], replay.values)
