"""What a split step costs beside an unsplit one, in one run: rounds of one step each, medians, ratios round by round.

    python benchmarks/steps.py [--rounds 15] [--quick]

Device and server share this machine's cores, as the figures that they are compared with did. Both processes start with
the settings of `spliteasy.server.process.SETTINGS`; `--plain` leaves this process as it was started.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import spliteasy as se
from spliteasy.server.process import SETTINGS, server_environment

Step = Callable[[], object]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each comparison (default: 15)")
    parser.add_argument("--quick", action="store_true", help="the small comparisons only")
    parser.add_argument("--plain", action="store_true", help="do not start again with the settings")
    options = parser.parse_args()
    if not options.plain and sys.platform == "linux" and not all(name in os.environ for name in SETTINGS):
        os.execve(sys.executable, [sys.executable, *sys.argv], server_environment())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    with se.LocalServer(allow=["tiny_network:perceptron"]) as server:
        tiny(server.url, 10 * options.rounds)
        raw_frames(server.url)
        if not options.quick:
            networks(server.url, options.rounds)


def networks(url: str, rounds: int) -> None:
    """HTTP and in-process steps against unsplit ones, DenseNet-121 and ResNet-50 at 224²."""
    print(f"\n{'network':12} {'batch':>5}  {'unsplit':>9} {'in-process':>11} {'ratio':>6} {'HTTP':>9} {'ratio':>6}")
    for name, cuts in (
        ("densenet121", ("features.pool0", "features.norm5")),
        ("resnet50", ("maxpool", "avgpool")),
    ):
        for batch in (8, 1):
            x, y = se.data.photos(batch, 224), torch.arange(batch) % 10
            plain = _unsplit(se.load_model(name, num_classes=10), x, y)
            steps = {"unsplit": plain}
            trainers = []
            for kind, server in (("in-process", None), ("HTTP", url)):
                split = se.split(se.load_model(name, num_classes=10), cuts)
                trainers.append(se.Trainer(split, server=server))
                steps[kind] = _stepper(trainers[-1], x, y)
            times = _rounds(steps, rounds)
            unsplit, local, remote = (statistics.median(times[kind]) for kind in steps)
            print(
                f"{name:12} {batch:5}  {unsplit * 1e3:7.1f}ms {local * 1e3:9.1f}ms {_ratio(times, 'in-process'):6.3f} "
                f"{remote * 1e3:7.1f}ms {_ratio(times, 'HTTP'):6.3f}"
            )
            for trainer in trainers:
                trainer.close()


def tiny(url: str, rounds: int) -> None:
    """A step of two small networks over HTTP, against the same step in-process."""
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    print(f"\n{'tiny network':12}  {'in-process':>10} {'HTTP':>9} {'more':>8}")
    for name, cuts in (("tiny_network:perceptron", ("2", "4")), ("digits_cnn", ("pool", "flatten"))):
        trainers = [se.Trainer(se.split(se.load_model(name), cuts, (1, 8, 8)), server=server) for server in (None, url)]
        kinds = ("in-process", "HTTP")
        times = _rounds({kind: _stepper(t, x, y) for kind, t in zip(kinds, trainers, strict=True)}, rounds)
        local, remote = (1e3 * statistics.median(times[kind]) for kind in kinds)
        more = 1e3 * statistics.median(b - a for a, b in zip(*times.values(), strict=True))
        print(f"{name.partition(':')[2] or name:12}  {local:8.2f}ms {remote:7.2f}ms {more:6.2f}ms")
        for trainer in trainers:
            trainer.close()


def raw_frames(url: str) -> None:
    """Bytes on the socket over bytes of the tensors, for messages above 1 MB."""
    split = se.split(se.load_model("resnet18", num_classes=10), ("maxpool", "layer1"))
    with se.Trainer(split, server=url) as trainer:
        record = trainer.step(se.data.photos(2, 224), torch.arange(2))
    print(
        "\nraw messages:",
        ", ".join(
            f"{name} {size.raw / 1e6:.2f} MB × {size.http / size.raw:.6f}" for name, size in record.bytes.items()
        ),
    )


def _unsplit(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def _stepper(trainer: se.Trainer, x: torch.Tensor, y: torch.Tensor) -> Step:
    return lambda: trainer.step(x, y)


def _rounds(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind of step, taken in turn; two warm-up rounds are not counted."""
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for index in range(-2, rounds):
        for kind, step in steps.items():
            started = time.perf_counter()
            step()
            if index >= 0:
                times[kind].append(time.perf_counter() - started)
    return times


def _ratio(times: dict[str, list[float]], kind: str) -> float:
    """The median over the rounds of this step's time over the unsplit step's of the same round."""
    return statistics.median(b / a for a, b in zip(times["unsplit"], times[kind], strict=True))


if __name__ == "__main__":
    main()
