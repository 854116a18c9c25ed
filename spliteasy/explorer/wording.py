"""Numbers as people read them: bytes, seconds, counts, and B·R·C·F with its numbers filled in. Text only, no markup."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spliteasy.cuts import Cut, CutTensor
from spliteasy.link import Link

__all__ = [
    "TIMES",
    "amount",
    "arithmetic",
    "bandwidth",
    "duration",
    "round_trips",
    "shape_of",
    "share",
    "size",
    "tooltip",
]

TIMES = "\N{MULTIPLICATION SIGN}"
"""Between the sizes of a shape, and after a ratio."""

_NAMED = 3


def size(nbytes: float, exact: bool = True) -> str:
    """A number of bytes in decimal units and three digits: ``25.7 MB``, ``262 kB``, ``96 B``. With ``exact=False``
    zeros behind the point are left out, as a round number on an axis reads: ``50 MB``."""
    text = _scaled(nbytes, ("B", "kB", "MB", "GB", "TB"))
    number, unit = text.split(" ")
    return text if exact or "." not in number else f"{number.rstrip('0').rstrip('.')} {unit}"


def amount(count: float) -> str:
    """A large number in three digits, with its magnitude: ``25.6 M``, ``4.09 G``, ``640``."""
    return _scaled(count, ("", "k", "M", "G", "T")).rstrip()


def duration(seconds: float) -> str:
    """Seconds as ``0.4 ms``, ``120 ms``, ``3.42 s``, ``2 min 05 s`` or ``1 h 10 min``; ``0 s`` for none at all."""
    if seconds <= 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{_digits(1e3 * seconds)} ms"
    if seconds < 99.95:
        return f"{_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def share(part: float, whole: float) -> str:
    """A percentage; what is neither nothing nor all of it never reads 0 or 100 %."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.0f} %" if percent in (0.0, 100.0) else f"{percent:.1f} %"


def bandwidth(link: Link, short: bool = False) -> str:
    """A link in words: ``12 Mbit/s up, 12 down, 70 ms round trip``; short: ``12 up, 12 down Mbit/s, 70 ms``."""
    up, down = (f"{rate:g}" if math.isfinite(rate) else "unlimited" for rate in (link.up_mbps, link.down_mbps))
    if short:
        return f"{up} up, {down} down Mbit/s, {link.rtt_ms:g} ms"
    return f"{up} Mbit/s up, {down} down, {link.rtt_ms:g} ms round trip"


def round_trips(calls: int) -> str:
    """``1 round trip``, ``2 round trips``."""
    return f"{calls} round trip{'s' if calls > 1 else ''}"


def shape_of(tensor: CutTensor) -> tuple[str, str]:
    """The letters and the numbers of one tensor's size, in the paper's order.

    A feature map (B, F, R, C) reads ``B·R·C·F`` (batch, rows, columns, filters), a vector ``B·E`` (embedding), a
    sequence ``B·T·E`` (tokens); anything else is only numbered.
    """
    sizes = tensor.shape
    if len(sizes) == 4:
        batch, filters, rows, columns = sizes
        return "B·R·C·F", f"{batch}·{rows}·{columns}·{filters}"
    letters = {2: "B·E", 3: "B·T·E"}.get(len(sizes), "")
    return letters, "·".join(map(str, sizes)) or "1"


def arithmetic(tensors: Sequence[CutTensor]) -> str:
    """How many values cross, and their bytes: ``B·R·C·F = 32·56·56·64 = 6,422,528 values = 25.7 MB``.

    Of several tensors each product is written out, up to three.
    """
    values, nbytes = sum(tensor.numel for tensor in tensors), sum(tensor.nbytes for tensor in tensors)
    result = f"{values:,} values = {size(nbytes)}"
    if not tensors:
        return "nothing crosses"
    if len(tensors) > _NAMED:
        return f"{len(tensors)} tensors = {result}"
    letters = {shape_of(tensor)[0] for tensor in tensors}
    products = " + ".join(shape_of(tensor)[1] for tensor in tensors)
    head = letters.pop() if len(tensors) == 1 else f"{len(tensors)} tensors"
    return f"{head} = {products} = {result}" if head else f"{products} = {result}"


def tooltip(cut: Cut) -> str:
    """What hovering over a cut tells: number, name, operation, size, shapes and the parameters on either side."""
    parameters = cut.params_before + cut.params_after
    return (
        f"{cut.index}: {cut.name} ({cut.operation})\n{size(cut.nbytes)}, B·F·R·C {cut.shapes}\n"
        f"before it {amount(cut.params_before)} parameters ({share(cut.params_before, parameters)}), "
        f"{share(cut.macs_before, cut.macs_before + cut.macs_after)} of the computation"
    )


def _scaled(value: float, units: Sequence[str]) -> str:
    for unit in units:
        if abs(value) < 999.5 or unit == units[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == units[0] else f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value <= 0:
        return "0"
    value = float(f"{value:.3g}")
    places = min(3, max(0, 2 - math.floor(math.log10(value) + 1e-9)))
    return f"{value:.{places}f}"
