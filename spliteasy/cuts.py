"""Every place where a network can be cut, and what would cross the wire there."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import fx, nn

from spliteasy.errors import CutError, suggest
from spliteasy.program import Program
from spliteasy.propagation import tensors_in

if TYPE_CHECKING:
    import pandas

__all__ = ["Cut", "CutTensor", "Cuts", "find_cuts"]

_SHOWN = 60


@dataclass(frozen=True)
class CutTensor:
    """One tensor alive at a cut: the operation that made it, its shape with the batch first, and its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """The number of values: B·R·C·F for a feature map."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The raw size in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Cut:
    """A place between two operations.

    ``name`` is the operation before the cut, ``operation`` its kind (``Conv2d``, ``add``), ``tensors`` the boundary.
    ``params_before`` and ``params_after`` count parameters, ``macs_before`` and ``macs_after`` the multiply-accumulates
    of one sample's forward pass, on either side. ``nbytes`` is the raw size of the boundary for the whole batch.
    """

    name: str
    index: int
    operation: str
    tensors: tuple[CutTensor, ...]
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors at the boundary, uncompressed."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def shapes(self) -> str:
        """The shapes as text: ``32·64·56·56``, several joined by ``+``."""
        return " + ".join("·".join(str(size) for size in tensor.shape) for tensor in self.tensors)


class Cuts(Sequence[Cut]):
    """The cuts of one network in execution order: by position, by name, or by the name of a module (its last cut)."""

    def __init__(self, cuts: Sequence[Cut], network: str, input_shape: tuple[int, ...], batch: int) -> None:
        self._cuts = list(cuts)
        self._by_name = {cut.name: cut for cut in self._cuts}
        self.network, self.input_shape, self.batch = network, input_shape, batch

    @property
    def names(self) -> list[str]:
        """The names of all cuts, in execution order."""
        return list(self._by_name)

    def __len__(self) -> int:
        return len(self._cuts)

    @overload
    def __getitem__(self, key: int | str) -> Cut: ...
    @overload
    def __getitem__(self, key: slice) -> Cuts: ...
    def __getitem__(self, key: int | str | slice) -> Cut | Cuts:
        if isinstance(key, slice):
            return Cuts(self._cuts[key], self.network, self.input_shape, self.batch)
        if isinstance(key, int):
            return self._cuts[key]
        if key in self._by_name:
            return self._by_name[key]
        inside = [cut for cut in self._cuts if cut.name.startswith(f"{key}.")]
        if not inside:
            raise CutError(
                f"Expected one of the {len(self)} cuts of {self.network}, found {key!r}.{suggest(key, self._by_name)}"
            )
        return inside[-1]

    def __contains__(self, item: object) -> bool:
        return item in self._by_name if isinstance(item, str) else item in self._cuts

    def __iter__(self) -> Iterator[Cut]:
        return iter(self._cuts)

    def to_pandas(self) -> pandas.DataFrame:
        """One row a cut: name, operation, shapes, bytes, and parameters and multiply-accumulates on either side."""
        import pandas

        return pandas.DataFrame(
            [
                {
                    "index": cut.index,
                    "name": cut.name,
                    "operation": cut.operation,
                    "shapes": cut.shapes,
                    "tensors": len(cut.tensors),
                    "nbytes": cut.nbytes,
                    "params_before": cut.params_before,
                    "params_after": cut.params_after,
                    "macs_before": cut.macs_before,
                    "macs_after": cut.macs_after,
                }
                for cut in self._cuts
            ]
        ).set_index("index")

    def __repr__(self) -> str:
        rows = [self._header(), *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                text.ljust(width) if column in (1, 2, 3) else text.rjust(width)
                for column, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        def line(row: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row) + "</tr>"

        body = "".join(line(row, "td") for row in self._rows())
        return (
            f"<table><caption>{html.escape(self._title())}</caption>"
            f"<thead>{line(self._header(), 'th')}</thead><tbody>{body}</tbody></table>"
        )

    def _title(self) -> str:
        return f"{self.network}: {len(self)} cuts for inputs of {self.batch} × {'·'.join(map(str, self.input_shape))}"

    @staticmethod
    def _header() -> list[str]:
        return ["index", "name", "operation", "B·F·R·C", "MB", "params before", "MACs before"]

    def _rows(self) -> list[list[str]]:
        shown = self._cuts
        skipped = len(shown) - _SHOWN
        rows = [
            [
                str(cut.index),
                cut.name,
                cut.operation,
                cut.shapes if len(cut.tensors) <= 3 else f"{len(cut.tensors)} tensors",
                f"{cut.nbytes / 1e6:.3f}",
                _share(cut.params_before, cut.params_after),
                _share(cut.macs_before, cut.macs_after),
            ]
            for cut in shown
        ]
        if skipped <= 0:
            return rows
        gap = ["…", f"{skipped} more", "see .to_pandas()", "", "", "", ""]
        return [*rows[: _SHOWN // 2], gap, *rows[-_SHOWN // 2 :]]


def find_cuts(
    model: nn.Module, input_shape: Sequence[int], batch: int = 1, *, dtype: torch.dtype | None = None
) -> Cuts:
    """Every cut of ``model`` for inputs of shape ``(batch, *input_shape)``, in execution order.

    Nothing is computed and the model is not touched: a copy without data is traced in train and in eval mode
    (`spliteasy.tracing`) and followed on the meta device (`spliteasy.propagation`). ``dtype`` is the input's, by
    default that of the parameters; give ``torch.long`` for a network that starts with an embedding.

    Raises `TraceError` when the operations or their shapes cannot be listed, `DataError` for a batch below 1 or a
    shape that is none.
    """
    program = Program(model, input_shape, batch, dtype)
    return list_cuts(program)


def list_cuts(program: Program) -> Cuts:
    """The cuts of a traced program."""
    mode = program.train
    wanted = set(program.cut_names)
    params, macs = _running_parameters(program), _running_macs(program)
    dies = mode.dies()
    alive: list[int] = []
    cuts: list[Cut] = []
    for position, name in enumerate(mode.names):
        alive = [index for index in [*alive, position] if dies[index] > position]
        if name not in wanted:
            continue
        tensors = {
            id(tensor): CutTensor(mode.names[index], tuple(tensor.shape), tensor.dtype)
            for index in alive
            for tensor in tensors_in(mode.propagation.values[mode.nodes[index]])
        }
        cuts.append(
            Cut(
                name=name,
                index=len(cuts),
                operation=_kind(mode.nodes[position], program.model),
                tensors=tuple(tensors.values()),
                params_before=params[position],
                params_after=params[-1] - params[position],
                macs_before=macs[position] // program.batch,
                macs_after=(macs[-1] - macs[position]) // program.batch,
            )
        )
    return Cuts(cuts, type(program.model).__name__, program.input_shape, program.batch)


def _running_parameters(program: Program) -> list[int]:
    """Parameters used up to each position; shared ones count once, where they are used first."""
    seen: set[int] = set()
    total, running = 0, []
    for node in program.train.nodes:
        used: list[nn.Parameter] = []
        if node.op == "call_module":
            used.extend(program.model.get_submodule(str(node.target)).parameters())
        for operand in node.all_input_nodes:
            if operand.op == "get_attr":
                value = _resolve(program.model, str(operand.target))
                used.extend([value] if isinstance(value, nn.Parameter) else [])
        for parameter in used:
            if id(parameter) not in seen:
                seen.add(id(parameter))
                total += parameter.numel()
        running.append(total)
    return running


def _running_macs(program: Program) -> list[int]:
    total, running = 0, []
    for node in program.train.nodes:
        total += program.train.propagation.macs.get(node, 0)
        running.append(total)
    return running


def _resolve(model: nn.Module, target: str) -> Any:
    value: Any = model
    for part in target.split("."):
        value = getattr(value, part, None)
    return value


def _kind(node: fx.Node, model: nn.Module) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "call_module":
        return type(model.get_submodule(str(node.target))).__name__
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)).strip(
        "_"
    )


def _share(before: int, after: int) -> str:
    total = before + after
    return f"{100 * before / total:.1f} %" if total else "0 %"
