"""Saturation on x86 CPUs without VNNI, seen from the commands: export, check, eval."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.evaluation.saturation_warning import warn_of_saturation
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.options import ExportOptions
from edgeq.machine import Machine, read_machine
from edgeq.sources.model import ModelRequest
from edgeq.verbs.check_saturation import check_saturation
from edgeq.verbs.export import export_model
from tests.exact import KERNELS_ARE_EXACT

pytestmark = pytest.mark.kernels


@pytest.fixture(scope="module")
def files(small_onnx, drawn, tmp_path_factory) -> dict[str, Artifact]:
    """One file for each isa, of the same ranges."""
    folder = tmp_path_factory.mktemp("files")
    source = CalibrationSource(drawn.annotations, drawn.folder, method="minmax")
    found = {}
    for isa in ("any", "vnni"):
        request = ModelRequest(str(small_onnx), preset="centernet")
        options = ExportOptions(isa=isa)
        result = export_model(request, "x86", ("int8",), folder / isa, calibration=source, options=options)
        found[isa] = result.files[0].artifact
        source = CalibrationSource(result.ranges_path or source.source)
    return found


@pytest.fixture
def old_cpu() -> Machine:
    return dataclasses.replace(read_machine(), architecture="x86_64", cpu_features=("avx2",))


def test_the_manifest_says_for_which_cpus_and_at_what_cost(files):
    safe, plain = (Artifact.load(files[isa].path).quantization_facts.saturation for isa in ("any", "vnni"))
    assert safe is not None and plain is not None
    assert (safe.isa, plain.isa) == ("any", "vnni")
    assert safe.fitted_channels + len(safe.wide_grids) > 0 and safe.costs_db is not None
    assert plain.fitted_channels == 0 and plain.costs_db is None


def test_check_names_layers_and_channels_that_saturate(edgeq, files, drawn, tmp_path):
    plain, safe = files["vnni"].path, files["any"].path
    done = edgeq("check", plain, "--isa", "avx2", "--images", drawn.folder, "--json", tmp_path / "found.json")
    assert done.code == 1
    assert " saturates in " in done.out and "% of its sums wrong" in done.out and "written for: vnni" in done.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["isa"], found["written_for"], found["images"]) == ("avx2", "vnni", 16)
    for engine in found["engines"]:
        worst = [layer for layer in engine["layers"] if layer["saturated"]]
        assert worst and all(set(layer["saturated"]) <= set(layer["can_saturate"]) for layer in worst)
        assert engine["snr_db"] is not None
    for wrong, fitted in zip(found["engines"], check_saturation(safe, "avx2", drawn.folder).engines, strict=True):
        # Activations of the INT8 file may be a little beyond those that calibration saw in float: what they add is 10
        # and 21 dB below what saturation adds to the other file, or a few tenths less with another CPU's float kernels.
        assert fitted.snr_db is None or fitted.snr_db > wrong["snr_db"] + (10 if KERNELS_ARE_EXACT else 9)
    assert "INT8 layers" in edgeq("check", plain, "--isa", "any").out
    done = edgeq("check", plain, "--isa", "vnni")
    assert done.out.strip() == f"{plain.name}: CPUs with vnni add INT8 products exactly; nothing can saturate"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--isa", "sse4"], "--isa sse4: known are avx2, vnni, amx, any"),
        (["--isa", "avx2", "--target", "jetson-orin"], "is for x86 engines; omit --target"),
        (["--images", "."], "are for --isa"),
    ],
)
def test_options_that_mean_nothing_are_refused(edgeq, files, options, reason):
    done = edgeq("check", files["any"].path, *options)
    assert done.code == 1 and reason in done.err and len(done.err.splitlines()) == 1


def test_a_file_for_other_cpus_is_warned_of_where_it_is_wrong(files, old_cpu, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_saturation(files["any"], "openvino", old_cpu)
        warn_of_saturation(files["vnni"], "litert", old_cpu)
        new = dataclasses.replace(old_cpu, cpu_features=("avx2", "avx_vnni"))
        warn_of_saturation(files["vnni"], "openvino", new)
        assert not caplog.records
        warn_of_saturation(files["vnni"], "openvino", old_cpu)
    (record,) = caplog.records
    assert "this CPU has no VNNI and the file is for vnni; export it with `isa` avx2" in record.getMessage()


def test_scores_of_a_cpu_without_vnni_are_labelled(files, drawn):
    (result,) = evaluate_artifacts([files["any"].path], drawn.annotations, drawn.folder, simulate="x86-avx2")
    assert (result.runtime, result.obtained) == ("simulated-avx2-openvino", "simulated")
    assert "AVX2 without VNNI" in (result.environment.engine or "")


def test_an_isa_is_for_integers_on_x86(edgeq, small_onnx, tmp_path):
    for options, reason in (
        (["--target", "x86", "--precision", "fp32"], "changes dynamic, int8, w4a8 onnx files"),
        (["--target", "jetson-orin", "--precision", "int8"], "jetson-orin has no x86 engines"),
    ):
        done = edgeq("export", small_onnx, "--preset", "centernet", "--isa", "avx2", "--out", tmp_path / "o", *options)
        assert done.code == 1 and reason in done.err
    assert not Path(tmp_path / "o").exists()
