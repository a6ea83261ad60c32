"""Which images to calibrate on: evenly spaced ones, or those that cover what the others show."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.inputs.images import small_image
from edgeq.inputs.items import ArrayFile, ImageFile, Item, Items, evenly_spaced, items_of
from edgeq.progress import progress_bar

Pick = Literal["even", "spread"]

# Pixels of the picture that stands for an image: colours and layout, and no detail.
_SIDE_PX = 8
_SEED = 0


def picked_items(data: Sequence[str | Path] | Iterable[Any], num: int, rank: int, pick: Pick) -> Items:
    """Returns at most `num` items of what a user gives.

    Args:
        data: See `edgeq.inputs.items.items_of`.
        num: How many.
        rank: See `items_of`.
        pick: See `pick_items`.

    Raises:
        InputError: see `items_of` and `pick_items`; `spread` cannot go back in an iterable.
    """
    if pick == "even":
        return items_of(data, num, rank)
    everything = items_of(data, sys.maxsize, rank)
    if not isinstance(everything, list):
        raise InputError(f"`pick` {pick}: looks at all images first; give files or a list of arrays, or omit `pick`")
    return pick_items(everything, num, pick)


def pick_items(items: Sequence[Item], num: int, pick: Pick, seed: int = _SEED) -> list[Item]:
    """Returns at most `num` of the items, in their order.

    Args:
        items: Images, or inputs that are ready.
        num: How many.
        pick: `even`: evenly spaced. `spread`: by the seeding of k-means++ ("k-means++: The Advantages of Careful
            Seeding", Arthur and Vassilvitskii, 2007): the next image is drawn with a probability that grows with the
            square of its distance to the nearest one that is drawn already. The distance is between pictures of 8x8
            pixels. Every image is read once for it; unreadable ones are not picked.
        seed: Of the draws of `spread`.

    Raises:
        InputError: there is no such way to pick, or `num` is below 1.
    """
    if pick not in get_args(Pick):
        raise InputError(f"`pick` {pick}: wanted {' or '.join(get_args(Pick))}")
    if pick == "even" or len(items) <= num:
        return evenly_spaced(items, num)
    features: list[NDArray[np.float32]] = []
    readable: list[Item] = []
    with progress_bar(len(items), "pick") as advance:
        for item in items:
            try:
                features.append(_feature(item))
                readable.append(item)
            except InputError:
                pass  # calibration would skip it too
            advance(1)
    if len({each.shape for each in features}) > 1:
        raise InputError("`pick` spread: wanted images, or inputs of one shape; omit `pick`")
    if len(readable) <= num:
        return readable
    chosen = spread(np.stack(features), num, seed)
    return [readable[index] for index in sorted(chosen)]


def spread(features: NDArray[np.float32], num: int, seed: int = _SEED) -> list[int]:
    """Returns the rows `(num,)` of `(N, D)` features that k-means++ seeds clusters with, in the order of drawing."""
    generator = np.random.default_rng(seed)
    chosen = [int(generator.integers(len(features)))]
    nearest = _squared_distances(features, chosen[0])
    while len(chosen) < num:
        total = float(nearest.sum())
        rest: NDArray[np.float64] = nearest / total if total > 0 else _not_chosen(len(features), chosen)
        chosen.append(int(generator.choice(len(features), p=rest)))
        nearest = np.minimum(nearest, _squared_distances(features, chosen[-1]))
    return chosen


def _not_chosen(count: int, chosen: Sequence[int]) -> NDArray[np.float64]:
    """Returns equal probabilities for what is left: nothing but copies of what is chosen."""
    rest = np.ones(count)
    rest[list(chosen)] = 0
    rest /= rest.sum()
    return rest


def _squared_distances(features: NDArray[np.float32], index: int) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = ((features - features[index]) ** 2).sum(axis=1, dtype=np.float64)
    return distances


def _feature(item: Item) -> NDArray[np.float32]:
    if isinstance(item, ImageFile) and not isinstance(item, ArrayFile):
        return _as_feature(small_image(item.path, _SIDE_PX) / 255)
    content = item.read()
    if content.dtype == np.uint8:
        return _block_means(content)
    return _as_feature(content)


def _as_feature(values: NDArray[Any]) -> NDArray[np.float32]:
    return values.astype(np.float32).ravel()


def _block_means(image: NDArray[Any]) -> NDArray[np.float32]:
    """Returns the mean colours of 8x8 parts of an image `(H, W, 3)`."""
    rows, columns = (np.linspace(0, length, _SIDE_PX + 1).astype(int) for length in image.shape[:2])
    means = [
        image[top : max(bottom, top + 1), left : max(right, left + 1)].mean(axis=(0, 1))
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]
    return _as_feature(np.concatenate(means) / 255)
