"""A traced network for the explorer: its cuts, and which tensors each message of a training step would carry."""

from __future__ import annotations

import torch
from torch import fx, nn

from spliteasy.cuts import CutTensor, list_cuts
from spliteasy.errors import ModelError
from spliteasy.explorer.randomness import OwnGenerator
from spliteasy.models import load_model
from spliteasy.program import Program
from spliteasy.propagation import tensors_in
from spliteasy.traffic import Traffic, first_private

__all__ = ["Network", "blueprint"]


def blueprint(name: str, num_classes: int | None) -> nn.Module:
    """The network ``name`` without any values, on the meta device, which takes a hundredth of the time.

    What cannot be built there is built on the CPU and moved. torch's global generator stays as it was. Raises
    `ModelError` as `load_model` does.
    """
    try:
        with torch.device("meta"):
            return load_model(name, num_classes=num_classes)
    except ModelError:
        with OwnGenerator(0):
            return load_model(name, num_classes=num_classes).to("meta")


class Network:
    """A network traced once, in which every cut can then be looked at without tracing again.

    ``cuts`` are those of `find_cuts`. Raises `TraceError` and `DataError` as `find_cuts` does.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...], batch: int) -> None:
        program = Program(model, input_shape, batch)
        self.cuts = list_cuts(program)
        self.input_shape, self.batch = program.input_shape, batch
        self._mode = program.train
        self._traffic = Traffic(program, self.cuts)
        self.first_private = first_private(program, self.cuts)
        output = [tuple(tensor.shape) for tensor in tensors_in(self._value(self._mode.output.args[0]))]
        self.classes = output[0][1] if len(output) == 1 and len(output[0]) == 2 else None
        whole = self.cuts[0]
        self.params, self.macs = whole.params_before + whole.params_after, whole.macs_before + whole.macs_after

    def traffic(self, first: int, last: int | None = None) -> dict[str, tuple[CutTensor, ...]]:
        """The tensors of each message of one step, for one cut (A|B) or two (A|B|C), given by number, as
        `spliteasy.traffic.Traffic.between` finds them. Raises `CutError` for two cuts out of order."""
        return self._traffic.between(first, last)

    def _value(self, node: object) -> object:
        if isinstance(node, fx.Node):
            return self._mode.propagation.values[node]
        if isinstance(node, (tuple, list)):
            return tuple(self._value(item) for item in node)
        return tuple(self._value(item) for item in node.values()) if isinstance(node, dict) else node
