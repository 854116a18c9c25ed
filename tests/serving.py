"""`spliteasy serve` as a process of its own, as a user starts it, for tests that stop it and read what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from spliteasy.server.process import SETTINGS

__all__ = ["Serving"]


class Serving:
    """The process, which listens when this is made; ``said`` is its standard error, once it has ended."""

    def __init__(self, *arguments: str | os.PathLike[str], folder: Path) -> None:
        environment = {**os.environ, **SETTINGS, "OMP_NUM_THREADS": "1"}  # else the command would start itself again
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._errors = folder / "standard-error.txt"
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "spliteasy", "serve", "--threads", "1", *map(os.fspath, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            self.process.wait(60)
            raise AssertionError(self.said)
        self.url = line.removeprefix("listening on ").strip()

    @property
    def said(self) -> str:
        return self._errors.read_text()

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        return self.process.wait(60)

    def stop(self) -> int:
        """Ask it to stop; its exit status."""
        self.terminate()
        return self.wait()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
