"""Scores of a box per class: what turns logits into them, which column is no class, which are worth decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.exporting.artifact import Postprocessing
from edgeq.tasks.detection.decoders.candidates import FloatArray, IntArray, sigmoid


def softmax(logits: FloatArray) -> FloatArray:
    """Returns the softmax over the last axis."""
    with np.errstate(over="ignore"):  # what lies further below the best than a float reaches has no share
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


ACTIVATIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "none": lambda scores: np.clip(scores, 0, 1),
    "sigmoid": sigmoid,
    "softmax": softmax,
}
"""What makes scores in 0..1 of a model's; `none` where the graph has done it."""


def activate(scores: FloatArray, activation: str, post: Postprocessing) -> FloatArray:
    """Returns scores in 0..1.

    Args:
        scores: `(N, columns)`, as the model gives them.
        activation: A name of `ACTIVATIONS`.
        post: For the error.

    Raises:
        InputError: there is no such activation.
    """
    if activation not in ACTIVATIONS:
        raise InputError(
            f"decoder {post.decoder}: option 'activation' is {activation!r}; known: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[activation](scores)


def class_columns(scores: FloatArray, background: float, post: Postprocessing) -> FloatArray:
    """Returns the columns `(N, classes)` that are classes.

    Args:
        scores: `(N, columns)`.
        background: The column that is no class, or -1 where all are.
        post: For the error.

    Raises:
        InputError: there is no such column.
    """
    columns = scores.shape[1]
    if background not in range(-1, columns):
        raise InputError(
            f"decoder {post.decoder}: option 'background' is {background}; wanted a column of scores in "
            f"0..{columns - 1}, or -1 for none"
        )
    return np.delete(scores, int(background), axis=1) if background >= 0 else scores


def best_per_group(
    scores: FloatArray, threshold: float, count: int, groups: NDArray[np.integer] | None = None
) -> tuple[IntArray, IntArray]:
    """Returns row and column of all scores above the threshold, of each group the `count` best at most.

    Args:
        scores: `(N, classes)`.
        threshold: In 0..1.
        count: How many of a group.
        groups: The group of each row `(N,)`; by default every class is a group.
    """
    rows, columns = np.nonzero(scores > threshold)
    keys = columns if groups is None else groups[rows]
    if np.bincount(keys, minlength=1).max() > count:
        order = np.lexsort((-scores[rows, columns], keys))
        rows, columns, keys = rows[order], columns[order], keys[order]
        _, first, sizes = np.unique(keys, return_index=True, return_counts=True)
        rank = np.arange(len(keys)) - np.repeat(first, sizes)
        rows, columns = rows[rank < count], columns[rank < count]
    return rows, columns
