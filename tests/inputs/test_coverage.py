"""`pick` spread: images that cover what the others show, the same ones every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeq.errors import InputError
from edgeq.inputs.coverage import pick_items, picked_items, spread
from edgeq.inputs.items import image_files


def test_spread_takes_one_of_each_cluster() -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(0, 100, (8, 12))
    sizes = (300, 5, 5, 3, 2, 2, 1, 1)  # evenly spaced picks would see the first cluster only
    features = np.concatenate(
        [centre + generator.normal(0, 0.01, (size, 12)) for centre, size in zip(centres, sizes, strict=True)]
    ).astype(np.float32)
    cluster = np.repeat(np.arange(8), sizes)
    for seed in range(5):
        assert sorted(cluster[spread(features, 8, seed)]) == list(range(8))


def test_copies_are_taken_last() -> None:
    features = np.array([[0], [0], [0], [5], [0]], np.float32)
    assert set(spread(features, 2)) & {3}
    assert sorted(spread(features, 5)) == [0, 1, 2, 3, 4]


def test_files_and_arrays_are_picked_alike_and_again(tmp_path: Path) -> None:
    colours = [(10, 10, 10)] * 20 + [(250, 20, 20), (20, 250, 20), (20, 20, 250)]
    paths = []
    for number, colour in enumerate(colours):
        paths.append(tmp_path / f"{number:02}.jpg")
        Image.new("RGB", (90, 70), colour).save(paths[-1])
    (tmp_path / "03.jpg").write_bytes(b"broken")
    files = pick_items(image_files(paths), 4, "spread")
    assert [Path(item.name).name for item in files][1:] == ["20.jpg", "21.jpg", "22.jpg"]
    assert files == pick_items(image_files(paths), 4, "spread")
    arrays = [np.full((70, 90, 3), colour, np.uint8) for colour in colours]
    names = [item.name for item in picked_items(arrays, 4, 3, "spread")]
    assert names[1:] == ["item 20", "item 21", "item 22"]


def test_what_cannot_be_looked_at_twice_is_refused() -> None:
    with pytest.raises(InputError, match="looks at all images first"):
        picked_items(iter([np.zeros((4, 4, 3), np.uint8)]), 1, 3, "spread")
    with pytest.raises(InputError, match="`pick` best: wanted even or spread"):
        pick_items([], 1, "best")  # type: ignore[arg-type]
