"""The positions coder: every mask comes back from every encoding, near the floor; what lies is refused in little
memory."""

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spliteasy.errors import FrameError
from spliteasy_plugins import positions
from spliteasy_plugins.positions import BITMAP, GAPS, PACKED, RICE

Mask = npt.NDArray[np.bool_]


def _uniform(samples: int, entries: int, k: int, seed: int = 0) -> Mask:
    """Each sample's k positions drawn without regard to each other."""
    draws = np.random.default_rng(seed)
    mask = np.zeros((samples, entries), np.bool_)
    for row in mask:
        row[draws.choice(entries, k, replace=False)] = True
    return mask


def _clustered(samples: int, entries: int, k: int, run: int, seed: int = 0) -> Mask:
    """Positions in runs of up to ``run``, as neighbouring pixels have them."""
    draws = np.random.default_rng(seed)
    mask = np.zeros((samples, entries), np.bool_)
    for row in mask:
        while (missing := k - int(row.sum())) > 0:
            start = int(draws.integers(entries))
            row[start : start + min(run, missing)] = True
    return mask


def _patches(samples: int, entries: int, k: int, width: int, seed: int = 0) -> Mask:
    """Most positions in patches, which they fill loosely."""
    draws = np.random.default_rng(seed)
    mask = np.zeros((samples, entries), np.bool_)
    for row in mask:
        weight = np.where(np.repeat(draws.random(entries // width) < 0.35, width), 1, 0.0001)
        row[np.argsort(-weight * draws.random(entries), kind="stable")[:k]] = True
    return mask


def _kept(mask: Mask) -> npt.NDArray[np.intp]:
    return np.flatnonzero(mask).reshape(mask.shape[0], -1)


def _encode(mask: Mask) -> npt.NDArray[np.uint8]:
    plane = positions.encode(mask, _kept(mask))
    assert plane.dtype == np.uint8 and plane.ndim == 1
    assert plane.size <= positions.bound(*mask.shape, int(mask[0].sum()) if len(mask) else 1)
    return plane


def _entropy(entries: int, k: int) -> float:
    """d·H(k/d) in bytes."""
    share = k / entries
    return -entries * (share * math.log2(share) + (1 - share) * math.log2(1 - share)) / 8


CASES = {
    "a few in a bitmap": (_uniform(3, 20, 9), BITMAP),
    "half of many": (_uniform(2, 9000, 4500), BITMAP),
    "one of many": (_uniform(5, 300_000, 1), RICE),
    "a hundredth": (_uniform(4, 50_000, 500), RICE),
    "gaps longer than a byte": (_uniform(4, 60_000, 60), RICE),
    "all but a hundredth": (~_uniform(4, 50_000, 500), RICE),
    "clusters far apart": (_clustered(4, 60_000, 600, 3), GAPS),
    "clusters very far apart": (_clustered(3, 1_000_000, 600, 12), GAPS),
    "all but clusters far apart": (~_clustered(4, 60_000, 600, 3), GAPS),
    "patches": (_patches(4, 20_000, 5000, 100), PACKED),
    "all but patches": (~_patches(4, 20_000, 5000, 100), PACKED),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cheapest_encoding_is_written_and_read_back(case: str) -> None:
    mask, encoding = CASES[case]
    plane = _encode(mask)
    assert plane[0] & 3 == encoding
    places = positions.decode(plane, *mask.shape, int(mask[0].sum()))
    assert np.array_equal(places, np.flatnonzero(mask))


@settings(deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(2, 400), st.booleans())
def test_any_mask_comes_back(data: st.DataObject, samples: int, entries: int, runs: bool) -> None:
    k = data.draw(st.integers(1, entries - 1))
    mask = _clustered(samples, entries, k, 30) if runs else _uniform(samples, entries, k, k)
    assert np.array_equal(positions.decode(_encode(mask), samples, entries, k), np.flatnonzero(mask))


@pytest.mark.parametrize("place", [0, 1, -1])
def test_ends_of_samples(place: int) -> None:
    for entries in (2, 7, 8, 9, 255, 256, 257, 65_535, 65_536, 65_537, 70_000):
        mask = np.zeros((3, entries), np.bool_)
        mask[:, place] = True
        for each in (mask, ~mask):
            k = int(each[0].sum())
            assert np.array_equal(positions.decode(_encode(each), 3, entries, k), np.flatnonzero(each))


@pytest.mark.parametrize("share", [0.003, 0.01, 0.05, 0.1, 0.2, 0.25, 0.4, 0.5, 0.7, 0.9, 0.99])
def test_independent_positions_cost_little_more_than_their_entropy(share: float) -> None:
    samples, entries = 4, 60_000
    k = round(share * entries)
    assert _encode(_uniform(samples, entries, k)).size < 1.035 * samples * _entropy(entries, k) + 30


def test_clustered_positions_cost_less_than_half_of_it() -> None:
    for share, run in ((0.01, 30), (0.1, 60), (0.25, 120)):
        k = round(share * 60_000)
        assert _encode(_clustered(4, 60_000, k, run)).size < 0.5 * 4 * _entropy(60_000, k)


@pytest.mark.parametrize(("samples", "entries", "k"), [(0, 9, 3), (3, 9, 9), (3, 0, 0), (0, 0, 0)])
def test_nothing_is_written_where_nothing_is_open(samples: int, entries: int, k: int) -> None:
    mask = np.ones((samples, entries), np.bool_)
    assert positions.encode(mask, np.arange(samples * k).reshape(samples, k)).size == 0
    assert positions.bound(samples, entries, k) == 0
    assert np.array_equal(positions.decode(np.empty(0, np.uint8), samples, entries, k), np.arange(samples * k))
    with pytest.raises(FrameError, match="no positions"):
        positions.decode(np.zeros(1, np.uint8), samples, entries, k)


def test_the_bound_is_what_the_worst_positions_take() -> None:
    for samples, entries, k in ((1, 1000, 3), (7, 1000, 30), (2, 5000, 4990), (3, 100, 50)):
        worst = 0
        for start in (0, entries - k):
            mask = np.zeros((samples, entries), np.bool_)
            mask[:, start : start + k] = True
            worst = max(worst, _encode(mask).size)
        assert worst <= positions.bound(samples, entries, k) <= 2 + -(-samples * entries // 8)


def _packed(first: int, content: bytes, **options: bool) -> list[int]:
    return [first, *zstandard.ZstdCompressor(level=1, **options).compress(content)]


# Two samples of 20 entries, 3 kept: gaps of 17 at most, so Rice parameters from 0 to 3.
LIES = {
    "nothing": [],
    "no content": [BITMAP],
    "a bitmap that is short": [BITMAP, 7, 0, 7, 0],
    "a bitmap that is long": [BITMAP, 7, 0, 0x70, 0, 0, 0],
    "two in one sample, four in the other": [BITMAP, 3, 0, 0xF0, 0, 0],
    "too many": [BITMAP, 15, 0, 0xF0, 0, 0],
    "a bitmap with a parameter": [BITMAP + 4, 7, 0, 0x70, 0, 0],
    "gaps with a parameter": _packed(GAPS + 4, bytes(6)),
    "a Rice parameter that makes no sense": [RICE + 4 * 4, 0, 0, 0, 0x3F],
    "a Rice parameter beyond all": [255, 0, 0, 0, 0x3F],
    "low bits that are short": [RICE + 4 * 3, 0, 0],
    "padding after the low bits": [RICE + 4, 0x40, 0x3F],
    "too few gaps": [RICE, 0x1F],
    "too many gaps": [RICE, 0x7F],
    "a byte too many": [RICE, 0x3F, 0],
    "a position too high": [RICE, 0b11100000, 0b00000000, 0b11100000, 0b1],
    "gaps that are damaged": [GAPS, 1, 2, 3, 4],
    "too few gaps of bytes": _packed(GAPS, bytes(5)),
    "too many gaps of bytes": _packed(GAPS, bytes(7)),
    "a gap of bytes that does not end": _packed(GAPS, bytes([0, 0, 0, 0, 0, 255])),
    "a gap of bytes too long": _packed(GAPS, bytes([0, 0, 0, 0, 0, 254])),
    "gaps that add up to too much": _packed(GAPS, bytes([6, 6, 6, 0, 0, 0])),
    "a packed bitmap that is short": _packed(PACKED, bytes([7, 0, 0x70, 0])),
    "a packed bitmap that is long": _packed(PACKED, bytes([7, 0, 0x70, 0, 0, 0])),
    "no stated size": _packed(PACKED, bytes([7, 0, 0x70, 0, 0]), write_content_size=False),
    "more after the zstd frame": [*_packed(PACKED, bytes([7, 0, 0x70, 0, 0])), 0],
}


@pytest.mark.parametrize("lie", LIES)
def test_positions_that_lie(lie: str) -> None:
    with pytest.raises(FrameError):
        positions.decode(np.array(LIES[lie], np.uint8), 2, 20, 3)
    wide = np.array([*LIES[lie], *([0] * 9)], np.uint8)
    with pytest.raises(FrameError):
        positions.decode(wide, 2, 20, 3)


def test_padding_of_a_bitmap_must_be_zero() -> None:
    honest = np.array([BITMAP, 0b11110000, 0], np.uint8)
    assert positions.decode(honest, 1, 9, 4).tolist() == [4, 5, 6, 7]
    with pytest.raises(FrameError, match="bitmap"):
        positions.decode(honest | np.array([0, 0, 2], np.uint8), 1, 9, 4)
    with pytest.raises(FrameError, match="bitmap"):
        positions.decode(np.array([BITMAP, 0b01110000, 2], np.uint8), 1, 9, 4)


@pytest.mark.parametrize("case", CASES)
def test_damage_gives_other_positions_or_a_refusal(case: str) -> None:
    mask, _ = CASES[case]
    samples, entries, k = *mask.shape, int(mask[0].sum())
    honest, draws = _encode(mask), np.random.default_rng(1)
    for cut in (0, 1, 2, honest.size - 1):
        with pytest.raises(FrameError):
            positions.decode(honest[:cut], samples, entries, k)
    for _ in range(60):
        damaged = honest.copy()
        damaged[draws.integers(min(40, honest.size)) if draws.random() < 0.5 else draws.integers(honest.size)] ^= (
            1 << draws.integers(8)
        )
        try:
            places = positions.decode(damaged, samples, entries, k)
        except FrameError:
            continue
        within = places.reshape(samples, k) - np.arange(samples)[:, None] * entries
        assert (np.diff(within) > 0).all() and within.min() >= 0 and within.max() < entries


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.integers(0, 4), st.integers(0, 60), st.integers(0, 60))
@example(bytes([RICE + 8, 0, 0, 0, 0, 0, 0]), 1, 60, 9)
def test_any_bytes_give_valid_positions_or_a_refusal(data: bytes, samples: int, entries: int, k: int) -> None:
    k = min(k, entries)
    try:
        places = positions.decode(np.frombuffer(data, np.uint8), samples, entries, k)
    except FrameError:
        return
    mask = np.zeros((samples, entries), np.bool_)
    mask.reshape(-1)[places] = True
    assert (mask.sum(axis=1) == k).all() and places.size == samples * k and (np.diff(places) > 0).all()


def test_a_bomb_is_not_unpacked() -> None:
    samples, entries, k = 2, 100_000, 50
    for encoding, size in ((GAPS, 1 << 26), (PACKED, 1 << 26)):
        bomb = np.array(_packed(encoding, bytes(size)), np.uint8)[: positions.bound(samples, entries, k)]
        tracemalloc.start()
        with pytest.raises(FrameError):
            positions.decode(bomb, samples, entries, k)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20
