"""Bin counts as compact bytes: differences of neighbours, packed in blocks of 32 at the bits that the block needs.

As small as zlib on histograms (the low bits are noise), yet the bytes do not depend on the version of a compression
library, and the size after unpacking is known beforehand, so that no file can blow it up.

One block is a byte `b` in 0..63, then 32 values of `b` bits, low bit first: the zigzag codes (0, -1, 1, -2, ... become
0, 1, 2, 3, ...) of each count minus the one before it. The last block is filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_BLOCK = 32
_MAX_BITS = 63
_CODE_BYTES = 8


def pack_counts(counts: npt.NDArray[np.int64]) -> bytes:
    """Returns the packed form of non-negative counts below 2**61."""
    deltas = np.diff(counts, prepend=0)
    codes = np.zeros(-(-len(counts) // _BLOCK) * _BLOCK, "<u8")
    codes[: len(counts)] = ((deltas << 1) ^ (deltas >> 63)).view(np.uint64)
    # Or-ing a block keeps its highest bit, which is all that its bit length depends on.
    highest = np.bitwise_or.reduce(codes.reshape(-1, _BLOCK), axis=1)
    bits = np.array([each.bit_length() for each in highest.tolist()], np.uint8)
    starts = _block_starts(bits)
    packed = np.zeros(starts[-1], np.uint8)
    packed[starts[:-1]] = bits
    blocks = codes.view(np.uint8).reshape(-1, _BLOCK, _CODE_BYTES)
    for width, chosen in _by_width(bits):
        bytes_ = blocks[chosen, :, : -(-width // 8)]
        planes = np.unpackbits(bytes_, axis=2, bitorder="little", count=width)
        payload = np.packbits(planes.reshape(len(chosen), -1), axis=1, bitorder="little")
        packed[_payload_index(starts, chosen, width)] = payload
    return packed.tobytes()


def unpack_counts(packed: bytes, size: int) -> npt.NDArray[np.int64]:
    """Returns the `size` counts that `pack_counts` packed.

    Raises:
        ValueError: the bytes are not what `pack_counts` writes for so many counts, or a count is negative.
    """
    widths = []
    position = 0
    for _ in range(-(-size // _BLOCK)):
        if position >= len(packed) or packed[position] > _MAX_BITS:
            raise ValueError("the packed counts are cut short or damaged")
        widths.append(packed[position])
        position += 1 + packed[position] * _BLOCK // 8
    if position != len(packed):
        raise ValueError("the packed counts are cut short or damaged")
    data, bits = np.frombuffer(packed, np.uint8), np.array(widths, np.uint8)
    starts = _block_starts(bits)
    blocks = np.zeros((len(bits), _BLOCK, _CODE_BYTES), np.uint8)
    for width, chosen in _by_width(bits):
        planes = np.unpackbits(data[_payload_index(starts, chosen, width)], axis=1, bitorder="little")
        bytes_ = np.packbits(planes.reshape(len(chosen), _BLOCK, width), axis=2, bitorder="little")
        blocks[chosen, :, : bytes_.shape[2]] = bytes_
    flat = blocks.reshape(-1).view("<u8")[:size].astype(np.uint64, copy=False)
    deltas = (flat >> np.uint64(1)).view(np.int64) ^ -(flat & np.uint64(1)).view(np.int64)
    counts = np.cumsum(deltas, dtype=np.int64)
    if size and counts.min() < 0:
        raise ValueError("a count is negative")
    return counts


def _by_width(bits: npt.NDArray[np.uint8]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Yields each bit length above 0 with the numbers of its blocks."""
    for width in np.flatnonzero(np.bincount(bits)).tolist():
        if width:
            yield width, np.flatnonzero(bits == width)


def _block_starts(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Returns the offset of each block and, last, the size of all, shape `(len(bits) + 1,)`."""
    return np.cumsum(np.append(0, 1 + bits.astype(np.int64) * (_BLOCK // 8)))


def _payload_index(starts: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
    """Returns where the payload bytes of the chosen blocks lie, shape `(len(chosen), width * 4)`."""
    return starts[chosen][:, None] + 1 + np.arange(width * _BLOCK // 8)
