"""Fixtures that several files use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # pytest runs in two processes: their OpenMP threads must not spin
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # nor wait for cores that another process has
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import torch

import spliteasy as se


@pytest.fixture(scope="session", autouse=True)
def chains_are_timed_at_once() -> Iterator[None]:
    """No test looks at the seconds of a codec, so none waits for cores to fall asleep before it is timed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spliteasy.planning.calibration._PAUSE", 0.0)
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[se.LocalServer]:
    """One server process for the whole run, which may build the networks of `networks.py`."""
    from networks import ALLOWED

    threads = torch.get_num_threads()
    with se.LocalServer(allow=ALLOWED, max_sessions=64) as server:
        yield server
    assert torch.get_num_threads() == threads
