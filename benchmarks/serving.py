"""What a server costs: writing states, and memory beside training segment B alone.

    python benchmarks/serving.py [--steps 20] [--network resnet50]

Steps on a server that writes every session's state after every 10 steps take turns with the same steps on one that
writes none. Memory is the largest that the process ever had in use (Linux only), beside that of a process that builds
the same split and trains B with random activations and gradients.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import spliteasy as se
from spliteasy.server.process import SETTINGS, server_environment

CUTS = {"resnet50": ("maxpool", "avgpool"), "densenet121": ("features.pool0", "features.norm5")}
BATCH, STEPS = 8, 3


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of each kind, after ten (default: 20)")
    parser.add_argument("--network", choices=sorted(CUTS), default="resnet50")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options.network)
        return
    if sys.platform == "linux" and not all(name in os.environ for name in SETTINGS):
        os.execve(sys.executable, [sys.executable, *sys.argv], server_environment())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.network}, batch {BATCH}")
    memory(options.network)
    states(options.network, options.steps)


def split_of(network: str) -> se.Split:
    return se.split(se.load_model(network, num_classes=10), CUTS[network])


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return se.data.photos(BATCH, 224), torch.arange(BATCH) % 10


def states(network: str, steps: int) -> None:
    """Mean seconds a step, with and without states."""
    with tempfile.TemporaryDirectory() as folder, se.LocalServer() as plain, se.LocalServer(state=folder) as keeping:
        trainers = {
            name: se.Trainer(split_of(network), server.url, optimizer={"name": "SGD", "lr": 0.01, "momentum": 0.9})
            for name, server in (("none", plain), ("every 10", keeping))
        }
        taken = dict.fromkeys(trainers, 0.0)
        x, y = batch()
        for number in range(10 + steps):
            for name, trainer in trainers.items():
                started = time.perf_counter()
                trainer.step(x, y)
                if number >= 10:
                    taken[name] += time.perf_counter() - started
        written = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        ratio = taken["every 10"] / taken["none"]
        print(
            f"states of {written / 1e6:.0f} MB: none {taken['none'] / steps:.3f} s a step, "
            f"every 10 steps {taken['every 10'] / steps:.3f} s, ratio {ratio:.4f}"
        )
        for trainer in trainers.values():
            trainer.close()


def memory(network: str) -> None:
    """Largest resident memory of a server, and of training B alone."""
    x, y = batch()
    with se.LocalServer() as server, se.Trainer(split_of(network), server.url) as trainer:
        for _ in range(STEPS):
            record = trainer.step(x, y)
        status = Path(f"/proc/{server.pid}/status").read_text()
        used = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10
    largest = max(size.http for size in record.bytes.values())
    command = [sys.executable, __file__, "--alone", "--network", network]
    reference = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    print(
        f"memory: server {used / 1e6:.0f} MB, B alone {reference / 1e6:.0f} MB, largest message "
        f"{largest / 1e6:.1f} MB: server − alone = {(used - reference) / largest:.2f} messages"
    )


def alone(network: str) -> None:
    """Train B; print the largest memory in bytes."""
    split = split_of(network)
    b, route = split.b, split.a.exit[True]
    assert b is not None and route is not None
    x, _ = batch()
    with torch.no_grad():
        entering = split.a(x[:1])
    shape = (BATCH, *entering.shape[1:])
    split.a.to("meta")
    del split
    optimizer = torch.optim.SGD(b.parameters(), lr=0.01)
    for _ in range(STEPS):
        activations = torch.rand(shape, requires_grad=True)
        output = b(activations)
        output.backward(torch.rand_like(output))
        optimizer.step()
        optimizer.zero_grad()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)


if __name__ == "__main__":
    main()
