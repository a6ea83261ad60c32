"""`edgeq export` with weights of few bits: from images to a file, and what the command line says of it."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.cli.export_console import describe_export
from edgeq.errors import InputError
from edgeq.exporting.options import ExportOptions
from edgeq.runtimes import open_session
from edgeq.sources.model import ModelRequest
from edgeq.verbs.export import export_model
from edgeq.verbs.export_options import check_calibration_options
from tests.tuning.nets import save_classifier


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, preset, _, calib = save_classifier(tmp_path, images=4, calibration=6)
    return ModelRequest(str(file), preset=str(preset)), calib


def test_images_decide_the_method_and_the_console_says_what_was_written(net, tmp_path) -> None:
    request, calib = net
    options = ExportOptions(group_size=16)
    source = CalibrationSource(calib)
    done = export_model(
        request, "x86-ort", ("w4", "w3"), tmp_path / "a", calibration=source, options=options, threads=1
    )
    kernel, simulated = done.files
    assert (kernel.artifact.precision, simulated.artifact.precision) == ("w4", "simulated-w3")
    facts = kernel.artifact.quantization_facts.low_bit
    assert facts is not None and facts.form == "matmul_nbits" and facts.bits_per_weight == 4 + (32 + 4) / 16
    (note,) = kernel.artifact.quantization["notes"]
    assert note.endswith(f"of {facts.nodes} weights are rounded by what their layers read (gptq-act-order)")
    text = "\n".join(describe_export(done))
    assert f"with weights of 4 bits in groups of 16, {facts.bits_per_weight:.2f} bits per weight with scales" in text
    assert "simulated: the engine has no kernel for such weights" in text
    blind = export_model(request, "x86-ort", ("w4",), tmp_path / "b", options=options, threads=1)
    assert blind.files[0].artifact.quantization["notes"] == []
    assert blind.files[0].comparison.cosine > 0.9


def test_options_about_images_are_taken_where_images_are_read(net, tmp_path) -> None:
    request, calib = net
    check_calibration_options("x86", ["w4"], None, calib, None, None, 4)
    with pytest.raises(InputError, match="`method`: w4 files need no ranges; omit `method`"):
        check_calibration_options("x86", ["w4"], None, calib, None, "lp", 4)
    with pytest.raises(InputError, match="`num`: fp32 files need no ranges"):
        check_calibration_options("x86", ["fp32"], None, calib, None, None, 4)
    options = ExportOptions(weight_method="awq", group_size=8)
    done = export_model(request, "x86", ("w4",), tmp_path, calibration=CalibrationSource(calib, num=4),
                        options=options, threads=1)  # fmt: skip
    (file,) = done.files
    with open_session(file.artifact, "simulated-narrow", threads=1) as session:
        image = np.zeros([size or 1 for size in file.artifact.inputs[0].shape], np.float32)
        assert np.isfinite(next(iter(session.run({file.artifact.inputs[0].name: image}).values()))).all()
