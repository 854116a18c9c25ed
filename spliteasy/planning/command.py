"""The command ``spliteasy plan``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spliteasy.device import DEVICES
from spliteasy.link import LINKS, Link
from spliteasy.models import input_size_of, load_model
from spliteasy.planning.constraints import Constraints
from spliteasy.planning.search import plan
from spliteasy.profiling import profile

__all__ = ["add_plan"]

_PLAN = """Find the cut (or two), the chain and the mode whose training step takes the least time. The network is run
here, operation by operation, its times kept in a cache; all else is computed: all cuts, all pairs, all chains.
A step = A and C on the device + B on the server + encoding and decoding + bytes over the link + its round trips."""

_PLAN_EXAMPLE = """reading it:
  best                 the least seconds a step, with its cuts, chain and bytes; then where these seconds go
  runners-up           the next best at other cuts: close ones leave you free to choose by memory or privacy
  best of each mode    single: labels go to the server; double: inputs and labels stay; none: all on the device

examples:
  spliteasy plan resnet50 --link lte --device 0.1 --chain raw --chain "topk(0.1) | fp16"
  spliteasy plan digits_cnn --link 3g --labels-stay --min-operations 3 --picture plan.png
  spliteasy plan vgg11 --up 20 --down 50 --rtt 40 --mode double --max-mb 5
"""


def add_plan(commands: Any, add_network: Callable[[argparse.ArgumentParser, bool], None]) -> None:
    """Add the command; ``add_network`` adds the arguments that name a network, its batch, size and classes."""
    parser = commands.add_parser(
        "plan", help="find the best cut, chain and mode for a device, a link and a server",
        description=_PLAN, epilog=_PLAN_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_network(parser, True)
    parser.add_argument("--link", default="lte", help="a link by name: lan, lte, 4g, 3g, ... (default: lte)")
    parser.add_argument("--up", type=float, default=None, help="megabits a second to the server (default: the link's)")
    parser.add_argument("--down", type=float, default=None, help="megabits a second back (default: the link's)")
    parser.add_argument("--rtt", type=float, default=None, help="round trip in milliseconds (default: the link's)")
    parser.add_argument("--device", type=_device, default=0.1,
                      help="its speed relative to this machine (default: 0.1, ten times slower), or a name, whose "
                           f"memory counts too: {', '.join(DEVICES)}")  # fmt: skip
    parser.add_argument("--server", type=float, default=1.0, help="the server's speed, likewise (default: 1)")
    parser.add_argument("--chain", action="append", default=[], metavar="CHAIN",
                      help="a chain to choose from; may be repeated (default: raw)")  # fmt: skip
    parser.add_argument("--mode", action="append", default=[], choices=("single", "double", "none"),
                      help="a mode to choose from; may be repeated (default: all three)")  # fmt: skip
    parser.add_argument("--labels-stay", action="store_true", help="labels stay on the device: no single split")
    parser.add_argument("--min-operations", type=int, default=0, help="operations that A has at least (default: 0)")
    parser.add_argument("--min-macs", type=int, default=0, help="multiply-accumulates a sample likewise (default: 0)")
    parser.add_argument("--max-mb", type=float, default=None, help="megabytes a step at most (default: any)")
    parser.add_argument("--top", type=int, default=5, help="runners-up to list (default: 5)")
    parser.add_argument("--picture", type=Path, default=None, help="save step time against cut here")
    parser.set_defaults(run=_plan)


def _device(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _plan(options: argparse.Namespace, given: Sequence[str]) -> None:
    own = {"up_mbps": options.up, "down_mbps": options.down, "rtt_ms": options.rtt}
    changed = {name: value for name, value in own.items() if value is not None}
    link: Link | str = options.link
    if changed:
        base = LINKS.get(options.link, LINKS["lte"])
        link = Link(**{"up_mbps": base.up_mbps, "down_mbps": base.down_mbps, "rtt_ms": base.rtt_ms, **changed})
    shape = input_size_of(options.model)
    shape = shape if options.size is None else (shape[0], options.size, options.size)
    known = profile(load_model(options.model, num_classes=options.classes), shape, options.batch)
    found = plan(
        known,
        link=link,
        device=options.device,
        server=options.server,
        chains=options.chain or ["raw"],
        modes=options.mode or ("single", "double", "none"),
        constraints=Constraints(
            min_operations=options.min_operations,
            min_macs=options.min_macs,
            max_bytes=float("inf") if options.max_mb is None else 1e6 * options.max_mb,
            labels_on_device=options.labels_stay,
        ),
        runners_up=options.top,
    )
    print(found)
    if options.picture is not None:
        found.plot().savefig(options.picture, dpi=150)
        print(f"picture: {options.picture}")
