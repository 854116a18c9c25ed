"""Every installed codec on what really crosses a cut: one run, one thread, what is compared timed in turn, medians.

    python benchmarks/codecs.py [--rounds 7] [--batch 8] [--quick]       print the tables
    python benchmarks/codecs.py --page docs/codecs.md                    and put them and the list of codecs into a page
    python benchmarks/codecs.py --page docs/codecs.md --list             the list of codecs alone, without a run

The tensors are those after the first pooling of ResNet-50, DenseNet-121 and VGG-11, and their gradients, fed with
photographs after a few steps of SGD. Codecs that are not installed are left out, and named at the end.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import torch

import spliteasy as se
from spliteasy.codecs import Chain, Context, FittedCodec
from spliteasy.codecs.registry import describe_codecs
from spliteasy.crossing import crossing_tensors

NETWORKS = {"resnet50": "maxpool", "densenet121": "features.pool0", "vgg11": "features.2"}
"""Networks, and the cut after their first pooling."""

LOSSLESS = (
    "zstd(3)", "zstd(1)", "lz4", "shuffle | zstd(1)", "shuffle | lz4", "bitshuffle | lz4", "bitshuffle | zstd(1)",
    "zvc | zstd(1)", "zvc | shuffle | zstd(1)", "zvc(repeats='previous') | shuffle | zstd(1)",
    "zvc(repeats='both') | shuffle | zstd(1)", "pcodec(8)", "blosc2('zstd', 1, 'shuffle')",
    "blosc2('lz4', 5, 'bitshuffle')", "numcodecs('zlib', level=1)",
)  # fmt: skip

LOSSY = (
    "fp16", "fp16 | zstd(1)", "fp16 | shuffle | zstd(1)", "fp16 | bitshuffle | lz4", "fp16 | pcodec(8)",
    "fp16 | zvc | shuffle | zstd(1)", "bf16", "bf16 | zstd(1)", "int8", "int8 | zstd(1)", "int4", "int4 | zstd(1)",
    "qsgd", "qsgd | zstd(1)", "sign", "sign | zstd(1)", "topk(0.1) | fp16", "topk(0.1) | fp16 | zstd(1)",
    "topk(0.1) | int8 | zstd(1)", "topk(0.01) | fp16", "topk(0.01) | fp16 | zstd(1)", "randtopk(0.1) | fp16",
    "c3(4)", "c3(4) | fp16", "powersgd(4)", "powersgd(4) | fp16", "pca(16, axis='channel') | int8 | zstd(1)",
)  # fmt: skip

GRADIENTS = ("ef('topk(0.01) | fp16')",)
"""Chains for gradients alone."""

SMALL = ("raw", "fp16", "fp16 | zstd(1)", "fp16 | shuffle | zstd(1)", "int8", "int8 | zstd(1)", "int4", "sign", "qsgd",
         "topk(0.1)", "topk(0.1) | fp16", "topk(0.1) | int8", "topk(0.1) | int8 | zstd(1)",
         "zvc(repeats='both') | shuffle | zstd(1)")  # fmt: skip

Table = list[list[str]]
"""Rows of cells, the first one with the names of the columns."""


def main() -> None:
    """Print the tables, or put them into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each comparison (default: 7)")
    parser.add_argument("--batch", type=int, default=8, help="photographs in a batch (default: 8)")
    parser.add_argument("--quick", action="store_true", help="ResNet-50 alone, three rounds")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--page", type=Path, help="write list and tables between the marks of this page")
    parser.add_argument("--list", action="store_true", help="with --page: write the list of codecs alone")
    options = parser.parse_args()
    if options.page is not None:
        replace(options.page, "codecs", codec_list())
    if options.list:
        return
    torch.set_num_threads(1)
    rounds = 3 if options.quick else options.rounds
    networks = dict(itertools.islice(NETWORKS.items(), 1)) if options.quick else NETWORKS
    written = []
    for title, table in tables(networks, options.batch, rounds):
        text = f"**{title}**\n\n{markdown(table)}\n" if options.markdown or options.page else plain(title, table)
        print(text, flush=True)
        written.append(text)
    if options.page is not None:
        command = f"```sh\npython benchmarks/codecs.py {' '.join(sys.argv[1:])}\n```\n"
        replace(options.page, "tables", "\n".join([command, *written]))


def tables(networks: dict[str, str], batch: int, rounds: int) -> Iterator[tuple[str, Table]]:
    """Each table with its title, as soon as it is measured."""
    yield f"Run on {described()}; {rounds} rounds", [["what is left out", "why"], *left_out()]
    first, lossless = None, [["network", *NAMES, "by zstd(3): ratio", "encode", "decode"]]
    for name, cut in networks.items():
        messages, calibration = first_pool(name, cut, batch)
        first = messages["activations"] if first is None else first
        for message, tensor in messages.items():
            chains = [*LOSSLESS, *(LOSSY if name != "vgg11" else ()), *(GRADIENTS if "grad" in message else ())]
            rows = measured(installed(chains), tensor, message, rounds, calibration[message])
            if name != "vgg11":
                size = "·".join(map(str, tensor.shape))
                yield f"{name} at {cut}, {message}, {size} float32", [[*NAMES], *(cells(row) for row in rows)]
            if message == "activations":
                lossless += beside(name, rows[: len(installed(LOSSLESS))])
    yield "Lossless chains on activations, beside zstd(3) of the same rounds", lossless
    assert first is not None
    yield "Floor by frame of top-k (with zstd: the floor of 16-bit values by that frame)", positions(first)
    yield "Encoding the top k of each sample, beside torch.topk(k, dim=1, sorted=False)", selection(first, rounds)
    yield "Small messages: 2048 values", small()


NAMES = ("chain", "ratio", "encode MB/s", "decode MB/s", "relative L2", "cosine", "floor / frame", "kind of floor")


def cells(row: se.Measurement) -> list[str]:
    """One measurement as cells under ``NAMES``."""
    chain = re.sub(r", fitted='[^']*'", "", row.chain)
    floor = ["–", ""] if row.floor_ratio is None else [f"{row.floor_ratio:.3f}", row.floor_kind or ""]
    error = "0" if row.relative_l2 == 0 else f"{row.relative_l2:.2g}"
    speeds = [f"{row.encode_mb_per_s:,.0f}", f"{row.decode_mb_per_s:,.0f}"]
    return [f"`{chain}`", f"{row.ratio:.2f}", *speeds, error, f"{row.cosine:.4f}", *floor]


def first_pool(name: str, cut: str, batch: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Activations and their gradients after the first pooling, and those of another batch to fit codecs on."""
    torch.manual_seed(0)
    split = se.split(se.load_model(name, num_classes=10), cut)
    x, y = se.data.photos(batch), torch.arange(batch) % 2
    with se.Trainer(split, optimizer={"name": "SGD", "lr": 0.01, "momentum": 0.9}) as trainer:
        for _ in range(3):
            trainer.step(x, y)
    found = []
    for seed in (0, 1):
        crossing = crossing_tensors(split, se.data.photos(batch, seed=seed), y)
        found.append({message: t for message, (t,) in crossing.items() if t is not None})
    return found[0], found[1]


def measured(
    chains: Sequence[Chain], tensor: torch.Tensor, message: str, rounds: int, calibration: torch.Tensor
) -> list[se.Measurement]:
    """A row for each chain, with the median speeds of rounds in which all take their turn."""
    fitted = [fit(chain, calibration, message) for chain in chains]
    rows = [se.measure(chain, tensor, repeats=1, message=message) for chain in fitted]
    frames = [chain.encode(tensor, Context(message)) for chain in fitted]
    encoders = [lambda chain=chain: chain.encode(tensor, Context(message)) for chain in fitted]
    decoders = [
        lambda chain=chain, frame=frame: chain.decode(frame, Context(message))
        for chain, frame in zip(fitted, frames, strict=True)
    ]
    seconds = in_turn([*encoders, *decoders], rounds)
    speeds = [tensor.nbytes / median / 1e6 for median in seconds]
    return [
        se.Measurement(**{**row.to_dict(), "encode_mb_per_s": encode, "decode_mb_per_s": decode})
        for row, encode, decode in zip(rows, speeds[: len(rows)], speeds[len(rows) :], strict=True)
    ]


def fit(chain: Chain, calibration: torch.Tensor, message: str) -> Chain:
    """The chain with parameters, if it needs any."""
    needed = any(isinstance(stage, FittedCodec) for stage in chain.tensor_codecs)
    return chain.fit([calibration], message) if needed else chain


def in_turn(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The median seconds of each call over rounds in which each is made once, after one that is not counted."""
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, taken in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            if number:
                taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in seconds]


def beside(network: str, rows: Sequence[se.Measurement]) -> Table:
    """Lossless rows with their ratio and speeds over those of zstd(3)."""
    reference = next(row for row in rows if row.chain == "zstd(3)")
    fields = ("ratio", "encode_mb_per_s", "decode_mb_per_s")
    return [
        [network, *cells(row), *(f"{getattr(row, field) / getattr(reference, field):.2f}" for field in fields)]
        for row in rows
    ]


def positions(real: torch.Tensor) -> Table:
    """Distances to the floor of top-k on independent normal data, and on activations."""
    table = [["share kept", "independent", "activations", "activations, zstd(1)"]]
    independent = torch.randn(8, 200_000, generator=torch.Generator().manual_seed(0))
    for fraction in (0.01, 0.05, 0.1, 0.25):
        rows = [se.measure(f"topk({fraction}) | fp16", tensor, repeats=1) for tensor in (independent, real)]
        coded = se.measure(f"topk({fraction}) | fp16 | zstd(1)", real, repeats=1)
        floors = [row.floor_bytes or 0 for row in (*rows, rows[1])]
        ratios = [floor / row.frame_bytes for floor, row in zip(floors, (*rows, coded), strict=True)]
        table.append([f"{fraction:.0%}", *(f"{ratio:.3f}" for ratio in ratios)])
    return table


def selection(real: torch.Tensor, rounds: int) -> Table:
    """The whole of TopK.encode (selection, positions, values) against torch's selection alone."""
    table = [["share kept", "torch.topk ms", "topk encode ms", "times as fast"]]
    for fraction in (0.01, 0.05, 0.1, 0.25):
        chain, k = se.codec(f"topk({fraction})"), round(fraction * real[0].numel())
        calls = [lambda k=k: real.abs().flatten(1).topk(k, dim=1, sorted=False), lambda c=chain: c.encode_planes(real)]
        torchs, ours = in_turn(calls, rounds)
        table.append([f"{fraction:.0%}", f"{torchs * 1e3:.1f}", f"{ours * 1e3:.1f}", f"{torchs / ours:.2f}"])
    return table


def small() -> Table:
    """What a frame takes beside its planes."""
    table = [["chain", "planes", "bytes of planes", "frame", "overhead"]]
    x = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    for chain in installed(SMALL):
        planes, _ = chain.encode_planes(x)
        payload, frame = sum(plane.nbytes for plane in planes.values()), len(chain.encode(x))
        table.append([f"`{chain!r}`", str(len(planes)), str(payload), str(frame), str(frame - payload)])
    return table


def installed(notations: Sequence[str]) -> list[Chain]:
    """The chains whose codecs are all there."""
    return [se.codec(notation) for notation in notations if absent(notation) is None]


def absent(notation: str) -> str | None:
    """Why a chain cannot be had; None if it can."""
    try:
        se.codec(notation)
    except se.errors.CodecError as error:
        return str(error).partition(". ")[0]
    return None


def left_out() -> Table:
    """Chains that cannot be had, and why."""
    reasons = {notation: absent(notation) for notation in (*LOSSLESS, *LOSSY, *GRADIENTS, *SMALL)}
    rows = [[f"`{notation}`", reason] for notation, reason in reasons.items() if reason is not None]
    return rows or [["nothing", ""]]


def codec_list() -> str:
    """The installed codecs of this package, a row each."""
    rows = [row for row in describe_codecs() if row.origin.split()[0] == "spliteasy"]
    table = [["codec", "kind", "", "what it does", "after"]]
    for row in rows:
        loss = "lossless" if row.lossless else "lossy"
        table.append([f"`{row.name}`, e.g. `{row.example}`", row.kind, loss, row.summary, row.citation])
    return markdown(table)


def described() -> str:
    """What it ran on."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__.partition('+')[0]}, {capability}, {torch.get_num_threads()} thread"


def markdown(table: Table) -> str:
    """A table in Markdown; in a cell a bar must be escaped."""
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def plain(title: str, table: Table) -> str:
    """A table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([f"\n{title}", *lines])


def replace(page: Path, mark: str, content: str) -> None:
    """Put ``content`` between the marks of a page."""
    text = page.read_text()
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise SystemExit(f"expected the marks {begin} and {end} in {page}")
    page.write_text(f"{before}{begin}\n\n{content}\n\n{end}{after}")


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)  # what a codec is not meant for is measured all the same
    main()
