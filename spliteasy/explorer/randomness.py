"""Random numbers of the explorer's own: what it computes beside a notebook must not disturb what trains there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spliteasy.seeding import drawing_from

__all__ = ["OwnGenerator"]


class OwnGenerator(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within the block, and in this thread only, random operations on the CPU draw from a generator seeded here.

    They draw what they would draw after ``torch.manual_seed(seed)``, the steps of a `Trainer` included, and torch's
    global generator, which belongs to the whole process and so to the user's cells, neither moves nor is moved.
    ``before_each``, if given, is called before every operation; what it raises stops the work there.
    """

    def __init__(self, seed: int, before_each: Callable[[], None] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)
        self._before_each = before_each
        self._stack = ExitStack()

    def __enter__(self) -> OwnGenerator:
        """Begin: steps seed this generator too."""
        self._stack.enter_context(drawing_from(self._generator))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """End: all is as it was."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stack.close()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``, with this block's generator where it takes one and was given none."""
        if self._before_each is not None:
            self._before_each()
        given = dict(kwargs or {})
        takes = any(argument.name == "generator" for argument in func._schema.arguments)
        if not takes and torch.Tag.nondeterministic_seeded in func.tags:
            func, takes = _twin(func)
        if takes and given.get("generator") is None:
            given["generator"] = self._generator
        return func(*args, **given)


def _twin(func: Any) -> tuple[Any, bool]:
    """The overload of a random operation that takes a generator besides (`rand` has one of each), if there is one."""
    name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
    twin = getattr(func.overloadpacket, name, None)
    return (func, False) if twin is None else (twin, True)
