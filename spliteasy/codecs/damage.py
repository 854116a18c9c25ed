"""Frames that are damaged or lie, made from honest ones. Every mutation follows from a seed, so that what was found
once is found again."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from spliteasy.codecs import container
from spliteasy.codecs.base import Context, TensorSpec
from spliteasy.codecs.chain import Chain
from spliteasy.codecs.guard import expect_valid

__all__ = ["fuzz", "mutations"]

NUMBERS = (0, 1, -1, 2, 255, 256, 1 << 16, 1 << 31, 1 << 40, 1 << 53, 1 << 63, 1 << 100, -(1 << 31), 0.5, float("nan"))
OTHERS: tuple[Any, ...] = (None, True, "", "x", "F64", "U8", "I64", "BOOL", [], [0], {}, [[]], "[" * 40)


def fuzz(chain: Chain, tensor: torch.Tensor, count: int, seed: int = 0, message: str = "activations") -> dict[str, int]:
    """Decode ``count`` mutations of the frame of ``tensor``; how many were ``refused`` and how many ``decoded``.

    ``message`` may be a gradient: its frame is then encoded, and each mutation decoded, after the forward message whose
    pair it shares. Raises ``AssertionError``, with the seed and number of the mutation, for one that is neither
    refused nor decoded to a valid tensor, or that takes more than ``guard.ALLOWED`` bytes.
    """
    sender, receiver = Context(message, pair={}), Context(message, pair={})
    if sender.gradient:
        forward = chain.encode(tensor, Context("activations", pair=sender.pair))
        chain.decode(forward, Context("activations", pair=receiver.pair))
    frame = bytes(chain.encode(tensor, sender))
    spec = TensorSpec.of(tuple(tensor.shape), tensor.dtype)
    outcome = {"refused": 0, "decoded": 0}
    for number, (kind, damaged) in enumerate(mutations(frame, count, seed)):
        context = Context(message, pair=copy.deepcopy(receiver.pair))
        where = f"{chain!r}, {message}, {spec.dtype} of {spec.shape}, seed {seed}, mutation {number}: {kind}"
        agreed = spec if number % 4 else None  # files are decoded by what they state themselves
        found = expect_valid(partial(chain.decode, damaged, context, agreed), where, agreed)
        outcome["refused" if found is None else "decoded"] += 1
    return outcome


def mutations(frame: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """``count`` damaged or lying variants of a frame, each with a word for what was done."""
    draw = random.Random(seed)
    begin = 8 + int.from_bytes(frame[:8], "little")
    kinds: list[tuple[Callable[[random.Random, bytes, int], bytes], int]] = [
        (_flip, 3), (_flip_planes, 6), (_cut, 1), (_splice, 2), (_insert, 1), (_drop, 1), (_fill, 2), (_edit, 5),
        (_stretch, 3), (_swap, 1),
    ]  # fmt: skip
    chosen = draw.choices([kind for kind, _ in kinds], [weight for _, weight in kinds], k=count)
    for kind in chosen:
        yield kind.__name__.strip("_"), kind(draw, frame, begin)


def _flip(draw: random.Random, frame: bytes, begin: int) -> bytes:
    """A few bits, anywhere."""
    return _flipped(draw, frame, 0)


def _flip_planes(draw: random.Random, frame: bytes, begin: int) -> bytes:
    """A few bits of the planes."""
    return _flipped(draw, frame, begin if begin < len(frame) else 0)


def _flipped(draw: random.Random, frame: bytes, begin: int) -> bytes:
    changed = bytearray(frame)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        changed[draw.randrange(begin, len(frame))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(draw: random.Random, frame: bytes, begin: int) -> bytes:
    """The end is missing."""
    return frame[: draw.randrange(len(frame))]


def _run(draw: random.Random, frame: bytes) -> slice:
    start = draw.randrange(len(frame))
    return slice(start, start + draw.randint(1, 32))


def _splice(draw: random.Random, frame: bytes, begin: int) -> bytes:
    """A run of bytes written over another."""
    run, place = frame[_run(draw, frame)], draw.randrange(len(frame))
    return (frame[:place] + run + frame[place + len(run) :])[: len(frame)]


def _insert(draw: random.Random, frame: bytes, begin: int) -> bytes:
    """Bytes too many."""
    place = draw.randint(0, len(frame))
    return frame[:place] + draw.randbytes(draw.randint(1, 16)) + frame[place:]


def _drop(draw: random.Random, frame: bytes, begin: int) -> bytes:
    """Bytes missing in the middle."""
    run = _run(draw, frame)
    return frame[: run.start] + frame[run.stop :]


def _fill(draw: random.Random, frame: bytes, begin: int) -> bytes:
    """A run of equal bytes, in the planes: zeros, ones, NaN."""
    changed = bytearray(frame)
    for place in range(*_run(draw, frame[begin:] or frame).indices(len(frame) - begin)):
        changed[begin + place] = draw.choice((0x00, 0xFF, 0x7F, 0x80))
    return bytes(changed)


def _edit(draw: random.Random, frame: bytes, begin: int) -> bytes:
    """One entry of the header, or of the notes in its metadata, is something else; the header stays readable."""
    header = json.loads(frame[8:begin])
    metadata = header.get("__metadata__", {})
    read = {key: json.loads(metadata[key]) for key in ("shape", "layout", "notes") if key in metadata}
    texts = {key: text for key, text in metadata.items() if key not in read}
    planes = {key: entry for key, entry in header.items() if key != "__metadata__"}
    holder, key = draw.choice([place for top in (planes, read, texts) for place in _leaves(top)])
    old = holder[key]
    near = (old + 1, old - 1, old * 2, -old) if type(old) is int else ()
    holder[key] = draw.choice((*near, *NUMBERS, *OTHERS))
    written = {key: json.dumps(value) for key, value in read.items()}
    return _assembled({"__metadata__": {**texts, **written}, **planes}, frame[begin:])


def _leaves(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every entry below ``node`` as (list or map, index or key)."""
    for key in node if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _leaves(node[key])


def _stretch(draw: random.Random, frame: bytes, begin: int) -> bytes:
    """One plane is shorter, longer, in another order or of another type, in a frame that is sound otherwise."""
    planes, metadata = container.read(frame)
    name = draw.choice(sorted(planes))
    plane = planes[name].clone()
    several = plane.numel() > 1
    choices = [plane[:-1], plane[: plane.numel() // 2], plane[:0], torch.cat([plane, plane]), plane.view(torch.uint8),
               torch.cat([plane, plane[-1:]]), plane.to(torch.float64), plane.reshape(1, -1), torch.zeros_like(plane),
               plane[:1].expand(plane.numel()) if several else plane, plane.flip(0)]  # fmt: skip
    planes[name] = draw.choice(choices).contiguous()
    return b"".join(container.write(planes, metadata))


def _swap(draw: random.Random, frame: bytes, begin: int) -> bytes:
    """Two entries of the header exchange their names; of a single plane, the name changes."""
    header = json.loads(frame[8:begin])
    names = [name for name in header if name != "__metadata__"]
    one, other = draw.sample(names, 2) if len(names) > 1 else (names[0], "values" if draw.random() < 0.5 else "9.x")
    header[one], header[other] = header.get(other, header[one]), header[one]
    if len(names) == 1:
        del header[one]
    return _assembled(header, frame[begin:])


def _assembled(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body
