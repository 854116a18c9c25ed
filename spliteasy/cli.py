"""The command ``spliteasy``: lab, demo, cuts, codecs, measure, serve, train, sweep, plan, reproduce."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spliteasy import __version__
from spliteasy.errors import SplitEasyError
from spliteasy.planning.command import add_plan
from spliteasy.reproduce.reproducing import add_reproduce
from spliteasy.wire import MESSAGES

__all__ = ["main"]

_EXAMPLES = """examples:
  spliteasy lab                                             open JupyterLab on the notebooks
  spliteasy demo                                            train digits unsplit and split, compare (under two minutes)
  spliteasy cuts resnet50 --batch 32                        every place to cut, and what would cross there
  spliteasy measure "topk(0.1) | fp16 | zstd(1)"            what a chain saves on the activations of real photographs
  spliteasy serve --port 8765                               a server for devices on this machine
  spliteasy train digits_cnn --at pool flatten --server http://127.0.0.1:8765
  spliteasy sweep --model digits_cnn --at pool flatten --chain "topk(0.1) | fp16" --out study.csv
  spliteasy plan resnet50 --link lte --device 0.1           where to cut, what to send and how, for the shortest step
  spliteasy reproduce table2                                a table of the paper, its numbers beside ours
"""

_MEASURED = """columns:
  frame_bytes, ratio        the whole frame, header included, and raw bytes by it (ratio_fp32: 4 bytes an element by it)
  http_bytes                the wire's frame with its HTTP head, as one call of a step sends it
  relative_l2, cosine       |decoded - x| / |x|, and the cosine of the angle between the two
  max_error, bias           the largest error of an element; the sum of errors by the sum of magnitudes
  saturated                 elements cut off at the largest number that the codec can represent
  floor_ratio, floor_kind   how small the frame could be, by what it is, where that is known; above 1 where neighbours
                            tell of each other
  gradient_cosine           between A's parameter gradients with the chain and without, on this batch (--gradients)
  encode, decode            millions of raw bytes a second, medians of warm runs

examples:
  spliteasy measure "zstd(3)" "fp16 | zstd(1)" "topk(0.1) | fp16"
  spliteasy measure "topk(0.01) | fp16" --model densenet121 --at features.pool0 --message input_gradients --gradients
  spliteasy measure "fp16" --model vgg11 --at features.2 avgpool --message outputs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status. Errors of this package are printed as one message, without a trace."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(given)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return int(options.run(options, given) or 0)
    except SplitEasyError as error:
        print(f"spliteasy {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spliteasy",
        description="Split learning: cut any network, train it across a device and a server, see what crosses.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spliteasy {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    lab = commands.add_parser("lab", help="open JupyterLab on the notebooks and the notebooks")
    lab.add_argument("folder", nargs="?", default="spliteasy-notebooks", type=Path,
                     help="where your copies of the notebooks are kept (default: ./spliteasy-notebooks)")  # fmt: skip
    lab.add_argument("--port", type=int, default=8888, help="first port to try (default: 8888)")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.set_defaults(run=_lab)

    demo = commands.add_parser("demo", help="train digits unsplit, split and compressed, and compare them in one table")
    demo.add_argument("--picture", type=Path, default=Path("spliteasy-demo.png"),
                      help="where the picture goes; .png, .svg or .pdf (default: spliteasy-demo.png)")  # fmt: skip
    demo.add_argument("--epochs", type=int, default=3, help="epochs of each run (default: 3)")
    demo.set_defaults(run=_demo)

    cuts = commands.add_parser("cuts", help="list every cut of a network")
    _add_network(cuts, positional=True)
    cuts.add_argument("--csv", action="store_true", help="all rows as comma-separated values")
    cuts.set_defaults(run=_cuts)

    codecs = commands.add_parser("codecs", help="list the installed codecs")
    codecs.add_argument("--markdown", action="store_true", help="as a table in Markdown")
    codecs.set_defaults(run=_codecs)

    measure = commands.add_parser(
        "measure",
        help="measure chains on what really crosses a cut, fed with photographs",
        description="Encode and decode what crosses a cut of a network fed with photographs, and say what each chain "
        "costs and saves.",
        epilog=_MEASURED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    measure.add_argument("chains", nargs="+", metavar="CHAIN", help='a chain such as "topk(0.1) | fp16 | zstd(1)"')
    measure.add_argument("--model", default="resnet18", help="the network (default: resnet18)")
    measure.add_argument("--at", nargs="+", default=["maxpool"], metavar="CUT",
                         help="one cut, or two for a double split (default: maxpool)")  # fmt: skip
    measure.add_argument("--message", default="activations", choices=MESSAGES,
                         help="the message measured; (output_)gradients are those of a training step with the "
                         "cross-entropy (default: activations)")  # fmt: skip
    measure.add_argument("--batch", type=int, default=8, help="photographs in the batch (default: 8)")
    measure.add_argument("--size", type=int, default=None, help="their height and width (default: the network's)")
    measure.add_argument("--repeats", type=int, default=5, help="timed runs of each, after a warm-up (default: 5)")
    measure.add_argument("--gradients", action="store_true",
                         help="compare A's gradients with the chain and without: two steps a chain")  # fmt: skip
    measure.set_defaults(run=_measure)

    serve = commands.add_parser("serve", help="run a server that holds segment B for devices")
    serve.add_argument("--host", default="127.0.0.1",
                       help="address to listen on (default: 127.0.0.1, this machine only)")  # fmt: skip
    serve.add_argument("--port", type=int, default=8765, help="port to listen on, 0 for a free one (default: 8765)")
    serve.add_argument("--threads", type=int, default=None, help="threads that compute (default: as torch chooses)")
    serve.add_argument("--allow", action="append", default=[], metavar="PACKAGE.MODULE:FACTORY",
                       help="a factory of your own that devices may ask for; may be repeated")  # fmt: skip
    serve.add_argument("--max-sessions", type=int, default=16, help="sessions held at once (default: 16)")
    serve.add_argument("--idle-seconds", type=float, default=3600.0, help="an idle session expires (default: 3600)")
    serve.add_argument("--max-message", type=int, default=None, metavar="BYTES",
                       help="most that the tensors of one message may take uncompressed (default: 4 GiB)")  # fmt: skip
    serve.add_argument("--max-in-flight", type=int, default=None, metavar="BYTES",
                       help="most that all bodies may take at once; more must wait (default: 8 GiB)")  # fmt: skip
    serve.add_argument("--max-header", type=int, default=None, metavar="BYTES",
                       help="most that the head of a request may take (default: 32 KiB)")  # fmt: skip
    serve.add_argument("--state", default=None, metavar="DIR",
                       help="where to write sessions' states, and find them when started again")  # fmt: skip
    serve.add_argument("--checkpoint-every", type=int, default=10, metavar="STEPS",
                       help="write a session's state after so many steps (default: 10)")  # fmt: skip
    serve.add_argument("--certificate", default=None, metavar="FILE",
                       help="speak TLS (https://) with this certificate, in PEM format (default: no TLS)")  # fmt: skip
    serve.add_argument("--key", default=None, metavar="FILE",
                       help="the certificate's private key, in PEM format, without a password")  # fmt: skip
    serve.add_argument("--log", nargs="?", const="-", default=None, metavar="FILE",
                       help="log events, a JSON object a line, to FILE or standard error (default: none)")  # fmt: skip
    serve.add_argument("--stop-with-stdin", action="store_true", help="stop when standard input ends")
    serve.set_defaults(run=_serve)

    train = commands.add_parser("train", help="train a network, split as asked, on digits or a folder of images")
    _add_network(train, positional=True)
    train.add_argument("--at", nargs="*", default=[], metavar="CUT", help="no cut, one (single) or two (double split)")
    train.add_argument("--server", default=None, help="address of `spliteasy serve` (default: in this process)")
    train.add_argument("--data", default="digits", help="`digits`, or a folder of images by class (default: digits)")
    train.add_argument("--epochs", type=int, default=1, help="epochs (default: 1)")
    train.add_argument("--optimizer", default="SGD", help="a torch.optim name (default: SGD)")
    train.add_argument("--lr", type=float, default=0.05, help="learning rate (default: 0.05)")
    train.add_argument("--backward", default="exact", help="exact or auxiliary-label (default: exact)")
    train.add_argument("--codec", default="raw", metavar="CHAIN", help="the chain of all four messages (default: raw)")
    for message in ("activations", "outputs", "output-gradients", "input-gradients"):
        train.add_argument(f"--{message}", default=None, metavar="CHAIN", help=f"the chain of the {message} alone")
    train.add_argument("--protocol", default="two-call",
                       help="two-call, or four-call, the paper's way (default: two-call)")  # fmt: skip
    train.add_argument("--pipeline", type=int, default=1, metavar="N",
                       help="micro-batches that device and server work on at once (default: 1)")  # fmt: skip
    train.add_argument("--seed", type=int, default=0, help="seed of weights, batches and steps (default: 0)")
    train.add_argument("--picture", type=Path, default=None, help="save a picture of the run here")
    train.set_defaults(run=_train)
    _add_sweep(commands)
    add_plan(commands, _add_network)
    add_reproduce(commands)
    return parser


_SWEEP = """Train every network at every cut with every set of chains and every seed; compare accuracy, bytes and time.
Uncompressed runs are always among them; differences are between runs of the same seed. --model, --at and --chain may be
given several times. An interrupted study goes on where it was when the same command is given again."""

_SWEEP_EXAMPLE = """example: two chains, one for all messages and one for each way, five seeds, two pictures
  spliteasy sweep --model digits_cnn --at pool flatten \\
      --chain "fp16 | zstd(1)" --chain "forward=topk(0.1) | fp16; backward=topk(0.25) | fp16" \\
      --seeds 5 --out study.csv --picture frontier.png --time-picture time.png
"""


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep", help="compare chains: accuracy, bytes and time over networks, cuts and seeds",
        description=_SWEEP, epilog=_SWEEP_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sweep.add_argument("--model", action="append", default=[], metavar="NAME",
                       help='a network, as for train; may be repeated (default: digits_cnn)')  # fmt: skip
    sweep.add_argument("--at", action="append", default=[], nargs="+", metavar="CUT", required=True,
                       help="one cut (single split) or two (double split); may be repeated")  # fmt: skip
    sweep.add_argument("--chain", action="append", default=[], metavar="CHAIN", required=True,
                       help="one for all messages, or MESSAGE=CHAIN; MESSAGE=CHAIN; may be repeated")  # fmt: skip
    sweep.add_argument("--data", default="digits", help="digits, patches, 'digits(size=32, channels=3)', "
                       "'image_folder(\"FOLDER\")', ... (default: digits)")  # fmt: skip
    sweep.add_argument("--seeds", type=int, default=5, help="seeds of each configuration (default: 5)")
    sweep.add_argument("--epochs", type=int, default=3, help="epochs of each run (default: 3)")
    sweep.add_argument("--batch", type=int, default=32, help="samples in a batch (default: 32)")
    sweep.add_argument("--optimizer", default="SGD", help="a torch.optim name (default: SGD)")
    sweep.add_argument("--lr", type=float, default=0.05, help="learning rate (default: 0.05)")
    sweep.add_argument("--schedule", default="constant", help="constant or cosine (default: constant)")
    sweep.add_argument("--server", action="store_true",
                       help="with a server process, HTTP bytes counted (default: one process, frames)")  # fmt: skip
    sweep.add_argument("--engine", default="local", help="local, or ray for a Ray cluster (default: local)")
    sweep.add_argument("--out", default=None, help="a .parquet or .csv file, or a folder, to keep rows and go on with "
                       "(default: nothing is kept)")  # fmt: skip
    sweep.add_argument("--picture", type=Path, default=None, help="save accuracy against bytes here")
    sweep.add_argument("--time-picture", type=Path, default=None, help="save time against bandwidth here")
    sweep.set_defaults(run=_sweep)


def _add_network(parser: argparse.ArgumentParser, positional: bool) -> None:
    parser.add_argument("model", help='a torchvision name, "timm/NAME", digits_cnn, or "package.module:factory"')
    parser.add_argument("--batch", type=int, default=32, help="samples in a batch (default: 32)")
    parser.add_argument("--size", type=int, default=None, help="height and width of the input (default: the network's)")
    parser.add_argument("--classes", type=int, default=None, help="classes of the output (default: the network's)")


def _lab(options: argparse.Namespace, given: Sequence[str]) -> int:
    from spliteasy.lab import lab

    return lab(options.folder, port=options.port, browser=not options.no_browser)


def _demo(options: argparse.Namespace, given: Sequence[str]) -> int:
    from spliteasy.demo import demo

    demo(options.picture, epochs=options.epochs)
    return 0


def _cuts(options: argparse.Namespace, given: Sequence[str]) -> None:
    from spliteasy.cuts import find_cuts
    from spliteasy.models import input_size_of, load_model

    shape = input_size_of(options.model)
    if options.size is not None:
        shape = (shape[0], options.size, options.size)
    cuts = find_cuts(load_model(options.model, num_classes=options.classes), shape, options.batch)
    print(cuts.to_pandas().to_csv() if options.csv else cuts)


def _codecs(options: argparse.Namespace, given: Sequence[str]) -> None:
    from spliteasy.codecs.listing import as_markdown, as_text
    from spliteasy.codecs.registry import describe_codecs

    rows = describe_codecs()
    print(as_markdown(rows) if options.markdown else as_text(rows, shutil.get_terminal_size().columns))


def _measure(options: argparse.Namespace, given: Sequence[str]) -> None:
    import pandas
    import torch

    from spliteasy.crossing import crossing_tensors
    from spliteasy.errors import DataError
    from spliteasy.inputs import photographs
    from spliteasy.measuring import measure
    from spliteasy.models import input_size_of, load_model
    from spliteasy.splitting import split

    shape = input_size_of(options.model)
    shape = shape if options.size is None else (shape[0], options.size, options.size)
    torch.manual_seed(0)
    parts = split(load_model(options.model), options.at, shape).train()
    x, y = photographs(shape, options.batch), torch.arange(options.batch) % 2  # a temple, a flower
    crossing = crossing_tensors(parts, x, y, gradients=options.message.endswith("gradients"))
    if options.message not in crossing:
        raise DataError(f"one cut has no {options.message}: name two with --at, or another --message.")
    floating = [tensor for tensor in crossing[options.message] if tensor is not None and tensor.is_floating_point()]
    if not floating:
        raise DataError(f"no floating tensor crosses {', '.join(options.at)} as {options.message}: choose another cut.")
    tensor = max(floating, key=lambda one: one.nbytes)
    compared = (parts, (x, y)) if options.gradients else (None, None)
    rows = [
        measure(chain, tensor, options.repeats, message=options.message, split=compared[0], batch=compared[1])
        for chain in options.chains
    ]
    print(
        f"{options.message} of {options.model} at {', '.join(options.at)}: {'·'.join(map(str, tensor.shape))} "
        f"{str(tensor.dtype).removeprefix('torch.')}, {tensor.nbytes:,} bytes raw"
        f"{f', the largest of {len(floating)} tensors' if len(floating) > 1 else ''}; threads: {rows[0].threads}"
    )
    table = pandas.DataFrame([row.to_dict() for row in rows])
    table = table.rename(columns={"encode_mb_per_s": "encode", "decode_mb_per_s": "decode"})
    hidden = ["shape", "raw_bytes", "message", "threads", "http_ratio"]
    hidden += ["ratio_fp32"] if tensor.dtype is torch.float32 else []
    hidden += [] if options.gradients else ["gradient_cosine"]
    table = table.drop(columns=hidden).astype({"floor_bytes": object, "floor_ratio": object})
    print(table.where(table.notna(), "–").to_string(index=False, float_format="{:,.4g}".format))


def _serve(options: argparse.Namespace, given: Sequence[str]) -> None:
    from spliteasy.server.process import reexecute_with_settings, serve

    reexecute_with_settings(given)
    kept = serve(
        options.host,
        options.port,
        threads=options.threads,
        allow=options.allow,
        max_sessions=options.max_sessions,
        idle_seconds=options.idle_seconds,
        max_message=options.max_message,
        max_in_flight=options.max_in_flight,
        max_header=options.max_header,
        state=options.state,
        checkpoint_every=options.checkpoint_every,
        certificate=options.certificate,
        key=options.key,
        log=options.log,
        stop_with=sys.stdin.buffer if options.stop_with_stdin else None,
    )
    sys.stdout.flush()
    os._exit(0 if kept else 1)  # a thread that waits for a slow client would keep the process alive


def _train(options: argparse.Namespace, given: Sequence[str]) -> None:
    import torch
    from torch.utils.data import Dataset

    from spliteasy import data
    from spliteasy.errors import DataError
    from spliteasy.models import input_size_of, load_model
    from spliteasy.splitting import split
    from spliteasy.trainer import Trainer
    from spliteasy.wire import Codecs

    shape = input_size_of(options.model)
    size = options.size or shape[1]
    train: Dataset[Any]
    test: Dataset[Any]
    if options.data == "digits":
        train, test = data.digits()
        if shape != (1, 8, 8):
            raise DataError(f"digits are 1·8·8 and {options.model} takes {shape}: use digits_cnn, or --data FOLDER.")
    else:
        train, test = data.image_folder(options.data, size)
        shape = (shape[0], size, size)
    torch.manual_seed(options.seed)
    parts = split(load_model(options.model, num_classes=options.classes), options.at, shape)
    print(parts)
    chains = {
        message: getattr(options, message) or options.codec
        for message in ("activations", "outputs", "output_gradients", "input_gradients")
    }
    with Trainer(
        parts, options.server, Codecs(**chains), {"name": options.optimizer, "lr": options.lr},
        backward=options.backward, seed=options.seed, protocol=options.protocol, pipeline=options.pipeline,
    ) as trainer:  # fmt: skip
        for epoch in range(options.epochs):
            log = trainer.fit(data.loader(train, options.batch, seed=options.seed + epoch))
            result = trainer.evaluate(data.loader(test, options.batch, seed=0, shuffle=False))
            accuracy = "" if result.accuracy is None else f", accuracy {100 * result.accuracy:.1f} %"
            print(f"epoch {epoch + 1}: loss {result.loss:.4f}{accuracy} on {result.samples} test samples")
    print(log)
    if options.picture is not None:
        log.plot().savefig(options.picture, dpi=150)
        print(f"picture: {options.picture}")


def _sweep(options: argparse.Namespace, given: Sequence[str]) -> int:
    from spliteasy.sweeping import sweep

    result = sweep(
        options.model or "digits_cnn",
        [tuple(names) for names in options.at],
        options.chain,
        options.data,
        seeds=options.seeds,
        epochs=options.epochs,
        batch=options.batch,
        optimizer={"name": options.optimizer, "lr": options.lr},
        schedule=options.schedule,
        server=options.server,
        engine=options.engine,
        out=options.out,
    )
    print(result)
    if not result.rows.empty:
        for path, plot in ((options.picture, result.plot_frontier), (options.time_picture, result.plot_time)):
            if path is not None:
                plot().savefig(path, dpi=150)
                print(f"picture: {path}")
    return 130 if result.missing else 0
