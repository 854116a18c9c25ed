"""The network between device and server: how long bytes take to cross it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spliteasy.errors import TrainingError

__all__ = ["LINKS", "Link"]


@dataclass(frozen=True)
class Link:
    """A link with its two bandwidths and its round-trip time, seen from the device.

    Arguments:
        up_mbps: bandwidth from device to server, in megabits (10^6 bits) a second; above zero, infinity for no limit.
        down_mbps: bandwidth from server to device, likewise.
        rtt_ms: round-trip time in milliseconds, zero or more; every call waits for it once.
        name: a name for tables and plots; may be empty.

    Raises:
        TrainingError: for a bandwidth or a round-trip time that no link can have.
    """

    up_mbps: float
    down_mbps: float
    rtt_ms: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        for field in ("up_mbps", "down_mbps"):
            value = getattr(self, field)
            if not _is_number(value) or not value > 0:
                raise TrainingError(
                    f"Link: {field} must be a number of megabits a second above zero, found {value!r}. "
                    "Give the measured bandwidth (math.inf for no limit), or pass link=None for no emulation."
                )
        if not _is_number(self.rtt_ms) or not 0 <= self.rtt_ms < math.inf:
            raise TrainingError(
                f"Link: rtt_ms must be a finite number of milliseconds, zero or more, found {self.rtt_ms!r}. "
                "Give the round-trip time that `ping` shows, or leave it out for 0."
            )

    def seconds(self, up_bytes: int, down_bytes: int, calls: int = 1) -> float:
        """The seconds that `calls` calls need on this link, one after the other.

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


def _preset(name: str, *, down: float, up: float, rtt: float) -> tuple[str, Link]:
    return name, Link(up_mbps=up, down_mbps=down, rtt_ms=rtt, name=name)


# `lan` is gigabit Ethernet with a millisecond of switches and software. The others are the connectivity profiles that
# WebPageTest shapes traffic with (github.com/catchpoint/WebPageTest, www/settings/connectivity.ini.sample and its
# documentation of test connections), which quote bandwidth as down/up.
LINKS: dict[str, Link] = dict(
    [
        _preset("lan", down=1000, up=1000, rtt=1),
        _preset("fios", down=20, up=5, rtt=4),  # "FIOS (20/5 Mbps 4ms RTT)"
        _preset("cable", down=5, up=1, rtt=28),  # "Cable (5/1 Mbps 28ms RTT)"
        _preset("lte", down=12, up=12, rtt=70),  # "LTE (12 Mbps/12 Mbps 70ms RTT)"
        _preset("4g", down=9, up=9, rtt=170),  # "4G (9 Mbps/9 Mbps 170ms RTT)"
        _preset("3g", down=1.6, up=0.768, rtt=300),  # "Mobile 3G (1.6 Mbps/768 Kbps 300ms RTT)"
    ]
)
"""Links by name: `lan`, and WebPageTest's `fios`, `cable`, `lte`, `4g` and `3g`."""
