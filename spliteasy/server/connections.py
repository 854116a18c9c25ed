"""How the server treats a connection: a step's calls follow each other closely, so each costs as few hops as can be."""

from __future__ import annotations

import io
import select

from cheroot.server import HTTPConnection, HTTPRequest

__all__ = ["StepConnection"]

_LINGER = 0.05
_JOINED = 1 << 16


class _Request(HTTPRequest):
    """Sends the head of an answer with the first piece of its body: one packet for a small answer, not two."""

    _head = b""

    def send_headers(self) -> None:
        names = {name.lower(): value for name, value in self.outheaders}
        if self.method == b"HEAD" or not 0 < int(names.get(b"content-length", 0)) <= _JOINED:
            super().send_headers()
            return
        connection, held = self.conn.wfile, io.BytesIO()
        self.conn.wfile = held
        try:
            super().send_headers()
        finally:
            self.conn.wfile = connection
        self._head = held.getvalue()

    def write(self, chunk: bytes) -> None:
        if self._head:
            chunk, self._head = self._head + chunk, b""
        super().write(chunk)


class StepConnection(HTTPConnection):
    """Waits a moment for the next request on the same thread, before it goes back among the idle connections.

    A waiting thread costs nothing, and the next call of a step is spared being found, queued and handed out again.
    """

    RequestHandlerClass = _Request
    rbufsize = 1 << 17

    def communicate(self) -> bool:
        """Answer the requests that follow closely; whether to keep the connection. One that says nothing takes no
        thread for longer."""
        while select.select([self.socket], [], [], _LINGER)[0]:
            if not super().communicate():  # type: ignore[no-untyped-call]
                return False
        return True
