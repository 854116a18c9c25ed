"""The command ``spliteasy reproduce``: its arguments, and what it prints and saves."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spliteasy.errors import ReproduceError, suggest

if TYPE_CHECKING:
    from spliteasy.reproduce.reproduction import Reproduction

__all__ = ["NAMES", "add_reproduce"]

NAMES = ("table2", "fig4a", "fig4b", "fig4c", "table1", "fig3")
"""What can be made again, in the order of ``all``: the quickest first."""

_WHAT = """Make the tables and figures of the SplitEasy paper (HotMobile '21, arXiv 2011.04232) again. Prints the
paper's numbers beside ours, says what differs and why, and saves a table (CSV, Markdown) and a picture (SVG, PNG).

  table1   six networks, split double, single and not at all: seconds and communication an image, memory on the phone
  table2   the shapes of the first seven layers of InceptionResNetV2
  fig3     test accuracy over epochs: ordinary SGD, split exact, split with the paper's auxiliary label
  fig4a    InceptionResNetV2 cut after the first conv, the first and the second maxpool
  fig4b    three sizes of network on small and large images
  fig4c    ResNet152 with the server on the same network, on AWS, behind a tunnel
  all      all of them; what is finished is saved if you interrupt"""

_HOW = """how times are made: real training steps here, with a server process and real sockets; then, in virtual time,
A and C at the speed of the paper's phone, B at --server, the measured bytes on --link. Once raw, once with codecs.

examples:
  spliteasy reproduce table2
  spliteasy reproduce fig4a fig4c --server paper
  spliteasy reproduce table1 --link home-wifi --chain "fp16 | zstd(1)" --out at-home
  spliteasy reproduce fig3 --data ~/data              the folder that holds cifar-100-python
  spliteasy reproduce table1 --converge               hours; goes on where it was when given again
  spliteasy reproduce all --quick
"""


def add_reproduce(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "reproduce", help="make the paper's tables and figures again, beside its own numbers",
        description=_WHAT, epilog=_HOW, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"{', '.join(sorted(NAMES))} or all; several are fine")
    parser.add_argument("--out", type=Path, default=Path("reproduced"), metavar="FOLDER",
                        help="where tables and pictures are saved (default: ./reproduced)")  # fmt: skip
    parser.add_argument("--quick", action="store_true",
                        help="one step a run, no codecs, a short fig3 (default: two, raw and codecs)")  # fmt: skip
    parser.add_argument("--link", default="aws", help="the link of all but fig4c: lan, aws, home-wifi, ... "
                        "(default: aws, which was fitted to the paper's Table 1)")  # fmt: skip
    parser.add_argument("--server", default="1", help="the server's speed relative to this machine, or `paper`, from "
                        "its Table 1 (default: 1, this machine)")  # fmt: skip
    parser.add_argument("--chain", action="append", default=[], metavar="CHAIN",
                        help="a chain to compare with raw; may be repeated (default: the largest tenth of the values "
                        "in half precision)")  # fmt: skip
    parser.add_argument("--steps", type=int, default=None, help="steps measured in each run (default: 2)")
    parser.add_argument("--batch", type=int, default=None,
                        help="images a step; times are per image (default: 1, fig4b 2)")  # fmt: skip
    parser.add_argument("--data", type=Path, default=None, metavar="FOLDER",
                        help="holds cifar-100-python, for fig3 and --converge (default: digits)")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=None, help="epochs of fig3 (default: 4 on digits, 20 on CIFAR)")
    parser.add_argument("--converge", action="store_true",
                        help="table1 also trains on 10, 100 and 1000 images until convergence: hours")  # fmt: skip
    parser.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace, given: Sequence[str]) -> None:
    from spliteasy.reproduce.setting import as_link
    from spliteasy.reproduce.whole_files import as_folder

    names = _names(options.names)
    as_link(options.link)
    out = as_folder(options.out)
    started = time.perf_counter()
    for number, name in enumerate(names):
        begun = time.perf_counter()
        found = _makers(options)[name]()
        paths = found.save(out)
        print("\n" * bool(number) + repr(found))
        kinds = ", ".join(path.name for path in paths)
        print(f"saved in {out}: {kinds} ({time.perf_counter() - begun:.0f} s)", flush=True)
    if len(names) > 1:
        print(f"\n{len(names)} of the paper's tables and figures in {time.perf_counter() - started:.0f} s")


def _names(given: Sequence[str]) -> list[str]:
    """What is asked for, each once, in the order of `NAMES` for ``all``. Raises `ReproduceError` for an unknown one."""
    known = (*NAMES, "all")
    for name in given:
        if name not in known:
            raise ReproduceError(
                f"Expected a table or figure of the paper, {', '.join(known)}; found {name!r}.{suggest(name, known)}"
            )
    return list(NAMES) if "all" in given else list(dict.fromkeys(given))


def _makers(options: argparse.Namespace) -> dict[str, Callable[[], Reproduction]]:
    """What makes each of them with the options given."""
    from spliteasy import reproduce

    server: float | str = options.server
    if server != "paper":
        try:
            server = float(server)
        except ValueError:
            raise ReproduceError(
                f"Expected --server as a number, relative to this machine, or `paper`; found {server!r}."
            ) from None
    codecs: Any = options.chain or ({} if options.quick else None)
    steps = options.steps if options.steps is not None else 1 if options.quick else 2
    timed: dict[str, Any] = {"server": server, "steps": steps, "codecs": codecs}
    timed |= {} if options.batch is None else {"batch": options.batch}
    link = {"link": options.link}
    store = options.out / "table1-converge.json" if options.converge else None
    return {
        "table1": lambda: reproduce.table1(**timed, **link, converge=store, data=options.data),
        "table2": lambda: reproduce.table2(),
        "fig3": lambda: reproduce.fig3(data=options.data, epochs=options.epochs, quick=options.quick),
        "fig4a": lambda: reproduce.fig4a(**timed, **link),
        "fig4b": lambda: reproduce.fig4b(**timed, **link),
        "fig4c": lambda: reproduce.fig4c(**timed),
    }
