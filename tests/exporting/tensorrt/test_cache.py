"""Calibration caches: real ones byte for byte, the values that TensorRT is known to write, and broken files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import InputError, MismatchError
from edgeq.exporting.tensorrt.cache import CalibrationCache, header_version, make_cache, parse_cache

ODD = "v0.7_3d-unet_odd-header.cache"


def test_every_real_cache_is_written_again_byte_for_byte(shared_data):
    files = sorted((shared_data / "trt_caches").glob("*.cache"))
    assert len(files) > 20
    for file in files:
        if file.name != ODD:
            content = file.read_bytes()
            cache = parse_cache(content, file.name)
            assert cache.render() == content, file.name
            assert len(cache.bits) == content.count(b"\n") - 1


def test_a_real_file_with_another_first_line_is_refused_with_that_line(shared_data):
    content = (shared_data / "trt_caches" / ODD).read_bytes()
    with pytest.raises(InputError, match=r"line 1 is '0 3ff0000000000000 3fefffeb074a771d'.*begins with TRT-"):
        parse_cache(content, ODD)


def test_zero_and_infinity_are_read_and_are_no_ranges(shared_data):
    file = shared_data / "trt_caches" / "excerpt_trt101303_minmax_mpnet.cache"
    cache = parse_cache(file.read_bytes(), file.name)
    assert (cache.version, cache.algorithm) == (101303, "MinMaxCalibration")
    scales = cache.scales()
    assert {0.0, np.inf} <= set(scales.values())
    assert set(cache.thresholds()) == {name for name, scale in scales.items() if 0 < scale < np.inf}
    assert cache.thresholds()["/Cast_output_0"] == pytest.approx(1, rel=1e-7)


@pytest.mark.parametrize(
    ("threshold", "line"),
    [
        (1.0, b"x: 3c010204\n"),  # MinMax of 0..1
        (2048.5 / 2048, b"x: 3c010a14\n"),  # entropy of 0..1, unclipped: the centre of the bin behind amax
        (255 * 2048.5 / 2048, b"x: 4000890a\n"),  # entropy of 0..255, unclipped
    ],
)
def test_scales_have_the_bits_that_tensorrt_writes(threshold, line):
    assert make_cache({"x": threshold / 127}).render() == b"TRT-100300-EntropyCalibration2\n" + line


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("5.1.2", 5102), ("7.2.0", 7200), ("8.0.1", 8001), ("8.4.0.2", 8400), ("8.5.10", 8510), ("8.6.1", 8601),
        ("9.2.0", 9200), ("10.3.0", 100300), ("10.3.0.26", 100300), ("10.10.0", 101000), ("10.13.3.9", 101303),
        ("10.16.1", 101601),
    ],
)  # fmt: skip
def test_header_arithmetic(version, number):
    assert header_version(version) == number


@pytest.mark.parametrize("version", ["", "10", "10.3", "10.3.0.1.2", "10.x.0", "v10.3.0"])
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(InputError, match=r"wanted three or four numbers, for example 10\.3\.0"):
        header_version(version)


def test_another_version_changes_the_header_alone():
    cache = make_cache({"a": 1.0}, algorithm="MinMaxCalibration")
    stamped = cache.restamped("8.6.1")
    assert stamped.render() == cache.render().replace(b"TRT-100300-", b"TRT-8601-")


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1) | st.from_regex(
    r"\(Unnamed Layer\* [0-9]+\) \[[A-Z][a-z]+\]_output(:[0-9])?", fullmatch=True
)


@given(st.dictionaries(names, st.floats(1e-30, 1e30), max_size=8))
def test_written_thresholds_come_back_whatever_the_names(thresholds):
    cache = make_cache({name: threshold / 127 for name, threshold in thresholds.items()})
    assert parse_cache(cache.render(), "a.cache") == cache
    found = cache.thresholds()
    assert list(found) == list(thresholds)
    assert all(found[name] == pytest.approx(thresholds[name], rel=1e-6) for name in thresholds)


@given(st.dictionaries(names, st.integers(0, 0x7F800000)), st.integers(5000, 110500))
def test_any_scales_survive(bits, version):
    cache = CalibrationCache(version, "EntropyCalibration2", bits)
    assert parse_cache(cache.render(), "a.cache") == cache


@pytest.mark.parametrize("scale", [0.0, 1e-50, 1e60, float("inf")])
def test_neither_zero_nor_infinity_is_written(scale):
    (scale,) = make_cache({"x": scale}).scales().values()
    assert 0 < scale < np.inf


@pytest.mark.parametrize("name", ["", "two\nlines"])
def test_a_name_that_fits_in_no_line_is_refused(name):
    with pytest.raises(InputError, match="cannot be written to a calibration cache"):
        make_cache({name: 1.0})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1 is ''"),
        (b"TRT-8601", "line 1 is 'TRT-8601'"),
        (b"\xff\xfe\x00", "is not text"),
        (b"TRT-8601-EntropyCalibration2\na: 3c010204\nb: 3c01", "'.*b: 3c01' has no end; the file was cut short"),
        (b"TRT-8601-EntropyCalibration2", "has no end"),
        (b"TRT-8601-EntropyCalibration2\na: 3c010204\n\n", "line 3 is ''"),
        (b"TRT-8601-EntropyCalibration2\na 3c010204\n", "line 2 is 'a 3c010204'"),
        (b"TRT-8601-EntropyCalibration2\na: 3c01020455\n", "line 2"),
        (b"TRT-8601-EntropyCalibration2\na: 3c010204\r\n", r"line 2 is 'a: 3c010204\\r'"),
        (b"TRT-8601-EntropyCalibration2\na: 0.5\n", "line 2 is 'a: 0.5'"),
        (b"TRT-8601-EntropyCalibration2\na: bc010204\n", "line 2.*negative"),
        (b"TRT-8601-EntropyCalibration2\na: 7fc00000\n", "line 2.*not a number"),
        (b"TRT-8601-EntropyCalibration2\na: 0003c010\n", "line 2.*leading zeros"),
        (b"TRT-8601-EntropyCalibration2\na: 1\na: 2\n", "line 3.*earlier line"),
    ],
)
def test_a_broken_line_is_named_with_its_content(content, reason):
    with pytest.raises(InputError, match=f"^a.cache: .*{reason}"):
        parse_cache(content, "a.cache")


def test_a_cache_becomes_ranges_that_say_where_they_come_from():
    cache = parse_cache(b"TRT-8601-EntropyCalibration2\nx: 3c010204\ndead: 0\nmask: 7f800000\n", "a.cache")
    ranges = cache.to_ranges(model_digest="m", preprocessing_digest="p")
    assert list(ranges.tensors) == ["x"]
    assert ranges.threshold("x") == pytest.approx(1, rel=1e-7)
    assert ranges.interval("x") == (-ranges.threshold("x"), ranges.threshold("x"))
    assert (ranges.method, ranges.provenance.tool_version) == ("calibration-cache", "TRT-8601-EntropyCalibration2")
    ranges.check(model_digest="m", preprocessing_digest="p")


def test_a_cache_without_a_finite_range_is_none():
    cache = parse_cache(b"TRT-8601-EntropyCalibration2\ndead: 0\n", "a.cache")
    with pytest.raises(MismatchError, match="holds no finite range"):
        cache.to_ranges(model_digest="m", preprocessing_digest="p")
