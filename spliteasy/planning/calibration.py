"""Chains measured on what really crosses the cuts of a network, in a short time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spliteasy.calls import call_bytes, step_meta
from spliteasy.codecs.base import Codec, TensorSpec
from spliteasy.codecs.chain import Chain
from spliteasy.errors import CodecError, PlanError
from spliteasy.planning.chains import HEAD_BYTES, ChainCost, Floats, FrameBytes, Line, MessageCost, fit_line
from spliteasy.planning.samples import Sample, kinds_of, samples_of
from spliteasy.profiling import Profile
from spliteasy.seeding import preserved
from spliteasy.wire import Codecs, Frame, Message, Streams, as_codecs

__all__ = ["AnyChain", "calibrated"]

AnyChain = ChainCost | Codecs | Chain | Codec | str
_REPEATS = 3
_PAUSE = 0.02
"""Seconds of idling before each codec is timed. In a step of split learning it comes after a wait for the link, when
caches are cold and a core has gone to sleep: in a loop the small ones take half the time."""
_BOTH = (("activations", "input_gradients"), ("outputs", "output_gradients"))
"""The messages that cross the first cut and the second, there and back."""


@dataclass(frozen=True)
class _Crossed:
    """One message of a sample: raw bytes of its floating tensors, bytes of header and head, bytes of planes, and
    seconds of encoding and decoding."""

    raw: float
    heads: float
    planes: float
    encode: float
    decode: float


def calibrated(profile: Profile, chains: Iterable[AnyChain], progress: bool = True) -> list[ChainCost]:
    """The cost of each chain on each message. What was measured once for a profile is kept with it.

    Each chain encodes what crosses in the first step, a part of it, at cuts of every kind (`samples_of`); between two
    cuts of one kind its ratio is interpolated. Seconds are measured on the largest and the smallest of these tensors,
    each time after a short pause, and `fit_line` draws a line through them.

    Raises `PlanError` for no chains, or one that must be fitted first, or one measured at another network's cuts;
    `CodecError` for one that does not exist.
    """
    from tqdm.auto import tqdm

    wanted = [chain if isinstance(chain, ChainCost) else as_codecs(chain) for chain in chains]
    if not wanted:
        raise PlanError('Expected chains to choose from, found none. Give at least chains=["raw"].')
    for given in wanted:
        if isinstance(given, Codecs):
            _require_fitted(given)
        else:
            _require_cuts(given, len(profile.cuts))
    notations = {repr(codecs.to_dict()): codecs for codecs in wanted if isinstance(codecs, Codecs)}
    missing = {notation: codecs for notation, codecs in notations.items() if notation not in profile.kept}
    if missing:
        with preserved():
            kinds = kinds_of(profile.program, profile.cuts.names)
            samples = samples_of(profile, kinds)
        for notation, codecs in tqdm(missing.items(), desc="calibrate", unit="chain", disable=not progress):
            profile.kept[notation] = ChainCost(codecs, _costs(codecs, samples, kinds))
    return [profile.kept[repr(codecs.to_dict())] if isinstance(codecs, Codecs) else codecs for codecs in wanted]


def _costs(codecs: Codecs, samples: Sequence[Sample], kinds: Sequence[frozenset[str]]) -> dict[str, MessageCost]:
    """The cost of every message. The second cut's are those of the first where the chains are the same."""
    costs: dict[str, MessageCost] = {}
    known: dict[tuple[str, str], tuple[MessageCost, MessageCost]] = {}
    for there, back in _BOTH:
        chains = repr(codecs.chain(there)), repr(codecs.chain(back))
        if chains not in known:
            known[chains] = _pair_costs(codecs, there, back, samples, kinds)
        costs[there], costs[back] = known[chains]
    return costs


def _pair_costs(
    codecs: Codecs, there: str, back: str, samples: Sequence[Sample], kinds: Sequence[frozenset[str]]
) -> tuple[MessageCost, MessageCost]:
    rows = [(sample, tuple(_crossed(codecs, there, back, sample, 0.0))) for sample in samples]
    largest = max(samples, key=lambda sample: sum(tensor.nbytes for tensor in sample.tensors))
    smallest = min(samples, key=lambda sample: sum(tensor.nbytes for tensor in sample.tensors))
    timed = [
        [tuple(_crossed(codecs, there, back, sample, _PAUSE)) for _ in range(_REPEATS)]
        for sample in (largest, smallest)
    ]
    costs = []
    for way in (0, 1):
        found = [(sample, both[way]) for sample, both in rows if both[way].raw]
        runs = [[both[way] for both in repeats] for repeats in timed if repeats[0][way].raw]
        raw = [repeats[0].raw for repeats in runs]
        encode = [statistics.median(one.encode for one in repeats) for repeats in runs]
        decode = [statistics.median(one.decode for one in repeats) for repeats in runs]
        lines = (fit_line(raw, encode), fit_line(raw, decode)) if runs else (Line(0.0, 0.0), Line(0.0, 0.0))
        costs.append(MessageCost(_by_cut(found, kinds), *lines))
    return costs[0], costs[1]


def _crossed(codecs: Codecs, there: str, back: str, sample: Sample, pause: float) -> Iterator[_Crossed]:
    """Both messages of one cut, as a step exchanges them: each side has streams of its own."""
    near, far = Streams(codecs, 0), Streams(codecs, 0)
    for stream in (near, far):
        stream.begin()
    for name, tensors, sender, receiver in ((there, sample.tensors, near, far), (back, sample.gradients, far, near)):
        message = Message(name, tensors, meta=step_meta(name, len(tensors)))
        specs = [TensorSpec.of(tuple(tensor.shape), tensor.dtype) for tensor in sample.tensors]
        time.sleep(pause)
        started = time.perf_counter()
        frame = sender.encode(message, 0)
        encode = time.perf_counter() - started
        received = Frame.parse(memoryview(b"".join(frame.pieces)))
        time.sleep(pause)
        started = time.perf_counter()
        receiver.decode(received, name, 0, specs, True, ())
        decode = time.perf_counter() - started
        planes = sum(len(piece) for piece in frame.pieces[1:])
        yield _Crossed(float(message.nbytes), float(call_bytes(frame, name) - planes), float(planes), encode, decode)


def _by_cut(rows: Sequence[tuple[Sample, _Crossed]], kinds: Sequence[frozenset[str]]) -> FrameBytes:
    """Header and ratio at every cut: linear between the measured ones of its kind (of any, where its kind has none)."""
    if not rows:
        return FrameBytes(np.array(HEAD_BYTES), np.array(1.0))
    places = np.array([sample.cut for sample, _ in rows], dtype=float)
    fixed = np.array([row.heads for _, row in rows])
    slope = np.array([row.planes / row.raw for _, row in rows])
    cuts = np.arange(len(kinds), dtype=float)
    whole = np.interp(cuts, places, fixed), np.interp(cuts, places, slope)
    errors: list[float] = []
    for kind in set(kinds):
        members = np.array([cut for cut, other in enumerate(kinds) if other == kind])
        measured = np.array([sample.kind == kind for sample, _ in rows])
        if measured.any():
            for all_cuts, values in zip(whole, (fixed, slope), strict=True):
                all_cuts[members] = np.interp(members, places[measured], values[measured])
        if measured.sum() < len(members):
            errors.extend(_left_out(places[measured], slope[measured]))
    return FrameBytes(*whole, error=statistics.median(errors) if errors else 0.0)


def _left_out(places: Floats, values: Floats) -> list[float]:
    """The relative error of each value but the outer ones, were it interpolated from its neighbours."""
    between = [
        float(np.interp(places[index], places[[index - 1, index + 1]], values[[index - 1, index + 1]]) / values[index])
        for index in range(1, len(places) - 1)
        if values[index] > 0
    ]
    return [abs(ratio - 1) for ratio in between]


def _require_cuts(given: ChainCost, cuts: int) -> None:
    for cost in given.messages.values():
        if cost.nbytes.slope.ndim and len(cost.nbytes.slope) != cuts:
            raise PlanError(
                f"Expected the cost of {given.name} at the {cuts} cuts of this network, found it measured at "
                f"{len(cost.nbytes.slope)} cuts of another. Give the chain itself, and it is measured here."
            )


def _require_fitted(codecs: Codecs) -> None:
    try:
        codecs.require_fitted(single=False)
    except CodecError as error:
        raise PlanError(
            f"Expected chains that can be measured, found one that must be fitted first: {codecs.to_dict()}. A fitted "
            "codec belongs to one pair of cuts; plan without it, then fit it there."
        ) from error
