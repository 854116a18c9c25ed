"""Golden frames: what once was written stays readable, to the bit. `make_golden.py` says what they are and adds new
ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from make_golden import FOLDER, goldens
from safetensors import safe_open

from spliteasy.codecs import Context, Parameters, codec, container, describe_codecs, remember
from spliteasy.codecs.conversation import same

FRAMES = sorted(FOLDER.glob("*.frame.safetensors"))
BROKEN = {row.name for row in describe_codecs() if row.kind == "broken"}


def name_of(path: Path) -> str:
    return path.name.removesuffix(".frame.safetensors")


def read(name: str, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    return container.read((FOLDER / f"{name}.{kind}.safetensors").read_bytes())


def parameters_of(name: str) -> list[Parameters]:
    """The parameters that lie beside a golden frame, by codec; the chain finds them for as long as they are held."""
    if not (FOLDER / f"{name}.parameters.safetensors").exists():
        return []
    tensors, _ = read(name, "parameters")
    by_codec: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        owner, _, inner = key.partition(":")
        by_codec.setdefault(owner, {})[inner] = tensor
    return [remember(held) for held in by_codec.values()]


@pytest.mark.parametrize("path", FRAMES, ids=name_of)
def test_a_golden_frame_decodes_to_what_was_recorded(path: Path) -> None:
    data = path.read_bytes()
    expected, facts = read(name_of(path), "tensor")
    _, metadata = container.read(data)
    if any(name in metadata["chain"] for name in BROKEN):
        pytest.skip(f"{metadata['chain']} needs a library that is not installed")
    context = partial(Context, step=int(metadata["step"]), seed=int(facts["seed"]), pair={})
    held = parameters_of(facts.get("after", name_of(path)))
    chain = codec(metadata["chain"])
    assert {parameters.digest for parameters in held} == {parameters.digest for parameters in chain.shipped}
    if "after" in facts:
        forward = (FOLDER / f"{facts['after']}.frame.safetensors").read_bytes()
        chain.decode(forward, context(message="activations"))
    decoded = chain.decode(data, context(message=facts["message"]))
    if facts["exact"] == "yes":
        assert same(decoded, expected["tensor"])
    else:
        torch.testing.assert_close(decoded, expected["tensor"])


@pytest.mark.parametrize("path", FRAMES, ids=name_of)
def test_the_safetensors_library_opens_a_golden_frame(path: Path) -> None:
    """So can any language: the header says what the frame is and what every plane is."""
    planes, metadata = container.read(path.read_bytes())
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata and metadata.keys() >= {"format", "chain", "shape", "dtype", "step"}
        assert set(file.keys()) == set(planes)
        for name, plane in planes.items():
            assert same(file.get_tensor(name), plane)


def test_every_installed_codec_has_golden_frames() -> None:
    missing = {golden.name for golden in goldens()} - set(map(name_of, FRAMES))
    assert not missing, f"run `python tests/make_golden.py` and commit tests/golden: {sorted(missing)}"


def test_golden_frames_are_small_and_complete() -> None:
    files = list(FOLDER.iterdir())
    assert all(path.stat().st_size < 8192 for path in files)
    assert all((FOLDER / f"{name_of(path)}.tensor.safetensors").exists() for path in FRAMES)
    kinds = ("frame.safetensors", "tensor.safetensors", "parameters.safetensors")
    assert all(path.name.endswith(kinds) for path in files)
