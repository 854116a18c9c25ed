"""The routes: HTTP in, session calls on the compute thread, HTTP out. Errors are problem+json (RFC 9457)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

import spliteasy
from spliteasy import errors
from spliteasy.codecs import container
from spliteasy.errors import DamagedError, FrameError, SplitEasyError
from spliteasy.heads import CALL, EVENT_TYPE, FRAME_TYPE, LATER, OPENING, SAVED, Call, answer_head, digest, phase_of
from spliteasy.server.mailbox import EventStream
from spliteasy.server.metrics import CONTENT_TYPE
from spliteasy.server.opening import SessionConfig
from spliteasy.server.session import Commit
from spliteasy.server.sessions import Sessions
from spliteasy.server.store import Served, names
from spliteasy.weights import load_tensors
from spliteasy.wire import Frame, empty_buffer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["create_app"]

T = TypeVar("T")

_PIECE = 1 << 20
_JSON = "application/json"
_STATUS: dict[type[SplitEasyError], int] = {
    errors.OrderError: 409,
    errors.SessionError: 404,
    errors.BusyError: 503,
    errors.StateError: 507,
    errors.FrameError: 400,
    errors.TrainingError: 422,
}


def create_app(sessions: Sessions) -> Flask:
    """The Flask application over ``sessions``."""
    app = Flask("spliteasy")
    store, observer, in_hand, in_flight = sessions.store, sessions.observer, sessions.in_hand, sessions.in_flight
    threads = sessions.computed(torch.get_num_threads)  # asked once: who asks for health does not wait for a step

    def computed(work: Callable[[], T]) -> T:
        """What ``work`` returns, on the compute thread; refused when the server is stopping."""
        with in_hand.new():
            return sessions.computed(work)

    def served(identifier: str) -> Served:
        return store.get(identifier, _token(request.environ))

    @contextmanager
    def received(limit: int = _PIECE) -> Iterator[memoryview]:
        """The body of the request, of at most ``limit`` bytes, which are in flight within the block."""
        length = _length(request.environ, limit)
        with in_flight.hold(length):
            yield _body(request.environ, length)

    @contextmanager
    def received_of_anyone() -> Iterator[memoryview]:
        """The same for one that no token came with: bytes are in flight once they are here, not when they are said to
        come."""
        length = _length(request.environ, sessions.limits.opening)
        with in_flight.growing(length) as grow:
            yield _body(request.environ, length, grow)

    def received_for(current: Served, call: str) -> AbstractContextManager[memoryview]:
        length = _length(request.environ, in_flight.limit)
        current.session.limits.check(call, length)
        return received(length)

    @app.get("/v1/health")
    def health() -> Response:
        return _json(
            {
                "name": "spliteasy",
                "version": spliteasy.__version__,
                "torch": torch.__version__,
                "threads": threads,
                "sessions": len(store),
                "stopping": in_hand.stopping,
            }
        )

    @app.get("/v1/metrics")
    def metrics() -> Response:
        return Response(sessions.metrics(), content_type=CONTENT_TYPE)

    @app.post("/v1/sessions")
    def open_one() -> Response:
        with received_of_anyone() as body, in_hand.new():
            call, key = _call(request.headers.get(CALL), body), request.headers.get(OPENING)
            config = SessionConfig.from_json(container.read(body)[1].get("session", ""))
            named = None if key is None else names(key, call.digest if isinstance(call, Call) else call)
            identifier, token = sessions.open(config, load_tensors(body), named)
        about = {"session": identifier, "token": token, "torch": torch.__version__, "saves_every": sessions.saves_every}
        return _json({**about, **sessions.stated(store.get(identifier, token), config)}, 201)

    @app.post("/v1/sessions/<identifier>/evaluate")
    def evaluate(identifier: str) -> Response:
        current = served(identifier)
        with received_for(current, "evaluate") as body:
            call = _call(request.headers.get(CALL), body)
            return _frame(computed(lambda: sessions.evaluate(current, call, body)))

    @app.post("/v1/sessions/<identifier>/commit")
    def commit(identifier: str) -> Response:
        current = served(identifier)
        with received() as body:
            call, value = _call(request.headers.get(CALL), body), _commit(body)
        computed(lambda: sessions.commit(current, call, value))
        return _json({"committed": value.step})

    @app.post("/v1/sessions/<identifier>/states")
    def save(identifier: str) -> Response:
        """Commit, and keep the state on the disk, and that of step ``also`` until another is kept."""
        current, also = served(identifier), request.args.get("also")
        with received() as body:
            call, value = _call(request.headers.get(CALL), body), _commit(body)
        computed(lambda: sessions.save(current, call, value, None if also is None else _step(also)))
        return _json({"saved": value.step})

    @app.put("/v1/sessions/<identifier>/states/<step>")
    def resume(identifier: str, step: str) -> Response:
        """Go back to a state that was kept."""
        current = served(identifier)
        computed(lambda: sessions.resume(current, _step(step)))
        return _json({"committed": _step(step)})

    @app.get("/v1/sessions/<identifier>/<any(weights,optimizer,codecs):what>")
    def state(identifier: str, what: str) -> Response:
        """As of the last finished step, which must be ``step`` if that is asked for."""
        current, step = served(identifier), request.args.get("step")
        return _bytes(computed(lambda: sessions.state(current, what, None if step is None else _step(step))))

    @app.get("/v1/sessions/<identifier>/calls/<int:number>")
    def answer(identifier: str, number: int) -> Response:
        """The answer to a call that was accepted: its frame, its error, or 202 while there is none."""
        current = served(identifier)
        found = current.mailbox.take(number)
        if isinstance(found, bool):
            return _json(_under_way(number, found), 202)
        response = _frame(found)
        response.headers.update(_saved(current))
        return response

    @app.get("/v1/sessions/<identifier>/events")
    def events(identifier: str) -> Response:
        """Server-sent events for as long as the connection lasts: an answer is there, or an error."""
        current, hand_over = served(identifier), request.environ.get("spliteasy.hand_over")
        if hand_over is None:
            return _problem("ServerError", 501, "This server cannot keep a connection for events. Make two calls.")
        seen = re.fullmatch("[0-9]{1,18}", request.headers.get("Last-Event-ID", "0"))
        hand_over(lambda connected: current.mailbox.open(EventStream(connected), int(seen[0]) if seen else 0))
        return Response(iter(()), content_type=EVENT_TYPE, headers={"Cache-Control": "no-store"})

    @app.delete("/v1/sessions/<identifier>")
    def close(identifier: str) -> Response:
        with in_hand.new():
            sessions.close(identifier, _token(request.environ))
        return _json({"closed": identifier})

    @app.after_request
    def numbered(response: Response) -> Response:
        """The answer to a numbered call says so, with a digest of what it says."""
        stated = request.headers.get(CALL)
        if stated is not None and CALL not in response.headers and response.mimetype != EVENT_TYPE:
            response.headers.update(_answered(stated, [response.get_data()]))
        return response

    @app.errorhandler(SplitEasyError)
    def refused(error: SplitEasyError) -> Response:
        return refusal(error, request.view_args or {})

    def refusal(error: SplitEasyError, called: Mapping[str, Any]) -> Response:
        """The answer to a call that cannot be served; ``called`` says of what session, step and phase."""
        status = next((code for cls, code in _STATUS.items() if isinstance(error, cls)), 422)
        if isinstance(error, errors.StateError) and not isinstance(error.__cause__, OSError):
            status = 404  # not the disk, but the request: there is no such state, or none is kept
        more: dict[str, Any] = {}
        if isinstance(error, errors.OrderError) and error.step is not None:
            more["expected"] = {"step": error.step, "phase": error.phase}
        response = _problem(type(error).__name__, status, str(error), more)
        if isinstance(error, errors.BusyError):
            response.headers["Retry-After"] = str(math.ceil(error.seconds))
        step = called.get("step")
        stated = step if type(step) is int else None  # a text is what the client sent, and has no place in a log
        observer.refused(type(error).__name__, status, called.get("identifier"), stated, called.get("phase"))
        return response

    @app.errorhandler(HTTPException)
    def unknown(error: HTTPException) -> Response:
        observer.refused("ProtocolError", error.code or 500)
        return _problem("ProtocolError", error.code or 500, f"{request.method} {request.path}: {error.description}")

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        app.logger.exception("a call failed")
        observer.refused("ServerError", 500)
        return _problem("ServerError", 500, f"The server failed: {type(error).__name__}: {error}")

    @app.put("/v1/sessions/<identifier>/steps/<int:step>/<any(forward,backward):phase>")
    @app.put("/v1/sessions/<identifier>/steps/<int:step>/<any(forward,backward):phase>/<int(min=1,max=99):part>")
    def step(identifier: str, step: int, phase: str, part: int = 0) -> Response:
        current, phase = served(identifier), phase_of(phase, part)
        with received_for(current, phase) as body:
            call = _call(request.headers.get(CALL), body)
            if isinstance(call, Call) and request.headers.get(LATER[0]) == LATER[1]:
                with in_hand.new():
                    sessions.begin(current, call, step, phase, body)
                return _json(_under_way(call.number, True), 202)
            response = _frame(computed(lambda: sessions.step(current, call, step, phase, body)))
        response.headers.update(_saved(current))
        return response

    class Direct:
        """The same without Flask, for connections that know a step's call when they see one."""

        def answering(self) -> AbstractContextManager[None]:
            return in_hand.answering()

        def __call__(
            self,
            identifier: str,
            token: str,
            step: int,
            phase: str,
            stated: str | None,
            later: bool,
            length: int,
            read: Callable[[], memoryview],
        ) -> tuple[bytes, Sequence[bytes | memoryview]]:
            def work(current: Served) -> Frame | dict[str, Any]:
                current.session.limits.check(phase, length)
                with in_flight.hold(length):
                    body = read()
                    call = _call(stated, body)
                    if later and isinstance(call, Call):
                        with in_hand.new():
                            sessions.begin(current, call, step, phase, body)
                        return _under_way(call.number, True)
                    return computed(lambda: sessions.step(current, call, step, phase, body))

            return self._said({"identifier": identifier, "step": step, "phase": phase}, token, stated, work)

        def answer(
            self, identifier: str, token: str, number: int, stated: str | None
        ) -> tuple[bytes, Sequence[bytes | memoryview]]:
            def work(current: Served) -> Frame | dict[str, Any]:
                found = current.mailbox.take(number)
                return _under_way(number, found) if isinstance(found, bool) else found

            return self._said({"identifier": identifier}, token, stated, work)

        def _said(
            self,
            called: dict[str, Any],
            token: str,
            stated: str | None,
            work: Callable[[Served], Frame | dict[str, Any]],
        ) -> tuple[bytes, Sequence[bytes | memoryview]]:
            pieces: Sequence[bytes | memoryview]
            try:
                current = store.get(called["identifier"], token)
                found = work(current)
                if isinstance(found, Frame):
                    status, kind, pieces, headers = "200 OK", FRAME_TYPE, found.pieces, _saved(current)
                else:
                    status, kind, pieces, headers = "202 ACCEPTED", _JSON, [json.dumps(found).encode()], {}
            except (ConnectionError, TimeoutError):  # the body did not come: nobody waits for an answer
                raise
            except Exception as error:
                response = refusal(error, called) if isinstance(error, SplitEasyError) else failed(error)
                status, kind, pieces = response.status, response.mimetype or "", [response.data]
                headers = {"Retry-After": response.headers["Retry-After"]} if "Retry-After" in response.headers else {}
            if stated is not None:
                headers |= _answered(stated, pieces)
            return answer_head(status, kind, sum(map(len, pieces)), headers), pieces

    app.extensions["spliteasy"] = Direct()
    return app


def _call(stated: str | None, body: memoryview) -> Call | str:
    """The call as its header states it, its body found whole; the body's digest for one without. Raises `DamagedError`
    if the body is another."""
    found = digest([body])
    if stated is None:
        return found
    call = Call.parse(stated)
    if call.digest != found:
        raise DamagedError(f"Expected a body with the digest {call.digest}, found {found}. Send it again.")
    return call


def _answered(stated: str, pieces: Sequence[bytes | memoryview]) -> dict[str, str]:
    """The header of an answer to a numbered call; without a number where the call stated none that can be read."""
    number = re.match(r"[0-9]{1,18}(?= )", stated)
    return {CALL: str(Call(int(number[0]), digest(pieces)))} if number else {}


def _under_way(number: int, known: bool) -> dict[str, Any]:
    """What is said of a call without an answer; one that is unknown has to be made again."""
    return {"call": number, "state": "working" if known else "unknown"}


def _saved(served: Served) -> dict[str, str]:
    keeper = served.keeper
    return {} if keeper is None or keeper.saved is None else {SAVED: str(keeper.saved)}


def _commit(body: memoryview) -> Commit:
    try:
        return Commit.of(json.loads(bytes(body)))
    except (ValueError, RecursionError):
        raise FrameError("Expected a commit as JSON, found something else.") from None


def _step(text: str) -> int:
    if not re.fullmatch(r"-1|[0-9]{1,18}", text):
        raise FrameError(f"Expected the number of a step, found {text!r:.80}.")
    return int(text)


def _token(environ: WSGIEnvironment) -> str:
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return str(token) if scheme == "Bearer" else ""


def _length(environ: WSGIEnvironment, limit: int) -> int:
    """The stated length of the request's body. Raises `FrameError` if it is more than ``limit``, or none is stated."""
    stated = environ.get("CONTENT_LENGTH") or ""
    if not re.fullmatch("[0-9]{1,19}", stated) or int(stated) > limit:
        raise FrameError(
            f"Expected a body of a stated length up to {limit} bytes, found {stated[:40] or 'none stated'}."
        )
    return int(stated)


def _body(environ: WSGIEnvironment, length: int, grow: Callable[[int], None] = lambda more: None) -> memoryview:
    """The request's body in one buffer of the right size, at an address that is a multiple of 64 bytes. ``grow`` is
    told of every piece."""
    buffer, stream, filled = empty_buffer(length), environ["wsgi.input"], 0
    while filled < length:
        piece = stream.read(min(_PIECE, length - filled))
        if not piece:
            raise FrameError(f"Expected a body of {length} bytes, found {filled}: it was cut short.")
        grow(len(piece))
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)
    return buffer


def _frame(frame: Frame) -> Response:
    return _bytes_of(frame.pieces, frame.nbytes)


def _bytes(data: bytes) -> Response:
    return _bytes_of([data], len(data))


def _bytes_of(pieces: Sequence[bytes | memoryview], size: int) -> Response:
    response = Response(_content(pieces, size), mimetype=FRAME_TYPE, direct_passthrough=True)
    response.content_length = size
    stated = request.headers.get(CALL)
    if stated is not None:
        response.headers.update(_answered(stated, pieces))
    return response


def _content(pieces: Collection[bytes | memoryview], size: int) -> Iterable[bytes]:
    return [b"".join(pieces)] if size <= _PIECE else _sliced(pieces)


def _sliced(pieces: Collection[bytes | memoryview]) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), _PIECE):
            yield bytes(piece[start : start + _PIECE])


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(value), status, mimetype=_JSON)


def _problem(name: str, status: int, detail: str, more: Mapping[str, Any] | None = None) -> Response:
    value = {"type": f"urn:spliteasy:error:{name}", "title": name, "status": status, "detail": detail, **(more or {})}
    return Response(json.dumps(value), status, mimetype="application/problem+json")
