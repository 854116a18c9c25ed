"""What a choice of cuts means: who computes what, what each message weighs, how long the link takes. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spliteasy.cuts import Cut, CutTensor
from spliteasy.explorer.network import Network
from spliteasy.link import Link

__all__ = ["Facts", "Message", "SegmentShare", "facts"]

_ENDS = {
    "activations": ("A", "B"),
    "outputs": ("B", "C"),
    "output_gradients": ("C", "B"),
    "input_gradients": ("B", "A"),
}


@dataclass(frozen=True)
class SegmentShare:
    """One segment: its letter, where it runs, and its operations, parameters and multiply-accumulates (one sample)."""

    letter: str
    place: str
    operations: int
    params: int
    macs: int


@dataclass(frozen=True)
class Message:
    """One of the messages of a training step, uncompressed, and the seconds its bytes need on the link."""

    name: str
    sender: str
    receiver: str
    tensors: tuple[CutTensor, ...]
    seconds: float

    @property
    def up(self) -> bool:
        """Whether it goes from the device to the server."""
        return self.receiver == "B"

    @property
    def nbytes(self) -> int:
        """Its raw bytes for the whole batch."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class Facts:
    """The facts of one choice. ``params`` and ``macs`` are the whole network's; ``seconds`` one step on the link."""

    at: tuple[Cut, ...]
    batch: int
    segments: tuple[SegmentShare, ...]
    messages: tuple[Message, ...]
    link: Link
    calls: int
    seconds: float
    params: int
    macs: int

    @property
    def nbytes(self) -> int:
        """Raw bytes of all messages of one step."""
        return sum(message.nbytes for message in self.messages)

    @property
    def label_bytes(self) -> int:
        """Bytes of the labels, which travel with the activations in a single split (64-bit numbers), else none."""
        return 8 * self.batch if len(self.at) == 1 else 0

    @property
    def device_params(self) -> int:
        """Parameters that stay on the device."""
        return sum(segment.params for segment in self.segments if segment.place == "device")

    @property
    def device_macs(self) -> int:
        """Multiply-accumulates of one sample's forward pass that the device computes."""
        return sum(segment.macs for segment in self.segments if segment.place == "device")


def facts(network: Network, at: Sequence[int], link: Link) -> Facts:
    """The facts of cutting ``network`` at one or two cuts, given by number, with ``link`` between the sides."""
    chosen = tuple(network.cuts[index] for index in at)
    messages = []
    for name, tensors in network.traffic(*at).items():
        sender, receiver = _ENDS[name]
        nbytes = sum(tensor.nbytes for tensor in tensors)
        seconds = link.seconds(nbytes, 0, calls=0) if receiver == "B" else link.seconds(0, nbytes, calls=0)
        messages.append(Message(name, sender, receiver, tensors, seconds))
    calls = len(chosen)  # a single split needs one call a step, a double split one for each direction
    up = sum(message.nbytes for message in messages if message.up)
    down = sum(message.nbytes for message in messages if not message.up)
    return Facts(
        at=chosen,
        batch=network.batch,
        segments=_segments(network, chosen),
        messages=tuple(messages),
        link=link,
        calls=calls,
        seconds=link.seconds(up, down, calls),
        params=network.params,
        macs=network.macs,
    )


def _segments(network: Network, at: Sequence[Cut]) -> tuple[SegmentShare, ...]:
    """The parts between the cuts; the input, cut 0, is no operation."""
    ends = [(0, 0, 0), *((cut.index, cut.params_before, cut.macs_before) for cut in at)]
    ends.append((len(network.cuts) - 1, network.params, network.macs))
    return tuple(
        SegmentShare(letter, "server" if letter == "B" else "device", *(b - a for a, b in zip(lo, hi, strict=True)))
        for letter, lo, hi in zip("ABC", ends[:-1], ends[1:], strict=False)
    )
