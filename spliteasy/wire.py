"""Messages to frames and back: the only place where bytes are counted.

A message is a bundle of tensors (one for each slot that crosses the cut), the numbers and shapes alive with them, and a
little metadata. Its frame is a safetensors file: the planes that the agreed chain made of each tensor, named
``slot:plane``, plus plain planes that no codec touches (labels, a generator's state). The header says what it is:
message, step, chain, shapes. A frame cannot ask for another chain than the agreed one, nor for other shapes.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from typing import Any

import numpy as np
import torch

from spliteasy.codecs import container
from spliteasy.codecs.base import Codec, Context, TensorSpec
from spliteasy.codecs.chain import Chain, codec
from spliteasy.codecs.finite import all_finite
from spliteasy.codecs.fitted import Parameters
from spliteasy.codecs.shipping import shipped_bytes
from spliteasy.codecs.state import flatten
from spliteasy.errors import CodecError, FrameError, NonFiniteError, TrainingError
from spliteasy.strides import is_offset, is_pattern, laid_out, offset_of, pattern_of, placed

__all__ = ["MESSAGES", "UPWARD", "Bytes", "Codecs", "Frame", "Message", "Streams", "as_codecs", "empty_buffer"]

MESSAGES = ("activations", "outputs", "output_gradients", "input_gradients")
"""The four messages of a step, in order: A→B, B→C, C→B, B→A."""

UPWARD = ("activations", "output_gradients")
"""Those that go from the device to the server."""

_VERSION = 1
_SIDE = {"activations": "first", "input_gradients": "first", "outputs": "second", "output_gradients": "second"}


@dataclass(frozen=True)
class Bytes:
    """The size of one message: its tensors uncompressed, its frame, and what went over the socket with HTTP headers.

    ``http`` is 0 in-process, where there is no socket.
    """

    raw: int = 0
    frame: int = 0
    http: int = 0

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.raw + other.raw, self.frame + other.frame, self.http + other.http)

    @property
    def sent(self) -> int:
        """What travels: HTTP with its headers, in-process the frame."""
        return self.http or self.frame


@dataclass(frozen=True)
class Codecs:
    """The chain for each of the four messages, as notation or as chains; what is not named travels ``raw``.

    ``forward`` stands for activations and outputs, ``backward`` for the two gradients; a message named itself goes
    before them.
    """

    activations: Chain | Codec | str | None = None
    outputs: Chain | Codec | str | None = None
    output_gradients: Chain | Codec | str | None = None
    input_gradients: Chain | Codec | str | None = None
    forward: InitVar[Chain | Codec | str] = "raw"
    backward: InitVar[Chain | Codec | str] = "raw"

    def __post_init__(self, forward: Chain | Codec | str, backward: Chain | Codec | str) -> None:
        for message in fields(self):
            named = getattr(self, message.name)
            shorthand = backward if message.name.endswith("gradients") else forward
            object.__setattr__(self, message.name, codec(shorthand if named is None else named))

    def chain(self, message: str) -> Chain:
        """The chain agreed for a message."""
        chain: Chain = getattr(self, message)
        return chain

    @property
    def shipped(self) -> tuple[Parameters, ...]:
        """The fitted parameters of all chains, each once: what travels when a session opens."""
        held = [parameters for message in MESSAGES for parameters in self.chain(message).shipped]
        return tuple({parameters.digest: parameters for parameters in held}.values())

    @property
    def fitted_bytes(self) -> int:
        """What the fitted parameters take when they are shipped, headers included; 0 if no codec is fitted."""
        return shipped_bytes(self.shipped)

    def require_fitted(self, *, single: bool) -> None:
        """Raise `CodecError` if a codec is still to be fitted that the messages of a single or double split need."""
        for message in ("activations", "input_gradients") if single else MESSAGES:
            for stage in self.chain(message).unfitted:
                raise CodecError(
                    f"Expected fitted codecs, found {stage!r} in the chain of {message}, which is not. Call codecs = "
                    "se.calibrate(split, codecs, loader) and give the trainer the codecs that it returns."
                )

    def to_dict(self) -> dict[str, str]:
        """The notation of each chain, as it is agreed when a session opens."""
        return {message: repr(self.chain(message)) for message in MESSAGES}

    @classmethod
    def from_dict(cls, chains: Mapping[str, str]) -> Codecs:
        """The inverse of `to_dict`. Raises `CodecError` for another message or an unknown codec."""
        unknown = sorted(set(chains) - set(MESSAGES))
        if unknown or not all(isinstance(chain, str) for chain in chains.values()):
            raise CodecError(f"Expected chains for {', '.join(MESSAGES)}, found {unknown or chains}.")
        return cls(**dict(chains))


@dataclass
class Message:
    """Tensors by slot (None: missing, as a gradient may be), scalars, plain tensors by name, and metadata.

    ``counts`` is what the codecs counted while they encoded it (`Context.counts`), known once it was decoded.
    """

    name: str
    tensors: Sequence[torch.Tensor | None]
    scalars: Sequence[Any] = ()
    plain: dict[str, torch.Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The uncompressed size of all its tensors."""
        tensors = [tensor for tensor in [*self.tensors, *self.plain.values()] if tensor is not None]
        return sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors)


@dataclass(frozen=True)
class Frame:
    """The bytes of one message, as planes that need not be joined to be sent.

    ``counts`` adds up what the codecs counted while they encoded it; what was counted travels in the header.
    """

    planes: Mapping[str, torch.Tensor]
    header: Mapping[str, str]
    pieces: Sequence[bytes | memoryview]
    raw: int
    received: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The size of the frame."""
        return sum(len(piece) for piece in self.pieces)

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)

    @classmethod
    def parse(cls, data: memoryview) -> Frame:
        """The frame in a body that was received. Raises `FrameError` if it is not one."""
        planes, header = container.read(data)
        return cls(planes, header, (data,), 0, received=True)


class Streams:
    """One side's ends of the four messages: encodes, decodes, and keeps the codecs' state from step to step.

    A step proposes new state (`encode` and `decode` leave it pending); `commit` keeps it, `begin` drops what was not
    committed. Evaluation changes no state.
    """

    def __init__(self, codecs: Codecs, seed: int) -> None:
        self.codecs, self.seed = codecs, seed
        self._state: dict[tuple[str, int], dict[str, Any]] = {}
        self._proposed: dict[tuple[str, int], dict[str, Any]] = {}
        self._pairs: dict[tuple[str, int], dict[str, Any]] = {}

    def begin(self) -> None:
        """Start a step: drop proposals that were not committed, and what messages shared with their gradients."""
        self._proposed, self._pairs = {}, {}

    def commit(self) -> None:
        """Keep the state that the step proposed."""
        self._state |= self._proposed
        self._proposed = {}

    def state(self) -> dict[str, dict[str, Any]]:
        """The committed state by message and slot (as text): tensors, JSON values and dicts of these. Empty where no
        codec keeps any. `spliteasy.codecs.state` makes tensors by name and JSON of it."""
        found: dict[str, dict[str, Any]] = {}
        for (name, slot), state in sorted(self._state.items()):
            found.setdefault(name, {})[str(slot)] = dict(state)
        return found

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from what `state` gave; a step that is under way is dropped. Raises `CodecError` if it is none."""
        loaded: dict[tuple[str, int], dict[str, Any]] = {}
        for name, slots in state.items():
            for slot, kept in slots.items() if name in MESSAGES and isinstance(slots, Mapping) else [("", None)]:
                if not slot.isdecimal() or not isinstance(kept, Mapping):
                    raise CodecError(
                        f"Expected the codecs' state by message and slot, found {_brief(slots)} for {_brief(name)}."
                    )
                flatten(kept)
                loaded[name, int(slot)] = copy.deepcopy(dict(kept))
        self._state = loaded
        self.begin()

    def encode(self, message: Message, step: int, training: bool = True) -> Frame:
        """The frame of a message. Raises `NonFiniteError` if a tensor holds NaN or infinity."""
        chain = self.codecs.chain(message.name)
        planes: dict[str, torch.Tensor] = {}
        described: list[dict[str, Any] | None] = []
        counts: Counter[str] = Counter()
        for slot, tensor in enumerate(message.tensors):
            if tensor is None:
                described.append(None)
                continue
            tensor = tensor.detach().cpu()
            _require_finite(tensor, message.name, slot)
            context = self._context(message.name, slot, step, training)
            made, notes = chain.encode_planes(tensor, context)
            self._propose(context)
            counts.update({what: number for what, number in context.counts.items() if number})
            planes |= {f"{slot}:{name}": plane for name, plane in made.items()}
            entry = {"shape": list(tensor.shape), "dtype": container.DTYPE_NAMES[tensor.dtype], **notes}
            if chain.lossless and (strides := pattern_of(tensor)) is not None:
                entry["strides"] = strides
            if chain.lossless and (offset := offset_of(tensor)):
                entry["offset"] = offset
            described.append(entry)
        header = {
            "version": _VERSION,
            "message": message.name,
            "step": step,
            "training": training,
            "chain": repr(chain),
            "tensors": described,
            **({"scalars": list(message.scalars)} if message.scalars else {}),
            **({"plain": sorted(message.plain)} if message.plain else {}),
            **({"counts": counts} if counts else {}),
            **message.meta,
        }
        planes |= {name: tensor.detach().cpu().contiguous() for name, tensor in message.plain.items()}
        text = {"spliteasy": json.dumps(header, separators=(",", ":"))}
        return Frame(planes, text, container.write(planes, text), message.nbytes, counts=counts)

    def decode(
        self,
        frame: Frame,
        name: str,
        step: int,
        expected: Sequence[TensorSpec],
        training: bool = True,
        plain: Sequence[str] = (),
    ) -> Message:
        """The message in a frame, held against what was agreed: name, step, chain, and each slot's shape and dtype.

        A missing tensor is None. ``plain`` names the plain planes that may be there. Raises `FrameError` for anything
        else, `NonFiniteError` for NaN and infinity.
        """
        header = self.header(frame, name, step, training)
        described = header.pop("tensors", None)
        if not isinstance(described, list) or len(described) != len(expected):
            raise FrameError(f"Expected {len(expected)} tensors in {name}, found {_count(described)}.")
        found = header.pop("plain", [])
        if not isinstance(found, list) or not set(map(str, found)) <= set(plain):
            raise FrameError(f"Expected no planes beside the tensors but {sorted(plain)}, found {_brief(found)}.")
        groups: dict[str, dict[str, torch.Tensor]] = {
            str(slot): {} for slot, entry in enumerate(described) if entry is not None
        }  # by the one way to write a slot's number
        message = Message(name, [], header.pop("scalars", []), {}, header, _counts(header.pop("counts", {})))
        for key, plane in frame.planes.items():
            number, _, inner = key.partition(":")
            if inner and number in groups:
                groups[number][inner] = plane
            elif key in found:
                message.plain[key] = plane
            else:
                raise FrameError(f"The frame of {name} holds a plane {_brief(key)} that belongs to no tensor of it.")
        if set(message.plain) != set(found):
            raise FrameError(f"The frame of {name} lacks planes that its header names: {sorted(found)}.")
        tensors: list[torch.Tensor | None] = []
        for slot, (spec, entry) in enumerate(zip(expected, described, strict=True)):
            if entry is None:
                tensors.append(None)
                continue
            tensor = self._decoded(name, slot, step, training, spec, entry, groups[str(slot)])
            tensors.append(tensor)
        message.tensors = tensors
        return message

    def header(self, frame: Frame, name: str, step: int, training: bool) -> dict[str, Any]:
        """A frame's header, checked for message, step and chain; what is left in it is metadata."""
        try:
            header = json.loads(frame.header["spliteasy"])
        except (KeyError, ValueError, RecursionError):
            raise FrameError(f"Expected a frame of {name} with a header of this package, found none.") from None
        agreed = {
            "version": _VERSION,
            "message": name,
            "step": step,
            "training": training,
            "chain": repr(self.codecs.chain(name)),
        }
        for key, value in agreed.items():
            found = header.pop(key, None) if isinstance(header, dict) else None
            if type(found) is not type(value) or found != value:
                raise FrameError(f"Expected a frame with {key} {value!r}, as agreed; found {_brief(found)}.")
        if not isinstance(header.get("scalars", []), list):
            raise FrameError(f"Expected a list of scalars in the frame of {name}, found {_brief(header['scalars'])}.")
        return dict(header)

    def _decoded(
        self,
        name: str,
        slot: int,
        step: int,
        training: bool,
        spec: TensorSpec,
        entry: Any,
        planes: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        stated = (entry.get("shape"), entry.get("dtype")) if isinstance(entry, dict) else None
        agreed = (list(spec.shape or ()), container.DTYPE_NAMES[spec.dtype])
        if stated != agreed:
            raise FrameError(f"Expected tensor {slot} of {name} as {agreed}, as agreed; found {_brief(stated)}.")
        notes = {key: value for key, value in entry.items() if key not in ("shape", "dtype", "strides", "offset")}
        chain, strides, offset = self.codecs.chain(name), entry.get("strides"), entry.get("offset", 0)
        size = spec.dtype.itemsize
        if strides is not None and not (chain.lossless and is_pattern(strides, spec.shape or (), size)):
            raise FrameError(f"Expected the strides of tensor {slot} of {name} as a pattern, found {_brief(strides)}.")
        if not is_offset(offset, size) or (offset and not chain.lossless):
            raise FrameError(f"Expected the offset of tensor {slot} of {name} within 64 bytes, found {_brief(offset)}.")
        context = self._context(name, slot, step, training)
        tensor = chain.decode_planes(planes, notes, spec, context)
        self._propose(context)
        _require_finite(tensor, name, slot)
        return placed(tensor, offset) if strides is None else laid_out(tensor, strides, offset)

    def _context(self, name: str, slot: int, step: int, training: bool) -> Context:
        state = copy.deepcopy(self._state.get((name, slot), {}))
        pair = self._pairs.setdefault((_SIDE[name], slot), {}) if training else {}
        return Context(message=name, training=training, step=step, seed=self.seed, tensor=slot, pair=pair, state=state)

    def _propose(self, context: Context) -> None:
        """What the codecs left in the context is for the step to commit, if it could be saved."""
        if context.training and context.state:
            flatten(context.state)
            self._proposed[context.message, context.tensor] = context.state


def empty_buffer(length: int) -> memoryview:
    """Memory to receive a frame into, at a multiple of 64 bytes.

    NumPy's, not torch's: GNU malloc before 2.38 rarely reuses what was allocated aligned, and a process that gives no
    memory back would grow by a body with every one.
    """
    memory = np.empty(length + container.ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % container.ALIGNMENT
    return memory[begin : begin + length].data


def _require_finite(tensor: torch.Tensor, name: str, slot: int) -> None:
    if not all_finite(tensor):
        bad = int((~torch.isfinite(tensor.float() if tensor.dtype.itemsize < 4 else tensor)).sum())
        raise NonFiniteError(
            f"Expected finite numbers in {name}, found {bad} NaN or infinite of {tensor.numel()} in tensor {slot}. "
            "The step was given up and no parameter changed; lower the learning rate, or look at the inputs."
        )


def _counts(found: Any) -> dict[str, int]:
    """What the other side's codecs counted."""
    if not isinstance(found, dict) or any(type(number) is not int or number < 0 for number in found.values()):
        raise FrameError(f"Expected counts of the codecs by name, whole numbers of 0 or more; found {_brief(found)}.")
    return found


def _count(described: Any) -> str:
    return str(len(described)) if isinstance(described, list) else _brief(described)


def _brief(found: Any) -> str:
    """What a frame claims, short enough for a message: a header may have a megabyte."""
    text = repr(found)
    return text if len(text) <= 200 else f"{text[:200]}…"


def as_codecs(codecs: Codecs | Chain | Codec | str | None) -> Codecs:
    """What `Trainer` takes: `Codecs`, one chain for all four messages, or None for raw."""
    if codecs is None:
        return Codecs()
    if isinstance(codecs, Codecs):
        return codecs
    if isinstance(codecs, (str, Chain, Codec)):
        return Codecs(codecs, codecs, codecs, codecs)
    raise TrainingError(f"Expected codecs as se.Codecs(...) or one chain, found {type(codecs).__name__}.")
