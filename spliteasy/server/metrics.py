"""What a server counts, in the text format of Prometheus (version 0.0.4): numbers since it was started.

The format is lines of text (https://prometheus.io/docs/instrumenting/exposition_formats/), so it is written here, and a
server needs no further library. Nothing in it tells of one session or of what it is trained on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["CONTENT_TYPE", "PHASES", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What an answer in this format is called."""

PHASES = ("decode", "b_forward", "b_backward", "encode", "evaluate")
"""What the seconds of a session are spent on."""

_RECEIVED, _SENT = ("activations", "output_gradients"), ("outputs", "input_gradients")
_Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Family:
    name: str
    kind: str
    help: str
    known: tuple[_Labels, ...] = ((),)


_FAMILIES = (
    _Family("spliteasy_steps_total", "counter", "Training steps whose update was made."),
    _Family(
        "spliteasy_message_bytes_total",
        "counter",
        "Bytes of the messages' frames, evaluation and repeated calls included, HTTP headers not.",
        tuple(
            (("message", message), ("direction", direction))
            for direction, messages in (("received", _RECEIVED), ("sent", _SENT))
            for message in messages
        ),
    ),
    _Family(
        "spliteasy_phase_seconds_total",
        "counter",
        "Seconds that sessions computed, by phase.",
        tuple((("phase", phase),) for phase in PHASES),
    ),
    _Family("spliteasy_sessions", "gauge", "Sessions in memory."),
    _Family("spliteasy_sessions_opened_total", "counter", "Sessions that devices opened."),
    _Family("spliteasy_errors_total", "counter", "Calls that were answered with an error, by its class.", ()),
    _Family("spliteasy_calls_again_total", "counter", "Calls that came again and were answered as before."),
    _Family("spliteasy_states_written_total", "counter", "States of sessions that were written to the disk."),
    _Family("spliteasy_states_refused_total", "counter", "States that the disk refused."),
    _Family("spliteasy_states_bytes_total", "counter", "Bytes of the states that were written."),
    _Family("spliteasy_states_seconds_total", "counter", "Seconds that writing states took, beside the training."),
    _Family("spliteasy_stopping", "gauge", "1 when the server finishes what it has in hand and takes no new work."),
)


class Metrics:
    """Counts that any thread may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = {(family.name, labels): 0.0 for family in _FAMILIES for labels in family.known}

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count ``amount`` more under a family's ``name`` and its labels."""
        key = name, tuple(labels.items())
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def text(self, **gauges: float) -> str:
        """All of them; ``gauges`` are the numbers that go up and down, as they are now, by their family's name."""
        with self._lock:
            values = dict(self._values)
        values.update({(name, ()): value for name, value in gauges.items()})
        return "".join(f"{line}\n" for family in _FAMILIES for line in _lines(family, values))


def _lines(family: _Family, values: dict[tuple[str, _Labels], float]) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for (name, labels), value in values.items():
        if name == family.name:
            stated = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
            yield f"{name}{{{stated}}} {_number(value)}" if stated else f"{name} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
