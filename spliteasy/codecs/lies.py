"""Planes and notes that lie, one at a time, where everything else is in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from spliteasy.codecs.base import PlaneBound, Planes, TensorSpec
from spliteasy.codecs.chain import Chain
from spliteasy.codecs.finite import all_finite
from spliteasy.codecs.guard import expect_refusal, expect_valid

__all__ = ["Lie", "check_lies", "lies"]


class Lie(NamedTuple):
    """Planes that are not what was encoded. They must be ``refused``; may also decode to something ``valid``; or, if
    that is not finite, be ``visible``, so that the wire refuses it."""

    text: str
    outcome: Literal["refused", "valid", "visible"]
    planes: Planes


def lies(planes: Planes, bounds: Mapping[str, PlaneBound]) -> Iterator[Lie]:
    """Lies about ``planes``, which are not compressed and within ``bounds``.

    Planes of wide integers whose names end in ``positions`` or ``indices`` hold indices. Floating planes other than
    the values hold scales.
    """
    draw = np.random.default_rng(6)
    yield Lie("a plane too many", "refused", {**planes, "9.more": torch.zeros(1)})
    for name, plane in planes.items():
        size, dtype = plane.numel() * plane.dtype.itemsize, plane.dtype
        changes: list[tuple[str, Literal["refused", "valid", "visible"], torch.Tensor]] = [
            ("one element short", "valid", plane[:-1]),
            ("one element long", "valid", torch.cat([plane, plane[:1]])),
            ("longer than its bound", "refused", torch.zeros(bounds[name].max_numel + 1, dtype=dtype)),
            ("empty", "valid", plane[:0]),
            ("in two dimensions", "refused", plane.reshape(1, -1)),
            ("as float64", "valid" if dtype is torch.float64 else "refused", plane.double()),
            ("reversed", "valid", plane.flip(0)),
        ]
        if dtype is not torch.bool and size:
            for lie, data in (("zeros", bytes(size)), ("ones", b"\xff" * size), ("noise", draw.bytes(size))):
                changes.append((f"all {lie}", "valid", torch.frombuffer(bytearray(data), dtype=dtype)))
        if name.endswith(("positions", "indices")) and dtype.itemsize > 1 and not dtype.is_floating_point and size:
            for wrong in (torch.iinfo(dtype).max, *((-1,) if dtype.is_signed else ())):
                changes.append((f"all {wrong}", "refused", torch.full(plane.shape, wrong).to(dtype)))
        if dtype.is_floating_point and not name.endswith("values") and size:
            for number in (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, torch.finfo(dtype).max):
                changed = plane.clone()
                changed[int(draw.integers(plane.numel()))] = number
                outcome: Literal["visible", "valid"] = "valid" if np.isfinite(number) else "visible"
                changes.append((f"with {number} in it", outcome, changed))
        yield Lie(f"no plane {name}", "refused", {key: other for key, other in planes.items() if key != name})
        for lie, outcome_of, changed in changes:
            yield Lie(f"{name} {lie}", outcome_of, {**planes, name: changed})


def check_lies(chain: Chain, tensor: torch.Tensor) -> None:
    """Decode every lie about ``tensor``, its planes and its notes. Raises ``AssertionError`` for one that has another
    outcome than it must."""
    where = f"{chain!r}, {tensor.dtype} of {tuple(tensor.shape)}"
    spec = TensorSpec.of(tuple(tensor.shape), tensor.dtype)
    plain = Chain(chain.tensor_codecs)
    planes, notes = plain.encode_planes(tensor)
    for lie in lies(planes, plain.bounds(spec)):
        call = partial(plain.decode_planes, lie.planes, notes, spec)
        if lie.outcome == "refused":
            expect_refusal(call, f"{where}: {lie.text}")
            continue
        decoded = expect_valid(call, f"{where}: {lie.text}", spec)
        hidden = lie.outcome == "visible" and decoded is not None and all_finite(decoded)
        assert not hidden, f"{where}: {lie.text}, yet a finite tensor came back; refuse it"
    planes, notes = chain.encode_planes(tensor)
    unfit: list[dict[str, Any]] = [{"layout": [0, 0]}, {"layout": 7}, {"packed": []}, {"more": 1}]
    for wrong_notes in (*unfit, {"packed": {"values": ["F32", 1 << 50]}}):
        expect_refusal(partial(chain.decode_planes, planes, wrong_notes, spec), f"{where}: notes {wrong_notes}")
    for name, (dtype, *sizes) in notes.get("packed", {}).items():
        for note in ([dtype, 1 << 50, *sizes[1:]], [dtype, -1, *sizes[1:]], [dtype], ["C64", *sizes], None):
            lying = {**notes, "packed": {**notes["packed"], name: note}}
            expect_refusal(partial(chain.decode_planes, planes, lying, spec), f"{where}: {name} noted as {note}")
