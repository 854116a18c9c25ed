"""Planes and notes that lie, one at a time, where everything else is in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from spliteasy.codecs.base import PlaneBound, Planes, TensorSpec
from spliteasy.codecs.chain import Chain
from spliteasy.codecs.finite import all_finite
from spliteasy.codecs.guard import expect_refusal, expect_valid

__all__ = ["check_lies", "lies"]


def lies(planes: Planes, bounds: Mapping[str, PlaneBound]) -> Iterator[tuple[str, bool, Planes]]:
    """Sets of planes that are not what was encoded: what was done, whether it must be refused, and the planes.

    ``planes`` are not compressed; ``bounds`` are the chain's. Planes with names that end in ``positions`` or
    ``indices`` and wide items hold indices; a floating plane that is not the values holds scales.
    """
    draw = np.random.default_rng(6)
    yield "a plane too many", True, {**planes, "9.more": torch.zeros(1)}
    for name, plane in planes.items():

        def put(changed: torch.Tensor, name: str = name) -> Planes:
            return {**planes, name: changed}

        yield f"no plane {name}", True, {key: other for key, other in planes.items() if key != name}
        size, dtype = plane.numel() * plane.dtype.itemsize, plane.dtype
        for lie, data in (("zeros", bytes(size)), ("ones", b"\xff" * size), ("noise", draw.bytes(size))):
            if dtype is not torch.bool and size:
                yield f"{name} of {lie}", False, put(torch.frombuffer(bytearray(data), dtype=dtype))
        yield f"{name} one element short", False, put(plane[:-1])
        yield f"{name} one element long", False, put(torch.cat([plane, plane[:1]]))
        yield f"{name} longer than its bound", True, put(torch.zeros(bounds[name].max_numel + 1, dtype=dtype))
        yield f"{name} empty", False, put(plane[:0])
        yield f"{name} in two dimensions", True, put(plane.reshape(1, -1))
        yield f"{name} as float64", dtype is not torch.float64, put(plane.double())
        yield f"{name} reversed", False, put(plane.flip(0))
        if name.endswith(("positions", "indices")) and dtype.itemsize > 1 and not dtype.is_floating_point and size:
            for wrong in (torch.iinfo(dtype).max, *((-1,) if dtype.is_signed else ())):
                yield f"{name} all {wrong}", True, put(torch.full(plane.shape, wrong).to(dtype))
        if dtype.is_floating_point and not name.endswith("values") and size:
            for number in (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, torch.finfo(dtype).max):
                changed = plane.clone()
                changed[int(draw.integers(plane.numel()))] = number
                yield f"{name} with {number} in it", False, put(changed)


def check_lies(chain: Chain, tensor: torch.Tensor) -> None:
    """Planes and notes that lie about ``tensor``, with everything else in order."""
    where = f"{chain!r}, {tensor.dtype} of {tuple(tensor.shape)}"
    spec = TensorSpec.of(tuple(tensor.shape), tensor.dtype)
    plain = Chain(chain.tensor_codecs)
    planes, notes = plain.encode_planes(tensor)
    for lie, refuse, wrong in lies(planes, plain.bounds(spec)):
        call = partial(plain.decode_planes, wrong, notes, spec)
        if refuse:
            expect_refusal(call, f"{where}: {lie}")
            continue
        decoded = expect_valid(call, f"{where}: {lie}", spec)
        if decoded is not None and ("nan" in lie or "inf" in lie):
            assert not all_finite(decoded), f"{where}: {lie}, yet a finite tensor came back; refuse it"
    planes, notes = chain.encode_planes(tensor)
    unfit: list[dict[str, Any]] = [{"layout": [0, 0]}, {"layout": 7}, {"packed": []}, {"more": 1}]
    for wrong_notes in (*unfit, {"packed": {"values": ["F32", 1 << 50]}}):
        expect_refusal(partial(chain.decode_planes, planes, wrong_notes, spec), f"{where}: notes {wrong_notes}")
    for name, (dtype, *sizes) in notes.get("packed", {}).items():
        for note in ([dtype, 1 << 50, *sizes[1:]], [dtype, -1, *sizes[1:]], [dtype], ["C64", *sizes], None):
            lying = {**notes, "packed": {**notes["packed"], name: note}}
            expect_refusal(partial(chain.decode_planes, planes, lying, spec), f"{where}: {name} noted as {note}")
