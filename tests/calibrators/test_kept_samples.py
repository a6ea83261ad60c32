"""Inputs that are kept with ranges: what they are afterwards, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.calibrators import Histogram
from edgeq.calibrators.kept_samples import KeptSample
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import InputError


def drawn(seed: int, *shape: int) -> np.ndarray:
    """Returns smooth channels of very different ranges, `(1, C, H, W)`."""
    random = np.random.default_rng(seed)
    steps = random.normal(0, 1, shape).cumsum(axis=-1)
    return np.array(steps * 10.0 ** random.integers(-3, 4, (1, shape[1], 1, 1)), np.float32)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 5, 7), (1, 4, 32, 33)])
def test_every_value_is_kept_to_half_a_step(shape: tuple[int, ...]) -> None:
    array = drawn(3, *shape)
    found = KeptSample.from_json(json.loads(json.dumps(KeptSample.of(array).to_json()))).array()
    assert found.shape == shape and found.dtype == np.float32
    for channel, original in zip(found[0], array[0], strict=True):
        half = np.ptp(original) / 255 / 2
        assert np.abs(channel - original).max() <= half * 1.001
        np.testing.assert_allclose((channel.min(), channel.max()), (original.min(), original.max()), rtol=1e-6)


def test_pixels_come_back_as_they_were() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 3, 20, 20))
    pixels[..., :2, 0] = [0, 255]
    mean, std = np.array([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1), np.array([0.2, 0.3, 0.4]).reshape(1, 3, 1, 1)
    array = ((pixels / 255 - mean) / std).astype(np.float32)
    np.testing.assert_allclose(KeptSample.of(array).array(), array, atol=1e-6)


def test_a_channel_of_one_value_stays_one() -> None:
    array = np.full((1, 2, 4, 4), -0.25, np.float32)
    array[0, 1] = 7
    np.testing.assert_array_equal(KeptSample.of(array).array(), array)


def test_a_smooth_input_takes_less_than_a_byte_a_value() -> None:
    rows, columns = np.mgrid[0:200, 0:300]
    array = np.stack([np.sin(rows / 40) + np.cos(columns / 60), rows * 1.0, columns * 1.0])[None].astype(np.float32)
    assert len(KeptSample.of(array).codes) < 0.5 * array.size


def ranges_with(*samples: KeptSample) -> Ranges:
    provenance = Provenance.of(
        model_digest="2:ab", preprocessing_digest="cd", image_digests=["1", "2"], tool_version="0.1"
    )
    found = Ranges.from_histograms({"t": Histogram.of(np.linspace(-1, 2, 100))}, provenance, "minmax")
    return dataclasses.replace(found, samples=samples)


def test_ranges_carry_them_through_the_file_and_through_other_methods(tmp_path: Path) -> None:
    ranges = ranges_with(KeptSample.of(drawn(1, 1, 3, 4, 4)), KeptSample.of(drawn(2, 1, 3, 4, 4)))
    ranges.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json") == ranges
    assert Ranges.load(tmp_path / "ranges.json").with_method("lp").samples == ranges.samples
    assert ranges.digest != ranges_with(*ranges.samples[:1]).digest != ranges_with().digest
    # A person who compares files sees one line for each.
    assert sum('"codes"' in line for line in (tmp_path / "ranges.json").read_text().splitlines()) == 2


def test_a_file_without_them_is_read_as_before(tmp_path: Path) -> None:
    ranges_with().save(tmp_path / "ranges.json")
    assert "samples" not in json.loads((tmp_path / "ranges.json").read_text())
    assert Ranges.load(tmp_path / "ranges.json").samples == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [2, 3, 4, 4]}, "is not the shape of an input"),
        ({"shape": [1, 3, 1 << 20, 1 << 20]}, "is not the shape of an input"),
        ({"shape": [1]}, "do not fit together"),
        ({"shape": [1, 3, 0, 4]}, "is not the shape of an input"),
        ({"shape": "all"}, "Expected `array`"),
        ({"low": [0.0]}, "do not fit together"),
        ({"step": [1.0, -1.0, 1.0]}, "do not fit together"),
        ({"codes": "=="}, "not a kept sample"),
    ],
)
def test_a_damaged_one_is_told_with_its_place(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "ranges.json"
    ranges_with(KeptSample.of(drawn(1, 1, 3, 4, 4))).save(path)
    document = json.loads(path.read_text())
    document["samples"][0] |= changes
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as raised:
        Ranges.load(path)
    assert "samples[0]" in str(raised.value) and "run `edgeq calibrate` again" in str(raised.value)


def test_levels_that_are_cut_short_are_told_when_they_are_needed() -> None:
    document = KeptSample.of(drawn(1, 1, 3, 4, 4)).to_json()
    document["codes"] = base64.b64encode(base64.b64decode(document["codes"])[:-3]).decode()
    with pytest.raises(InputError, match=r"a kept sample is damaged .* run `edgeq calibrate` again"):
        KeptSample.from_json(document).array()
