"""A traced network for the explorer: its cuts, and which tensors each message of a training step would carry."""

from __future__ import annotations

import torch
from torch import fx, nn

from spliteasy.cuts import CutTensor, list_cuts
from spliteasy.errors import CutError, ModelError
from spliteasy.explorer.randomness import OwnGenerator
from spliteasy.models import load_model
from spliteasy.program import Mode, Program
from spliteasy.propagation import storage_of, tensors_in

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
        self._with_gradient = _with_gradient(program.train, model)
        self.first_private = next(
            (cut.index for cut in self.cuts if not _holds_input(program, cut.name)), len(self.cuts)
        )
        output = [tuple(tensor.shape) for tensor in tensors_in(self._value(self._mode.output.args[0]))]
        self.classes = output[0][1] if len(output) == 1 and len(output[0]) == 2 else None
        whole = self.cuts[0]
        self.params, self.macs = whole.params_before + whole.params_after, whole.macs_before + whole.macs_after

    def traffic(self, first: int, last: int | None = None) -> dict[str, tuple[CutTensor, ...]]:
        """The tensors of each message of one step, for one cut (A|B) or two (A|B|C), given by number.

        A tensor that B neither reads nor changes stays on the device, and only floating tensors that depend on a
        parameter have a gradient to send back. Raises `CutError` for two cuts out of order.
        """
        lo = self._mode.position[self.cuts[first].name]
        before = self._alive(lo)
        if last is None:
            return {"activations": _listed(before), "input_gradients": self._gradients(before)}
        if last <= first:
            raise CutError(f"Expected the second cut behind the first, found cut {last} after cut {first}.")
        hi = self._mode.position[self.cuts[last].name]
        nodes = self._mode.nodes[lo + 1 : hi + 1]
        values, changes = self._mode.propagation.values, self._mode.propagation.mutates
        changed = {storage for node in nodes for storage in changes[node]}
        read = {id(tensor) for node in nodes for used in node.all_input_nodes for tensor in tensors_in(values[used])}
        up = {key: item for key, item in before.items() if key in read or storage_of(item[1]) in changed}
        after = self._alive(hi)
        kept = {key for key, item in after.items() if key in before and storage_of(item[1]) not in changed}
        back = {key: item for key, item in after.items() if key not in kept or key in up}
        return {
            "activations": _listed(up),
            "outputs": _listed({key: item for key, item in after.items() if key not in kept}),
            "output_gradients": self._gradients(back),
            "input_gradients": self._gradients(up),
        }

    def _alive(self, position: int) -> dict[int, tuple[str, torch.Tensor]]:
        """The distinct tensors alive at a position, by identity, each with its name."""
        found: dict[int, tuple[str, torch.Tensor]] = {}
        for node in self._mode.alive(position):
            name = self._mode.names[self._mode.nodes.index(node)]
            for tensor in tensors_in(self._value(node)):
                found.setdefault(id(tensor), (name, tensor))
        return found

    def _gradients(self, tensors: dict[int, tuple[str, torch.Tensor]]) -> tuple[CutTensor, ...]:
        return _listed({key: item for key, item in tensors.items() if key in self._with_gradient})

    def _value(self, node: object) -> object:
        if isinstance(node, fx.Node):
            return self._mode.propagation.values[node]
        if isinstance(node, (tuple, list)):
            return tuple(self._value(item) for item in node)
        return tuple(self._value(item) for item in node.values()) if isinstance(node, dict) else node


def _listed(tensors: dict[int, tuple[str, torch.Tensor]]) -> tuple[CutTensor, ...]:
    return tuple(CutTensor(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.values())


def _holds_input(program: Program, cut: str) -> bool:
    """Whether the input, or a view of it, is alive at the cut in either mode."""
    for mode in (program.train, program.eval):
        values = mode.propagation.values
        source = storage_of(values[mode.nodes[0]])
        alive = mode.alive(mode.position[cut])
        if any(storage_of(tensor) == source for node in alive for tensor in tensors_in(values[node])):
            return True
    return False


def _with_gradient(mode: Mode, model: nn.Module) -> set[int]:
    """The identities of the floating tensors that some parameter with a gradient leads to."""
    modules = dict(model.named_modules())
    reached: set[fx.Node] = set()
    for node in mode.output.graph.nodes:
        parameters: list[object] = []
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            parameters = [getattr(modules.get(owner), name, None)]
        elif node.op == "call_module":
            parameters = list(modules[str(node.target)].parameters())
        trained = any(isinstance(value, nn.Parameter) and value.requires_grad for value in parameters)
        if trained or any(used in reached for used in node.all_input_nodes):
            reached.add(node)
    values = mode.propagation.values
    tensors = [tensor for node in mode.nodes if node in reached for tensor in tensors_in(values[node])]
    return {id(tensor) for tensor in tensors if tensor.is_floating_point()}
