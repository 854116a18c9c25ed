"""A stream of server-sent events as a device hears it: which answers are there, and nothing missed.

The stream is a connection of its own. One that was lost is opened again, with the number of the last event that was
seen; where none can be opened, its device asks instead of being told.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from spliteasy.heads import EVENT_TYPE, request_head
from spliteasy.http1 import Connection

__all__ = ["EventSource"]

_PIECE = 1 << 12
_LARGEST = 1 << 16
_HEAD_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class EventSource(Connection):
    """The events of the session at ``path``, over one connection that is kept open; its bytes are counted.

    Raises nothing when the connection is lost: a call that asks for the answer finds out what is wrong.
    """

    def __init__(self, url: str, timeout: float, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(url, timeout)
        self._path, self._own_headers, self._patience = path, dict(headers), min(timeout, _HEAD_SECONDS)
        self._heard = bytearray()
        self._last, self._size = 0, 0
        self._silent, self._pause = False, _FIRST_PAUSE

    def open(self) -> bool:
        """Open the stream; whether there is one now."""
        self.close()
        headers = {**self._own_headers, "Accept": EVENT_TYPE, "Last-Event-ID": str(self._last)}
        head = request_head("GET", f"{self._prefix}{self._path}", self._host, 0, headers)
        try:
            connected = self.connected()
            connected.settimeout(self._patience)
            connected.sendall(head)
            self.sent += len(head)
            answer = bytearray()
            while (end := answer.find(b"\r\n\r\n")) < 0 and len(answer) < _LARGEST:
                piece = connected.recv(_PIECE)
                self.received += len(piece)
                if not piece:
                    break
                answer += piece
        except OSError:
            end = -1
        kind = rb"(?is)HTTP/1\.1 200 .*\r\nContent-Type: *" + EVENT_TYPE.encode() + rb" *[;\r]"
        if end < 0 or not re.match(kind, answer[: end + 2]):
            self.close()
            return False
        self._hear(bytes(answer[end + 4 :]))
        return True

    def expect(self, number: int) -> None:
        """Call ``number`` was made, maybe not for the first time: only what is heard from now on is about it."""
        self._last = min(self._last, number - 1)
        self._pause = _FIRST_PAUSE
        if self._silent:  # the answer was there and nobody said so: a connection that looks open may lead nowhere
            self.close()

    def wait(self, number: int, seconds: float) -> int:
        """Wait until the answer to call ``number`` is there, and return the size of the event that said so in bytes.

        0: nothing was said for ``seconds``, or the stream had to be opened again. Then it is time to ask."""
        end = time.monotonic() + seconds
        while self._last < number:
            if self._socket is None:
                if not self.open():
                    time.sleep(min(self._pause, seconds))
                    self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                return self._size if self._last >= number else 0
            try:
                self._socket.settimeout(max(end - time.monotonic(), 0.001))
                piece = self._socket.recv(_PIECE)
            except TimeoutError:
                self._silent = True
                return 0
            except OSError:
                piece = b""
            self.received += len(piece)
            if piece:
                self._hear(piece)
            else:
                self.close()
        return self._size

    def close(self) -> None:
        """Close the connection, if there is one."""
        super().close()
        self._heard.clear()
        self._silent = False

    def _hear(self, piece: bytes) -> None:
        self._silent = False
        self._heard += piece
        *events, rest = bytes(self._heard).replace(b"\r\n", b"\n").split(b"\n\n")
        self._heard[:] = rest
        for event in events:
            found = re.search(rb"(?m)^id: ?([0-9]{1,18})$", event)
            if found is not None:
                self._last, self._size = max(self._last, int(found[1])), len(event) + 2
        if len(rest) > _LARGEST:
            self.close()
