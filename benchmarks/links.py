"""Links: does the shaped socket keep to the token bucket, and does virtual time say what a run that waits takes?

    python benchmarks/links.py [--rounds 5]

First, bytes echoed by another process through a shaped connection, against the bucket's arithmetic (bytes over
bandwidth both ways and one round trip), and against that and what the other process takes to answer at all, measured
without a link. Then training steps over HTTP on a link, against the same steps without one put
on the link by `RunLog.on`: the two in turn, so that a machine that is busy is busy for both; the whole step, and what
of it is not computing (transfer and link).
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import time

import torch

import spliteasy as se
from spliteasy.shaping import Crossing

_ECHO = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
near, _ = server.accept()
answer = memoryview(bytes(1 << 24))
near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while head := near.recv(16, socket.MSG_WAITALL):
    up, down = int(head[:8]), int(head[8:])
    while up:
        up -= len(near.recv(min(up, 1 << 18)))
    near.sendall(answer[:down])
"""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case (default: 5)")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    bucket(options.rounds)
    virtual(options.rounds)


def bucket(rounds: int) -> None:
    """Calls of several sizes on several links: the median and worst over the rounds, against the token bucket."""
    process = subprocess.Popen([sys.executable, "-c", _ECHO], stdout=subprocess.PIPE)
    assert process.stdout is not None
    errors = []
    print(f"\n{'link':10} {'up':>9} {'down':>9} {'bucket':>9} {'median':>9} {'error':>7} {'worst':>7} {'- answer':>8}")
    with socket.create_connection(("127.0.0.1", int(process.stdout.readline()))) as near:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, up, down in (
            ("lan", 10_000_000, 10_000_000), ("5g", 1_000_000, 4_000_000), ("home-wifi", 1_000_000, 4_000_000),
            ("lte", 800_000, 800_000), ("4g", 100_000, 800_000), ("3g", 50_000, 100_000), ("aws", 800_000, 8_000),
            ("fios", 2_000, 500_000), ("cable", 100_000, 2_000), ("lan", 100_000, 1_000_000),
        ):  # fmt: skip
            link, seconds, answers = se.LINKS[name], [], []
            for _ in range(rounds):
                answers.append(_call(Crossing(None), near, 1, 1))
                crossing = Crossing(link, link.round_trip(0))
                seconds.append(_call(crossing, near, up, down))
            ideal = crossing.seconds(up + 16, down)
            median, answer = statistics.median(seconds), statistics.median(answers)
            worst = max((found / ideal - 1 for found in seconds), key=abs)
            errors.append(abs((median - answer) / ideal - 1))
            print(
                f"{name:10} {up:9} {down:9} {ideal * 1e3:7.1f}ms {median * 1e3:7.1f}ms "
                f"{100 * (median / ideal - 1):6.2f}% {100 * worst:6.2f}% {100 * ((median - answer) / ideal - 1):7.2f}%"
            )
    process.wait(10)
    print(f"largest error of a median, without the other process's answer: {100 * max(errors):.2f} %")


def _call(crossing: Crossing, near: socket.socket, up: int, down: int) -> float:
    """Seconds of sending ``up`` bytes and receiving ``down``."""
    place, pieces = memoryview(bytearray(1 << 18)), [b"%08d%08d" % (up, down), bytes(up)]
    started = time.perf_counter()
    for piece in pieces:
        crossing.send(near, piece)
    while down:
        down -= crossing.receive_into(near, place[:down])
    return time.perf_counter() - started


def virtual(rounds: int) -> None:
    """Median steps in virtual time and in real time, digits and ResNet-18."""
    errors: dict[str, list[float]] = {"total": [], "wire": []}
    print(f"\n{'network':11} {'split':7} {'link':10} {'virtual':>10} {'real':>10} {'error':>7} {'wire':>7}")
    with se.LocalServer() as server:
        for name, cuts, shape, batch in (
            ("digits_cnn", ("relu1", "relu3"), (1, 8, 8), 64),
            ("digits_cnn", ("pool",), (1, 8, 8), 64),
            ("resnet18", ("maxpool", "avgpool"), (3, 112, 112), 4),
            ("resnet18", ("maxpool",), (3, 112, 112), 4),
        ):
            for link in ("lan", "5g", "home-wifi", "lte", "4g"):
                free, real = _runs(server.url, name, cuts, shape, batch, se.LINKS[link], rounds)
                ours, theirs = free.on(se.LINKS[link]).seconds(), real.seconds()
                total = ours["total"] / theirs["total"] - 1
                wire = (ours["transfer"] + ours["link"]) / (theirs["transfer"] + theirs["link"]) - 1
                errors["total"].append(abs(total))
                errors["wire"].append(abs(wire))
                print(
                    f"{name:11} {'double' if len(cuts) == 2 else 'single':7} {link:10} {ours['total'] * 1e3:8.1f}ms "
                    f"{theirs['total'] * 1e3:8.1f}ms {100 * total:6.2f}% {100 * wire:6.2f}%"
                )
    for what, found in errors.items():
        print(f"{what}: median error {100 * statistics.median(found):.2f} %, worst {100 * max(found):.2f} %")


def _runs(
    url: str, name: str, cuts: tuple[str, ...], shape: tuple[int, ...], batch: int, link: se.Link, rounds: int
) -> tuple[se.RunLog, se.RunLog]:
    """The logs of a trainer without and of one with the link, a step of each in turn."""
    x, y = torch.rand(batch, *shape), torch.arange(batch) % 10
    splits = [se.split(se.load_model(name, num_classes=10), cuts, shape) for _ in range(2)]
    with se.Trainer(splits[0], server=url) as free, se.Trainer(splits[1], server=url, link=link) as real:
        for _ in range(rounds + 1):
            free.step(x, y)
            real.step(x, y)
    return free.log, real.log


if __name__ == "__main__":
    main()
