"""Plans against reality: how long a plan takes, and predicted against measured step times on emulated links,
and the chosen plan against its neighbours.

    python benchmarks/plan.py [--cases 30] [--steps 7] [--threads 1] [--neighbours] [--quick]

Device and server are two processes on this machine, each computing with one thread: with more, a step that waits for a
link pays for waking the others after every wait, 5 to 20 ms on a virtual machine with two cores, which no prediction
knows of (`--threads 2` shows it). Between the split steps of a case an unsplit step is timed, and computing is
predicted at the speed that the machine then had by the profile: where others use its cores too, its speed changes by
more than any prediction could be off. Both errors are printed, with the profile's speed (`as is`) and with that of the
moment. The links are emulated as `Trainer` does it. What a call costs
besides the link (`spliteasy.planning.Wire`) is measured first, with the smallest network at two batch sizes: what its
split steps take more than whole ones, less the link and the codecs.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import statistics
import sys
import time

import numpy as np
import torch

import spliteasy as se
from spliteasy.planning import ChainCost, Wire, plan
from spliteasy.planning.calibration import calibrated
from spliteasy.planning.costs import Prices, parts_of
from spliteasy.planning.space import Candidates, candidates
from spliteasy.profiling import Profile
from spliteasy.server.process import SETTINGS, server_environment
from spliteasy.splitting import check_cuts

NETWORKS = {"digits_cnn": ((1, 8, 8), 32), "resnet18": ((3, 64, 64), 8), "mobilenet_v3_small": ((3, 96, 96), 8),
            "squeezenet1_1": ((3, 96, 96), 8)}  # fmt: skip
CHAINS = ["raw", "fp16", "fp16 | zstd(1)", "topk(0.1) | fp16", "int8"]
PARTS = {"device": ("a", "c"), "server": ("b",), "codecs": ("encode", "decode"), "link": ("up", "down", "trips")}
PHASES = {"device": ("a_forward", "a_backward", "c", "update"), "server": ("b_forward", "b_backward"),
          "codecs": ("encode", "decode"), "link": ("link",)}  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=30, help="random cases (default: 30)")
    parser.add_argument("--steps", type=int, default=7, help="measured steps of each, after two (default: 7)")
    parser.add_argument("--threads", type=int, default=1, help="threads of device and server (default: 1)")
    parser.add_argument("--neighbours", action="store_true", help="the chosen plan among its neighbours, nothing else")
    parser.add_argument("--quick", action="store_true", help="how long a plan takes, and nothing else")
    options = parser.parse_args()
    if sys.platform == "linux" and not all(name in os.environ for name in SETTINGS):
        os.execve(sys.executable, [sys.executable, *sys.argv], server_environment())
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    how_long()
    if not options.quick:
        with se.LocalServer() as server:
            wire = measured_wire(server.url)
            if not options.neighbours:
                predicted_against_measured(server.url, wire, options.cases, options.steps)
            chosen_among_neighbours(server.url, wire, options.steps)


def how_long() -> None:
    """ResNet-152, 20 chains, all modes: seconds of a plan after profiling."""
    known = se.profile("resnet152", (3, 64, 64), 2, repeats=1, progress=False)
    costs = [ChainCost.given(se.Codecs(), 1 + place / 4, 1000 - 30 * place, 1000) for place in range(20)]
    took = []
    for _ in range(3):
        started = time.perf_counter()
        found = plan(known, link="lte", device=0.1, chains=costs, progress=False)
        took.append(time.perf_counter() - started)
    print(f"resnet152, 20 chains: {found.considered:,} choices, first plan {took[0]:.2f} s, then {min(took[1:]):.2f} s")


def measured_wire(url: str) -> Wire:
    """Seconds of a call and of a byte beside the link: two sizes of one message, on a link that makes each step wait.

    All that a split step takes beyond a whole one counts, but for the link and the predicted seconds of the codecs.
    """
    rows = []
    link, settings = se.Link(1000, 1000, 20), {"name": "SGD", "lr": 1e-6}
    for batch in (16, 1024):
        known = se.profile("digits_cnn", (1, 8, 8), batch, cache=False, progress=False)
        (raw,) = calibrated(known, ["raw"], progress=False)
        (space,) = candidates(known, ("double",))
        cuts = [known.cuts.names.index(name) for name in ("conv1", "relu2")]
        place = next(p for p in range(len(space.first)) if [space.first[p], space.last[p]] == cuts)
        parts, _ = parts_of(space, place, raw, Prices.of(link, 1.0, 1.0, Wire(0.0, 0.0)))
        split = se.split(se.load_model("digits_cnn"), ("conv1", "relu2"), (1, 8, 8))
        x, y = torch.rand(batch, 1, 8, 8), torch.arange(batch) % 10
        plain = se.Trainer(se.split(se.load_model("digits_cnn"), (), (1, 8, 8)), optimizer=settings)
        with se.Trainer(split, url, optimizer=settings, link=link) as trainer:
            for _ in range(20):
                record = trainer.step(x, y)
                plain.step(x, y)
        whole = statistics.median(record.seconds["total"] for record in plain.log.records[4:])
        more = [record.seconds["total"] - record.seconds["link"] for record in trainer.log.records[4:]]
        rows.append((record.total.http, statistics.median(more) - whole - parts["encode"] - parts["decode"]))
    (small, least), (large, most) = rows
    byte = max((most - least) / (large - small), 0.0)
    wire = Wire(max(least - byte * small, 0.0) / 2, byte)
    print(f"a call costs {1e3 * wire.call_seconds:.2f} ms and {1e9 * wire.byte_seconds:.2f} ns a byte besides the link")
    return wire


def predicted_against_measured(url: str, wire: Wire, cases: int, steps: int) -> None:
    """Random networks, modes, cuts, chains and links."""
    chosen = random.Random(5)
    errors: list[float] = []
    as_is: list[float] = []
    by_part: dict[str, list[float]] = {name: [] for name in PARTS}
    kept: dict[str, tuple[Profile, list[ChainCost], list[Candidates]]] = {}
    print(
        f"{'network':20} {'cuts':38} {'chain':18} {'link':>22} {'predicted':>10} {'measured':>10} "
        f"{'as is':>7} {'error':>7}"
    )
    while len(errors) < cases:
        name = chosen.choice(list(NETWORKS))
        shape, batch = NETWORKS[name]
        if name not in kept:
            known = se.profile(name, shape, batch, cache=False, progress=False)
            kept[name] = known, calibrated(known, CHAINS, progress=False), candidates(known, ("single", "double"))
        known, costs, spaces = kept[name]
        space, cost = chosen.choice(spaces), chosen.choice(costs)
        place = chosen.randrange(len(space.first))
        link = se.Link(10 ** chosen.uniform(0.5, 2.5), 10 ** chosen.uniform(0.5, 2.5), chosen.uniform(0, 60))
        cuts = tuple(known.cuts[int(number)].name for number in (space.first[place], space.last[place])[: space.calls])
        try:
            check_cuts(known.program, cuts)
        except se.errors.SplitError:
            continue
        measured = _measure(url, name, known, cuts, cost, link, steps)
        parts, _ = parts_of(space, place, cost, Prices.of(link, 1.0, 1.0, wire))
        as_is.append(sum(parts.values()) / measured["total"] - 1)
        speed = known.seconds / measured["unsplit"]
        parts, _ = parts_of(space, place, cost, Prices.of(link, speed, speed, wire))
        predicted = sum(parts.values())
        errors.append(predicted / measured["total"] - 1)
        for part, names in PARTS.items():
            real = sum(measured[phase] for phase in PHASES[part])
            by_part[part].append((sum(parts[one] for one in names) - real) / measured["total"])
        line = f"{link.up_mbps:.0f}/{link.down_mbps:.0f} Mbit/s {link.rtt_ms:.0f} ms"
        print(f"{name:20} {', '.join(cuts)[:38]:38} {cost.name:18} {line:>22} {1e3 * predicted:8.1f}ms "
              f"{1e3 * measured['total']:8.1f}ms {100 * as_is[-1]:+6.1f}% {100 * errors[-1]:+6.1f}%",
              flush=True)  # fmt: skip
    sizes = np.abs(errors)
    print(f"{len(errors)} cases: median error {100 * float(np.median(sizes)):.1f} %, worst {100 * sizes.max():.1f} %, "
          f"within 15 %: {int((sizes <= 0.15).sum())}")  # fmt: skip
    print(f"as is: median error {100 * float(np.median(np.abs(as_is))):.1f} %, worst {100 * np.abs(as_is).max():.1f} %")
    for part, shares in by_part.items():
        absolute = [abs(share) for share in shares]
        print(
            f"  {part}: median {100 * statistics.median(absolute):.1f} % of the step, worst {100 * max(absolute):.1f} %"
        )


def chosen_among_neighbours(url: str, wire: Wire, steps: int) -> None:
    """The choice of a plan, measured, against the cuts beside it and the best of each other chain."""
    print("plans against their neighbours, measured (the best cut, cuts one further and one less, other chains):")
    for name, link in itertools.product(NETWORKS, (se.Link(20, 50, 40), se.Link(200, 200, 5), se.LINKS["3g"])):
        shape, batch = NETWORKS[name]
        known = se.profile(name, shape, batch, cache=False, progress=False)
        found = plan(known, link=link, chains=CHAINS, modes=("single", "double"), wire=wire, progress=False)
        costs = {cost.name: cost for cost in calibrated(known, CHAINS, progress=False)}
        best = found.best
        around = {(best.numbers, best.chain)} | {(choice.numbers, choice.chain) for choice in found.by_chain}
        for place, by in itertools.product(range(len(best.numbers)), (-1, 1)):
            moved = tuple(number + by * (place == other) for other, number in enumerate(best.numbers))
            if moved[0] >= 0 and moved[-1] < len(known.cuts) and len(set(moved)) == len(moved):
                around.add((moved, best.chain))
        measured = _in_turn(url, name, known, {key: costs[key[1]] for key in sorted(around)}, link, steps)
        least = min(measured, key=lambda key: measured[key])
        chosen = measured[best.numbers, best.chain]
        again = ""
        if chosen > 1.05 * measured[least]:  # the least of several was also the luckiest: both once more, alone
            two = {key: costs[key[1]] for key in ((best.numbers, best.chain), least)}
            alone = _in_turn(url, name, known, two, link, 2 * steps)
            again = f"; these two alone {100 * (alone[best.numbers, best.chain] / alone[least] - 1):+.1f} %"
        print(f"{name:20} {link.up_mbps:4g}/{link.down_mbps:g} Mbit/s {link.rtt_ms:g} ms: {', '.join(best.cuts)} "
              f"{best.chain}: {1e3 * chosen:.1f} ms, best of {len(measured)}: {1e3 * measured[least]:.1f} ms, "
              f"{100 * (chosen / measured[least] - 1):+.1f} %{again}", flush=True)  # fmt: skip


def _in_turn(
    url: str,
    name: str,
    known: Profile,
    some: dict[tuple[tuple[int, ...], str], ChainCost],
    link: se.Link,
    steps: int,
) -> dict[tuple[tuple[int, ...], str], float]:
    """The median step of several choices, a step of each in turn, in three rounds of newly loaded networks: what
    differs between equals is the machine, and where in its memory a network came to lie."""
    x, y = _batch(known)
    totals: dict[tuple[tuple[int, ...], str], list[float]] = {}
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            trainers = {}
            for (numbers, chain), cost in some.items():
                cuts = tuple(known.cuts[number].name for number in numbers)
                with contextlib.suppress(se.errors.SplitError):
                    split = se.split(se.load_model(name), cuts, known.input_shape)
                    trainer = se.Trainer(split, url, cost.codecs, {"name": "SGD", "lr": 1e-6}, link=link)
                    trainers[numbers, chain] = stack.enter_context(trainer)
            for _ in range(2 + steps):
                for trainer in trainers.values():
                    trainer.step(x, y)
        for key, trainer in trainers.items():
            totals.setdefault(key, []).extend(record.seconds["total"] for record in trainer.log.records[2:])
    return {key: statistics.median(seconds) for key, seconds in totals.items()}


def _batch(known: Profile) -> tuple[torch.Tensor, torch.Tensor]:
    """Photographs, or digits, and labels."""
    shape, batch = known.input_shape, known.batch
    if shape[0] == 3:
        return se.data.photos(batch, shape[1]), torch.arange(batch) % 10
    digits = se.data.digits()[0]
    return torch.stack([digits[place][0] for place in range(batch)]), torch.arange(batch) % 10


def _measure(
    url: str, name: str, known: Profile, cuts: tuple[str, ...], cost: ChainCost, link: se.Link, steps: int
) -> dict[str, float]:
    """Median seconds of a step, all phases from the same clock."""
    shape, (x, y) = known.input_shape, _batch(known)
    settings = {"name": "SGD", "lr": 1e-6}
    split = se.split(se.load_model(name), cuts, shape)
    plain = se.Trainer(se.split(se.load_model(name), (), shape), optimizer=settings)
    with se.Trainer(split, url, cost.codecs, settings, link=link) as trainer:
        for _ in range(2 + steps):
            trainer.step(x, y)
            plain.step(x, y)
    records = trainer.log.records[2:]
    found = {phase: statistics.median(record.seconds[phase] for record in records) for phase in records[0].seconds}
    return {**found, "unsplit": statistics.median(record.seconds["total"] for record in plain.log.records[2:])}


if __name__ == "__main__":
    main()
