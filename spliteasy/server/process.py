"""Run a server: in this process for good (`serve`), or as a process of its own for a while (`LocalServer`)."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TextIO

from spliteasy.errors import ServerError, SplitEasyError, StateError

__all__ = ["SETTINGS", "LocalServer", "reexecute_with_settings", "serve", "server_environment"]

SETTINGS = {
    "GOMP_SPINCOUNT": "10000",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
}
"""What a computing process should be started with, before torch loads.

Device and server on one machine share its cores: threads that wait for work should not spin for long (the default of
GNU OpenMP), and memory that a step frees should stay for the next one instead of being given back and faulted in again
(GNU malloc). Without them a step of a small network over HTTP takes three times as long.
"""

_READY = "listening on "
_STOPPING = 3.0
_MOST_THREADS = 64
_WAITING = 128  # connections that nobody has accepted yet: beyond cheroot's 5, some of 16 devices at once were reset


def server_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environment`` with `SETTINGS`, where it does not say otherwise itself."""
    return {**SETTINGS, **environment}


def serve(
    host: str = "127.0.0.1",
    port: int = 8765,
    *,
    threads: int | None = None,
    allow: Collection[str] = (),
    max_sessions: int = 16,
    idle_seconds: float = 3600.0,
    max_message: int | None = None,
    max_in_flight: int | None = None,
    max_header: int | None = None,
    state: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 10,
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    stop_with: IO[Any] | None = None,
) -> bool:
    """Serve until interrupted or terminated; port 0 takes a free one. Prints ``listening on http://host:port`` when
    ready. Returns whether every state that was to be kept is kept.

    ``max_message``, ``max_in_flight`` and ``max_header`` are bytes, as in `server.limits.Limits`
    (None: as there).

    ``state`` is a folder: every session's state is written there when it opens, after every ``checkpoint_every`` steps
    and when the server stops, and a server that is started with the same folder goes on with them.

    ``certificate`` and ``key`` are files in PEM format, the certificate with those that lead up to its authority's: the
    server then speaks TLS, and its address begins with ``https://``.

    ``log`` is a file that events are added to, a JSON object a line (`spliteasy.server.events`); ``-`` is standard
    error.

    A server that is to stop refuses new calls (503), finishes those in hand, writes every session's state, and ends; if
    it is told so a second time it ends at once, and has then not kept every state. ``stop_with`` is a stream whose end
    stops it: a parent's pipe, so that it never outlives its parent.

    Raises `StateError` for a folder that cannot be written to, `ServerError` for a port, a log, a certificate or a key
    that cannot be used.
    """
    from spliteasy.server.app import create_app
    from spliteasy.server.checkpoints import Checkpoints
    from spliteasy.server.connections import StepServer
    from spliteasy.server.encryption import Encryption
    from spliteasy.server.events import EventLog
    from spliteasy.server.limits import Limits
    from spliteasy.server.observing import Observer
    from spliteasy.server.sessions import Sessions

    given = {"message": max_message, "in_flight": max_in_flight, "header": max_header}
    limits = Limits(**{name: size for name, size in given.items() if size is not None})
    encryption = Encryption.of(certificate, key)
    checkpoints = Checkpoints(Path(state), checkpoint_every) if state is not None else None
    sessions = Sessions(
        max_sessions=max_sessions,
        idle_seconds=idle_seconds,
        threads=threads,
        allow=allow,
        checkpoints=checkpoints,
        limits=limits,
        observer=Observer(EventLog(_opened(log))),
    )
    app = create_app(sessions)
    # A thread waits for the compute thread or for a socket; connections that are idle or tell events take none.
    threads_for_calls = min(max(8, max_sessions + 4), _MOST_THREADS)
    server = StepServer(
        (host, port),
        app,
        numthreads=threads_for_calls,
        request_queue_size=_WAITING,
        timeout=60,
        server_name="spliteasy",
    )
    server.max_request_header_size = limits.header
    server.step_call = app.extensions["spliteasy"]
    server.ssl_adapter = encryption
    sessions.in_flight.is_full = server.relief.is_full
    try:
        server.prepare()
    except OSError as error:
        raise ServerError(
            f"Expected to listen on {host}:{port}, found {error}. Choose another --port, or 0."
        ) from error
    # Cheroot does this for a port that was named. A server that is started anew can then have the port at once.
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    print(f"{_READY}{'https' if encryption else 'http'}://{host}:{server.bind_addr[1]}", flush=True)
    wrong: list[SplitEasyError] = []
    finished, hurried = threading.Event(), threading.Event()

    def stop() -> None:
        try:
            wrong.extend(sessions.stop())
        finally:
            finished.set()
            server.stop()

    def hurry() -> None:
        if not finished.is_set():
            hurried.set()
            sessions.in_hand.hurry()
            threading.Thread(target=server.stop, daemon=True).start()  # `serve` returns; calls are not waited for

    stopping = threading.Thread(target=stop, daemon=True)
    if stop_with is not None:
        threading.Thread(target=_stop_at_end, args=(stop_with, stopping), daemon=True).start()
    with _interrupts_stop(stopping, hurry):
        server.serve()
        if stopping.ident is not None and not hurried.is_set():
            stopping.join(_STOPPING)
    if hurried.is_set() and checkpoints is not None:
        wrong.append(
            StateError(
                "Expected time to finish the calls in hand and to write the states of sessions, found that the server "
                "was told a second time to stop. Start it anew with the same --state: devices send the steps since the "
                "states that it wrote before."
            )
        )
    for one in wrong:
        print(one, file=sys.stderr, flush=True)
    return not wrong


def _opened(log: str | os.PathLike[str] | None) -> TextIO | None:
    """Where events are written."""
    if log is None or os.fspath(log) == "-":
        return None if log is None else sys.stderr
    try:
        return open(log, "a", encoding="utf-8")
    except OSError as error:
        raise ServerError(f"Expected a log that can be written to, found {os.fspath(log)}: {error}.") from error


def _begin(stopping: threading.Thread) -> bool:
    """Start to stop; whether that is new."""
    try:
        stopping.start()
    except RuntimeError:  # threads are started once
        return False
    return True


@contextlib.contextmanager
def _interrupts_stop(stopping: threading.Thread, hurry: Callable[[], None]) -> Iterator[None]:
    """Within the block an interrupt or SIGTERM starts ``stopping``, a second one calls ``hurry``. As an exception an
    interrupt could come up anywhere in the main thread, also where it is swallowed, and the server would run on."""

    def stop(number: int, frame: object) -> None:
        if not _begin(stopping):
            hurry()

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_at_end(stream: IO[Any], stopping: threading.Thread) -> None:
    with contextlib.suppress(OSError, ValueError):
        while stream.read(1):
            pass
    _begin(stopping)


class LocalServer:
    """A server process on a free loopback port, for as long as the ``with`` block.

    It computes with the caller's number of threads. It stops with the block, also after an exception, and with this
    process, whatever ends it. ``allow`` names factories (``"package.module:factory"``) that it may import; ``state``,
    ``checkpoint_every`` and the limits are those of `serve`. Raises `ServerError` with the process's own words if it
    does not come up within ``timeout`` seconds.
    """

    def __init__(
        self,
        *,
        allow: Sequence[str] = (),
        threads: int | None = None,
        max_sessions: int = 16,
        idle_seconds: float = 3600.0,
        max_message: int | None = None,
        max_in_flight: int | None = None,
        max_header: int | None = None,
        state: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
        port: int = 0,
        timeout: float = 120.0,
    ) -> None:
        self.url = ""
        self._allow, self._threads, self._timeout = list(allow), threads, timeout
        self._limits = ["--max-sessions", str(max_sessions), "--idle-seconds", str(idle_seconds), "--port", str(port)]
        sizes = {"--max-message": max_message, "--max-in-flight": max_in_flight, "--max-header": max_header}
        for option, size in sizes.items():
            self._limits += [] if size is None else [option, str(size)]
        if state is not None:
            self._limits += ["--state", os.fspath(state), "--checkpoint-every", str(checkpoint_every)]
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self) -> LocalServer:
        """Start the process and wait until it answers. Raises `ServerError` if it runs already."""
        if self._process is not None:
            raise ServerError(f"This server runs already, at {self.url}. Stop it first, or make another LocalServer.")
        import torch

        arguments = ["serve", "--stop-with-stdin", *self._limits]
        arguments += ["--threads", str(self._threads or torch.get_num_threads())]
        for name in self._allow:
            arguments += ["--allow", name]
        environment = server_environment()
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spliteasy", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # an interrupt of the terminal or of a notebook's cell is not meant for it
        )
        atexit.register(self.stop)
        try:
            self.url = self._wait_for_address()
            self._check_health()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, patience: float = 3.0) -> None:
        """Stop the process: ask, and kill it if it still runs after ``patience`` seconds. Twice does no harm."""
        process, self._process = self._process, None
        atexit.unregister(self.stop)
        if process is None:
            return
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if self._log is not None:
            self._log.close()

    @property
    def pid(self) -> int | None:
        """The process's number while it runs."""
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> LocalServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_for_address(self) -> str:
        process = self._process
        assert process is not None and process.stdout is not None
        lines: list[str] = []
        ready = threading.Event()
        threading.Thread(target=_read_all, args=(process.stdout, lines, ready), daemon=True).start()
        ready.wait(self._timeout)
        if lines and lines[0].startswith(_READY):
            return lines[0].removeprefix(_READY).strip()
        raise ServerError(f"Expected the server process to come up, found: {self._said() or 'no word from it'}")

    def _check_health(self) -> None:
        import requests

        deadline = time.monotonic() + self._timeout
        while True:
            try:
                requests.get(f"{self.url}/v1/health", timeout=self._timeout).raise_for_status()
                return
            except requests.RequestException as error:
                if time.monotonic() > deadline:
                    raise ServerError(f"Expected the server at {self.url} to answer, found {error}.") from error
                time.sleep(0.05)

    def _said(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read()[-2000:].decode(errors="replace").strip()


def _read_all(stream: IO[bytes], ready_line: list[str], ready: threading.Event) -> None:
    """Read to the end, so that a server that prints never waits for a reader; keep the line that says it is ready."""
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            text = line.decode(errors="replace")
            if text.startswith(_READY) and not ready_line:
                ready_line.append(text)
                ready.set()
    ready.set()


def reexecute_with_settings(arguments: Sequence[str]) -> None:
    """Start this command again with `SETTINGS` if it runs without them: malloc reads its own at process start."""
    if sys.platform != "linux" or all(name in os.environ for name in SETTINGS):
        return
    os.execve(sys.executable, [sys.executable, "-m", "spliteasy", *arguments], server_environment())
