"""How long `find_cuts` takes after imports, the network built; the median of some runs.

python benchmarks/cuts.py [--runs 7]
"""

from __future__ import annotations

import argparse
import statistics
import time

import spliteasy as se

NETWORKS = (
    ("resnet50", 224),
    ("densenet201", 224),
    ("inception_v3", 299),
    ("timm/inception_resnet_v2", 299),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="runs of each network (default: 7)")
    options = parser.parse_args()
    print(f"{'network':26} {'cuts':>5} {'tensors':>8} {'first':>9} {'median':>9}")
    for name, size in NETWORKS:
        model = se.load_model(name)
        seconds = []
        for _ in range(options.runs):
            started = time.perf_counter()
            cuts = se.find_cuts(model, (3, size, size), batch=32)
            seconds.append(time.perf_counter() - started)
        most = max(len(cut.tensors) for cut in cuts)
        print(f"{name:26} {len(cuts):5} {most:8} {seconds[0]:8.3f}s {statistics.median(seconds):8.3f}s")


if __name__ == "__main__":
    main()
