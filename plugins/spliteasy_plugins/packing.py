"""Codes of 1 or 4 bits, several to a byte: the first code in the lowest bits, unused bits zero."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from spliteasy.codecs import TensorSpec
from spliteasy.errors import FrameError

__all__ = ["Bits", "pack", "packed_size", "packed_spec", "unpack"]

Bits = Literal[1, 4]
"""How many bits a code has."""

BLOCK = 1 << 16
"""Codes packed at a time."""

PAIR = np.dtype("<u2")
"""Two codes of 4 bits before they share a byte, the first one in the low byte."""


def packed_size(count: int, bits: Bits) -> int:
    """The bytes that ``count`` codes take."""
    return -(-count * bits // 8)


def packed_spec(spec: TensorSpec, bits: Bits) -> TensorSpec:
    """The flat uint8 tensor that a tensor of ``spec`` is packed into, of one byte more if its length was not
    agreed."""
    if spec.shape is None:
        return TensorSpec(None, torch.uint8, max_numel=packed_size(spec.max_numel, bits) + 1)
    return TensorSpec((packed_size(spec.numel, bits),), torch.uint8)


def pack(codes: npt.NDArray[np.uint8], bits: Bits, agreed: bool = True) -> npt.NDArray[np.uint8]:
    """``codes``, flat and each below ``2 ** bits``, as bytes. If their number is not ``agreed``, a last byte says how
    many codes the unused bits would hold."""
    size = packed_size(codes.size, bits)
    packed = np.empty(size + (not agreed), np.uint8)
    if bits == 1:
        packed[:size] = np.packbits(codes, bitorder="little")
    else:
        _pack_pairs(codes, packed[:size])
    if not agreed:
        packed[-1] = size * 8 // bits - codes.size
    return packed


def unpack(packed: npt.NDArray[np.uint8], bits: Bits, count: int | None) -> npt.NDArray[np.uint8]:
    """The ``count`` codes of ``packed`` again; as many as its last byte says if ``count`` is None.

    Raises ``FrameError`` unless the length fits and unused bits are zero.
    """
    if count is None:
        unused = int(packed[-1]) if packed.size else -1
        if not 0 <= unused < (8 // bits if packed.size > 1 else 1):
            raise FrameError(f"expected packed codes and how many are unused, found {packed.size} bytes")
        packed = packed[:-1]
        count = packed.size * 8 // bits - unused
    if packed.size != packed_size(count, bits):
        raise FrameError(
            f"expected {packed_size(count, bits)} bytes with {count} codes of {bits} bits, found {packed.size}"
        )
    used = count * bits % 8
    if used and packed[-1] >> used:
        raise FrameError(f"expected zeros in the unused bits of the last byte of {count} codes of {bits} bits")
    if bits == 1:
        return np.unpackbits(packed, count=count, bitorder="little")
    return _unpack_pairs(packed)[:count]


def _pack_pairs(codes: npt.NDArray[np.uint8], packed: npt.NDArray[np.uint8]) -> None:
    """Codes of 4 bits into ``packed``."""
    even = codes.size // 2 * 2
    pairs: npt.NDArray[Any] = codes[:even].view(PAIR)
    for begin in range(0, pairs.size, BLOCK):
        block = pairs[begin : begin + BLOCK]
        np.copyto(packed[begin : begin + block.size], block | block >> 4, casting="unsafe")
    if codes.size > even:
        packed[-1] = codes[-1]


def _unpack_pairs(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Twice as many codes of 4 bits."""
    pairs = np.empty(packed.size, PAIR)
    for begin in range(0, packed.size, BLOCK):
        block = packed[begin : begin + BLOCK].astype(PAIR)
        np.bitwise_and(block | block << 4, 0x0F0F, out=pairs[begin : begin + BLOCK])
    return pairs.view(np.uint8)
