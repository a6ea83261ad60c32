"""An export with much noise takes its ranges by another method, if that leaves clearly less of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.cli.export_console import describe_export
from edgeq.exporting.signal.ratio import Signal
from edgeq.exporting.tensorrt.cache_file import read_cache
from edgeq.sources.model import ModelRequest, open_model
from edgeq.tuning.screening import Screening
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


def saved(model: ir.Model, folder: Path) -> ModelRequest:
    """Returns a net that is saved to a folder, with its pre-processing."""
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    ir.save(model, folder / "net.onnx")
    (folder / "net.toml").write_text('[preprocessing]\nresize = "stretch"\nscale = 0.00392156862745098\n')
    return ModelRequest(str(folder / "net.onnx"), preset=str(folder / "net.toml"))


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
    request = saved(nets.graph(NET, weights), tmp_path)

    def write(method: str | None = None, target: str = "x86"):
        calibration = CalibrationSource(drawn.annotations, drawn.folder, method=method, num=4)
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


@pytest.fixture
def mostly_dark(tmp_path):
    """Ranges of a net over 24 dark images, of which one has a bright dot, and most of the outputs' signal."""
    weights = {"w1": nets.normal(0, 8, 3, 3, 3), "w2": nets.normal(1, 8, 8, 1, 1), "w3": nets.normal(3, 4, 8, 1, 1)}
    weights["b1"] = np.zeros(8, np.float32)
    request = saved(nets.graph(NET.replace("32, 32", "64, 64"), weights), tmp_path)
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(5)
    for number in range(24):
        values = random.integers(0, 4, (64, 64, 3), np.uint8)
        if number == 4:
            values[20, 30] = 255
        Image.fromarray(values).save(tmp_path / "images" / f"{number}.png")
    path = tmp_path / "net.ranges.json"
    calibrate(open_model(request).model, sorted((tmp_path / "images").iterdir()), path, threads=1)
    return request, path


def test_ranges_are_judged_where_the_outputs_have_their_signal(mostly_dark, tmp_path, monkeypatch):
    request, path = mostly_dark
    ranges = Ranges.load(path)
    brightest = ranges.strongest[0].array()
    assert max(float(sample.array().max()) for sample in ranges.samples) < 0.1 < float(brightest.max())
    monkeypatch.setattr(export_noise, "_may_be_loud", lambda file: True)
    monkeypatch.setattr(export_noise, "_LOUD_NOISE", 0.0)

    def noise(judged: Ranges, name: str) -> float:
        """Returns the noise in the outputs of the bright image, of ranges that are chosen on some inputs."""
        judged.save(tmp_path / f"{name}.json")
        source = CalibrationSource(tmp_path / f"{name}.json")
        (tmp_path / name).mkdir()
        (file,) = export_model(request, "x86", ["int8"], tmp_path / name, calibration=source, threads=1).files
        model = open_model(request).model
        return max(Screening(model, [brightest], 1).noise(file.artifact).shares)

    assert noise(ranges, "strongest") < 0.01
    # On the dark images alone, ranges that cut the bright one off are better.
    assert noise(dataclasses.replace(ranges, strongest=ranges.samples), "random") > 0.1


def test_a_file_that_cuts_the_signal_off_is_called_loud(mostly_dark, tmp_path):
    """The dark images alone say nothing of it."""
    request, path = mostly_dark

    def signal(name: str) -> Signal:
        (tmp_path / name).mkdir()
        source = CalibrationSource(path, method="percentile")
        (file,) = export_model(request, "x86", ["int8"], tmp_path / name, calibration=source, threads=1).files
        assert file.comparison.signal is not None
        return file.comparison.signal

    found = signal("judged")
    assert found.snr_db < 10
    assert found.how.endswith("3 calibration images, 2 of them with the strongest outputs")
    assert min(layer.snr_db for layer in found.course) < 10
    dataclasses.replace(Ranges.load(path), strongest=()).save(path)
    assert signal("earlier").snr_db > export_noise.LOUD_DB


def test_without_inputs_of_strong_outputs_the_default_stays(mostly_dark, tmp_path, monkeypatch):
    request, path = mostly_dark
    monkeypatch.setattr(export_noise, "_may_be_loud", lambda file: True)
    dataclasses.replace(Ranges.load(path), strongest=()).save(path)
    source = CalibrationSource(path)
    (file,) = export_model(request, "x86", ["int8"], tmp_path, calibration=source, threads=1).files
    assert file.artifact.quantization_facts.method == "lp"
