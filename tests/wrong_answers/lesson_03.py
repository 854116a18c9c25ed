"""Wrong answers to the exercises of notebook 03."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def _header(frame: bytes) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(frame[:8], "little")
    return json.loads(frame[8 : 8 + length]), 8 + length


def _with_metadata(frame: bytes) -> dict[str, int]:
    return {name: len(json.dumps(entry)) for name, entry in _header(frame)[0].items()}


def _values(frame: bytes) -> dict[str, int]:
    header, _ = _header(frame)
    return {name: int(np.prod(entry["shape"])) for name, entry in header.items() if name != "__metadata__"}


def _ends(frame: bytes) -> dict[str, int]:
    header, _ = _header(frame)
    return {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}


def _big_endian(frame: bytes) -> dict[str, int]:
    return json.loads(frame[8 : 8 + int.from_bytes(frame[:8], "big")])


def _first_only(frame: bytes) -> dict[str, int]:
    return {"0:values": 4 * 800}


def _labels(frame: bytes, dtype: str, skip: bool = True, look: bool = True) -> list[int]:
    header, after = _header(frame)
    start, end = header["labels"]["data_offsets"]
    start, end = (start, end) if look else (0, end - start)
    place = after if skip else 0
    return np.frombuffer(frame[place + start : place + end], dtype).tolist()


WRONG: dict[str, list[Any]] = {
    "03.1": [196_608, 393_216, 524_288, 16_384, 589_824, 98_304, "786432", 1_000_000],
    "03.2": [_with_metadata, _values, _ends, _big_endian, _first_only, {"0:values": 65536}, len],
    "03.3": [19, 273, 1, 32, 559, 26],
    "03.4": [
        lambda frame: _labels(frame, "<i4"),
        lambda frame: _labels(frame, "<i8", skip=False),
        lambda frame: _labels(frame, "<i8", look=False),
        lambda frame: [3, 1, 4, 1, 5, 9, 2, 6],
        lambda frame: "314",
        [3, 1, 4],
    ],
    "03.5": [1_680_000, 0.21, 105_000, 420_000, 210_000_000, 0.14, 1.68],
}
