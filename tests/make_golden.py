"""Make the golden frames: `python tests/make_golden.py` adds those that are missing, for every installed codec.

A golden frame is a file of a few hundred bytes that some version wrote, `NAME.frame.safetensors`, and what it decodes
to, `NAME.tensor.safetensors`: a plane `tensor`, and in the metadata what the reader needs beside the frame (`message`,
`seed`; `exact`, which is `no` where decoding multiplies matrices, whose last bits differ from processor to processor;
`after`, the golden frame of the forward message whose pair a gradient shares). The parameters of a fitted codec lie in
`NAME.parameters.safetensors`, each named `codec:name`. `test_golden.py` reads all of them.

Nothing is ever overwritten. A frame that cannot be read any longer means that frames out there cannot be read either:
that takes a new `FORMAT` (`spliteasy/codecs/chain.py`), not a new golden frame. Only before a release that has the
codec at all may its files be removed and made again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from spliteasy.codecs import Chain, Context, FittedCodec, TensorSpec, codec, container, describe_codecs
from spliteasy.codecs.testing import fitted

FOLDER = Path(__file__).parent / "golden"

SEED, STEP = 7, 5

MULTIPLYING = {"bottleneck", "c3", "dct", "pca", "powersgd"}
"""Codecs that multiply matrices or transform when they decode."""

CHAINS = ("topk(0.25) | fp16", "topk(0.1) | fp16 | zstd(1)", "fp16 | zstd(1)")


class Golden(NamedTuple):
    """One frame to keep: a name for files, the chain, and the tensor it is made of."""

    name: str
    chain: Chain
    tensor: torch.Tensor


def tensor_of(dtype: torch.dtype, shape: tuple[int, ...] = (2, 3, 6, 6)) -> torch.Tensor:
    """Numbers made by arithmetic alone, the same everywhere for ever: half of them zero, quarters up to 12."""
    place = torch.arange(int(torch.Size(shape).numel()), dtype=torch.int64)
    values = ((place * 7919) % 97 - 48).double() / 4
    if not dtype.is_signed or not (dtype.is_floating_point or dtype.is_complex):
        values = values.abs().floor()
    made = values.relu() if dtype.is_floating_point and dtype.itemsize > 1 else values
    return (made % 2 if dtype is torch.bool else made).to(dtype).view(shape)


def goldens() -> Iterator[Golden]:
    """Every golden frame that there should be with what is installed."""
    for dtype in container.DTYPE_NAMES:
        yield _golden("raw", tensor_of(dtype, (2, 3, 2)))
    yield _golden("raw", tensor_of(torch.float32, (2, 3, 4, 4)).to(memory_format=torch.channels_last), "channels-last")
    yield _golden("raw", torch.tensor(-0.0), "scalar")
    yield _golden("raw", torch.empty(0, 3), "empty")
    for row in describe_codecs():
        if row.kind == "broken":
            print(f"left out: {row.summary}", file=sys.stderr)
        elif row.name != "raw":
            for dtype in (torch.float32, torch.float64, torch.bfloat16, *([torch.int64] if row.lossless else [])):
                yield _golden(row.example, tensor_of(dtype))
    for notation in CHAINS:
        yield _golden(notation, tensor_of(torch.float32))


def _golden(notation: str, tensor: torch.Tensor, word: str = "") -> Golden:
    chain = fitted(codec(notation), tensor)
    assert chain is not None, f"{notation} cannot be fitted on {tuple(tensor.shape)}"
    text = f"{notation} {str(tensor.dtype).removeprefix('torch.')} {word}"
    return Golden(re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-"), chain, tensor)


def files_of(golden: Golden) -> dict[str, bytes]:
    """The files of a golden frame, and of the gradient that comes back where its frame depends on the pair."""
    name, chain, tensor = golden
    context, receiving = _context("activations", {}), _context("activations", {})
    frame = chain.encode(tensor, context)
    decoded = chain.decode(frame, receiving, TensorSpec.of(tuple(tensor.shape), tensor.dtype))
    facts = {"message": "activations", "seed": str(SEED), "exact": "no" if _multiplies(chain) else "yes"}
    files = {f"{name}.frame.safetensors": frame, f"{name}.tensor.safetensors": _file({"tensor": decoded}, facts)}
    if chain.shipped:
        stages = [stage for stage in chain.codecs if isinstance(stage, FittedCodec)]
        held = {f"{stage.name}:{key}": value for stage in stages for key, value in stage.parameters.items()}
        files[f"{name}.parameters.safetensors"] = _file(held, {})
    if tensor.is_floating_point() and tensor.itemsize > 1 and tensor.numel():
        gradient = tensor.flip(0)
        alone = chain.encode(gradient, _context("input_gradients", {}))
        back = chain.encode(gradient, _context("input_gradients", receiving.pair))
        if back != alone:
            pair = dict(context.pair)
            decoded = chain.decode(back, _context("input_gradients", pair))
            facts = {**facts, "message": "input_gradients", "after": name}
            files[f"{name}-gradient.frame.safetensors"] = back
            files[f"{name}-gradient.tensor.safetensors"] = _file({"tensor": decoded}, facts)
    return files


def _multiplies(chain: Chain) -> bool:
    return any(word in MULTIPLYING for word in re.findall(r"[a-z]\w*", repr(chain)))


def _context(message: str, pair: dict[str, object]) -> Context:
    return Context(message, seed=SEED, step=STEP, pair=pair)


def _file(planes: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    return b"".join(container.write({key: plane.contiguous() for key, plane in planes.items()}, metadata))


def main() -> None:
    """Write what is missing."""
    FOLDER.mkdir(exist_ok=True)
    for golden in goldens():
        if (FOLDER / f"{golden.name}.frame.safetensors").exists():
            continue
        for name, content in files_of(golden).items():
            with open(FOLDER / name, "xb") as file:
                file.write(content)
        print(f"made: {golden.name}")


if __name__ == "__main__":
    main()
