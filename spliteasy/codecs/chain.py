"""Codecs in a row: ``topk(0.1) | fp16 | zstd(1)``.

On the way out the tensor goes through the tensor codecs, each taking the ``values`` of the one before; then every
plane goes through the bytes codecs, and stays compressed only if it got smaller. Planes are named by the codec's
place: ``0.positions``, ``1.scale``, ``1.values``. On the way back nothing is believed: names, dtypes and sizes are
held against what the agreed spec allows before anything is allocated or decompressed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spliteasy.codecs import container, layout
from spliteasy.codecs.base import BytesCodec, BytesLike, Codec, Context, PlaneBound, Planes, TensorCodec, TensorSpec
from spliteasy.codecs.fitted import Parameters
from spliteasy.codecs.notation import parse
from spliteasy.codecs.planes import VALUES, join, needs_note, pack, receive, shaped, split
from spliteasy.codecs.raw import Raw
from spliteasy.errors import CodecError, FrameError

__all__ = ["FORMAT", "UNAGREED_LIMIT", "Chain", "codec"]

FORMAT = "spliteasy/1"
"""Name and version of the frames that ``Chain.encode`` writes."""

UNAGREED_LIMIT = 1 << 30
"""The largest tensor, in bytes, that a frame may state by itself where no spec was agreed (or the frame's own length,
if larger)."""

NOTES = {"layout", "packed"}
"""What notes may hold."""


def codec(notation: str | Codec | Chain) -> Chain:
    """The chain that a notation such as ``"topk(0.1) | fp16 | zstd(1)"`` names; codecs and chains are taken as well.

    Raises ``CodecError`` for a codec that does not exist, wrong arguments, or a bytes codec before a tensor codec.
    """
    if isinstance(notation, Chain):
        return notation
    if isinstance(notation, Codec):
        return Chain([notation])
    if isinstance(notation, str):
        return Chain(parse(notation))
    raise CodecError(f"expected a chain, a codec or a notation such as 'fp16 | zstd(1)', found {notation!r}")


class Chain:
    """Tensor codecs, then bytes codecs; a value, as codecs are. ``Chain()`` is ``raw``.

    Raises ``CodecError`` if a tensor codec follows a bytes codec.
    """

    def __init__(self, codecs: Sequence[Codec] = ()) -> None:
        for stage in codecs:
            if not isinstance(stage, TensorCodec | BytesCodec):
                raise CodecError(f"expected codecs in a chain, found {stage!r}; codec(text) reads the notation")
        self.codecs = tuple(stage for stage in codecs if not isinstance(stage, Raw))
        self.tensor_codecs = tuple(stage for stage in self.codecs if isinstance(stage, TensorCodec))
        self.bytes_codecs = tuple(stage for stage in self.codecs if isinstance(stage, BytesCodec))
        self._notation = " | ".join(map(repr, self.codecs)) or Raw.name
        ordered = (*self.tensor_codecs, *self.bytes_codecs)
        if ordered != self.codecs:
            right = " | ".join(map(repr, ordered))
            raise CodecError(f"expected tensor codecs before bytes codecs, found {self!r}; write {right!r}")

    def __repr__(self) -> str:
        return self._notation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self.codecs == other.codecs

    def __hash__(self) -> int:
        return hash(self.codecs)

    def __or__(self, other: Codec | Chain | str) -> Chain:
        return Chain([*self.codecs, *codec(other).codecs])

    @property
    def lossless(self) -> bool:
        """Whether every tensor comes back equal to the bit."""
        return all(stage.lossless for stage in self.codecs)

    @property
    def shipped(self) -> tuple[Parameters, ...]:
        """The fitted parameters that the other side must have too, each once."""
        return tuple({held.digest: held for stage in self.codecs for held in stage.shipped}.values())

    @property
    def unfitted(self) -> tuple[TensorCodec, ...]:
        """The codecs that must be fitted before the chain can be used."""
        return tuple(inner for stage in self.tensor_codecs for inner in stage.unfitted)

    def fit(
        self,
        tensors: Sequence[torch.Tensor],
        message: str = "activations",
        gradients: Sequence[torch.Tensor | None] | None = None,
    ) -> Chain:
        """This chain with its fitted codecs fitted on calibration tensors: each one a tensor of ``message``, a batch.

        ``gradients`` are those of the loss with respect to each tensor, of its shape (None: not known). Codecs before
        a fitted one act on the tensors first; gradients are handed on for as long as these keep the shape. A codec
        that is fitted already is left as it is, and tensors that are not floating are left alone. Raises
        ``CodecError`` if the tensors do not suffice.
        """
        if not self.unfitted:
            return self
        last = max(index for index, stage in enumerate(self.tensor_codecs) if stage.unfitted)
        values = [_plain(tensor).contiguous() for tensor in tensors]
        specs = [TensorSpec.of(tuple(value.shape), value.dtype) for value in values]
        felt = _paired(values, gradients)
        fitted: list[Codec] = []
        for index, stage in enumerate(self.tensor_codecs):
            if stage.unfitted:
                floating = [place for place, spec in enumerate(specs) if spec.dtype.is_floating_point]
                stage = stage.fit([values[place] for place in floating], [felt[place] for place in floating], message)
            fitted.append(stage)
            for place, (value, spec) in enumerate(zip(values, specs, strict=True)):
                if index < last and (stage.lossless or spec.dtype.is_floating_point):
                    with Context(message).turn(index, spec) as own:
                        values[place], _ = split(stage, stage.encode(value, own), spec)
                    specs[place] = stage.out(spec)
                    if specs[place].shape != spec.shape:
                        felt[place] = None
        return Chain([*fitted, *self.bytes_codecs])

    def out(self, spec: TensorSpec) -> TensorSpec:
        """What the last tensor codec makes of ``values`` for a tensor of ``spec``."""
        stages = self._stages(spec)
        return stages[-1][1].out(stages[-1][2]) if stages else spec

    def bounds(self, spec: TensorSpec) -> dict[str, PlaneBound]:
        """Every plane of the frame, by its full name: the side planes of each codec, the values of the last."""
        return self._bounds(spec, self._stages(spec))

    def encode(self, tensor: torch.Tensor, context: Context | None = None) -> bytes:
        """One tensor of any shape as a self-describing frame: a safetensors file with the planes, and in its metadata
        ``format``, ``chain``, ``shape``, ``dtype``, ``layout``, ``notes`` and ``step``. Raises ``CodecError`` for
        what no frame can hold."""
        context = context or Context()
        planes, notes = self.encode_planes(tensor, context)
        metadata = {
            "format": FORMAT,
            "chain": repr(self),
            "shape": _json(list(tensor.shape)),
            "dtype": container.DTYPE_NAMES[tensor.dtype],
            **({"layout": _json(notes.pop("layout"))} if "layout" in notes else {}),
            **({"notes": _json(notes)} if notes else {}),
            "step": str(context.step),
        }
        return b"".join(container.write(planes, metadata))

    def decode(self, frame: BytesLike, context: Context | None = None, spec: TensorSpec | None = None) -> torch.Tensor:
        """The tensor of a frame (any bytes-like), with its shape, dtype and layout, in memory of its own.

        With ``spec`` the frame must hold a tensor of that shape and dtype; without, one of at most ``UNAGREED_LIMIT``
        bytes. Raises ``FrameError`` if the frame is damaged, lies, or names another chain.
        """
        planes, metadata = container.read(frame)
        if metadata.get("format") != FORMAT or metadata.get("chain") != repr(self):
            found = f"{metadata.get('format', '')[:40]!r} by {metadata.get('chain', '')[:400]!r}"
            raise FrameError(f"expected {FORMAT!r} by {repr(self)!r}, found {found}: use the chain that made the frame")
        stated, notes = _stated(metadata)
        limit = max(UNAGREED_LIMIT, memoryview(frame).nbytes)
        if spec is None and stated.nbytes > limit:
            raise FrameError(
                f"the frame states {stated.nbytes} bytes of tensor; without a spec, at most {limit} are read"
            )
        if spec is None:
            try:
                self.bounds(stated)
            except CodecError as error:
                raise FrameError(f"the frame states a tensor that {repr(self)!r} cannot take: {error}") from error
        if spec is not None and (stated.shape, stated.dtype) != (spec.shape, spec.dtype):
            raise FrameError(
                f"expected {spec.dtype} of {spec.shape}, the frame states {stated.dtype} of {stated.shape}"
            )
        try:
            tensor = self.decode_planes(planes, notes, spec or stated, context)
        except CodecError as error:
            if spec is not None:
                raise
            raise FrameError(
                f"the frame states {stated.dtype} of {stated.shape}, for which no {self!r} is: {error}"
            ) from error
        begin = container.tensor_of(frame, torch.uint8).data_ptr()
        inside = begin <= tensor.data_ptr() < begin + memoryview(frame).nbytes
        return tensor.clone(memory_format=torch.preserve_format) if inside else tensor

    def encode_planes(
        self, tensor: torch.Tensor, context: Context | None = None, spec: TensorSpec | None = None
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The planes of ``tensor``, flat, contiguous and on the CPU, and the notes (JSON) that decoding needs beside
        them. ``spec`` says what the dimensions are, where the tensor is not a message's but what a codec made of it.

        Planes that no codec changed are views of the tensor's memory. The notes hold ``layout`` where it is not the
        default one, and ``packed`` for planes that the bytes codecs made smaller: dtype, number of elements, then the
        size in bytes after each bytes codec but the last; left out where all of that was agreed (`needs_note`).
        Raises ``CodecError`` for a tensor that no frame can hold.
        """
        context = context or Context()
        tensor = _plain(tensor)
        lies = layout.layout_of(tensor)
        spec = spec or TensorSpec.of(tuple(tensor.shape), tensor.dtype)
        order = self._order(spec, lies)
        value = layout.memory_order(tensor, order)
        planes: dict[str, torch.Tensor] = {}
        prefix = ""
        for index, stage, before in self._stages(spec.permuted(order)):
            prefix = f"{index}."
            with context.turn(index, before) as own:
                value, side = split(stage, stage.encode(value, own), before)
            planes |= {prefix + name: plane for name, plane in side.items()}
        planes[prefix + VALUES] = value.reshape(-1)
        notes: dict[str, Any] = {} if lies == layout.default_layout(tensor.ndim) else {"layout": list(lies)}
        for name, bound in self.bounds(spec.permuted(order)).items() if self.bytes_codecs else ():
            smaller = pack(planes[name], self.bytes_codecs)
            if smaller is not None:
                planes[name], note = smaller
                if needs_note(note, bound, self.bytes_codecs):
                    notes.setdefault("packed", {})[name] = note
        return planes, notes

    def decode_planes(
        self, planes: Planes, notes: Mapping[str, Any], spec: TensorSpec, context: Context | None = None
    ) -> torch.Tensor:
        """The tensor again: ``spec.shape``, ``spec.dtype`` and the layout it had; a view of the planes where no codec
        changed them.

        ``spec`` is what was agreed; notes and planes are what came. Raises ``FrameError`` if they do not fit it.
        """
        context = context or Context()
        if spec.shape is None:
            raise CodecError("decoding needs the shape of the tensor, which this spec leaves open")
        default = layout.default_layout(len(spec.shape))
        lies, packed = notes.get("layout", default), notes.get("packed", {})
        if not layout.is_layout(lies, len(default)) or not isinstance(packed, Mapping) or notes.keys() - NOTES:
            found = sorted(map(str, notes))
            raise FrameError(
                f"expected notes with an order of {len(default)} dimensions and packed planes, found {found}"
            )
        order = self._order(spec, tuple(lies))
        spec = spec.permuted(order)
        stages = self._stages(spec)
        received = receive(planes, packed, self._bounds(spec, stages), self.bytes_codecs)
        value = received.pop(f"{stages[-1][0]}.{VALUES}" if stages else VALUES)
        for index, stage, before in reversed(stages):
            side = {name: received[f"{index}.{name}"] for name in stage.bounds(before) if name != VALUES}
            with context.turn(index, before) as own:
                value = join(stage, value, side, before, own)
        return layout.restore(layout.unpermuted(shaped(value, spec), order), tuple(lies))

    def _stages(self, spec: TensorSpec) -> list[tuple[int, TensorCodec, TensorSpec]]:
        """The tensor codecs that act on a tensor of ``spec``: place, codec, and the spec of what it takes. Lossy
        codecs leave alone what is not floating."""
        stages: list[tuple[int, TensorCodec, TensorSpec]] = []
        for index, stage in enumerate(self.tensor_codecs):
            if stage.lossless or spec.dtype.is_floating_point:
                stages.append((index, stage, spec))
                spec = stage.out(spec)
        return stages

    def _order(self, spec: TensorSpec, lies: tuple[int, ...]) -> tuple[int, ...]:
        """The order in which the dimensions are handed to the codecs: as they lie in memory, if all codecs are
        elementwise."""
        elementwise = all(stage.elementwise for _, stage, _ in self._stages(spec))
        return lies if elementwise else layout.default_layout(len(lies))

    def _bounds(self, spec: TensorSpec, stages: Sequence[tuple[int, TensorCodec, TensorSpec]]) -> dict[str, PlaneBound]:
        if not stages:
            return {VALUES: PlaneBound(spec.dtype, spec.max_numel)}
        last = stages[-1][0]
        return {
            f"{index}.{name}": bound
            for index, stage, before in stages
            for name, bound in stage.bounds(before).items()
            if name != VALUES or index == last
        }


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` as ordinary memory: on the CPU, outside autograd, of a dtype that a frame can hold."""
    if not isinstance(tensor, torch.Tensor):
        raise CodecError(f"expected a tensor to encode, found {type(tensor).__name__}")
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.dtype not in container.DTYPE_NAMES:
        raise CodecError(
            f"a frame cannot hold a {tensor.layout} tensor of {tensor.dtype} on {tensor.device}; convert it first"
        )
    return tensor.detach().cpu().resolve_conj().resolve_neg()


def _paired(
    tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None] | None
) -> list[torch.Tensor | None]:
    """A gradient for every tensor, or None. Raises ``CodecError`` if one is of another shape."""
    if gradients is None:
        return [None] * len(tensors)
    found = [None if gradient is None else _plain(gradient).contiguous() for gradient in gradients]
    shapes = [None if gradient is None else tuple(gradient.shape) for gradient in found]
    expected = [tuple(tensor.shape) for tensor in tensors]
    if len(shapes) != len(expected) or any(one not in (None, own) for one, own in zip(shapes, expected, strict=True)):
        raise CodecError(f"expected a gradient of the shape of each tensor, {expected}, found {shapes}")
    return found


def _stated(metadata: Mapping[str, str]) -> tuple[TensorSpec, dict[str, Any]]:
    """What a frame states about its tensor, and its notes with the layout among them."""
    try:
        shape, notes = json.loads(metadata["shape"]), json.loads(metadata.get("notes", "{}"))
        order = json.loads(metadata["layout"]) if "layout" in metadata else None
        dtype = container.DTYPES[metadata["dtype"]]
        step = int(metadata["step"])
    except (KeyError, ValueError, RecursionError) as error:
        raise FrameError(
            f"the metadata of the frame is incomplete or unreadable: {type(error).__name__}: {error}"
        ) from None
    sizes: list[Any] = shape if isinstance(shape, list) and len(shape) <= container.MAX_DIMENSIONS else [None]
    if (
        any(type(size) is not int or size < 0 for size in sizes)
        or not isinstance(notes, dict)
        or "layout" in notes
        or step < 0
    ):
        raise FrameError(
            f"expected a shape of at most {container.MAX_DIMENSIONS} sizes, notes and a step in the metadata"
        )
    if math.prod(size or 1 for size in sizes) >= 1 << 56:
        raise FrameError("the frame states a tensor larger than any machine can address")
    return TensorSpec.of(tuple(sizes), dtype), notes if order is None else {**notes, "layout": order}
