"""Where the paper's times are made again: its phone, a link, a server, chains to compare; checked before a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spliteasy.device import DEVICES, Device, this_machines_macs_a_second
from spliteasy.errors import ReproduceError, suggest
from spliteasy.link import LINKS, Link
from spliteasy.reproduce.paper_numbers import SERVER_MACS_A_SECOND
from spliteasy.sweeping.grid import AnyChain, as_codecs_by_label
from spliteasy.wire import Codecs

__all__ = ["COMPRESSED", "Chains", "Setting", "as_link", "described_link", "make_setting"]

Chains = AnyChain | Sequence[AnyChain] | Mapping[str, AnyChain]
"""Chains to compare with raw: one, several, or by label."""

_FIRST, _SECOND = "topk(0.1) | fp16 | zstd(1)", "fp16 | zstd(1)"

COMPRESSED: Mapping[str, Codecs] = {"compressed": Codecs(_FIRST, _SECOND, _SECOND, _FIRST)}
"""What is compared with raw unless chains are given: a tenth of the values at the first cut, half precision at the
second, where little crosses."""


_FITTED = {
    "aws": "fitted by least squares to the communication times of the paper's own Table 1",
    "ngrok": "an assumption, aws with two legs for one",
}


@dataclass(frozen=True)
class Setting:
    """The phone, the link, the server's speed relative to this machine, the steps measured, and chains by label."""

    device: Device
    link: Link
    server: float
    batch: int
    steps: int
    chains: Mapping[str, Codecs]

    def sentences(self, *, link: bool = True) -> list[str]:
        """What is emulated and assumed, in plain words; ``link``: with the one link that all times are on."""
        threads = torch.get_num_threads()
        said = [
            f"Times are of real training steps (the shortest of {self.steps} after one to warm up, by phase; batch "
            f"{self.batch}; real sockets to a server process on this machine, torch {torch.__version__}, {threads} "
            f"thread{'s' * (threads > 1)}), put on another device and link in virtual time. They vary from run to run.",
            f"The device is {self.device.name}, computed as {self.device.speed:.3g} × this machine's speed"
            + (f": {self.device.source}." if self.device.source else ".")
            + " One factor for all layers knows nothing of WebGL, JavaScript or heat.",
            "The server is this machine, a CPU; the paper's was much faster. server='paper' takes it from Table 1."
            if self.server == 1
            else f"The server computes at {self.server:.3g} × the speed of this machine.",
        ]
        if link:
            said.append(f"The link is {described_link(self.link)}")
        said.append(
            "We make one call in a single and two in a double split, where the paper makes two and four; communication "
            "is all of a step that A, B and C do not compute: framing or codecs, sockets and the link. Codecs run "
            "at this machine's speed, on the phone's side too."
        )
        if dict(COMPRESSED).items() <= dict(self.chains).items():
            said.append(
                f"Compressed is {_FIRST} for activations and their gradients, {_SECOND} for outputs and theirs. What "
                "that does to accuracy is not asked here: spliteasy sweep, docs/codecs.md."
            )
        return said


def described_link(link: Link) -> str:
    """A link's figures and where they come from; the long story of those fitted to the paper is in their `source`."""
    name = link.name or "a link of yours"
    figures = f"{name}: {link.up_mbps:g} Mbit/s up, {link.down_mbps:g} down, {link.rtt_ms:g} ms a call"
    if link == LINKS.get(link.name) and link.name in _FITTED:
        return f"{figures}, {_FITTED[link.name]} (se.LINKS['{link.name}'].source)."
    return f"{figures}, {link.source}." if link.source else f"{figures}."


def make_setting(
    device: Device | str = "iphone-xr",
    link: Link | str = "aws",
    server: float | str = 1.0,
    batch: int = 1,
    steps: int = 2,
    codecs: Chains | None = None,
) -> Setting:
    """Check and look up what a table is made with.

    Arguments:
        device: a `Device` or its name in `DEVICES`.
        link: a `Link` or its name in `LINKS`.
        server: speed of the server relative to this machine, or ``"paper"``: that of Table 1's server column.
        batch: images a step; times are per image.
        steps: steps measured in each run, after one to warm up.
        codecs: chains to compare with raw; None for `COMPRESSED`.

    Raises:
        ReproduceError: for an unknown device or link, and numbers that cannot be. `CodecError` for unknown codecs.
    """
    for what, value in (("batch", batch), ("steps", steps)):
        if type(value) is not int or value < 1:
            raise ReproduceError(f"Expected {what} as a whole number of 1 or more, found {value!r}.")
    chains = as_codecs_by_label(COMPRESSED if codecs is None else codecs)
    found_link, speed = as_link(link), _server_speed(server)
    if isinstance(device, str):
        if device not in DEVICES:
            raise ReproduceError(
                f"Expected a device of {', '.join(DEVICES)}, found {device!r}.{suggest(device, DEVICES)}"
            )
        device = DEVICES[device]
    if not isinstance(device, Device):
        raise ReproduceError(f"Expected a se.Device or a name in se.DEVICES, found {device!r:.80}.")
    return Setting(device, found_link, speed, batch, steps, chains)


def as_link(link: Any) -> Link:
    """A link, or the one of that name. Raises `ReproduceError` for another."""
    if isinstance(link, Link):
        return link
    if not isinstance(link, str) or link not in LINKS:
        near = suggest(link, LINKS) if isinstance(link, str) else ""
        raise ReproduceError(f"Expected a link of {', '.join(LINKS)}, or se.Link(...); found {link!r:.80}.{near}")
    return LINKS[link]


def _server_speed(server: float | str) -> float:
    if server == "paper":
        return SERVER_MACS_A_SECOND / this_machines_macs_a_second(torch.get_num_threads())
    if isinstance(server, bool) or not isinstance(server, int | float) or not 0 < server < math.inf:
        raise ReproduceError(
            f"Expected server as a speed relative to this machine, above zero, or 'paper'; found {server!r}. Give 1 "
            "for this machine."
        )
    return float(server)
