"""TLS for the server's connections, by the standard library."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any

from cheroot.makefile import MakeFile
from cheroot.ssl import Adapter

from spliteasy.errors import ServerError

__all__ = ["Encryption"]


class Encryption(Adapter):
    """What cheroot wraps accepted sockets with.

    Its own adapter shakes hands on the thread that accepts connections, where one client that says nothing holds up all
    others. Here hands are shaken with the first read, on the connection's own thread.
    """

    def __init__(self, certificate: str, key: str) -> None:
        super().__init__(certificate, key)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate, key, password=_no_password)

    @classmethod
    def of(cls, certificate: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None) -> Encryption | None:
        """With the certificate and its key in these files; None without either. Raises `ServerError` for one alone, and
        for files that are none."""
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            raise ServerError("Expected --certificate and --key together, found one alone.")
        try:
            return cls(os.fspath(certificate), os.fspath(key))
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise ServerError(
                f"Expected a certificate and its private key in PEM format, without a password, found "
                f"{os.fspath(certificate)} and {os.fspath(key)}: {error}."
            ) from error

    def bind(self, sock: socket.socket) -> socket.socket:
        """The listening socket, as it is."""
        return sock

    def wrap(self, sock: socket.socket) -> tuple[ssl.SSLSocket, dict[str, Any]]:
        """An accepted socket that speaks TLS, and what WSGI is to know of it."""
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), self.get_environ()

    def get_environ(self) -> dict[str, Any]:
        """What WSGI is to know of every connection."""
        return {"wsgi.url_scheme": "https", "HTTPS": "on"}

    def makefile(self, sock: socket.socket, mode: str = "r", bufsize: int = -1) -> Any:
        """A file over a socket."""
        return MakeFile(sock, mode, bufsize)


def _no_password() -> str:
    """Without this the library asks for one at the terminal, and the server would wait."""
    raise ValueError("the key is encrypted")
