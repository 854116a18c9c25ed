"""The least that device and server take as two processes: frames through a pipe, no HTTP, no digests, no second try."""

from __future__ import annotations

import contextlib
import multiprocessing
from multiprocessing.connection import Connection

from spliteasy.server.session import Commit, Session
from spliteasy.transport import InProcess, Reply
from spliteasy.wire import Frame


class TwoProcesses(InProcess):
    """A session in a forked process, which answers steps only."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(session, self._pipe, theirs), daemon=True).start()
        theirs.close()

    def forward(self, step: int, frame: Frame) -> Reply:
        return self._ask("forward", step, frame)

    def backward(self, step: int, frame: Frame) -> Reply:
        return self._ask("backward", step, frame)

    def commit(self, commit: Commit) -> None:
        """The next forward carries it."""

    def close(self) -> None:
        self._pipe.close()

    def _ask(self, phase: str, step: int, frame: Frame) -> Reply:
        self._pipe.send_bytes(f"{phase} {step}".encode())
        self._pipe.send_bytes(b"".join(frame.pieces))
        return Reply(Frame.parse(self._pipe.recv_bytes()))


def _serve(session: Session, device: Connection, own: Connection) -> None:
    device.close()
    with contextlib.suppress(EOFError):
        while True:
            phase, step = own.recv_bytes().decode().split()
            work = session.forward if phase == "forward" else session.backward
            own.send_bytes(b"".join(work(int(step), Frame.parse(own.recv_bytes())).pieces))
