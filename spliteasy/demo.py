"""``spliteasy demo``: the whole idea in a terminal. Digits, unsplit and split, raw and compressed, one table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from spliteasy import data
from spliteasy.models import load_model
from spliteasy.runlog import Evaluation, RunLog
from spliteasy.server.process import LocalServer
from spliteasy.splitting import split
from spliteasy.trainer import Trainer
from spliteasy.wire import MESSAGES, Bytes, Codecs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RUNS", "Result", "Run", "demo", "run_one"]

_COMPRESSED = Codecs(
    activations="topk(0.25) | fp16 | zstd(1)",
    outputs="fp16 | zstd(1)",
    output_gradients="fp16 | zstd(1)",
    input_gradients="topk(0.25) | fp16 | zstd(1)",
)
_STYLES = {
    "no split": (8.0, "-"),
    "single split, raw": (4.0, "-"),
    "double split, raw": (1.4, "-"),
    "single split, compressed": (1.6, "--"),
    "double split, compressed": (1.6, "--"),
}
_SHOWN = ("device", "server", "wire")


@dataclass(frozen=True)
class Run:
    """One training: a name, the cuts, the chains."""

    name: str
    cuts: tuple[str, ...]
    codecs: Codecs


RUNS = (
    Run("no split", (), Codecs()),
    Run("single split, raw", ("pool",), Codecs()),
    Run("double split, raw", ("pool", "flatten"), Codecs()),
    Run("single split, compressed", ("pool",), _COMPRESSED),
    Run("double split, compressed", ("pool", "flatten"), _COMPRESSED),
)
"""What the demo compares."""


@dataclass(frozen=True)
class Result:
    """A finished run: its log, its test result, its wall time and its final weights."""

    run: Run
    log: RunLog
    test: Evaluation
    seconds: float
    weights: dict[str, torch.Tensor]

    @property
    def sizes(self) -> dict[str, Bytes]:
        """Mean bytes a step by message."""
        count = len(self.log)
        sums = {m: sum((r.bytes.get(m, Bytes()) for r in self.log), Bytes()) for m in MESSAGES}
        return {m: Bytes(s.raw // count, s.frame // count, s.http // count) for m, s in sums.items()}

    @property
    def phases(self) -> dict[str, float]:
        """Seconds on the device, on the server, and on the wire, of the whole training."""
        total = self.log.to_pandas().filter(like="seconds.").sum()
        server = total["seconds.b_forward"] + total["seconds.b_backward"]
        wire = total["seconds.transfer"] + total["seconds.link"]
        return {"device": float(total["seconds.total"] - server - wire), "server": float(server), "wire": float(wire)}


def demo(picture: Path, epochs: int = 3) -> list[Result]:
    """Start a server process, train the digits network five ways with the same seed, print a table, save a picture."""
    print("Starting a server process ...", flush=True)
    results = []
    with LocalServer() as server:
        print(
            f"Server at {server.url}. Training digits_cnn on scikit-learn's digits, {epochs} epochs each.", flush=True
        )
        for run in RUNS:
            results.append(run_one(run, server.url, epochs))
    print(f"\n{table(results)}\n")
    for result in results[1:3]:
        same = all(torch.equal(value, result.weights[name]) for name, value in results[0].weights.items())
        print(
            f"{result.run.name}: the trained weights "
            f"{'equal the unsplit ones to the bit' if same else 'DIFFER from the unsplit ones'}"
        )
    figure(results).savefig(picture, dpi=150)
    print(f"picture: {picture}")
    return results


def run_one(run: Run, server: str, epochs: int) -> Result:
    """Train and test one run."""
    train, test = data.digits()
    torch.manual_seed(0)
    parts = split(load_model("digits_cnn"), run.cuts, (1, 8, 8))
    started = time.perf_counter()
    with Trainer(parts, server, run.codecs, {"name": "SGD", "lr": 0.05, "momentum": 0.9}) as trainer:
        for epoch in range(epochs):
            trainer.fit(data.loader(train, 32, seed=epoch), progress=False)
        seconds = time.perf_counter() - started
        log, result = trainer.log, trainer.evaluate(data.loader(test, 128, seed=0, shuffle=False))
    print(f"  {run.name:26} loss {log.losses[0]:.3f} → {log.losses[-1]:.3f}", flush=True)
    return Result(run, log, result, seconds, {name: value.clone() for name, value in parts.state_dict().items()})


def table(results: Sequence[Result]) -> str:
    """The comparison as text: accuracy, seconds by place, bytes a step by message (as sent over HTTP), saving."""
    head = ["run", "accuracy", "seconds", *_SHOWN, *(name.replace("_", " ") for name in MESSAGES), "saving"]
    rows = []
    for result in results:
        sizes, phases = result.sizes, result.phases
        raw, sent = sum(s.raw for s in sizes.values()), sum(s.http for s in sizes.values())
        rows.append(
            [
                result.run.name,
                f"{100 * (result.test.accuracy or 0):.1f} %",
                f"{result.seconds:.1f}",
                *(f"{phases[place]:.1f}" for place in _SHOWN),
                *(f"{sizes[m].http / 1e3:.1f} kB" if sizes[m].http else "–" for m in MESSAGES),
                f"{raw / sent:.1f}×" if sent else "–",
            ]
        )
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    ]
    note = "seconds: of the whole training, and where they were spent; sizes: HTTP bytes a step, headers included"
    return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:], note])


def figure(results: Sequence[Result]) -> Figure:
    """Loss by step of every run; bytes a step by message."""
    from spliteasy.pictures import Picture

    colors = ("#d0d0d0", "#1b9e77", "#3f007d", "#66c2a5", "#b3a2d8")
    result_figure = Picture(figsize=(12, 4.2), layout="constrained")
    loss, sizes = result_figure.subplots(1, 2)
    for result, color in zip(results, colors, strict=True):
        smooth = torch.tensor(result.log.losses).unfold(0, 10, 1).mean(1)
        width, dash = _STYLES[result.run.name]
        loss.plot(smooth, color=color, lw=width, ls=dash, label=result.run.name)
    loss.set(title="Training loss (mean of 10 steps)", xlabel="step", ylabel="cross-entropy", yscale="log")
    loss.legend(frameon=False, fontsize=9)
    split_runs = [result for result in results if result.run.cuts]
    left = [0.0] * len(split_runs)
    for message, color in zip(MESSAGES, ("#1b9e77", "#7570b3", "#b3b0d8", "#66c2a5"), strict=True):
        values = [result.sizes[message].http / 1e3 for result in split_runs]
        sizes.barh([r.run.name for r in split_runs], values, left=left, color=color, label=message.replace("_", " "))
        left = [a + b for a, b in zip(left, values, strict=True)]
    for place, (result, end) in enumerate(zip(split_runs, left, strict=True)):
        sizes.text(end, place, f"  {100 * (result.test.accuracy or 0):.1f} % right", va="center", fontsize=9)
    sizes.set(
        title="What one step sends, and the test accuracy",
        xlabel="kB a step (HTTP, batch 32)",
        xlim=(0, 1.3 * max(left)),
    )
    sizes.invert_yaxis()
    sizes.legend(frameon=False, fontsize=9, loc="lower right")
    for axes in (loss, sizes):
        axes.spines[["top", "right"]].set_visible(False)
    return result_figure
