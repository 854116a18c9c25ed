"""`sweep`: check the grid, compute what is missing, keep every row, show the table."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from spliteasy.errors import TrainingError, suggest
from spliteasy.link import LINKS, Link
from spliteasy.sweeping import grid as grids
from spliteasy.sweeping.datasets import read_data
from spliteasy.sweeping.engines import ENGINES
from spliteasy.sweeping.grid import AnyChain, Builder, Grid, Named, Run, Training
from spliteasy.sweeping.result import Sweep
from spliteasy.sweeping.store import Store, write_table

__all__ = ["sweep"]


def sweep(
    models: str | Builder | Sequence[str | Builder] | Mapping[str, str | Builder],
    cuts: str | Sequence[str | Sequence[str]],
    chains: AnyChain | Sequence[AnyChain] | Mapping[str, AnyChain],
    data: str | Sequence[Dataset[Any]] | Callable[[], Sequence[Dataset[Any]]] = "digits",
    *,
    seeds: int | Collection[int] = 5,
    epochs: int = 3,
    batch: int = 32,
    optimizer: Mapping[str, Any] | None = None,
    schedule: str = "constant",
    loss: str = "cross_entropy",
    backward: str = "exact",
    clip_norm: float | None = None,
    frozen: Collection[str] = (),
    links: Mapping[str, Link] = LINKS,
    server: bool | str = False,
    out: str | os.PathLike[str] | None = None,
    engine: str = "local",
    threads: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Train every network at every cut with every set of chains and every seed, and compare.

        sweep("digits_cnn", [("pool", "flatten")], ["fp16 | zstd(1)", "topk(0.1) | fp16"], seeds=5, out="study.csv")

    The seed of a run decides its initial weights, its batches and its steps. Uncompressed runs (``raw``) are always
    among them: differences are between runs of the same seed, so most of what seeds do cancels out. Choose chains by
    validation accuracy (`Sweep.best`) and report the test accuracy. The last batch is left out where it is smaller.

    Arguments:
        models: names for `load_model` (built with as many classes as the data have), functions that build a network,
            or a mapping of labels to either.
        cuts: the name of a cut, a pair of names as a tuple, or a list of these.
        chains: one or several notations, `Codecs`, or a mapping of labels to either. A notation is for all messages, or
            ``"forward=topk(0.1) | fp16; backward=fp16"``. Fitted codecs are calibrated at the start of each run.
        data: ``digits``, ``patches``, ``cifar10("folder")`` or the like, with arguments as in
            ``digits(size=32, channels=3)``; or (training, validation, test) data sets, or a function that returns them.
        seeds: how many, or which.
        epochs, batch, optimizer, loss, backward, clip_norm: as for `Trainer`; SGD with momentum if not said.
        schedule: ``constant``, or ``cosine`` to zero over the epochs.
        frozen: labels of chains whose device segment A stays as it was initialised, its gradients neither needed nor
            sent. It shows what A's training, and the bytes for it, are worth.
        links: links by name to project a step's time on.
        server: True to train against a server process and count HTTP bytes, or a server's address.
        out: a ``.parquet`` or ``.csv`` file, or a folder, for the rows. Called again with the same arguments, the study
            goes on where it was: no row is lost or doubled, whatever ended it.
        engine: ``local``, or ``ray`` for tasks on a Ray cluster (extra ``[ray]``).
        threads: of each run; as many as PyTorch has here if not said. Equal numbers give results equal to the bit.
        progress: show a bar with the time left.

    An interrupt (Ctrl-C, or the notebook's stop button) ends the study early: the result then holds the finished runs,
    and says how many are missing.

    Raises:
        ModelError, CutError, CodecError, DataError, TrainingError: for what does not exist or does not fit, naming it,
            before anything runs; `TrainingError` also for an ``out`` that holds another study.
    """
    if engine not in ENGINES:
        raise TrainingError(
            f"Expected engine as one of {', '.join(ENGINES)}, found {engine!r}.{suggest(str(engine), ENGINES)}"
        )
    parts = read_data(data)
    builders, names = grids.as_models(models, parts.classes)
    codecs = grids.as_codecs_by_label(chains)
    unknown = sorted(set(frozen) - set(codecs))
    if unknown:
        raise TrainingError(f"Expected frozen as labels of chains ({', '.join(codecs)}), found {', '.join(unknown)}.")
    if grids.RAW in frozen:
        raise TrainingError(
            "Expected the raw runs trained, which the others are compared with; label another 'raw' set."
        )
    remote = [label for label, builder in builders.items() if not isinstance(builder, Named)]
    if server and remote:
        raise TrainingError(
            f"A server builds networks by name, and {', '.join(remote)} are functions: give 'package.module:factory'."
        )
    grid = Grid(
        models=builders,
        cuts=grids.as_cuts(cuts),
        codecs=codecs,
        seeds=grids.as_seeds(seeds),
        data=parts,
        training=Training(
            epochs, batch, dict(optimizer or {"name": "SGD", "lr": 0.05, "momentum": 0.9}),
            schedule, loss, backward, clip_norm, threads or torch.get_num_threads(),
        ),
        frozen=frozenset(frozen),
        counted="http" if server else "frames",
        names=names,
    )  # fmt: skip
    grid.check()
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(out, _identity(grid))) if out is not None else None
        rows = store.rows if store else {}
        complete = _compute(grid, engine, server, rows, store, progress)
        ordered = [rows[digest] for run in grid if (digest := grid.digest(run)) in rows]
        result = Sweep(ordered, grid.settings, links, missing=len(grid) - len(ordered))
        if store is not None and ordered:
            write_table(result.rows, store.table)
    if not complete:
        kept = "kept there" if out is not None else "in the result; give out= to go on later"
        warnings.warn(f"The study was interrupted: {len(ordered)} of {len(grid)} runs are {kept}.", stacklevel=2)
    return result


def _compute(
    grid: Grid, engine: str, server: bool | str, rows: dict[str, dict[str, Any]], store: Store | None, progress: bool
) -> bool:
    """Add the missing rows; False when interrupted."""
    from tqdm.auto import tqdm

    waiting: list[Run] = [run for run in grid if grid.digest(run) not in rows]
    if not waiting:
        return True
    finished = ENGINES[engine](grid, waiting, server)
    # smoothing=0: runs differ, so the time left follows from the mean of all of them.
    with (
        tqdm(
            total=len(grid),
            initial=len(grid) - len(waiting),
            unit="run",
            desc="sweep",
            smoothing=0,
            disable=not progress,
        ) as bar,
        contextlib.closing(finished),
    ):
        try:
            for row in finished:
                if store is not None:
                    store.add(row)
                else:
                    rows[row["run"]] = row
                accuracy = "diverged" if row["problem"] else f"{100 * (row['validation_accuracy'] or 0):.1f} %"
                bar.set_postfix_str(f"{row['chain']}, seed {row['seed']}: {accuracy}", refresh=False)
                bar.update()
        except KeyboardInterrupt:
            return False
    return True


def _identity(grid: Grid) -> dict[str, Any]:
    """What must be the same for rows to stand in one table."""
    import spliteasy

    return {"spliteasy": spliteasy.__version__, "torch": str(torch.__version__), **grid.settings}
