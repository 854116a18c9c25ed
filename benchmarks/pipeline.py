"""Pipelined steps on an emulated link beside whole ones, and beside the slowest of device, link and server.

    python benchmarks/pipeline.py [--mbps 20] [--rtt 40] [--rounds 5]

Device and server are two processes on this machine, each computing with one thread. What each takes is that of the
whole step (its phases follow each other, so they can be told apart): the link both ways with its round trips, device
and server with their codecs as far as the device knows them. No step can be shorter than the busiest of the three, but
for the link, which carries both ways at once: then the fuller direction counts, in the last column.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys

import torch

import spliteasy as se
from spliteasy.runlog import CODEC_PHASES, DEVICE_PHASES, SERVER_PHASES
from spliteasy.server.process import SETTINGS, server_environment

CASES = (
    ("resnet18", ("maxpool", "avgpool"), 96, 16, "fp16"),
    ("resnet18", ("layer1", "avgpool"), 96, 16, "raw"),
    ("mobilenet_v3_small", ("features.1", "avgpool"), 128, 32, "fp16"),
    ("resnet50", ("layer1", "avgpool"), 96, 16, "int8"),
)
PARTS = (1, 4, 8, 16)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbps", type=float, default=20, help="bandwidth each way (default: 20)")
    parser.add_argument("--rtt", type=float, default=40, help="round trip in milliseconds (default: 40)")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each kind, after one (default: 5)")
    options = parser.parse_args()
    if sys.platform == "linux" and not all(name in os.environ for name in SETTINGS):
        os.execve(sys.executable, [sys.executable, *sys.argv], server_environment())
    torch.set_num_threads(1)
    link = se.Link(options.mbps, options.mbps, options.rtt)
    print(f"torch {torch.__version__}, 1 thread each, {options.mbps:g} Mbit/s, {options.rtt:g} ms")
    heads = f"{'device':>8}{'link':>8}{'server':>8}  parts{'step':>8}{'÷ max':>7}{'÷ both ways':>13}"
    print(f"{'network':20}{'batch':>6}{heads}")
    with se.LocalServer(threads=1) as server:
        for name, cuts, size, batch, chain in CASES:
            row(link, server.url, name, cuts, size, batch, chain, options.rounds)


def row(
    link: se.Link, url: str, name: str, cuts: tuple[str, ...], size: int, batch: int, chain: str, rounds: int
) -> None:
    """The lines of one network."""
    x, y = se.data.photos(batch, size), torch.arange(batch) % 10
    trainers = {}
    for parts in PARTS:
        split = se.split(se.load_model(name, num_classes=10), cuts, (3, size, size))
        trainers[parts] = se.Trainer(split, url, chain, link=link, pipeline=parts)
    for _ in range(1 + rounds):
        for trainer in trainers.values():
            trainer.step(x, y)
    records = trainers[1].log.records[1:]

    def median(*phases: str) -> float:
        return statistics.median(sum(record.seconds[phase] for phase in phases) for record in records)

    device, server = median(*DEVICE_PHASES, *CODEC_PHASES), median(*SERVER_PHASES)
    sizes = records[0].bytes
    up = sizes["activations"].http + sizes["output_gradients"].http
    down = sizes["outputs"].http + sizes["input_gradients"].http
    busiest = max(link.seconds(up, 0, 0), link.seconds(0, down, 0)) + 2 * link.rtt_ms / 1e3
    taken = {"device": device, "link": median("link"), "server": server}
    for parts, trainer in trainers.items():
        step = statistics.median(record.seconds["total"] for record in trainer.log.records[1:])
        first = parts == PARTS[0]
        left = f"{name:20}{batch:6}" + "".join(f"{value:7.2f}s" for value in taken.values()) if first else " " * 50
        print(
            f"{left}  {parts:5}{step:7.2f}s{step / max(taken.values()):7.2f}{step / max(device, busiest, server):13.2f}"
        )
        trainer.close()


if __name__ == "__main__":
    main()
