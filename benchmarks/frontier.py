"""The frontier of bytes against accuracy, on digits and on patches of photographs: every chain, five seeds, paired.

    python benchmarks/frontier.py FOLDER [--quick] [--server] [--data digits patches] [--size 32] [--seeds 5]

Quarter-width VGG-11 (with batch normalization) and DenseNet-121 in a double split behind the first pooling and before
the classifier, from scratch. Chains are chosen by validation accuracy and reported by test accuracy. Bytes are all four
messages with all headers and with the bases of fitted codecs spread over the training, against the bare tensors of the
uncompressed run. Each row is kept in FOLDER, and the same command goes on where it was. One process, one thread; with
`--server` device and server are two processes and bytes are counted on the socket.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas
import torch

import spliteasy as se
from spliteasy.errors import CodecError

NETWORKS = {
    "VGG-11/4": ("small_networks:vgg11_quarter", ("features.3", "flatten")),
    "DenseNet-121/4": ("small_networks:densenet121_quarter", ("features.pool0", "flatten")),
}

FROZEN = "A frozen, untrained"


def big(first: str, ends: str = "int8") -> str:
    """One chain for the two messages at the first cut, which hold nearly all bytes, and one for the other two."""
    return f"activations={first}; input_gradients={first}; outputs={ends}; output_gradients={ends}"


CHAINS = {
    "half and zstd": "fp16 | zstd(1)",
    "int8": "int8 | zstd(1)",
    "int4": "int4 | zstd(1)",
    "qsgd": "qsgd | zstd(1)",
    "top 10 %": "topk(0.1) | fp16 | zstd(1)",
    "top 10 %, int8": "topk(0.1) | int8 | zstd(1)",
    "top 3 %, int8": "topk(0.03) | int8 | zstd(1)",
    "top 1 %, int8": "topk(0.01) | int8 | zstd(1)",
    "top 5 %, int8; ends int8": big("topk(0.05) | int8 | zstd(1)"),
    "top 5 %, int4; ends int8": big("topk(0.05) | int4 | zstd(1)"),
    "top 7 %, int4; ends int8": big("topk(0.07) | int4 | zstd(1)"),
    "top 7 %, int4, positions reused": big("topk(0.07, reuse=True) | int4 | zstd(1)"),
    "random top 5 %, int8; ends int8": big("randtopk(0.05) | int8 | zstd(1)"),
    "top 3 % forward, sign backward": "forward=topk(0.03) | int8 | zstd(1); backward=sign",
    "DCT 5 x 5, int4; ends int8": big("dct(5) | int4 | zstd(1)"),
    "DCT 6 x 6, int4; ends int4": big("dct(6) | int4 | zstd(1)", ends="int4 | zstd(1)"),
    "DCT 5 x 5, int4; ends int4": big("dct(5) | int4 | zstd(1)", ends="int4 | zstd(1)"),
    "DCT 4 x 4, int4; ends int8": big("dct(4) | int4 | zstd(1)"),
    "C3, 8 to 1": "c3(8) | int8",
    "low rank": "powersgd(2) | int8",
    "error feedback": "forward=topk(0.03) | int8 | zstd(1); backward=ef('topk(0.03) | int8') | zstd(1)",
    "PCA 32, int8": big("pca(32) | int8", ends="pca(16) | int8"),
    "PCA 32, int4": big("pca(32) | int4", ends="pca(16) | int4"),
    "PCA 16, int4": big("pca(16) | int4", ends="pca(16) | int4"),
    "PCA 8, int4": big("pca(8) | int4", ends="pca(8) | int4"),
    "PCA by channel": big("pca(2, axis='channel') | int4", ends="pca(16) | int4"),
    "bottleneck": big("bottleneck(32) | int4", ends="bottleneck(16) | int4"),
    FROZEN: "raw",
    "A frozen, top 3 %, int8": "topk(0.03) | int8 | zstd(1)",
}

QUICK = ["half and zstd", "top 10 %", "top 3 %, int8", "PCA 32, int4", FROZEN]

DATA = {"digits": "digits(size={size}, channels=3)", "patches": "patches(cells=2, crops=4)"}
EPOCHS = 8


def main() -> None:
    """Run the study, print the tables, save the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where rows, tables and pictures are kept")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="which data (default: both)")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: both")
    parser.add_argument("--chains", nargs="+", choices=CHAINS, default=None, help="labels (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="default: 5")
    parser.add_argument("--epochs", type=int, default=None, help="default: 8")
    parser.add_argument("--batch", type=int, default=64, help="default: 64")
    parser.add_argument("--size", type=int, default=32, help="side of the digits, in pixels (default: 32)")
    parser.add_argument("--cifar10", default=None, metavar="FOLDER", help="also on CIFAR-10, from this folder")
    parser.add_argument("--server", action="store_true", help="two processes, HTTP bytes (default: frames)")
    parser.add_argument("--quick", action="store_true", help="digits, VGG-11, five chains, two seeds, two epochs")
    options = parser.parse_args()
    if options.quick:
        options.data, options.models, options.chains, options.seeds = ["digits"], ["VGG-11/4"], QUICK, 2
        options.epochs = options.epochs or 2
    torch.set_num_threads(1)
    chains = available(options.chains or list(CHAINS))
    data = {name: DATA[name].format(size=options.size) for name in options.data}
    if options.cifar10:
        data["cifar10"] = f"cifar10({options.cifar10!r})"
    for name, source in data.items():
        for label in options.models:
            study(options, name, source, label, chains)


def available(labels: list[str]) -> dict[str, str]:
    """The chains whose codecs are installed; a note for each of the others."""
    chains = {}
    for label in labels:
        try:
            se.sweeping.read_codecs(CHAINS[label])
        except CodecError as error:
            print(f"left out: {label} ({error})", file=sys.stderr)
        else:
            chains[label] = CHAINS[label]
    return chains


def study(options: argparse.Namespace, name: str, source: str, label: str, chains: dict[str, str]) -> None:
    """One network on one data set."""
    model, cuts = NETWORKS[label]
    folder = options.folder / f"{label.split('/')[0].lower()}-{name}{'-http' if options.server else ''}"
    result = se.sweep(
        {label: model}, cuts, chains, source,
        seeds=options.seeds, epochs=options.epochs or EPOCHS, batch=options.batch,
        optimizer={"name": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}, schedule="cosine",
        frozen=[one for one in chains if one.startswith("A frozen")], server=options.server, out=folder,
    )  # fmt: skip
    columns = ["chain", "validation_difference", "test_accuracy", "test_accuracy_sd", "test_difference",
               "test_difference_sd", "up_bytes", "down_bytes", "saving", "fitted_bytes", "diverged"]  # fmt: skip
    with pandas.option_context("display.width", 200, "display.precision", 4):
        print(f"\n{result._caption()}: {label} at {', '.join(cuts)}, {result.table['seeds'].max()} seeds")
        print(result.table[columns].sort_values("saving").to_string(index=False))
        best = result.best(1.0)
        print("chosen on validation, at most 1 point lost, by bytes:")
        print(best[columns].to_string(index=False))
    result.plot_frontier().savefig(folder / "frontier.png", dpi=120)
    result.plot_time().savefig(folder / "time.png", dpi=120)


if __name__ == "__main__":
    main()
