"""An export with much noise takes its ranges by another method, if that leaves clearly less of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.cli.console import describe_export
from edgeq.exporting.tensorrt.cache_file import read_cache
from edgeq.sources.model import ModelRequest
from edgeq.verbs import export_noise
from edgeq.verbs.export import export_model
from edgeq.verbs.export_ranges import METHODS
from tests.exporting import nets

NET = """
agraph (float[1, 3, 32, 32] image) => (float[1, 4, 32, 32] out)
{
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)
    r1 = Relu(c1)
    c2 = Conv(r1, w2)
    r2 = Relu(c2)
    out = Conv(r2, w3)
}
"""
WIDE = 1000.0


@pytest.fixture
def export(drawn, tmp_path):
    """Exports a net in which one channel is 0 but for a few values, which are 1,000 times as wide as all others."""
    weights = {
        "w1": nets.normal(0, 8, 3, 3, 3), "b1": np.zeros(8, np.float32), "w2": nets.normal(1, 12, 8, 1, 1),
        "w3": nets.normal(3, 4, 12, 1, 1),
    }  # fmt: skip
    weights["w1"][0] *= WIDE
    weights["b1"][0] = -2 * WIDE
    weights["w2"][:, 0] /= WIDE
    model = nets.graph(NET, weights)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    ir.save(model, tmp_path / "net.onnx")
    (tmp_path / "net.toml").write_text('[preprocessing]\nresize = "stretch"\nscale = 0.00392156862745098\n')

    def write(method: str | None = None, target: str = "x86"):
        calibration = CalibrationSource(drawn.annotations, drawn.folder, method=method, num=4)
        request = ModelRequest(str(tmp_path / "net.onnx"), preset=str(tmp_path / "net.toml"))
        return export_model(request, target, ["int8"], tmp_path / "out", calibration=calibration, threads=1)

    (tmp_path / "out").mkdir()
    return write


def test_ranges_with_less_noise_replace_the_default_and_the_file_says_why(export):
    chosen = export()
    (file,) = chosen.files
    facts = file.artifact.quantization_facts
    assert facts.method in METHODS
    assert facts.method_reason is not None and "of the signal's power, lp leaves" in facts.method_reason
    assert any(f"ranges by {facts.method} ({facts.method_reason})" in line for line in describe_export(chosen))
    assert file.artifact.quantization["signal"]["snr_db"] == pytest.approx(file.comparison.signal.snr_db)
    # The ranges file keeps the default's; a report finds it for the manifest because the histograms are the same.
    assert chosen.ranges_path is not None
    ranges = Ranges.load(chosen.ranges_path)
    assert ranges.method == "lp" and ranges.digest != facts.ranges_digest
    assert ranges.has_given(facts.ranges_digest, facts.method)
    assert not ranges.has_given(facts.ranges_digest, "minmax")

    (named,) = export(method="lp").files
    assert named.artifact.quantization_facts.method == "lp"
    assert named.comparison.signal.snr_db < file.comparison.signal.snr_db - 3


def test_a_clear_file_keeps_the_default(export, monkeypatch):
    monkeypatch.setattr(export_noise, "LOUD_DB", -np.inf)
    (file,) = export().files
    facts = file.artifact.quantization_facts
    assert (facts.method, facts.method_reason) == ("lp", None)


def test_a_cache_and_its_file_have_the_same_ranges(export):
    (file,) = [each for each in export(target="jetson-orin").files if each.artifact.precision == "int8"]
    facts = file.artifact.quantization_facts
    assert facts.method in METHODS and facts.calibration_cache is not None
    cache = read_cache(file.artifact.path.with_name(facts.calibration_cache.file))
    chosen = Ranges.load(file.artifact.path.with_name("net.ranges.json")).with_method(facts.method)
    assert cache.thresholds()["r1"] == pytest.approx(chosen.threshold("r1"))
