"""`spliteasy serve` as a process of its own, for tests that stop it and read what it says.

Loading torch takes seconds, so the processes are forked from one that has loaded everything; run as a program, this
file is that one. The command itself is what a user types.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spliteasy.server.process import SETTINGS

__all__ = ["Serving"]

_PATIENCE = 60.0


class Serving:
    """The process, which listens when this is made; ``said`` is its standard error so far.

    ``environment`` is what it finds there besides. Raises `AssertionError` with its
    exit status and its own words if it does not listen."""

    def __init__(
        self, *arguments: str | os.PathLike[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._errors, told = folder / "standard-error.txt", folder / "standard-output"
        self._errors.touch()
        told.unlink(missing_ok=True)
        os.mkfifo(told)
        command = ["serve", "--threads", "1", *map(os.fspath, arguments)]
        places = {"output": str(told), "errors": str(self._errors)}
        self.status: int | None = None
        self.pid = int(_forker().ask({"arguments": command, "environment": dict(environment or {}), **places}))
        self._output = told.open()
        line = self._output.readline()
        if not line.startswith("listening on "):
            self._output.close()
            self.wait()
            raise AssertionError(self.status, self.said)
        self.url = line.removeprefix("listening on ").strip()

    @property
    def said(self) -> str:
        return self._errors.read_text()

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    def limit(self, nbytes: int | None) -> None:
        """The largest file that it can write from now on, as if the disk were full; None: any."""
        soft = resource.RLIM_INFINITY if nbytes is None else nbytes
        most = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (soft, most))

    def terminate(self) -> None:
        """Ask it to stop."""
        os.kill(self.pid, signal.SIGTERM)

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        if self.status is None:
            self.status = _forker().ask({"status of": self.pid})
        return self.status is None

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        end = time.monotonic() + _PATIENCE
        while self.runs:
            assert time.monotonic() < end, f"it did not end: {self.said}"
            time.sleep(0.02)
        assert self.status is not None
        return self.status

    def stop(self) -> int:
        """Ask it to stop; its exit status."""
        self.terminate()
        return self.wait()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        if self.runs:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self._output.close()


class _Forker:
    """The process that forks; it ends with this one."""

    def __init__(self) -> None:
        environment = {**os.environ, **SETTINGS, "OMP_NUM_THREADS": "1"}  # else the command would start itself again
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, job: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            print(json.dumps(job), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())


@functools.cache
def _forker() -> _Forker:
    return _Forker()


def _become(job: dict[str, Any]) -> None:
    """The forked process: the command, as if it had been started anew."""
    flags = os.O_WRONLY | os.O_APPEND
    for number, place, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, job["output"], os.O_WRONLY),
        (2, job["errors"], flags),
    ):
        opened = os.open(place, how)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.update(job["environment"])
    from spliteasy.cli import main

    os._exit(main(job["arguments"]))


def _main() -> None:
    from harness import digits_split

    import spliteasy.cli
    import spliteasy.server.app
    import spliteasy.server.connections  # noqa: F401

    digits_split()  # loads the rest; a backward here would forbid any in a fork
    ended: dict[int, int] = {}
    for line in sys.stdin:
        job = json.loads(line)
        if "status of" in job:
            pid = job["status of"]
            if pid not in ended and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                ended[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(json.dumps(ended.get(pid)), flush=True)
            continue
        child = os.fork()
        if child == 0:
            try:
                _become(job)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(child, flush=True)


if __name__ == "__main__":
    _main()
