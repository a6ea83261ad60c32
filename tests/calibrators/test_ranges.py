"""Ranges files: the same bytes for the same calibration, any method from one collection, no surprise when read."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.calibrators import METHODS, Histogram, Range, get_method
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import InputError, MismatchError
from edgeq.packing import pack_array
from tests.calibrators.strategies import float32_arrays
from tests.calibrators.test_histogram import merged_at_random

RNG = np.random.default_rng(0)
PROVENANCE = Provenance.of(
    model_digest="a" * 64, preprocessing_digest="b" * 64, image_digests=["d" * 64, "c" * 64], tool_version="1.2.3"
)
HISTOGRAMS = {
    "relu2": Histogram.of(np.maximum(RNG.standard_normal(5000), 0)),
    "/layer1/Add_output_0": Histogram.of(RNG.standard_normal(5000), [np.nan]),
    "dead \u2603": Histogram.of(np.zeros(5)),
    "never ran": Histogram(),
}


def as_float32(numbers):
    return tuple(np.array(numbers, np.float32).tolist())


@pytest.fixture
def ranges():
    return Ranges.from_histograms(HISTOGRAMS, PROVENANCE)


@settings(deadline=None, max_examples=60)
@given(
    images=st.lists(float32_arrays(60), min_size=1, max_size=6),
    method=st.sampled_from(sorted(METHODS)),
    random=st.randoms(use_true_random=False),
)
def test_order_split_and_merge_tree_never_change_a_byte_of_the_file(images, method, random, tmp_path_factory):
    def written(histogram, digests):
        provenance = Provenance.of(model_digest="m", preprocessing_digest="p", image_digests=digests, tool_version="1")
        path = tmp_path_factory.mktemp("ranges") / "ranges.json"
        Ranges.from_histograms({"x": histogram, "y": histogram}, provenance, method).save(path)
        return path.read_bytes()

    digests = [f"{index:064x}" for index in range(len(images))]
    order = random.sample(range(len(images)), len(images))
    merged = merged_at_random([Histogram.of(images[index]) for index in order], random)
    assert written(merged, [digests[index] for index in order]) == written(Histogram.of(*images), digests)


def test_the_order_of_tensors_does_not_show(ranges, tmp_path):
    turned = Ranges.from_histograms(dict(reversed(HISTOGRAMS.items())), PROVENANCE)
    ranges.save(tmp_path / "one.json")
    turned.save(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert ranges.digest == turned.digest


def test_a_saved_file_is_read_back_whole(ranges, tmp_path):
    maxima = {"relu2": (0.1, 3.0, -2.5), "dead \u2603": ()}
    ranges = dataclasses.replace(ranges, channel_maxima={name: as_float32(each) for name, each in maxima.items()})
    ranges = ranges.with_method("percentile", percentile=99.5)
    assert ranges.channel_maxima["relu2"][1] == 3.0
    ranges.save(tmp_path / "ranges.json")
    loaded = Ranges.load(tmp_path / "ranges.json")
    assert loaded == ranges
    assert loaded.digest == ranges.digest
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "ranges.json").read_bytes()


def test_what_was_always_zero_is_told_from_a_range_of_one_unit(ranges, tmp_path):
    known = Ranges.from_histograms({**HISTOGRAMS, "clipped": Histogram.of(np.array([0.0, 1.0]))}, PROVENANCE, "minmax")
    assert known.tensors["clipped"] == known.tensors["never ran"] == Range.unknown()
    known.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json").zeros == {"dead \u2603", "never ran"}


def test_a_person_can_read_and_compare_the_file(ranges, tmp_path):
    ranges.with_method("minmax").save(tmp_path / "ranges.json")
    lines = (tmp_path / "ranges.json").read_text().splitlines()
    names = [line.split('"')[1] for line in lines if '"threshold"' in line]
    assert names == sorted(json.dumps(name)[1:-1] for name in HISTOGRAMS)
    histogram_lines = lines[next(at for at, line in enumerate(lines) if '"histograms"' in line) + 1 : -2]
    assert [line.split('"')[1] for line in histogram_lines] == names
    assert '    "never ran": {"low": 0.0, "high": 1.0, "threshold": 1.0},' in lines


def test_an_empty_set_of_tensors_survives(tmp_path):
    Ranges.from_histograms({}, PROVENANCE).save(tmp_path / "none.json")
    assert Ranges.load(tmp_path / "none.json").tensors == {}


@pytest.mark.parametrize("method", METHODS)
def test_another_method_needs_only_the_file(ranges, tmp_path, method):
    ranges.save(tmp_path / "ranges.json")
    changed = Ranges.load(tmp_path / "ranges.json").with_method(method)
    assert changed == Ranges.from_histograms(HISTOGRAMS, PROVENANCE, method)
    for name, histogram in HISTOGRAMS.items():
        expected = get_method(method)(histogram)
        assert changed.interval(name) == (expected.low, expected.high)
        assert changed.threshold(name) == expected.threshold
    assert (changed.digest == ranges.digest) == (method == "entropy")


@pytest.mark.parametrize(
    ("method", "options"), [("minmax", {"percentile": 99.0}), ("percentile", {"precentile": 99.0})]
)
def test_an_option_that_a_method_does_not_take_is_refused(ranges, method, options):
    with pytest.raises(InputError, match=f"method '{method}' cannot take the options"):
        ranges.with_method(method, **options)


def test_an_unknown_method_is_refused(ranges):
    with pytest.raises(InputError, match="unknown method 'magic'"):
        ranges.with_method("magic")


def test_ranges_of_another_model_or_preprocessing_are_refused(ranges):
    ranges.check(model_digest="a" * 64, preprocessing_digest="b" * 64)
    with pytest.raises(MismatchError, match=r"another model \(digest aaaaaaaaaaaa, wanted ffff.*edgeq calibrate"):
        ranges.check(model_digest="f" * 64, preprocessing_digest="b" * 64)
    with pytest.raises(MismatchError, match=r"other pre-processing \(digest bbbbbbbbbbbb.*edgeq calibrate"):
        ranges.check(model_digest="a" * 64, preprocessing_digest="f" * 64)


def test_ranges_and_files_of_an_older_edgeq_are_told_apart_from_another_model(ranges):
    with pytest.raises(MismatchError, match=r"by an older edgeq \(1\.2\.3\).*run `edgeq calibrate` again"):
        ranges.check(model_digest="2:" + "a" * 64, preprocessing_digest="b" * 64)
    provenance = dataclasses.replace(ranges.provenance, model_digest="2:" + "a" * 64)
    newer = dataclasses.replace(ranges, provenance=provenance)
    with pytest.raises(MismatchError, match=r"file was exported by an older edgeq.*run `edgeq export` again"):
        newer.check(model_digest="a" * 64, preprocessing_digest="b" * 64)
    with pytest.raises(MismatchError, match="another model"):
        newer.check(model_digest="2:" + "c" * 64, preprocessing_digest="b" * 64)


@pytest.mark.parametrize("read", [Ranges.interval, Ranges.threshold])
def test_a_tensor_that_was_not_observed_is_named(ranges, read):
    with pytest.raises(MismatchError, match="no tensor 'conv9'"):
        read(ranges, "conv9")


def test_the_digest_of_images_ignores_order_and_notices_every_image():
    def provenance(digests):
        return Provenance.of(model_digest="", preprocessing_digest="", image_digests=digests, tool_version="")

    assert provenance(["a", "b", "b"]) == provenance(["b", "a", "b"])
    assert provenance(["a", "b"]) != provenance(["a", "b", "b"])
    assert provenance(["a", "b"]).images == 2


def edited(change):
    document = json.loads(json.dumps(Ranges.from_histograms(HISTOGRAMS, PROVENANCE)._to_json()))
    change(document)
    return document


def entry(**numbers):
    return lambda document: document["tensors"]["relu2"].update(numbers)


def histogram_entry(**parts):
    return lambda document: document["histograms"]["relu2"].update(parts)


HOSTILE = {
    "another format": (lambda document: document.update(format="onnx"), "not of the format"),
    "a list": ([1, 2], "is [1, 2], wanted keys with"),
    "another version": (lambda document: document.update(version=2), "has version 2, this edgeq reads 1"),
    "no version": (lambda document: document.pop("version"), "has version None, this edgeq reads 1"),
    "NaN": (entry(low=float("nan")), "NaN is not JSON"),
    "infinity": (entry(high=float("inf")), "Infinity is not JSON"),
    "a number beyond floats": (entry(high=10**400), "an integer of 401 digits"),
    "low above high": (entry(low=2.0, high=1.0), "low <= 0 <= high"),
    "an interval without zero": (entry(low=-2.0, high=-1.0), "low <= 0 <= high"),
    "threshold zero": (entry(threshold=0), "threshold > 0"),
    "text for a number": (entry(low="0"), "$.tensors['relu2'].low is '0', wanted a number"),
    "true for a number": (entry(threshold=True), "$.tensors['relu2'].threshold is True, wanted a number"),
    "a number less": (lambda document: document["tensors"]["relu2"].pop("low"), "$.tensors['relu2'] has no 'low'"),
    "no tensors": (lambda document: document.pop("tensors"), "has no 'tensors'"),
    "tensors of the wrong kind": (
        lambda document: document.update(tensors=[]),
        "$.tensors is [], wanted keys with values",
    ),
    "a tensor of the wrong kind": (
        lambda document: document["tensors"].update(relu2=None),
        "$.tensors['relu2'] is None, wanted keys with values",
    ),
    "a tensor without histogram": (lambda document: document["histograms"].pop("relu2"), "differ in 'relu2'"),
    "a histogram without tensor": (lambda document: document["tensors"].pop("relu2"), "differ in 'relu2'"),
    "a cut histogram": (histogram_entry(counts="AAAA"), "$.histograms['relu2'] is not a histogram"),
    "a histogram of the wrong kind": (
        lambda document: document["histograms"].update(relu2=7),
        "$.histograms['relu2'] is 7, wanted keys with values",
    ),
    "maxima that are cut": (
        lambda document: document.update(channel_maxima={"x": pack_array(np.ones(3, np.float32)) | {"data": "AAAA"}}),
        "$.channel_maxima['x'] is damaged",
    ),
    "maxima that are no numbers": (
        lambda document: document.update(channel_maxima={"x": pack_array(np.array([1, np.nan], np.float32))}),
        "$.channel_maxima['x'] needs finite float32 numbers in a row",
    ),
    "no provenance": (lambda document: document.pop("provenance"), "has no 'provenance'"),
    "provenance of the wrong kind": (
        lambda document: document.update(provenance="me"),
        "$.provenance is 'me', wanted keys with values",
    ),
    "images by name": (
        lambda document: document["provenance"].update(images="12"),
        "$.provenance.images is '12', wanted a whole number from 0",
    ),
    "method of the wrong kind": (lambda document: document.update(method=3), "$.method is 3, wanted text"),
    "options of the wrong kind": (
        lambda document: document.update(options=3),
        "$.options is 3, wanted keys with values",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_or_hostile_files_are_refused_in_one_line(name, tmp_path):
    change, reason = HOSTILE[name]
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(edited(change) if callable(change) else change))
    with pytest.raises(InputError) as caught:
        Ranges.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith("run `edgeq calibrate` again")
    assert reason in message
    assert "\n" not in message


def test_an_unchanged_document_is_accepted(tmp_path):
    (tmp_path / "ranges.json").write_text(json.dumps(edited(lambda _document: None)))
    assert Ranges.load(tmp_path / "ranges.json") == Ranges.from_histograms(HISTOGRAMS, PROVENANCE)


def test_a_missing_or_cut_file_is_refused(ranges, tmp_path):
    path = tmp_path / "ranges.json"
    with pytest.raises(InputError, match="no such file"):
        Ranges.load(path)
    ranges.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not valid JSON"):
        Ranges.load(path)


def test_a_range_edited_by_hand_is_what_counts(ranges, tmp_path):
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(edited(entry(low=-1, high=2, threshold=2))))
    loaded = Ranges.load(path)
    assert loaded.interval("relu2") == (-1.0, 2.0)
    assert loaded.digest != ranges.digest
    assert dataclasses.replace(ranges, tensors={**ranges.tensors, "relu2": Range(-1.0, 2.0, 2.0)}) == loaded
