"""Chains measured on what really crosses a few cuts of a network, in a short time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from spliteasy.answers import stated
from spliteasy.calls import call_bytes
from spliteasy.codecs.base import Codec, TensorSpec
from spliteasy.codecs.chain import Chain
from spliteasy.crossing import crossing_tensors
from spliteasy.data import digits, photos
from spliteasy.errors import CodecError, PlanError, SplitError
from spliteasy.planning.chains import ChainCost, MessageCost, fit_line
from spliteasy.profiling import Profile
from spliteasy.program import Program
from spliteasy.propagation import tensors_in
from spliteasy.seeding import preserved
from spliteasy.server.session import Commit
from spliteasy.splitting import Split
from spliteasy.traffic import first_private
from spliteasy.wire import MESSAGES, Codecs, Frame, Message, Streams, as_codecs

__all__ = ["AnyChain", "calibrated", "samples_of"]

AnyChain = ChainCost | Codecs | Chain | Codec | str
_LARGEST = 2_000_000
"""Bytes of a tensor that are measured: its first samples."""
_BATCH = 8
_REPEATS = 3
_PLAIN: dict[str, dict[str, Any]] = {
    "activations": {"batch": 1, "commit": Commit().to_dict(), "needs_gradient": [True]},
    "outputs": {"needs_gradient": [True], "seconds": stated({"b_forward": 0.0})},
    "output_gradients": {},
    "input_gradients": {"gradient_error": 0.0, "seconds": stated({"b_backward": 0.0})},
}


def calibrated(profile: Profile, chains: Iterable[AnyChain], progress: bool = True) -> list[ChainCost]:
    """The cost of each chain on each message. What was measured once for a profile is kept with it.

    Each chain encodes and decodes the largest tensor of every message at a few pairs of cuts, for photographs where
    the network takes some, and `fit_line` draws a line through bytes and seconds. So a chain has one ratio for each
    kind of message wherever the network is cut; `ChainCost.error` says how far from it the measured ones were.

    Raises `PlanError` for no chains, or one that must be fitted first; `CodecError` for one that does not exist.
    """
    from tqdm.auto import tqdm

    wanted = [chain if isinstance(chain, ChainCost) else as_codecs(chain) for chain in chains]
    if not wanted:
        raise PlanError('Expected chains to choose from, found none. Give at least chains=["raw"].')
    for codecs in wanted:
        if isinstance(codecs, Codecs):
            _require_fitted(codecs)
    notations = {repr(codecs.to_dict()): codecs for codecs in wanted if isinstance(codecs, Codecs)}
    missing = {notation: codecs for notation, codecs in notations.items() if notation not in profile.kept}
    if missing:
        with preserved():
            samples = samples_of(profile)
        for notation, codecs in tqdm(missing.items(), desc="calibrate", unit="chain", disable=not progress):
            profile.kept[notation] = ChainCost(codecs, _costs(codecs, samples))
    return [profile.kept[repr(codecs.to_dict())] if isinstance(codecs, Codecs) else codecs for codecs in wanted]


def samples_of(profile: Profile) -> dict[str, list[torch.Tensor]]:
    """The largest tensor of each message at a few pairs of cuts, cut down to some samples."""
    program, cuts = profile.program, profile.cuts
    end, start = len(cuts) - 1, min(first_private(program, cuts), max(len(cuts) - 2, 0))
    span = max(end - start, 1)
    pairs = [(start, start + 3 * span // 4), (start + span // 4, end), (start + span // 2, start + 7 * span // 8)]
    batch = min(profile.batch, _BATCH)
    small = Program(program.model, program.input_shape, max(batch, 2), program.dtype)
    x = _inputs(program, batch)
    found: dict[str, list[torch.Tensor]] = {message: [] for message in MESSAGES}
    for first, last in dict.fromkeys(pairs):
        if first >= last:
            continue
        try:
            split = Split(small, (cuts[first].name, cuts[last].name))
        except SplitError:  # such a pair is no plan either
            continue
        labels = torch.arange(batch) % (split.classes or 1)
        loss = "cross_entropy" if split.classes else _some_loss
        for name, tensors in crossing_tensors(split, x, labels, loss=loss).items():
            floating = [tensor for tensor in tensors if tensor is not None and tensor.is_floating_point()]
            if floating:
                found[name].append(_part(max(floating, key=lambda tensor: tensor.nbytes)))
    any_tensor = next((tensors for tensors in found.values() if tensors), [torch.rand(batch, 1000)])
    return {name: tensors or any_tensor for name, tensors in found.items()}


def _costs(codecs: Codecs, samples: dict[str, list[torch.Tensor]]) -> dict[str, MessageCost]:
    costs = {}
    for message in MESSAGES:
        # One sample of the first tensor too: the shortest frame says what its header takes.
        first = samples[message][0]
        tensors = [*samples[message], first[:1]] if first.ndim and len(first) > 1 else samples[message]
        rows = [_measured(codecs, message, tensor) for tensor in tensors]
        raw, nbytes, encode, decode = zip(*rows, strict=True)
        costs[message] = MessageCost(fit_line(raw, nbytes, rising=True), fit_line(raw, encode), fit_line(raw, decode))
    return costs


def _measured(codecs: Codecs, name: str, tensor: torch.Tensor) -> tuple[float, float, float, float]:
    """Raw bytes, bytes on the wire, and the seconds of encoding and decoding, as a step would."""
    message = Message(name, [tensor], meta=_PLAIN[name])
    spec = TensorSpec.of(tuple(tensor.shape), tensor.dtype)
    encode, decode = [], []
    for _ in range(1 + _REPEATS):
        sender, receiver = Streams(codecs, 0), Streams(codecs, 0)
        sender.begin()
        receiver.begin()
        started = time.perf_counter()
        frame = sender.encode(message, 0)
        encode.append(time.perf_counter() - started)
        received = Frame.parse(memoryview(b"".join(frame.pieces)))
        started = time.perf_counter()
        receiver.decode(received, name, 0, [spec], True, ())
        decode.append(time.perf_counter() - started)
    seconds = statistics.median(encode[1:]), statistics.median(decode[1:])
    return float(tensor.nbytes), float(call_bytes(frame, name)), *seconds


def _part(tensor: torch.Tensor) -> torch.Tensor:
    each = max(tensor.nbytes // max(len(tensor), 1), 1) if tensor.ndim else tensor.nbytes
    return tensor[: max(_LARGEST // each, 1)] if tensor.ndim else tensor


def _inputs(program: Program, batch: int) -> torch.Tensor:
    """Photographs or digits where they fit, else random numbers."""
    shape = program.input_shape
    with preserved():
        if not program.dtype.is_floating_point:
            return torch.zeros((batch, *shape), dtype=program.dtype)
        if len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2]:
            return photos(batch, shape[1]).to(program.dtype)
        if shape == (1, 8, 8):
            images, _ = digits()
            return torch.stack([images[index][0] for index in range(batch)]).to(program.dtype)
        return torch.rand((batch, *shape), dtype=program.dtype)


def _some_loss(output: Any, _: torch.Tensor) -> torch.Tensor:
    floating: Sequence[torch.Tensor] = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
    return torch.stack([tensor.square().mean() for tensor in floating]).sum()


def _require_fitted(codecs: Codecs) -> None:
    try:
        codecs.require_fitted(single=False)
    except CodecError as error:
        raise PlanError(
            f"Expected chains that can be measured, found one that must be fitted first: {codecs.to_dict()}. A fitted "
            "codec belongs to one pair of cuts; plan without it, then fit it there."
        ) from error
