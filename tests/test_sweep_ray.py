"""The same study as tasks of a Ray cluster on this machine: the same rows, to the bit."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from small_study import study

import spliteasy as se
from spliteasy.errors import TrainingError
from spliteasy.sweeping.running import TIMES


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TrainingError, match=r"spliteasy\[ray\]"):
        study(engine="ray")


@pytest.mark.slow
def test_ray_gives_the_rows_of_the_local_engine(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    start(ray)
    try:
        found = study(engine="ray", out=tmp_path / "ray.csv")
        assert ray.is_initialized(), "a cluster that was there stays"
    finally:
        ray.shutdown()
    local = study()
    assert_same(found, local)
    assert_same(study(out=tmp_path / "ray.csv"), local)  # and the other engine finds them


def start(ray: Any) -> None:
    """A cluster of two processors. Ray gives up when its own processes take 15 s to come up, as on a busy machine."""
    settings = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    problem: Exception | None = None
    for _ in range(2):
        try:
            ray.init(**settings, object_store_memory=80_000_000)
            return
        except Exception as error:
            ray.shutdown()
            problem = error
    pytest.skip(f"Ray itself did not start on this machine: {problem}")


def assert_same(one: se.Sweep, other: se.Sweep) -> None:
    lasting = [rows.drop(columns=list(TIMES)).to_dict("records") for rows in (one.rows, other.rows)]
    assert lasting[0] == lasting[1]
