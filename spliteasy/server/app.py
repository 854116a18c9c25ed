"""The routes: HTTP in, session calls on the compute thread, HTTP out. Errors are problem+json (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

import spliteasy
from spliteasy import errors
from spliteasy.codecs import container
from spliteasy.codecs.state import flatten
from spliteasy.errors import FrameError, SplitEasyError
from spliteasy.heads import FRAME_TYPE, answer_head
from spliteasy.server.compute import ComputeThread
from spliteasy.server.opening import SessionConfig, open_session
from spliteasy.server.session import Commit, Session
from spliteasy.server.store import SessionStore
from spliteasy.weights import flatten_state, load_tensors, save_tensors
from spliteasy.wire import Frame, empty_buffer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["create_app"]

_PIECE = 1 << 20
_STATUS: dict[type[SplitEasyError], int] = {
    errors.TokenError: 401,
    errors.SessionError: 409,
    errors.ConnectionLost: 503,
    errors.FrameError: 400,
    errors.TrainingError: 422,
}


def create_app(
    store: SessionStore, *, threads: int | None = None, allow: Collection[str] = (), max_body: int = 1 << 32
) -> Flask:
    """The Flask application. All torch work runs on one compute thread, with ``threads`` of OpenMP's."""
    app = Flask("spliteasy")
    computed = ComputeThread(threads)

    def session(identifier: str) -> Session:
        return store.get(identifier, _token(request.environ))

    @app.get("/v1/health")
    def health() -> Response:
        return _json(
            {
                "name": "spliteasy",
                "version": spliteasy.__version__,
                "torch": torch.__version__,
                "threads": computed(torch.get_num_threads),
                "sessions": len(store),
            }
        )

    @app.post("/v1/sessions")
    def open_one() -> Response:
        body = _body(request.environ, max_body)
        config = SessionConfig.from_json(container.read(body)[1].get("session", ""))
        identifier, token = store.open(lambda: computed(lambda: open_session(config, load_tensors(body), allow)))
        return _json({"session": identifier, "token": token, "torch": torch.__version__}, 201)

    @app.post("/v1/sessions/<identifier>/evaluate")
    def evaluate(identifier: str) -> Response:
        current, body = session(identifier), _body(request.environ, max_body)
        return _frame(computed(lambda: current.evaluate(Frame.parse(body))))

    @app.post("/v1/sessions/<identifier>/commit")
    def commit(identifier: str) -> Response:
        current, body = session(identifier), _body(request.environ, _PIECE)
        try:
            value = Commit.of(json.loads(bytes(body)))
        except (ValueError, RecursionError):
            raise FrameError("Expected a commit as JSON, found something else.") from None
        computed(lambda: current.settle(value))
        return _json({"committed": value.step})

    @app.get("/v1/sessions/<identifier>/weights")
    def weights(identifier: str) -> Response:
        current = session(identifier)
        return _bytes(computed(lambda: save_tensors(current.weights())))

    @app.get("/v1/sessions/<identifier>/optimizer")
    def optimizer(identifier: str) -> Response:
        current = session(identifier)
        return _bytes(computed(lambda: save_tensors(*flatten_state(current.updater.state()))))

    @app.get("/v1/sessions/<identifier>/codecs")
    def codecs(identifier: str) -> Response:
        current = session(identifier)
        return _bytes(computed(lambda: save_tensors(*flatten(current.streams.state()))))

    @app.delete("/v1/sessions/<identifier>")
    def close(identifier: str) -> Response:
        store.close(identifier, _token(request.environ))
        return _json({"closed": identifier})

    @app.errorhandler(SplitEasyError)
    def refused(error: SplitEasyError) -> Response:
        status = next((code for cls, code in _STATUS.items() if isinstance(error, cls)), 422)
        return _problem(type(error).__name__, status, str(error))

    @app.errorhandler(HTTPException)
    def unknown(error: HTTPException) -> Response:
        return _problem("ProtocolError", error.code or 500, f"{request.method} {request.path}: {error.description}")

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        app.logger.exception("a call failed")
        return _problem("ServerError", 500, f"The server failed: {type(error).__name__}: {error}")

    @app.put("/v1/sessions/<identifier>/steps/<int:step>/<any(forward,backward):phase>")
    def step(identifier: str, step: int, phase: str) -> Response:
        current, body = session(identifier), _body(request.environ, max_body)
        return _frame(computed(lambda: _work(current, phase)(step, Frame.parse(body))))

    class Call:
        """The same without Flask, for connections that know a step's call when they see one."""

        def __init__(self) -> None:
            self.max_body = max_body

        def __call__(
            self, identifier: str, token: str, step: int, phase: str, body: memoryview
        ) -> tuple[bytes, Sequence[bytes | memoryview]]:
            try:
                work = _work(store.get(identifier, token), phase)
                frame = computed(lambda: work(step, Frame.parse(body)))
            except Exception as error:
                response = refused(error) if isinstance(error, SplitEasyError) else failed(error)
                return answer_head(response.status, response.mimetype, len(response.data)), [response.data]
            return answer_head("200 OK", FRAME_TYPE, frame.nbytes), frame.pieces

    app.extensions["spliteasy"] = Call()
    return app


def _work(session: Session, phase: str) -> Callable[[int, Frame], Frame]:
    return session.forward if phase == "forward" else session.backward


def _token(environ: WSGIEnvironment) -> str:
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return str(token) if scheme == "Bearer" else ""


def _body(environ: WSGIEnvironment, limit: int) -> memoryview:
    """The request's body in one buffer of the right size, at an address that is a multiple of 64 bytes."""
    stated = environ.get("CONTENT_LENGTH") or ""
    if not stated.isdecimal() or int(stated) > limit:
        raise FrameError(f"Expected a body of a stated length up to {limit} bytes, found {stated or 'none stated'}.")
    buffer, stream, filled = empty_buffer(int(stated)), environ["wsgi.input"], 0
    while filled < len(buffer):
        piece = stream.read(min(_PIECE, len(buffer) - filled))
        if not piece:
            raise FrameError(f"Expected a body of {stated} bytes, found {filled}: it was cut short.")
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)
    return buffer


def _frame(frame: Frame) -> Response:
    return _bytes_of(frame.pieces, frame.nbytes)


def _bytes(data: bytes) -> Response:
    return _bytes_of([data], len(data))


def _bytes_of(pieces: Collection[bytes | memoryview], size: int) -> Response:
    response = Response(_content(pieces, size), mimetype=FRAME_TYPE, direct_passthrough=True)
    response.content_length = size
    return response


def _content(pieces: Collection[bytes | memoryview], size: int) -> Iterable[bytes]:
    return [b"".join(pieces)] if size <= _PIECE else _sliced(pieces)


def _sliced(pieces: Collection[bytes | memoryview]) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), _PIECE):
            yield bytes(piece[start : start + _PIECE])


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(value), status, mimetype="application/json")


def _problem(name: str, status: int, detail: str) -> Response:
    value = {"type": f"urn:spliteasy:error:{name}", "title": name, "status": status, "detail": detail}
    return Response(json.dumps(value), status, mimetype="application/problem+json")
