"""Arrays of numbers in files: `.npy` and `.npz`. Objects of Python are refused; nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError

MAX_UNPACKED_BYTES = 1 << 32
"""What the arrays of an `.npz` may take when they are unpacked, which is up to a thousand times the file's size."""


def read_array(path: Path) -> NDArray[Any]:
    """Returns the array of a `.npy` file.

    Raises:
        InputError: the file is missing, cut short, or holds no array of numbers.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such array file") from None
    except Exception as error:  # the header is Python text, and its parser raises whatever broken text leads to
        raise InputError(f"{path}: cannot be read as an array ({_reason(error)}); write it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: holds several arrays; write each with numpy.save")
    return array


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Returns name -> array of an `.npz` file.

    Args:
        path: The file.
        names: Which of its arrays are read; by default all.

    Raises:
        InputError: the file is missing, damaged, holds anything but arrays of numbers, or unpacks to more than 4 GiB.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise ValueError(f"unpacks to {unpacked:,} bytes, wanted at most {MAX_UNPACKED_BYTES:,}")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files if names is None or name in names}
    except FileNotFoundError:
        raise InputError(f"{path}: no such array file") from None
    except Exception as error:  # of the archive, its compression, and each header
        raise InputError(f"{path}: cannot be read as arrays ({_reason(error)}); write it with numpy.savez") from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
