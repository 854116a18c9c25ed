"""The decoder of frames under coverage-guided fuzzing: nothing but messages and refusals, no crash, no hang."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_million_frames_that_are_led_by_coverage(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="pip install atheris, which Python 3.11 has on Linux")
    from frame_fuzzer import __file__ as program
    from frame_fuzzer import seeds

    runs = int(os.environ.get("SPLITEASY_FUZZ_RUNS", 1_000_000))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / str(number)).write_bytes(seed)
    limits = [f"-atheris_runs={runs}", "-timeout=10", "-rss_limit_mb=4096", "-max_len=4096", "-seed=1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    done = subprocess.run(
        [sys.executable, program, *limits, str(corpus)], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"Done (\d+) ", done.stderr + done.stdout)
    assert found is not None and int(found[1]) >= runs, done.stderr[-1000:]
