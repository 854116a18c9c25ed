"""Lossless chains on float32 activations after the first max pooling: size and speed beside zstd(3), in one run.

    OMP_NUM_THREADS=1 python benchmarks/lossless.py [--rounds 15] [--batch 8] [--all]

Three networks see photographs at 224², after a few steps of training. Whole frames are encoded and decoded, in rounds
of all chains after one another, with one thread; speeds are medians, in MB/s of the float32 tensor, and the columns
"x" are ratios of medians to zstd(3). Every frame is checked to give its tensor back, to the bit.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

import spliteasy as se
from spliteasy.errors import CodecError

NETWORKS = {"resnet50": "maxpool", "densenet121": "features.pool0", "vgg11": "features.2"}
STEPS = 3
BASELINE = "zstd(3)"
CHAINS = (
    BASELINE,
    "zstd(1)",
    "shuffle | zstd(1)",
    "zvc | shuffle | zstd(1)",
    'zvc(repeats="previous") | shuffle | zstd(1)',
    'zvc(repeats="above") | shuffle | zstd(1)',
    'zvc(repeats="both") | shuffle | zstd(1)',
    'zvc(repeats="both") | shuffle | zstd(3)',
    'zvc(repeats="both") | shuffle | lz4',
)
OTHERS = (
    "lz4",
    "bitshuffle | zstd(1)",
    'zvc(repeats="both") | zstd(1)',
    'zvc(repeats="both") | bitshuffle | zstd(1)',
    'zvc(repeats="both") | numcodecs("blosc", cname="zstd", clevel=1, shuffle=1)',
    "pcodec(4)",
    'zvc(repeats="both") | pcodec(4)',
    'blosc2("zstd", 1, "shuffle")',
    'zvc(repeats="both") | blosc2("zstd", 1, "shuffle")',
)


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each chain (default: 15)")
    parser.add_argument("--batch", type=int, default=8, help="photographs in the batch (default: 8)")
    parser.add_argument("--all", action="store_true", help="more chains, those of the extras among them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chains = []
    for notation in (*CHAINS, *(OTHERS if options.all else ())):
        try:
            chains.append(se.codec(notation))
        except CodecError as error:
            print(f"left out: {error}")
    print(f"torch {torch.__version__}, 1 thread, batch {options.batch}, {options.rounds} rounds")
    for name, layer in NETWORKS.items():
        table(name, activations(name, layer, options.batch), chains, options.rounds)


def activations(name: str, layer: str, batch: int) -> torch.Tensor:
    """What leaves ``layer``, after a few steps of SGD on photographs."""
    torch.manual_seed(0)
    model = se.load_model(name, num_classes=10).train()
    x, y = se.data.photos(batch, 224), torch.arange(batch) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    found: list[torch.Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _module, _input, out: found.append(out.detach()))
    with torch.no_grad():
        model(x)
    hook.remove()
    return found[0].clone()


def table(name: str, x: torch.Tensor, chains: list[se.codecs.Chain], rounds: int) -> None:
    """One row a chain."""
    seconds: dict[str, tuple[list[float], list[float]]] = {repr(chain): ([], []) for chain in chains}
    sizes: dict[str, int] = {}
    for _ in range(rounds + 1):  # the first one warms up
        for chain in chains:
            begin = time.perf_counter()
            frame = chain.encode(x)
            between = time.perf_counter()
            decoded = chain.decode(frame)
            end = time.perf_counter()
            assert torch.equal(decoded.view(torch.int32), x.view(torch.int32)), f"{chain!r} is not lossless"
            seconds[repr(chain)][0].append(between - begin)
            seconds[repr(chain)][1].append(end - between)
            sizes[repr(chain)] = len(frame)
    raw = x.numel() * x.element_size()
    zeros = 100 * float((x == 0).float().mean())
    print(f"\n{name}, {tuple(x.shape)}, {zeros:.0f} % zeros")
    print(f"{'chain':62} {'ratio':>6} {'x':>5}  {'encode':>6} {'x':>5}  {'decode':>6} {'x':>5}")
    first = [statistics.median(series[1:]) for series in seconds[BASELINE]]
    for notation, series in seconds.items():
        encode, decode = (statistics.median(one[1:]) for one in series)
        print(
            f"{notation:62} {raw / sizes[notation]:6.3f} {sizes[BASELINE] / sizes[notation]:5.2f}  "
            f"{raw / encode / 1e6:6.0f} {first[0] / encode:5.2f}  {raw / decode / 1e6:6.0f} {first[1] / decode:5.2f}"
        )


if __name__ == "__main__":
    main()
