"""TFLite tensors that no ONNX tensor equals have the ranges that arithmetic, or kept inputs, give them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.followed_ranges import Matched, collect_ranges, follow_ranges, match_tensors
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import MismatchError
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.tflite.writer import TfliteModel, TfliteOptions, tensors_to_calibrate
from tests.exporting.tflite import rewrites

PRECISIONS = ["int8", "int16x8"]

# Of three branches no ONNX target quantizes what comes before the last layer, and a product is no arithmetic on ranges.
UNKNOWN = {"scaled": {"MUL"}, "gated": {"CONV_2D", "LOGISTIC"}}

SPLIT = {"upscaled": {"TRANSPOSE_CONV"}}
"""Layers in parts: the range of the whole holds that of each part."""


TOP = 1.5
"""Where the clamp of a branch ends: the layer that it alone reads needs no more."""


class Case(NamedTuple):
    """The net in both forms, calibrated on its ONNX graph, and on its TFLite file for comparison."""

    model: FloatModel
    converted: TfliteModel
    ranges: Ranges
    own: Ranges
    matched: Matched


@pytest.fixture(scope="module")
def case() -> Case:
    model, converted = rewrites.pair()
    random = np.random.default_rng(7)
    inputs = list(random.normal(0, 1, (12, 3, rewrites.SIZE, rewrites.SIZE)).clip(-2, 2).astype(np.float32))
    ranges = calibrate(model, inputs, method="minmax", threads=1, keep_samples=4).ranges
    own = calibrate(converted, inputs, method="minmax", threads=1).ranges
    matched = match_tensors(model, converted, list(ranges.tensors), [each[None] for each in inputs[:2]])
    return Case(model, converted, ranges, own, matched)


def needed_by(case: Case, output: str) -> dict[str, str]:
    """Returns the tensors that need ranges and lead to an output -> the operators that compute them."""
    graph = case.converted.graph
    needed = set(tensors_to_calibrate(case.converted, PRECISIONS, TfliteOptions()))
    pending = [tensor.index for tensor in graph.tensors if tensor.name == output]
    found = {}
    for index in pending:
        producer = graph.producer.get(index)
        if graph.tensors[index].name in needed and producer is not None:
            found[graph.tensors[index].name] = producer.kind
        pending += [] if producer is None else graph.activations(producer)
    return found


@pytest.mark.parametrize("output", rewrites.BRANCHES)
def test_every_rewrite_is_followed(case: Case, output: str) -> None:
    needed = needed_by(case, output)
    known = follow_ranges(case.converted, case.matched, case.ranges, list(needed))
    assert {needed[name] for name in needed.keys() - known.keys()} == UNKNOWN.get(output, set())
    for name, (ranges, source) in known.items():
        (low, high), (least, most) = ranges.interval(source), case.own.interval(name)
        most = min(most, TOP) if output == "clipped" and name != output else most
        if needed[name] in SPLIT.get(output, ()):
            assert low <= least * 0.9999 and high >= most * 0.9999
        else:
            np.testing.assert_allclose((low, high), (least, most), atol=1e-4 * (most - least), err_msg=name)


def test_what_is_computed_has_the_same_histogram_too(case: Case) -> None:
    """Not the extremes alone: the padding counts as often as it is there."""
    padded = needed_by(case, "padded")
    name = next(name for name, kind in padded.items() if kind == "PADV2")
    ranges, source = follow_ranges(case.converted, case.matched, case.ranges, [name])[name]
    found, expected = ranges.histograms[source], case.own.histograms[name]
    assert found.total == expected.total
    np.testing.assert_array_equal(found.counts, expected.counts)
    gate = next(name for name, kind in needed_by(case, "scaled").items() if kind == "CONV_2D")
    ranges, source = follow_ranges(case.converted, case.matched, case.ranges, [gate])[gate]
    for method in ("lp", "percentile", "entropy"):
        low, high = ranges.with_method(method).interval(source)
        np.testing.assert_allclose((low, high), case.own.with_method(method).interval(gate), rtol=0.01)


def test_the_rest_is_measured_on_kept_inputs(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        known = collect_ranges(
            case.converted, case.matched, case.ranges, None, PRECISIONS, TfliteOptions(), tmp_path, 1
        )
    kinds = {kind for output in UNKNOWN for name, kind in needed_by(case, output).items() if name in known.sampled}
    assert kinds == set().union(*UNKNOWN.values()) and len(known.sampled) == 3
    assert ", ".join(known.sampled) in caplog.text and "from the 4 inputs that were kept" in caplog.text
    for name in known.sampled:
        ranges, source = known.tensors[name]
        (low, high), (least, most) = ranges.interval(source), case.own.interval(name)
        # Four inputs of twelve, on 256 levels: within the range of all, and most of it.
        assert least - 0.02 * (most - least) <= low and high <= most + 0.02 * (most - least)
        assert high - low > 0.7 * (most - least)
    assert not list(tmp_path.iterdir())


def test_without_kept_inputs_the_tensors_are_named(case: Case, tmp_path: Path) -> None:
    bare = Ranges.from_histograms(case.ranges.histograms, case.ranges.provenance, "lp")
    missing = collect_ranges(case.converted, case.matched, case.ranges, None, PRECISIONS, TfliteOptions(), tmp_path, 1)
    with pytest.raises(MismatchError) as raised:
        collect_ranges(case.converted, case.matched, bare, None, PRECISIONS, TfliteOptions(), tmp_path, 1)
    assert ", ".join(missing.sampled) in str(raised.value)
    assert "run `edgeq calibrate` again with `keep_samples` 8, or give `calib` with images" in str(raised.value)


def test_a_calibration_of_the_file_itself_survives_padding_with_infinity(case: Case) -> None:
    kinds = {operator.kind for operator in case.converted.graph.operators}
    assert "PADV2" in kinds
    needed = tensors_to_calibrate(case.converted, PRECISIONS, TfliteOptions(integer_io=True))
    assert set(needed) <= case.own.tensors.keys()
