"""Bin counts as compact bytes: differences of neighbours, packed in blocks of 32 at the bits that the block needs.

As small as zlib on histograms (the low bits are noise), yet the bytes do not depend on the version of a compression
library, and the size after unpacking is known beforehand, so that no file can blow it up.

One block is a byte `b` in 0..63, then 32 values of `b` bits, low bit first: the zigzag codes (0, -1, 1, -2, ... become
0, 1, 2, 3, ...) of each count minus the one before it. The last block is filled up with zeros.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BLOCK = 32
_MAX_BITS = 63


def pack_counts(counts: npt.NDArray[np.int64]) -> bytes:
    """Returns the packed form of non-negative counts below 2**61."""
    deltas = np.diff(counts, prepend=0)
    codes = np.zeros(-(-len(counts) // _BLOCK) * _BLOCK, np.uint64)
    codes[: len(counts)] = ((deltas << 1) ^ (deltas >> 63)).view(np.uint64)
    blocks = codes.reshape(-1, _BLOCK)
    # Or-ing a block keeps its highest bit, which is all that its bit length depends on.
    bits = [int(highest).bit_length() for highest in np.bitwise_or.reduce(blocks, axis=1)]
    starts = _block_starts(bits)
    packed = np.zeros(starts[-1], np.uint8)
    packed[starts[:-1]] = bits
    for width in sorted(set(bits) - {0}):
        chosen = np.flatnonzero(np.equal(bits, width))
        planes = (blocks[chosen][:, :, None] >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
        payload = np.packbits(planes.astype(np.uint8).reshape(len(chosen), -1), axis=1, bitorder="little")
        packed[_payload_index(starts, chosen, width)] = payload
    return packed.tobytes()


def unpack_counts(packed: bytes, size: int) -> npt.NDArray[np.int64]:
    """Returns the `size` counts that `pack_counts` packed.

    Raises:
        ValueError: the bytes are not what `pack_counts` writes for so many counts, or a count is negative.
    """
    bits = []
    position = 0
    for _ in range(-(-size // _BLOCK)):
        if position >= len(packed) or packed[position] > _MAX_BITS:
            raise ValueError("the packed counts are cut short or damaged")
        bits.append(packed[position])
        position += 1 + packed[position] * _BLOCK // 8
    if position != len(packed):
        raise ValueError("the packed counts are cut short or damaged")
    data = np.frombuffer(packed, np.uint8)
    starts = _block_starts(bits)
    codes = np.zeros((len(bits), _BLOCK), np.uint64)
    for width in sorted(set(bits) - {0}):
        chosen = np.flatnonzero(np.equal(bits, width))
        planes = np.unpackbits(data[_payload_index(starts, chosen, width)], axis=1, bitorder="little")
        planes = planes.reshape(len(chosen), _BLOCK, width).astype(np.uint64)
        codes[chosen] = np.bitwise_or.reduce(planes << np.arange(width, dtype=np.uint64), axis=2)
    flat = codes.reshape(-1)[:size]
    deltas = (flat >> np.uint64(1)).view(np.int64) ^ -(flat & np.uint64(1)).view(np.int64)
    counts = np.cumsum(deltas, dtype=np.int64)
    if size and counts.min() < 0:
        raise ValueError("a count is negative")
    return counts


def _block_starts(bits: list[int]) -> npt.NDArray[np.int64]:
    """Returns the offset of each block and, last, the size of all, shape `(len(bits) + 1,)`."""
    return np.cumsum([0, *(1 + width * _BLOCK // 8 for width in bits)], dtype=np.int64)


def _payload_index(starts: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
    """Returns where the payload bytes of the chosen blocks lie, shape `(len(chosen), width * 4)`."""
    return starts[chosen][:, None] + 1 + np.arange(width * _BLOCK // 8)
