"""Compressed frames that would take more memory than was agreed: a server's peak stays within the limit for one
message, measured as the resident memory of its process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from every_codec import ROWS
from harness import DOUBLE, recorded
from victim import Response, Victim

import spliteasy as se
from spliteasy.codecs import BytesCodec, container
from spliteasy.codecs.chain import codec
from spliteasy.weights import load_tensors, save_tensors

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

LIMIT = 64 << 20
SAMPLE = 16 * 8 * 8 * 4
"""Bytes of one sample's activations."""

CODECS = [row.example for row in ROWS if row.kind == "bytes"]
CODECS += [f"numcodecs({name!r})" for name in ("blosc", "bz2", "crc32", "gzip", "lz4", "lzma", "shuffle", "zstd")]
QUICK = ("zstd(1)",)


class _Bomber(Victim):
    """A session whose activations go through one bytes codec."""

    def __init__(self, url: str, notation: str) -> None:
        self.url, self.device, self.notation = url, recorded(DOUBLE), notation
        config = json.loads(container.read(self.device.opening)[1]["session"])
        config["codecs"]["activations"] = repr(codec(notation))
        opening = save_tensors(load_tensors(self.device.opening), {"session": json.dumps(config)})
        answer = requests.post(f"{url}/v1/sessions", data=opening, timeout=60)
        answer.raise_for_status()
        self.session, self.token = answer.json()["session"], answer.json()["token"]
        self.path = f"/v1/sessions/{self.session}"
        self.largest_body: int = answer.json()["limits"]["largest_body"]

    def drop(self, bomb: Bomb) -> Response:
        """Send it as the compressed values of its batch."""

        def armed(header: dict[str, object], planes: dict[str, torch.Tensor]) -> None:
            tensor: dict[str, object] = {"shape": [bomb.batch, 16, 8, 8], "dtype": "F32"}
            if bomb.noted is not None:
                tensor["packed"] = {"values": ["F32", bomb.noted]}
            header.update(batch=bomb.batch, chain=repr(codec(self.notation)), tensors=[tensor])
            planes["0:values"] = torch.frombuffer(bytearray(bomb.stream or b"\0"), dtype=torch.uint8)

        (answer,) = self.send(self.request(self.forged(armed)))
        return answer


@dataclass(frozen=True)
class Bomb:
    """A stream that does not hold what its batch takes, or what it is ``noted`` to hold: so many floats."""

    batch: int
    stream: bytes
    noted: int | None = None


def _bombs(made: BytesCodec) -> Iterator[Bomb]:
    """Streams that hold another number of bytes than the batch takes: many more, few more, fewer, cut short, joined."""

    def zeros(count: int) -> bytes:
        return bytes(memoryview(made.encode(np.zeros(count // 4, np.float32))).cast("B"))

    most, full, half = LIMIT // SAMPLE, zeros(LIMIT), zeros(LIMIT // 2)
    if len(full) < LIMIT:  # else what is larger is refused by its length, unread
        huge, double = zeros(8 * LIMIT), zeros(2 * LIMIT)
        yield from (Bomb(batch, stream) for stream in (huge, double) for batch in (1, most // 2, most))
        yield from (Bomb(most, huge[: len(huge) // 2]), Bomb(most, huge[:64]), Bomb(most, full + full))
        yield from (Bomb(most + 1, huge), Bomb(1 << 24, huge))
    yield from (Bomb(1, full), Bomb(most - 1, full), Bomb(most, zeros(LIMIT + 4)), Bomb(most, zeros(LIMIT - 4)))
    yield Bomb(most, full[:-1])
    yield from (Bomb(1, half), Bomb(most, half), Bomb(most, half[:-1]), Bomb(most + 1, half), Bomb(1 << 24, half))
    yield from (Bomb(most, full[:16], noted) for noted in (LIMIT // 4, LIMIT // 4 + 1, 1 << 40))
    yield from (Bomb(1, half, LIMIT // 4), Bomb(most, half, LIMIT // 2))


def _resident(pid: int, name: str) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


@pytest.mark.parametrize(
    "notation", [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in CODECS]
)
def test_bombs_take_no_more_than_the_limit(notation: str, record_property: Any) -> None:
    record_property("fault", "decompression bombs")
    (made,) = codec(notation).bytes_codecs
    with se.LocalServer(max_message=LIMIT, threads=1) as server:
        assert server.pid is not None
        bomber = _Bomber(server.url, notation)
        bombs = [bomb for bomb in _bombs(made) if len(bomb.stream) < bomber.largest_body - 4096]  # others are not read
        assert len(bombs) >= 12
        record_property("cases", str(len(bombs)))
        before = _resident(server.pid, "VmRSS")
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # the peak is counted from here on
        for bomb in bombs:
            answer = bomber.drop(bomb)
            assert 400 <= answer.status < 500, (bomb.batch, len(bomb.stream), bomb.noted, answer.status)
            assert answer.problem()["title"] in ("FrameError", "DataError", "NonFiniteError")
        body = max(len(bomb.stream) for bomb in bombs)
        peak = _resident(server.pid, "VmHWM") - before - body
        assert peak <= 1.1 * LIMIT, f"{peak} bytes at the peak beside a body of {body}, of {LIMIT}"
        assert requests.get(f"{server.url}/v1/health", timeout=30).ok
    print(f"{notation}: {len(bombs)} bombs, {peak / LIMIT:.3f} of the limit beside the body")


def test_refused_bodies_do_not_add_up() -> None:
    """Memory that a body lay in is used again for the next one."""
    body = bytes(LIMIT // 4)
    with se.LocalServer(max_message=LIMIT, threads=1) as server:
        assert server.pid is not None
        bomber = _Bomber(server.url, "shuffle")
        before = _resident(server.pid, "VmRSS")
        for _ in range(8):
            assert bomber.drop(Bomb(1, body)).status == 400
        grown = _resident(server.pid, "VmRSS") - before
    assert grown <= 2 * len(body), f"{grown} bytes more after eight bodies of {len(body)}"
