"""Where the runs of a study are computed: one after the other in this process, or as tasks on a Ray cluster.

Both yield finished rows as they come. A run depends on nothing but its grid and itself, so both yield the same rows,
to the bit, but for the seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from spliteasy.errors import TrainingError
from spliteasy.server.process import LocalServer
from spliteasy.sweeping.grid import Grid, Named, Run
from spliteasy.sweeping.running import compute

__all__ = ["ENGINES", "Engine", "local", "ray"]

Rows = Generator[dict[str, Any]]
Engine = Callable[[Grid, Sequence[Run], bool | str], Rows]


def local(grid: Grid, runs: Sequence[Run], server: bool | str) -> Rows:
    """In this process, in order; with ``server=True`` against one server process for all runs."""
    with _served(grid, server) as url:
        for run in runs:
            yield compute(grid, run, url)


def ray(grid: Grid, runs: Sequence[Run], server: bool | str) -> Rows:
    """As tasks of a Ray cluster, as they finish: the one this process is connected to (``ray.init(address)``), else
    one that is started on this machine and stopped again.

    A task takes as many CPUs as a run has threads. With ``server=True`` every task has a server process of its own.
    Raises `TrainingError` if Ray is not installed.
    """
    try:
        import ray as installed
    except ImportError:
        raise TrainingError(
            "engine='ray' needs Ray, which is not installed. Install it (pip install 'spliteasy[ray]'), or use "
            "engine='local'."
        ) from None
    cluster: Any = installed
    started = not cluster.is_initialized()
    if started:
        cluster.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        task = cluster.remote(num_cpus=grid.training.threads)(_served_run)
        shared = cluster.put(grid)  # the data travel once, not with every task
        waiting, pending = list(runs), list[Any]()
        most = 2 * max(1, int(cluster.cluster_resources().get("CPU", 1)) // grid.training.threads)
        try:
            while waiting or pending:
                while waiting and len(pending) < most:
                    pending.append(task.remote(shared, waiting.pop(0), server))
                finished, pending = cluster.wait(pending, num_returns=1)
                for reference in finished:
                    yield cluster.get(reference)
        finally:
            for reference in pending:
                cluster.cancel(reference, force=True)
    finally:
        if started:
            cluster.shutdown()


ENGINES: Mapping[str, Engine] = {"local": local, "ray": ray}
"""Engines by name."""


def _served_run(grid: Grid, run: Run, server: bool | str) -> dict[str, Any]:
    with _served(grid, server) as url:
        return compute(grid, run, url)


@contextlib.contextmanager
def _served(grid: Grid, server: bool | str) -> Iterator[str | None]:
    """The address to train against: one that was given, that of a server process for this block, or None."""
    if server is not True:
        yield server or None
        return
    factories = [b.name for b in grid.models.values() if isinstance(b, Named) and ":" in b.name]
    with LocalServer(allow=factories, threads=grid.training.threads) as running:
        yield running.url
