"""Wrong answers to the exercises of notebook 02."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import avg_pool2d


def stretched(small: torch.Tensor) -> torch.Tensor:
    return small.repeat_interleave(2, -2).repeat_interleave(2, -1)


def halved_itself(gradient: torch.Tensor) -> torch.Tensor:
    return stretched(gradient[..., ::2, ::2])


def sum_everywhere(gradient: torch.Tensor) -> torch.Tensor:
    return stretched(4 * avg_pool2d(gradient, 2))


def mean_in_place(gradient: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(gradient)
    out[..., ::2, ::2] = avg_pool2d(gradient, 2)
    return out


def only_the_kept(gradient: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(gradient)
    out[..., ::2, ::2] = gradient[..., ::2, ::2]
    return out


def small(gradient: torch.Tensor) -> torch.Tensor:
    return 4 * avg_pool2d(gradient, 2)


WRONG: dict[str, list[Any]] = {
    "02.1": [20, 10, 32 / 4.2, 32 / 4.8, 2.6 / 32, 12],
    "02.2": [
        "topk(0.1) | fp16 | zstd(1)",
        "int8 | zstd(1)",
        "sign",
        "fp16 | zstd(19)",
        "no such codec",
        "zstd(1) | int8",
        "topk(0.5) | fp16",
        "pca(4)",
    ],
    "02.3": [120, 1440, 2880, 1066.7, 200, 1600],
    "02.4": [
        halved_itself,
        sum_everywhere,
        mean_in_place,
        only_the_kept,
        small,
        lambda: 0,
        lambda gradient: gradient,
        lambda gradient: None,
    ],
}
