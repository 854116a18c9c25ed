"""What top-k costs in bytes beside its floor, and in time beside PyTorch's: two tables from one run, on one thread.

    python benchmarks/positions.py [--batch 16] [--rounds 5]

The floor of a frame counts d·H(k/d) bits for the positions of each sample, as if they were independent, and 16 bits for
each value; what is printed is the floor by the whole frame, header included. Data: independent normal numbers; the
activations after the first pool of two networks and their gradients, on photographs, after three training steps.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import spliteasy as se
from spliteasy.codecs import Context
from spliteasy_plugins import positions
from spliteasy_plugins.selection import bits_of, largest, marked

FRACTIONS = (0.01, 0.03, 0.05, 0.1, 0.25)
ENDINGS = ("fp16", "fp16 | zstd(1)", "fp16 | zstd(3)", "fp16 | shuffle | zstd(1)")
ENCODINGS = {0: "bitmap", 1: "Rice", 2: "gaps, zstd", 3: "bitmap, zstd"}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="samples (default: 16)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each timing (default: 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = {
        "normal, 100,000": torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0)),
        "normal": torch.randn(options.batch, 64, 56, 56, generator=torch.Generator().manual_seed(0)),
        **trained("resnet50", "maxpool", options.batch),
        **trained("densenet121", "features.pool0", options.batch),
    }
    sizes(data)
    times({name: x for name, x in data.items() if x.numel() > 1e6}, options.rounds)


def trained(name: str, cut: str, batch: int, steps: int = 3) -> dict[str, torch.Tensor]:
    """The activations at a cut and their gradient, in the step after ``steps`` training steps."""
    torch.manual_seed(0)
    split = se.split(se.load_model(name, num_classes=10), at=(cut,))
    model = [split.a.train(), split.b.train()]
    optimizer = torch.optim.SGD([p for part in model for p in part.parameters()], lr=0.01, momentum=0.9)
    for step in range(steps + 1):
        activations = model[0](se.data.photos(batch, 224, seed=step))
        activations.retain_grad()
        optimizer.zero_grad()
        F.cross_entropy(model[1](activations), torch.arange(batch) % 10).backward()
        optimizer.step()
    assert activations.grad is not None
    return {f"{name}, activations": activations.detach(), f"{name}, gradients": activations.grad}


def sizes(data: dict[str, torch.Tensor]) -> None:
    """The floor by the frame, for each chain; a gradient with ``reuse`` has the positions of the activations."""
    endings = [ending for ending in ENDINGS if "shuffle" not in ending or "shuffle" in se.list_codecs()]
    print(f"{'data':26} {'r':>5} {'positions':>13} {'bits':>5}" + "".join(f" {ending:>25}" for ending in endings))
    last: dict[str, torch.Tensor] = {}
    for name, x in data.items():
        for fraction in FRACTIONS:
            samples, entries = x.shape[0], x[0].numel()
            k = round(fraction * entries)
            mask = largest(bits_of(x.contiguous()).reshape(samples, entries), k)
            plane = positions.encode(mask, marked(mask).reshape(samples, k))
            floor = samples * (entries * entropy(k / entries) + 16 * k) / 8
            ratios = "".join(
                f" {floor / len(se.codec(f'topk({fraction}) | {end}').encode(x)):25.3f}" for end in endings
            )
            bits = 8 * plane.size / samples / k
            print(f"{name:26} {fraction:5.2f} {ENCODINGS[int(plane[0]) & 3]:>13} {bits:5.2f}{ratios}")
            if name.endswith("gradients"):
                frames = [reused(f"topk({fraction}, reuse=True) | {end}", last["activations"], x) for end in endings]
                ratios = "".join(f" {floor / frame:25.3f}" for frame in frames)
                print(f"{'  positions reused':26} {fraction:5.2f} {'none':>13} {0:5.2f}{ratios}")
        last[name.rpartition(" ")[2]] = x


def reused(chain: str, activations: torch.Tensor, gradients: torch.Tensor) -> int:
    """The bytes of the gradients' frame at the positions of the activations."""
    pair: dict[str, Any] = {}
    se.codec(chain).encode(activations, Context("activations", pair=pair))
    return len(se.codec(chain).encode(gradients, Context("input_gradients", pair=pair)))


def times(data: dict[str, torch.Tensor], rounds: int) -> None:
    """Milliseconds, medians of rounds in turn: the selection beside PyTorch's, then the coder of positions."""
    print(f"\n{'data':26} {'r':>5} {'torch.topk':>10} {'selection':>10} {'ratio':>6} {'encode':>7} {'decode':>7}")
    for name, x in data.items():
        samples, entries = x.shape[0], x[0].numel()
        bits = bits_of(x.contiguous()).reshape(samples, entries)
        for fraction in FRACTIONS:
            k = round(fraction * entries)
            mask = largest(bits, k)
            kept = marked(mask).reshape(samples, k)
            plane = positions.encode(mask, kept)
            calls: list[Callable[[], object]] = [
                lambda x=x, k=k: x.abs().flatten(1).topk(k, dim=1, sorted=False),
                lambda bits=bits, k=k: largest(bits, k),
                lambda mask=mask, kept=kept: positions.encode(mask, kept),
                lambda plane=plane, n=samples, d=entries, k=k: positions.decode(plane, n, d, k),
            ]
            taken = np.array([[clock(call) for call in calls] for _ in range(rounds)]).T
            theirs, ours, encode, decode = (1e3 * statistics.median(row) for row in taken)
            ratio = statistics.median(taken[0] / taken[1])
            print(f"{name:26} {fraction:5.2f} {theirs:10.1f} {ours:10.1f} {ratio:6.2f} {encode:7.1f} {decode:7.1f}")


def clock(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def entropy(share: float) -> float:
    """Bits of one yes or no of this probability."""
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)


if __name__ == "__main__":
    main()
