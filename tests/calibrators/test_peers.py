"""What ONNX Runtime's entropy calibrator does on the same data, through its public interface."""

from __future__ import annotations

import json
from functools import reduce

import numpy as np
import pytest

from edgeq.calibrators import Histogram
from edgeq.calibrators.entropy import entropy

onnx = pytest.importorskip("onnx")
calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")


class Reader:
    """A data reader of one batch; ONNX Runtime takes whatever has a `get_next`."""

    def __init__(self, batch):
        self.feeds = [{"x": batch}]

    def get_next(self):
        return self.feeds.pop() if self.feeds else None


@pytest.fixture
def onnx_runtime_entropy(tmp_path):
    """Returns a function: batches -> the range that ONNX Runtime's entropy calibrator gives them."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        passes_on (float[N] x) => (float[N] y) { y = Identity(x) }
    """)
    onnx.save(model, tmp_path / "model.onnx")

    def found(batches):
        calibrator = calibrate.create_calibrator(
            tmp_path / "model.onnx",
            augmented_model_path=str(tmp_path / "augmented.onnx"),
            calibrate_method=calibrate.CalibrationMethod.Entropy,
        )
        # One call a batch. In one call it keeps every image's activations in memory until the last.
        for batch in batches:
            calibrator.collect_data(Reader(batch))
        low, high = calibrator.compute_data()["y"].range_value
        return float(low), float(high)

    return found


def laplace_images():
    rng = np.random.default_rng(0)
    return [rng.laplace(size=4096).astype(np.float32) for _ in range(4)]


def our_entropy(batches):
    histogram = reduce(Histogram.merge, map(Histogram.of, batches))
    return entropy(histogram), json.dumps(histogram.to_json())


def test_the_order_of_images_changes_onnx_runtimes_result_and_not_ours(onnx_runtime_entropy):
    images = laplace_images()
    orders = [images, images[::-1], [images[2], images[0], images[3], images[1]]]
    assert len({onnx_runtime_entropy(order) for order in orders}) > 1
    assert len({our_entropy(order) for order in orders}) == 1


def test_the_batch_split_changes_onnx_runtimes_result_and_not_ours(onnx_runtime_entropy):
    values = np.concatenate(laplace_images())
    splits = [np.split(values, 4), np.split(values, [100, 9000]), [values]]
    assert len({onnx_runtime_entropy(batches) for batches in splits}) > 1
    assert len({our_entropy(batches) for batches in splits}) == 1


def test_a_far_spike_is_clipped_by_us_and_kept_by_onnx_runtime(onnx_runtime_entropy):
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    values[17] = 60
    # 128 bins for 128 levels leave it one candidate, the whole range.
    assert onnx_runtime_entropy([values]) == (values.min(), 60)
    found = entropy(Histogram.of(values))
    assert found.threshold < 6
    assert found.high < 6
