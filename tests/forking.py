"""Processes that die at a given point: forked from one that has loaded everything, so that each is up in a moment.

Run as a program it reads one line of JSON after the other, forks a child that does what the line says, and tells when
that ended. A child kills itself with SIGKILL, which no handler sees, where it was told to.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["DEVICE_POINTS", "SERVER_POINTS", "Forker", "free_port", "servers_that_die"]

SERVER_POINTS = (
    "before read",
    "in mid-body",
    "before compute",
    "after compute",
    "after commit",
    "in mid-reply",
    "after reply",
)


DEVICE_POINTS: dict[str, tuple[str, bool, int]] = {
    "before the activations leave": ("spliteasy.transport:HTTP.forward", True, 2),
    "while the answer is awaited": ("spliteasy.http1:Connection.answer", True, 5),
    "with the first answer": ("spliteasy.transport:HTTP.forward", False, 3),
    "before the output gradients leave": ("spliteasy.transport:HTTP.backward", True, 1),
    "with the answer to the output gradients": ("spliteasy.transport:HTTP.backward", False, 2),
    "before the update": ("spliteasy.optimization:Updater.apply", True, 2),
    "after the update": ("spliteasy.optimization:Updater.apply", False, 3),
    "before a save": ("spliteasy.transport:HTTP.keep", True, 1),
    "when the server has saved": ("spliteasy.transport:HTTP.keep", False, 1),
    "before the file is in place": ("os:replace", True, 1),
    "after the file is in place": ("os:replace", False, 1),
}
"""Where a device dies: a function, whether before it or behind it, and which of its calls counts."""


class Forker:
    """The process that forks, one child at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        environment["OMP_NUM_THREADS"] = "1"
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._line() == "ready"

    def start(self, job: dict[str, Any]) -> int:
        """Begin a job and return its process's number; a server's, once it listens."""
        assert self._process.stdin is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        pid = int(self._line())
        if job["kind"] == "server":
            assert self._line().startswith("listening on ")
        return pid

    def run(self, job: dict[str, Any]) -> int:
        """Do a job and wait for its end: `wait`."""
        self.start(job)
        return self.wait()

    @functools.cached_property
    def other(self) -> Forker:
        """Another one, for a device beside a server."""
        return Forker()

    def wait(self) -> int:
        """How the job ended: its exit status, or the negative number of the signal."""
        return int(self._line().removeprefix("ended "))

    def close(self) -> None:
        if "other" in self.__dict__:
            self.other.close()
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the forking process is gone"
        return line.strip()


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def servers_that_die(forker: Forker, folder: str, every: int, deaths: list[tuple[str, str, int]]) -> Iterator[str]:
    """A server's address. It dies at each of ``deaths`` (point, phase, step) in turn and is started again at once; in
    the end it lives. Afterwards all of them must have come."""
    port, left, done = free_port(), list(deaths), threading.Event()
    current: list[int] = []

    def start() -> None:
        job = {"kind": "server", "port": port, "state": folder, "every": every, "death": left[0] if left else None}
        current[:] = [forker.start(job)]

    def again() -> None:
        while True:
            status = forker.wait()
            if done.is_set():
                return
            assert status == -signal.SIGKILL, status
            left.pop(0)
            start()

    start()
    watching = threading.Thread(target=again, daemon=True)
    watching.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        done.set()
        os.kill(current[0], signal.SIGKILL)
        watching.join(30)
    assert not left, f"it did not die at {left}"


# In the children


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm_server(point: str, phase: str, step: int) -> None:
    """Put the trap in its place."""
    from spliteasy.heads import direction_and_part
    from spliteasy.server import connections
    from spliteasy.server.session import Session

    plain = connections.StepConnection._step

    def at_connection(self: Any) -> bool | None:
        head = connections._STEP.match(self.rfile.peek())
        if head is None or (head["phase"].decode(), int(head["step"])) != (phase, step):
            return plain(self)
        if point == "before read":
            die()
        if point == "in mid-body":
            self.rfile.read(head.end() + int(head["length"]) // 2)
            die()
        if point == "in mid-reply":
            self.socket = _Half(self.socket)
        kept = plain(self)
        if point == "after reply":
            die()
        return kept

    def around(name: str, here: Callable[[Any, tuple[Any, ...]], bool], before: bool) -> None:
        method = getattr(Session, name)

        def patched(self: Any, *arguments: Any) -> Any:
            if before and here(self, arguments):
                die()
            result = method(self, *arguments)
            if not before and here(self, arguments):
                die()
            return result

        setattr(Session, name, patched)

    if point in ("before compute", "after compute"):
        name, part = direction_and_part(phase)
        around(name, lambda session, given: (given[0], given[2]) == (step, part), point == "before compute")
    elif point == "after commit":
        around("settle", lambda session, arguments: session.committed == step, False)
    else:
        connections.StepConnection._step = at_connection  # type: ignore[method-assign]


class _Half:
    """A socket that sends half of the first piece, and dies."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def sendall(self, data: Any) -> None:
        self._real.sendall(bytes(data)[: len(data) // 2])
        die()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _serve(job: dict[str, Any]) -> None:
    from spliteasy.server.process import serve

    if job["death"] is not None:
        _arm_server(*job["death"])
    serve(port=job["port"], state=job["state"], checkpoint_every=job["every"], threads=1)


def _train(job: dict[str, Any]) -> None:
    """A device that saves its training and goes on from there: it is started until it comes to its end."""
    from harness import batches, digits_split

    import spliteasy as se

    _arm_device(job["death"])
    split = digits_split(tuple(job["at"]))
    if os.path.exists(job["file"]):
        trainer = se.Trainer.load(job["file"], split)
    else:
        trainer = se.Trainer(split, job["url"], job["chain"], {"name": "Adam", "lr": 0.01}, retry=20)
        trainer.save(job["file"])
    for number, (x, y) in enumerate(batches(job["steps"])):
        if number > trainer._finished.step:
            trainer.step(x, y)
            if (number + 1) % job["every"] == 0:
                trainer.save(job["file"])
    state = trainer.state_dict()
    trainer.close()
    import hashlib

    from spliteasy.weights import flatten_state, save_tensors

    optimizer = {str(index): entries for index, entries in state["optimizer"]["state"].items()}
    tensors, numbers = flatten_state(optimizer)
    digest = hashlib.sha256(save_tensors({**state["model"], **tensors}, numbers)).hexdigest()
    with open(job["result"], "w") as file:
        file.write(digest)


def _arm_device(death: list[Any] | None) -> None:
    """``death``: a function's place (``module:name``), whether before it, and which of its calls counts."""
    if death is None:
        return
    place, before, count = death
    module, _, path = place.partition(":")
    owner: Any = __import__(module, fromlist=["x"])
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real, calls = getattr(owner, name), [0]

    def patched(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if before and calls[0] == count:
            die()
        result = real(*arguments, **named)
        if not before and calls[0] == count:
            die()
        return result

    setattr(owner, name, patched)


def _main() -> None:
    from harness import digits_split

    import spliteasy.server.app
    import spliteasy.server.connections  # noqa: F401

    digits_split()  # loads all that a child needs; a backward here would forbid any in a fork

    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                {"server": _serve, "device": _train}[job["kind"]](job)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    _main()
