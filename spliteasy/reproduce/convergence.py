"""Table 1's other columns: how many epochs until a network converges on 10, 100, 1000 images. Real runs, resumable.

Every finished run is kept in a JSON file that is replaced in one piece; a run that was cut off starts anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spliteasy.errors import ReproduceError
from spliteasy.reproduce.paper_numbers import TABLE_1
from spliteasy.reproduce.step_times import PAPER_ARCHITECTURES, Architecture
from spliteasy.reproduce.training_data import Images, batches, fitted, images
from spliteasy.reproduce.whole_files import as_folder, write_whole
from spliteasy.splitting import split
from spliteasy.trainer import Trainer

if TYPE_CHECKING:
    import pandas

__all__ = ["SMALL_SIX", "Rule", "converge"]

SMALL_SIX = tuple(
    replace(network, side=75 if network.title.startswith("Inception") else 32)
    for network in PAPER_ARCHITECTURES.values()
)
"""The six networks on small images: 32 × 32, and 75 × 75 for the Inceptions, whose layers allow no less."""

_FORMAT = "spliteasy-converge/1"


@dataclass(frozen=True)
class Rule:
    """When a run stops: after the first epoch whose mean training loss (cross-entropy, of its steps) is at most
    ``loss``, or after ``epochs``; and how it trains."""

    loss: float = 0.1
    epochs: int = 500
    batch: int = 16
    lr: float = 0.01
    momentum: float = 0.9
    seed: int = 0

    def __str__(self) -> str:
        return (
            f"the first epoch whose mean training loss is at most {self.loss:g}, at most {self.epochs} epochs; SGD, "
            f"learning rate {self.lr:g}, momentum {self.momentum:g}, batch {self.batch}, seed {self.seed}"
        )


def converge(
    store: str | os.PathLike[str],
    networks: Sequence[Architecture] = SMALL_SIX,
    counts: Sequence[int] = (10, 100, 1000),
    data: str | os.PathLike[str] | None = None,
    rule: Rule | None = None,
    progress: bool = True,
) -> pandas.DataFrame:
    """Epochs to converge of each network on each number of images, in an exact double split in this process.

    One row a network and count: ``epochs, paper``, ``epochs, ours`` (None where the rule was not met), ``loss`` of the
    last epoch, and ``epochs run``. Finished runs are read from the JSON file ``store``, which is made where it is not
    there.

    Raises `ReproduceError` for a store of other data or another rule, or that cannot be read, and counts that the data
    do not have; `DataError` where ``data`` holds no CIFAR-100.
    """
    import pandas
    from tqdm.auto import tqdm

    rule = rule or Rule()
    if not counts or any(type(count) is not int or count < 2 for count in counts):
        raise ReproduceError(f"Expected numbers of images of 2 or more, found {list(counts)}.")
    part = images(data, max(counts), 1)
    if len(part.train[0]) < max(counts):
        raise ReproduceError(f"Expected {max(counts)} training images, found {len(part.train[0])}. Ask for fewer.")
    kept = _Store(Path(store), {"data": part.name, "rule": str(rule), "torch": torch.__version__})
    with tqdm(total=len(networks) * len(counts), desc="converge", unit="run", disable=not progress) as bar:
        for network in networks:
            for count in counts:
                key = f"{network.title}, {network.name}, {network.side}, {count}"
                if key not in kept.runs:
                    kept.add(key, _run(network, part, count, rule, bar))
                bar.update()
    rows = []
    for network in networks:
        paper = TABLE_1.get(network.title)
        for count in counts:
            run = kept.runs[f"{network.title}, {network.name}, {network.side}, {count}"]
            met = run["loss"] <= rule.loss
            row = {"network": network.title, "images": count}
            row |= {"epochs, paper": None if paper is None else paper.epochs.get(count)}
            rows.append(row | {"epochs, ours": run["epochs"] if met else None, "epochs run": run["epochs"]})
            rows[-1]["loss"] = float(run["loss"])
    table = pandas.DataFrame(rows)
    return table.astype({"epochs, paper": "Int64", "epochs, ours": "Int64"}).astype(object).where(table.notna(), None)


def _run(network: Architecture, part: Images, count: int, rule: Rule, bar: Any) -> dict[str, Any]:
    """Train until the rule is met."""
    sized = replace(network, arguments={**network.arguments, "num_classes": part.classes})
    x, y = fitted(part.train[0][:count], sized.input_shape), part.train[1][:count]
    parts = split(sized.load(), sized.usual_cuts(), sized.input_shape)
    optimizer = {"name": "SGD", "lr": rule.lr, "momentum": rule.momentum}
    loss = float("inf")
    with Trainer(parts, optimizer=optimizer, seed=rule.seed) as trainer:
        for epoch in range(1, rule.epochs + 1):
            losses = [trainer.step(*batch).loss for batch in batches(x, y, rule.batch, rule.seed, epoch)]
            loss = sum(losses) / len(losses)
            bar.set_postfix_str(f"{network.title}, {count} images, epoch {epoch}, loss {loss:.3f}")
            if loss <= rule.loss:
                break
    return {"epochs": epoch, "loss": loss}


class _Store:
    """Finished runs by key in a JSON file, and what they have in common."""

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        as_folder(path.parent)
        self._path, self._identity = path, {"format": _FORMAT, **identity}
        self.runs: dict[str, dict[str, Any]] = {}
        if not path.exists():
            return
        try:
            found = json.loads(path.read_bytes())
            self.runs = {str(key): {"epochs": int(run["epochs"]), "loss": float(run["loss"])}
                         for key, run in found.pop("runs").items()}  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise ReproduceError(
                f"Expected the runs of --converge in {path}, found something else ({error}). Move it away."
            ) from error
        if found != self._identity:
            differing = [key for key, value in self._identity.items() if found.get(key) != value]
            raise ReproduceError(
                f"Expected {path} to be of the same data, rule and torch, found another {', '.join(differing)}. Name "
                "another folder, or move the file away to start anew."
            )

    def add(self, key: str, run: Mapping[str, Any]) -> None:
        """Keep a finished run, on the disk when this returns."""
        self.runs[key] = dict(run)
        write_whole(self._path, json.dumps({**self._identity, "runs": self.runs}, indent=1).encode())
