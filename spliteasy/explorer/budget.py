"""Where the seconds of one training step go on a link: raw against compressed. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spliteasy.explorer.facts import Facts, Message
from spliteasy.explorer.trial import MessageTrial, Trial
from spliteasy.explorer.wording import round_trips
from spliteasy.runlog import DEVICE_PHASES, SERVER_PHASES
from spliteasy.wire import Codecs

__all__ = ["KINDS", "Budget", "Part", "budget"]

KINDS = ("device", "codecs", "up", "server", "down", "trips")
"""What takes time: computing A and C, encoding and decoding, bytes to the server, computing B, bytes back, and the
round trips of the calls."""


@dataclass(frozen=True)
class Part:
    """Some of a step's seconds: what they are for (one of `KINDS`), in words, and the bytes that travel in them."""

    kind: str
    label: str
    seconds: float
    nbytes: float = 0.0


@dataclass(frozen=True)
class Budget:
    """A step of ``batch`` samples: its parts uncompressed, and with the chains (None until all were measured).

    ``samples`` is how many samples the computing was measured with, and 0 while it was not: then ``raw`` and ``sent``
    have no computing in them. ``missing`` names the messages whose chain was not measured.
    """

    batch: int
    samples: int
    raw: tuple[Part, ...]
    sent: tuple[Part, ...] | None
    missing: tuple[str, ...]

    @property
    def raw_seconds(self) -> float:
        """The whole step, uncompressed."""
        return sum(part.seconds for part in self.raw)

    @property
    def sent_seconds(self) -> float | None:
        """The whole step with the chains, once they were measured."""
        return None if self.sent is None else sum(part.seconds for part in self.sent)


def budget(
    facts: Facts, codecs: Codecs, measured: Mapping[tuple[str, str], MessageTrial], step: Trial | None
) -> Budget:
    """The budget of what is chosen: ``measured`` by message and chain, ``step`` the last trial at these cuts."""
    computing, samples = _computing(facts, step)
    trips = Part("trips", round_trips(facts.calls), facts.calls * facts.link.rtt_ms / 1e3)
    raw = [_sent(facts, message, message.nbytes) for message in facts.messages]
    rows = {m.name: measured.get((m.name, repr(codecs.chain(m.name)))) for m in facts.messages if m.tensors}
    missing = tuple(name for name, row in rows.items() if row is None and repr(codecs.chain(name)) != "raw")
    sent = None
    if not missing:
        smaller = [
            _sent(facts, message, message.nbytes / row.ratio if (row := rows.get(message.name)) else message.nbytes)
            for message in facts.messages
        ]
        sent = _ordered([*computing, *_coding(facts, rows), *smaller, trips])
    return Budget(facts.batch, samples, _ordered([*computing, *raw, trips]), sent, missing)


def _computing(facts: Facts, step: Trial | None) -> tuple[list[Part], int]:
    """Device and server as measured on this machine, scaled to the batch."""
    if step is None or not step.seconds:
        return [], 0
    share = facts.batch / step.plan.photographs
    seconds = {name: share * sum(step.seconds[phase] for phase in phases) for name, phases in
               (("device", DEVICE_PHASES), ("server", SERVER_PHASES))}  # fmt: skip
    letters = "A and C" if len(facts.at) == 2 else "A"
    parts = [
        Part("device", f"device computes {letters}", seconds["device"]),
        Part("server", "server computes B", seconds["server"]),
    ]
    return parts, step.plan.photographs


def _coding(facts: Facts, rows: Mapping[str, MessageTrial | None]) -> list[Part]:
    seconds = 0.0
    for message in facts.messages:
        row = rows.get(message.name)
        if row is not None and row.chain != "raw":
            seconds += message.nbytes / 1e6 * (1 / row.encode_mb_per_s + 1 / row.decode_mb_per_s)
    return [Part("codecs", "codecs encode and decode", seconds)] if seconds else []


def _sent(facts: Facts, message: Message, nbytes: float) -> Part:
    rate = facts.link.up_mbps if message.up else facts.link.down_mbps
    return Part("up" if message.up else "down", message.name, 8e-6 * nbytes / rate, nbytes)


def _ordered(parts: list[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: KINDS.index(part.kind)))
