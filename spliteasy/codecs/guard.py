"""What a codec may do about a frame that is damaged or lies: refuse it with ``FrameError``, or decode a tensor of the
agreed shape and dtype, in little memory; nothing else."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from spliteasy.codecs.base import TensorSpec
from spliteasy.errors import FrameError

__all__ = ["ALLOWED", "expect_refusal", "expect_valid"]

ALLOWED = 32 << 20
"""Bytes that decoding a small damaged frame may allocate."""


def expect_refusal(call: Callable[[], object], where: str) -> None:
    """``call`` must raise ``FrameError``, in little memory."""
    assert _guarded(call, where) is None, f"{where}: expected a FrameError, but it was decoded"


def expect_valid(call: Callable[[], torch.Tensor], where: str, spec: TensorSpec | None = None) -> torch.Tensor | None:
    """``call`` must raise ``FrameError`` (None is returned then) or give a tensor, of ``spec`` if there is one."""
    found = _guarded(call, where)
    if found is None:
        return None
    assert isinstance(found, torch.Tensor), f"{where}: expected a tensor, found {type(found).__name__}"
    if spec is not None:
        right = (tuple(found.shape), found.dtype) == (spec.shape, spec.dtype)
        assert right, f"{where}: {found.dtype} of {tuple(found.shape)} came back"
    return found


def _guarded(call: Callable[[], object], where: str) -> object:
    """What ``call`` returns, None if it refuses with ``FrameError``. It must do either within ``ALLOWED`` bytes of
    memory, Python's and NumPy's (which tracemalloc sees) and PyTorch's."""
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        with _Allocations() as allocations:
            return call()
    except FrameError:
        return None
    except Exception as error:
        raise AssertionError(f"{where}: expected a FrameError, found {type(error).__name__}: {error}") from error
    finally:
        largest = max(tracemalloc.get_traced_memory()[1] - before, allocations.largest)
        if not tracing:
            tracemalloc.stop()
        assert largest <= ALLOWED, f"{where}: {largest} bytes were allocated"


class _Allocations(TorchFunctionMode):
    """The largest storage among the tensors that PyTorch's functions return, which tracemalloc does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result
