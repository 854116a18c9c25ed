"""Hold the traced operations against what the network's own forward runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spliteasy.errors import TraceError
from spliteasy.propagation import Kernel, Propagation, on_meta
from spliteasy.tracing import Attributes, Trace

__all__ = ["verify"]


def verify(trace: Trace, propagation: Propagation, inputs: torch.Tensor) -> None:
    """Compare the kernels of the traced operations with those of the network's own forward, both on the meta device.

    A forward that asks what it was given (``isinstance(x, torch.Tensor)``) tells a tracer something else than a tensor,
    and takes another path without a word: `TraceError` then. A forward that looks at values does not run on the meta
    device, and is compared with nothing.
    """
    saved = Attributes(trace.network)
    try:
        with on_meta(inputs) as counter:
            trace.network(inputs)
    except Exception:  # it looks at values, and there are none
        return
    finally:
        saved.restore()
    ours, theirs = propagation.path, counter.path
    if ours == theirs:
        return
    pairs = zip(ours, theirs, strict=False)
    at = next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(ours), len(theirs)))
    raise TraceError(
        f"The forward of {type(trace.network).__name__} takes another path when it is traced: after "
        f"{_shown(ours, at - 1)} it runs {_shown(theirs, at)}, and {_shown(ours, at)} was traced. Expected a forward "
        "that does not ask what its input is, as isinstance(x, torch.Tensor) does. Move that line into a module of its "
        "own."
    )


def _shown(path: Sequence[Kernel], index: int) -> str:
    return str(path[index]) if 0 <= index < len(path) else "nothing"
