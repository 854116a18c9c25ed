"""Two calls a step and the paper's four, beside the same step in one process: a tiny network, so nearly all protocol.

What two processes take without any protocol stands between them: a machine that is slow after every wait is slow there
too.

    python benchmarks/protocols.py [STEPS]

The trainers take turns, step by step, so that whatever else the machine does meets all of them. Device and server
share its cores, and start with the settings of `spliteasy.server.process.SETTINGS`.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys

import torch
from two_processes import TwoProcesses

import spliteasy as se
from spliteasy.server.process import SETTINGS, server_environment
from spliteasy.transport import InProcess

_CUTS = {"single": ("2",), "double": ("2", "4")}
_WARM_UP = 20


def compare(at: tuple[str, ...], steps: int, server: str) -> dict[str, tuple[float, float]]:
    """Median milliseconds and mean bytes a step, by protocol."""
    x, y = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
    trainers = {}
    for name, url, protocol in (
        ("in process", None, "two-call"),
        ("two processes", None, "two-call"),
        ("two-call", server, "two-call"),
        ("four-call", server, "four-call"),
    ):
        if name == "two processes" and "fork" not in multiprocessing.get_all_start_methods():
            continue  # as on Windows
        model = se.load_model("tiny_network:perceptron")
        split = se.split(model, at=at, input_shape=(1, 8, 8))
        trainers[name] = trainer = se.Trainer(split, url, protocol=protocol)
        if name == "two processes" and isinstance(trainer._transport, InProcess):
            trainer._transport = TwoProcesses(trainer._transport.session)
    for _ in range(_WARM_UP + steps):
        for trainer in trainers.values():
            trainer.step(x, y)
    found = {}
    for name, trainer in trainers.items():
        records = trainer.log.records[_WARM_UP:]
        milliseconds = statistics.median(1e3 * record.seconds["total"] for record in records)
        counted = [sum(size.http for size in record.bytes.values()) for record in records]
        found[name] = milliseconds, statistics.mean(counted)
        trainer.close()
    return found


def main() -> None:
    """Print a table."""
    if sys.platform == "linux" and not all(name in os.environ for name in SETTINGS):
        os.execve(sys.executable, [sys.executable, *sys.argv], server_environment())
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    torch.set_num_threads(1)
    with se.LocalServer(allow=["tiny_network:perceptron"]) as server:
        print(f"{'split':8}{'protocol':15}{'ms a step':>10}{'above in process':>18}{'HTTP bytes':>12}")
        for name, at in _CUTS.items():
            found = compare(at, steps, server.url)
            base = found["in process"][0]
            for protocol, (milliseconds, counted) in found.items():
                print(f"{name:8}{protocol:15}{milliseconds:10.2f}{milliseconds - base:18.2f}{counted:12.0f}")


if __name__ == "__main__":
    main()
