"""The seconds of a step, part by part: the model that a plan believes in.

    step = A and C / device speed + B / server speed
         + for each message: encode and decode, on whichever side does it
         + bytes up / bandwidth up + bytes down / bandwidth down
         + calls × (round trip + what a call costs besides)

Device and server work in turn in a step of split learning, so nothing overlaps and the parts add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spliteasy.link import Link
from spliteasy.planning.chains import ChainCost
from spliteasy.planning.computer import Wire
from spliteasy.planning.space import DEVICE_SENDS, Candidates, Numbers
from spliteasy.profiling import Seconds

__all__ = ["PARTS", "Prices", "parts_of", "sent_bytes", "step_seconds"]

PARTS = ("a", "c", "b", "encode", "decode", "up", "down", "trips", "calls")
"""Where a step's seconds go: segments A and C (device) and B (server), codecs, bytes to the server and back, round
trips of the link, and what calls cost besides."""

_MANY = 10**9


@dataclass(frozen=True)
class Prices:
    """What computing and sending costs: speeds relative to this machine, seconds a byte, seconds a call."""

    device: float
    server: float
    up: float
    down: float
    trip: float
    wire: Wire

    @classmethod
    def of(cls, link: Link | None, device: float, server: float, wire: Wire) -> Prices:
        """The prices on a link; ``None`` costs nothing."""
        if link is None:
            return cls(device, server, 0.0, 0.0, 0.0, wire)
        up, down = link.seconds(_MANY, 0, 0) / _MANY, link.seconds(0, _MANY, 0) / _MANY
        return cls(device, server, up, down, link.seconds(0, 0, 1), wire)


def step_seconds(some: Candidates, chain: ChainCost, prices: Prices) -> Seconds:
    """The seconds of a step of every candidate."""
    total = some.a / prices.device + some.c / prices.device + some.b / prices.server
    constant = some.calls * (prices.trip + prices.wire.call_seconds)
    for name, coded in some.coded.items():
        cost, rate, cuts = chain.messages[name], _rate(name, prices), some.cuts_of(name)
        sender, receiver = _speeds(name, prices)
        computing = cost.encode.slope / sender + cost.decode.slope / receiver
        constant += cost.encode.fixed / sender + cost.decode.fixed / receiver
        total += _taken(cost.nbytes.slope * rate + computing, cuts) * coded + _taken(cost.nbytes.fixed * rate, cuts)
        if some.plain[name].any():
            total += rate * some.plain[name]
    total += constant
    return total


def sent_bytes(some: Candidates, chain: ChainCost) -> Seconds:
    """The bytes of a step of every candidate, all messages together, HTTP heads included."""
    total: Seconds = np.zeros(len(some.first))
    for name, coded in some.coded.items():
        nbytes, cuts = chain.messages[name].nbytes, some.cuts_of(name)
        total += _taken(nbytes.fixed, cuts) + _taken(nbytes.slope, cuts) * coded + some.plain[name]
    return total


def parts_of(
    some: Candidates, index: int, chain: ChainCost, prices: Prices
) -> tuple[dict[str, float], dict[str, float]]:
    """One candidate's seconds by part (`PARTS`) and its bytes by message."""
    seconds = dict.fromkeys(PARTS, 0.0)
    nbytes: dict[str, float] = {}
    seconds["a"], seconds["c"] = float(some.a[index]) / prices.device, float(some.c[index]) / prices.device
    seconds["b"] = float(some.b[index]) / prices.server
    seconds["trips"], seconds["calls"] = some.calls * prices.trip, some.calls * prices.wire.call_seconds
    for name, coded in some.coded.items():
        cost, raw = chain.messages[name], float(coded[index])
        sender, receiver = _speeds(name, prices)
        fixed, slope = cost.nbytes.at(int(some.cuts_of(name)[index]))
        nbytes[name] = fixed + slope * raw + float(some.plain[name][index])
        seconds["encode"] += (cost.encode.fixed + cost.encode.slope * raw) / sender
        seconds["decode"] += (cost.decode.fixed + cost.decode.slope * raw) / receiver
        up = DEVICE_SENDS[name]
        seconds["up" if up else "down"] += nbytes[name] * (prices.up if up else prices.down)
        seconds["calls"] += nbytes[name] * prices.wire.byte_seconds
    return seconds, nbytes


def _taken(by_cut: Seconds, cuts: Numbers) -> Seconds:
    """What each candidate takes of numbers by cut; one number is for all."""
    return by_cut[cuts] if by_cut.ndim else by_cut


def _rate(name: str, prices: Prices) -> float:
    return (prices.up if DEVICE_SENDS[name] else prices.down) + prices.wire.byte_seconds


def _speeds(name: str, prices: Prices) -> tuple[float, float]:
    """The speeds of who encodes the message and of who decodes it."""
    return (prices.device, prices.server) if DEVICE_SENDS[name] else (prices.server, prices.device)
