"""The notebook explorer: pick a network and a cut, see what crosses the wire, and what a codec saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from spliteasy.explorer.notebook import Explorer
    from spliteasy.wire import Codecs

__all__ = ["explore"]


def explore(
    model: str | nn.Module = "resnet50",
    input_shape: Sequence[int] | None = None,
    batch: int = 32,
    num_classes: int | None = None,
    at: str | Sequence[str] | None = None,
    codecs: Codecs | str | None = None,
) -> Explorer:
    """An interactive picture of where a network can be cut; let it be the last line of a notebook cell.

    Arguments:
        model: a name that `load_model` takes, or an `nn.Module` of your own.
        input_shape: without the batch; None for what the network is made for.
        batch: samples in a training step.
        num_classes: width of the output of a network by name; None for its own.
        at: one cut by name for a single split, two for a double split; None for the first pooling.
        codecs: chains of the messages to begin with, or one for all; None for half precision.

    Running a cell again closes the view that it showed before; what was chosen there stays, unless the arguments
    changed.

    Raises:
        ModelError, TraceError, DataError, CutError, CodecError: as `load_model`, `find_cuts` and `codec` do. Later, in
            the view, messages take the place of errors, and the last good choice stays.
    """
    from spliteasy.explorer.notebook import explorer_of_this_cell
    from spliteasy.explorer.state import ExplorerState

    def state(before: ExplorerState | None) -> ExplorerState:
        if before is not None and (isinstance(model, str) or before.holds(model)):
            return before
        made = ExplorerState(model, input_shape, batch, num_classes, at, codecs)
        if before is not None:
            made.take_over(before)
        return made

    shown = model if isinstance(model, str) else type(model).__qualname__
    return explorer_of_this_cell(repr((shown, input_shape, batch, num_classes, at, codecs)), state)
