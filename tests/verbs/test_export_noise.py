"""A layer that makes most of a file's noise and saves little time stays in float, in exports by kernel costs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.cli.export_console import describe_export
from edgeq.evaluation import exact_comparison
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.costs.table import KernelCost, KernelTable
from edgeq.sources.model import ModelRequest
from edgeq.verbs import export_costs, export_noise
from edgeq.verbs.export import export_model
from tests.exporting import nets

NET = """
agraph (float[1, 3, 32, 32] image) => (float[1, 4, 32, 32] out)
{
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1)
    r1 = Relu(c1)
    c2 = Conv(r1, w2)
    r2 = Relu(c2)
    c3 = Conv<pads = [1, 1, 1, 1]>(r2, w3)
    r3 = Relu(c3)
    out = Conv(r3, w4)
}
"""
WIDE = 400.0


def weights(wide: float) -> dict[str, np.ndarray]:
    """Returns weights with which one channel that `c2` reads is so many times as wide, and counts so much less."""
    found = {
        "w1": nets.normal(0, 8, 3, 3, 3), "w2": nets.normal(1, 12, 8, 1, 1), "w3": nets.normal(2, 8, 12, 3, 3),
        "w4": nets.normal(3, 4, 8, 1, 1),
    }  # fmt: skip
    found["w1"][0] *= wide
    found["w2"][:, 0] /= wide
    return found


@pytest.fixture
def export(drawn, tmp_path, monkeypatch):
    """Exports the net; `saved_us` is what INT8 saves of the layer that reads the wide channel, of 400 us in all."""

    def write(saved_us: float, wide: float = WIDE):
        def costs(runtime, kernels, *, threads, measure):
            saved = {(3, 8): 60.0, (8, 12): saved_us, (12, 8): 80.0}
            rows = {each: KernelCost(130.0, 130.0 - saved[each.inputs, each.outputs]) for each in kernels}
            return KernelTable(runtime, "1.2", "a CPU", ("avx2",), 1, "shipped", rows)

        monkeypatch.setattr(export_costs, "costs_here", costs)
        model = nets.graph(NET, weights(wide))
        for node in model.graph:
            node.name = f"node_{node.outputs[0].name}"
        ir.save(model, tmp_path / "net.onnx")
        (tmp_path / "net.toml").write_text('[preprocessing]\nresize = "stretch"\nscale = 0.00392156862745098\n')
        calibration = CalibrationSource(drawn.annotations, drawn.folder, method="minmax", num=3)
        request = ModelRequest(str(tmp_path / "net.onnx"), preset=str(tmp_path / "net.toml"))
        return export_model(request, "x86", ["int8"], tmp_path, calibration=calibration, threads=1, plan="cost")

    return write


def test_a_loud_layer_that_saves_little_stays_in_float_and_says_why(export, monkeypatch, caplog):
    monkeypatch.setattr(exact_comparison, "LOW_DB", 100.0)
    quiet = export(saved_us=5.0)
    file = Artifact.load(quiet.paths[0])
    (warning,) = [line for line in caplog.messages if "signal-to-noise ratio" in line]
    assert f" of {file.quantization['signal']['snr_db']:.1f} dB (" in warning, "that of the file that stays"
    facts = file.quantization_facts
    assert facts.int8_nodes == 2 and set(facts.float_nodes) == {"node_c2", "node_out"}
    assert facts.float_nodes["node_c2"].startswith("INT8 adds more noise than its time is worth: ")
    assert facts.float_nodes["node_c2"].endswith(" % of the signal's power for 1.3 % of the time")
    assert facts.kernel_costs is not None
    assert (facts.kernel_costs.float_us, facts.kernel_costs.predicted_us) == (390.0, 250.0)
    assert any("INT8 adds more noise than its time is worth: node_c2 (" in line for line in describe_export(quiet))

    monkeypatch.setattr(export_noise, "LOUD_DB", -np.inf)
    by_time = Artifact.load(export(saved_us=5.0).paths[0])
    assert by_time.quantization_facts.int8_nodes == 3
    gained = file.quantization["signal"]["snr_db"] - by_time.quantization["signal"]["snr_db"]
    assert gained > 6, "the noise of that layer is most of the file's"


def test_a_loud_layer_that_saves_much_runs_in_int8(export):
    file = Artifact.load(export(saved_us=129.0, wide=100.0).paths[0])
    assert 8 < file.quantization["signal"]["snr_db"] < export_noise.LOUD_DB
    facts = file.quantization_facts
    assert facts.int8_nodes == 3 and set(facts.float_nodes) == {"node_out"}


def test_files_with_a_clear_signal_are_not_tried(export, monkeypatch):
    monkeypatch.setattr(export_noise, "Screening", None)  # would be an error
    file = Artifact.load(export(saved_us=5.0, wide=1.0).paths[0])
    assert file.quantization["signal"]["snr_db"] > export_noise.LOUD_DB
    assert file.quantization_facts.int8_nodes == 3
