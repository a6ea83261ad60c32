"""Texts, or arrays that are ready, to calibrate the parts of a model on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.boundary import read_text
from edgeq.errors import InputError, MissingDependencyError
from edgeq.inputs.array_files import read_arrays

if TYPE_CHECKING:
    from edgeq.bundles.source import ModelFolder

MOST = 128
"""Samples that are read, at most; AWQ and GPTQ were published with as many."""
_TOKENS = 256
"""Tokens of a text; longer ones are cut into pieces."""
_IDS = "input_ids"


def read_prepared(path: Path, folder: ModelFolder) -> list[dict[str, np.ndarray]]:
    """Returns samples, each by the names of the inputs of the first parts, with a batch of 1.

    Args:
        path: A text file, which the model's tokenizer reads; or an `.npz` with arrays of one length, such as
            `input_ids` `(N, seq)` and `pixel_values` `(N, 3, height, width)`.
        folder: The model.

    Raises:
        InputError: the file cannot be used.
        MissingDependencyError: a tokenizer is to be read without transformers.
    """
    return _arrays(path) if path.suffix == ".npz" else _texts(path, folder)


def _arrays(path: Path) -> list[dict[str, np.ndarray]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an .npz with `{_IDS}`")
    arrays = read_arrays(path)
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if not arrays or len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise InputError(f"{path}: holds arrays of {lengths or 'nothing'}; wanted arrays of one length above 0")
    chosen = np.linspace(0, len(next(iter(arrays.values()))) - 1, MOST).round().astype(int)
    return [{name: _typed(array[index : index + 1]) for name, array in arrays.items()} for index in np.unique(chosen)]


def _typed(array: np.ndarray) -> np.ndarray:
    """Returns numbers in the types that parts take."""
    is_whole = np.issubdtype(array.dtype, np.integer)
    return np.ascontiguousarray(array, np.int64 if is_whole else np.float32)


def _texts(path: Path, folder: ModelFolder) -> list[dict[str, np.ndarray]]:
    if not folder.tokenizer:
        raise InputError(f"{path}: is text, and the model has no tokenizer; give an .npz with `{_IDS}`")
    text = read_text(path, kind="a text to calibrate on")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError("transformers", "language", "reading a tokenizer") from error
    tokenizer: Any = AutoTokenizer.from_pretrained(
        str(folder.tokenizer[0].parent), local_files_only=True, trust_remote_code=False
    )
    return pieces(tokenizer(text)[_IDS])


def pieces(tokens: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Returns a long text, as tokens, in pieces of one length, evenly spaced.

    Raises:
        InputError: there are no tokens.
    """
    if not tokens:
        raise InputError("the text to calibrate on has no tokens; give a longer one")
    length = min(_TOKENS, len(tokens))
    count = min(MOST, len(tokens) // length)
    starts = np.linspace(0, len(tokens) - length, count).astype(int)
    return [{_IDS: np.array([tokens[start : start + length]], np.int64)} for start in starts]
