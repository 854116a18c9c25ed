"""The public names of DESIGN: there, documented, and in `__all__`."""

from __future__ import annotations

import inspect

import pytest

import spliteasy as se

CONTRACT = [
    "load_model", "find_cuts", "split", "LocalServer", "Trainer", "Codecs", "Link", "codec", "measure", "list_models",
    "list_codecs", "explore", "step_seed", "errors", "LINKS", "data", "__version__",
]  # fmt: skip


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_is_exported(name: str) -> None:
    assert name in se.__all__
    assert hasattr(se, name)


def test_all_is_what_is_there() -> None:
    assert sorted(se.__all__) == sorted(set(se.__all__))
    for name in se.__all__:
        value = getattr(se, name)
        if callable(value):
            assert inspect.getdoc(value), name


def test_every_error_has_the_same_root() -> None:
    errors = [getattr(se.errors, name) for name in se.errors.__all__ if name != "suggest"]
    assert all(issubclass(error, se.errors.SplitEasyError) for error in errors)
    tree = se.errors.__doc__ or ""
    assert all(error.__name__ in tree for error in errors), "the tree is drawn in the docstring"


def test_lists_of_names() -> None:
    assert {"raw", "fp16", "topk", "zstd"} <= set(se.list_codecs())
    names = se.list_models()
    assert {"resnet50", "vgg16", "digits_cnn", "timm/inception_resnet_v2"} <= set(names)


def test_the_example_of_the_design_runs() -> None:
    import torch

    chain = se.codec("topk(0.1) | fp16 | zstd(1)")
    tensor = torch.randn(4, 8, 7, 7)
    frame = chain.encode(tensor)
    assert bytes(frame) and chain.decode(bytearray(frame)).shape == tensor.shape
    row = se.measure(chain, tensor)
    assert row.frame_bytes == len(bytes(frame))
    cuts = se.find_cuts(se.load_model("resnet18", num_classes=10), input_shape=(3, 64, 64), batch=32)
    assert cuts["maxpool"].tensors[0].shape == (32, 64, 16, 16)
    assert cuts["maxpool"].nbytes == 4 * 32 * 64 * 16 * 16
    assert cuts["maxpool"].index == 4 and cuts["maxpool"].params_before > 0 and cuts["maxpool"].macs_before > 0
