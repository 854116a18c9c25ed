"""The network between device and server: how long bytes take to cross it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from spliteasy.errors import TrainingError

__all__ = ["LINKS", "Link"]


@dataclass(frozen=True)
class Link:
    """A link with its two bandwidths and its round-trip time, seen from the device.

    Over HTTP a `spliteasy.Trainer` shapes its socket so that the bytes of a step really take this long; in-process it
    waits; `RunLog.on` computes what a run would have taken without waiting at all.

    Arguments:
        up_mbps: bandwidth from device to server, in megabits (10^6 bits) a second; above zero, infinity for no limit.
        down_mbps: bandwidth from server to device, likewise.
        rtt_ms: round-trip time in milliseconds, zero or more; every call waits for it once, half of it each way.
        name: a name for tables and plots; may be empty.
        jitter: how far a call's round trip may lie from ``rtt_ms`` either way, in milliseconds, uniformly distributed,
            as Linux's ``tc netem delay`` does unless told otherwise. At most ``rtt_ms``, so that the mean stays that.
        seed: what the jitter is drawn from: the round trip of a call depends on seed, step and call alone.
        source: where the figures come from; not compared.

    Raises:
        TrainingError: for a bandwidth, a round-trip time or a jitter that no link can have.
    """

    up_mbps: float
    down_mbps: float
    rtt_ms: float = 0.0
    name: str = ""
    jitter: float = 0.0
    seed: int = 0
    source: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        for direction in ("up_mbps", "down_mbps"):
            value = getattr(self, direction)
            if not _is_number(value) or not value > 0:
                raise TrainingError(
                    f"Link: {direction} must be a number of megabits a second above zero, found {value!r}. "
                    "Give the measured bandwidth (math.inf for no limit), or pass link=None for no emulation."
                )
        if not _is_number(self.rtt_ms) or not 0 <= self.rtt_ms < math.inf:
            raise TrainingError(
                f"Link: rtt_ms must be a finite number of milliseconds, zero or more, found {self.rtt_ms!r}. "
                "Give the round-trip time that `ping` shows, or leave it out for 0."
            )
        if not _is_number(self.jitter) or not 0 <= self.jitter <= self.rtt_ms:
            raise TrainingError(
                f"Link: jitter must be a number of milliseconds from 0 to rtt_ms ({self.rtt_ms:g}), found "
                f"{self.jitter!r}: no round trip is shorter than zero. Lower the jitter, or raise rtt_ms."
            )
        if type(self.seed) is not int:
            raise TrainingError(f"Link: seed must be a whole number, found {self.seed!r}.")

    def round_trip(self, step: int, call: int = 0) -> float:
        """The seconds that the round trip of a call takes: the same for the same seed, step and call, on any machine.

        ``call`` counts the calls of a step: 0 for the forward and 1 for the backward where there are two.
        """
        if not self.jitter:
            return self.rtt_ms / 1e3
        drawn = random.Random(f"{self.seed}/{step}/{call}").uniform(-self.jitter, self.jitter)
        return (self.rtt_ms + drawn) / 1e3

    def two_calls_and_notice(self, step: int, pair: int = 0) -> float:
        """The seconds that a message and its answer wait for round trips in the four-call protocol: one to send it, one
        to fetch the answer, half of one for the notice in between. ``pair`` is 0 forward and 1 backward."""
        return 1.5 * self.round_trip(step, 2 * pair) + self.round_trip(step, 2 * pair + 1)

    def seconds(self, up_bytes: int, down_bytes: int, calls: int = 1) -> float:
        """The seconds that `calls` calls need on this link on average, one after the other.

        Each direction is a pipe of constant bandwidth and every call pays one round trip; headers, slow start and loss
        are left out, so this is what the link itself costs and no more.

        Arguments:
            up_bytes: bytes sent by the device over all calls.
            down_bytes: bytes received by the device over all calls.
            calls: how many requests with their answers carry them.

        Raises:
            TrainingError: for a negative number of bytes or calls.
        """
        if min(up_bytes, down_bytes, calls) < 0:
            raise TrainingError(
                f"Link.seconds: bytes and calls must be zero or more, found up_bytes={up_bytes}, "
                f"down_bytes={down_bytes}, calls={calls}."
            )
        return 8e-6 * (up_bytes / self.up_mbps + down_bytes / self.down_mbps) + calls * self.rtt_ms / 1e3


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_WEBPAGETEST = (
    "WebPageTest's connectivity profiles (github.com/catchpoint/WebPageTest, "
    "www/settings/connectivity.ini.sample), bandwidth as down/up: "
)
_TABLE_1 = (
    "derived from Table 1 of SplitEasy (HotMobile '21), no public figure being known to us: least squares over its "
    "twelve communication times, 4 calls in a double split and 2 in a single, raw fp32 of one image after the first "
    "pool both ways, the same bandwidth assumed both ways: 0.390 s a call and 71 Mbit/s, which reproduce the "
    "twelve within 17 %. The round trip is thus all that a call of its system took, encoding and notification "
    "included, not the wire alone"
)

LINKS: dict[str, Link] = {
    link.name: link
    for link in (
        Link(1000, 1000, 1, "lan", source="gigabit Ethernet, and a millisecond assumed for switches and software"),
        Link(
            up_mbps=18, down_mbps=120, rtt_ms=15, name="home-wifi",
            source="medians of US fixed broadband in Q3 2021, 119.84 Mbit/s down, 18.03 up, 15 ms (Ookla, Starlink "
            "Expands but Q3 2021 Performance Flattens in Some Areas, 20 December 2021); the Wi-Fi is taken not to be "
            "what limits it",
        ),
        Link(up_mbps=71, down_mbps=71, rtt_ms=390, name="aws", source=_TABLE_1 + "; AWS is assumed for Table 1"),
        Link(
            up_mbps=71, down_mbps=71, rtt_ms=780, name="ngrok",
            source="an assumption, not a measurement: `aws` with two legs for one, since a tunnel relays every call; "
            "the paper's Figure 4c only says that it was the slowest. `aws` is " + _TABLE_1,
        ),
        Link(
            up_mbps=21, down_mbps=166, rtt_ms=40, name="5g",
            source="worldwide medians over 5G in Q3 2021, 166.13 Mbit/s down, 21.08 up (Ookla, Growing and Slowing: "
            "The State of 5G Worldwide in 2021, 20 December 2021); no 5G round trip was found, so the 40 ms are "
            "those of mobile networks of all kinds in its Global Index of September 2020",
        ),
        Link(up_mbps=9, down_mbps=9, rtt_ms=170, name="4g", source=_WEBPAGETEST + "4G (9 Mbps/9 Mbps 170ms RTT)"),
        Link(up_mbps=12, down_mbps=12, rtt_ms=70, name="lte", source=_WEBPAGETEST + "LTE (12 Mbps/12 Mbps 70ms RTT)"),
        Link(
            up_mbps=0.768, down_mbps=1.6, rtt_ms=300, name="3g",
            source=_WEBPAGETEST + "Mobile 3G (1.6 Mbps/768 Kbps 300ms RTT)",
        ),
        Link(up_mbps=5, down_mbps=20, rtt_ms=4, name="fios", source=_WEBPAGETEST + "FIOS (20/5 Mbps 4ms RTT)"),
        Link(up_mbps=1, down_mbps=5, rtt_ms=28, name="cable", source=_WEBPAGETEST + "Cable (5/1 Mbps 28ms RTT)"),
    )
}  # fmt: skip
"""Links by name; the `source` of each says where its figures come from, and which of them are assumed."""
