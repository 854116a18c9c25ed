"""What fitted codecs cost and keep: accuracy on digits against bytes, `pca` beside `bottleneck`, raw beside both.

    python benchmarks/fitted.py [--epochs 6] [--seeds 2] [--batches 32]

`digits_cnn` in a double split around its second convolution, in-process, one thread, calibrated on batches of 32 of
the untrained network. Bytes are frames of all four messages over the run, and the fitted parameters once.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch.utils.data import DataLoader

import spliteasy as se

CUTS = ("relu1", "relu3")
CHAINS = ["raw"] + [
    f"{name}({components}{axis}) | fp16"
    for axis, sizes in ((", axis='channel'", (2, 4, 8)), ("", (4, 8, 16)))
    for components in sizes
    for name in ("pca", "bottleneck")
]


def trained(chain: str, epochs: int, seed: int, calibration: int) -> tuple[float, float, int]:
    """Accuracy, bytes of the whole run, and those of the fitted parameters among them."""
    train, test = se.data.digits()
    torch.manual_seed(seed)
    split = se.split(se.load_model("digits_cnn"), at=CUTS, input_shape=(1, 8, 8))
    batches = list(DataLoader(train, 32, shuffle=True, generator=torch.Generator().manual_seed(seed)))
    codecs = se.calibrate(split, chain, batches, batches=calibration, progress=False)
    optimizer = {"name": "SGD", "lr": 0.05, "momentum": 0.9}
    with se.Trainer(split, codecs=codecs, optimizer=optimizer, seed=seed) as trainer:
        log = trainer.fit(batches, epochs, progress=False)
        accuracy = trainer.evaluate(DataLoader(test, 64)).accuracy
    assert accuracy is not None
    return accuracy, sum(record.total.frame for record in log) + log.fitted_bytes, log.fitted_bytes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--batches", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    raw = 0.0
    print(f"{'chain':40} {'accuracy':>8} {'spread':>7} {'ratio':>7} {'fitted':>9}")
    for chain in CHAINS:
        runs = [trained(chain, arguments.epochs, seed, arguments.batches) for seed in range(arguments.seeds)]
        accuracies = [run[0] for run in runs]
        sent = statistics.mean(run[1] for run in runs)
        raw = raw or sent
        spread = max(accuracies) - min(accuracies)
        print(
            f"{chain:40} {statistics.mean(accuracies):8.3f} {spread:7.3f} {raw / sent:7.1f} {runs[0][2]:9,d}",
            flush=True,
        )


if __name__ == "__main__":
    main()
