"""The benchmarks of kernel costs, on a small model; what kernels take is made up."""

from __future__ import annotations

import pytest

from benchmarks import export_cost, kernel_prediction, kernel_tables, x86_peak
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.costs.kernel import Kernel
from edgeq.exporting.costs.table import KernelCost, read_table
from edgeq.machine import read_machine
from edgeq.measurement import kernel_tables as measured_tables
from edgeq.runtimes import is_installed
from edgeq.verbs import export
from tests.benchmarks.conftest import table

pytestmark = pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")


@pytest.fixture(autouse=True)
def timed(monkeypatch):
    """Every kernel takes a microsecond per multiplication in FP32, half of it in BF16, a quarter in INT8."""

    def time_some(engine, kernels, *_):
        works = {kernel: float(kernel.macs or 1) for kernel in kernels}
        bf16 = {kernel: work / 2 if engine.has_bf16 else None for kernel, work in works.items()}
        return {kernel: KernelCost(work, work / 4, bf16[kernel]) for kernel, work in works.items()}

    for module in (kernel_prediction, kernel_tables, x86_peak, measured_tables):
        monkeypatch.setattr(module, "time_kernels", time_some)
    monkeypatch.setattr(kernel_prediction, "_ROUNDS", 1)


@pytest.fixture
def images(subject) -> CalibrationSource:
    return CalibrationSource(subject.calibration, subject.calibration_images, "minmax", 2)


def test_kernel_prediction(subject, images, tmp_path):
    rows = table(kernel_prediction.run({"shapes": subject.request}, images, 1, tmp_path))
    assert {("shapes", "openvino"), ("shapes", "onnxruntime")} <= rows.keys()
    assert all(float(cell) > 0 for cell in rows["shapes", "openvino"][6:7])


def test_x86_peak(subject, images, tmp_path, monkeypatch):
    models, work = {"shapes": subject.request}, tmp_path / "work"
    x86_peak.prepare_all(models, images, read_machine(), work)
    monkeypatch.setattr(x86_peak, "prepare", None)  # what is written is not written again
    result = x86_peak.run(models, images, 1, tmp_path, work).read_text()
    assert "f32 0 GMAC/s" in result and "int8 0 GMAC/s" in result
    assert result.count(", INT8): ") + result.count(", FP32): ") == 3


def test_an_export_times_kernels_once_and_leaves_the_users_cache_alone(subject, images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(export, "with_speed", lambda files, *_: files)
    monkeypatch.setattr(export_cost, "TARGETS", ("x86-openvino",))
    models, work = {"shapes": subject.request}, tmp_path / "work"
    row = table(export_cost.run(models, images, 1, tmp_path, work))["shapes", "x86-openvino"]
    assert all(float(cell) > 0 for cell in row[:3])
    assert int(row[3]) > 5
    assert row[4] != "too busy to time"
    assert not (tmp_path / "cache").exists()


def test_kernel_tables(tmp_path):
    kernel = Kernel("Conv", 8, 8, 4, 4)
    paths = kernel_tables.run([kernel], 1, tmp_path)
    assert [read_table(path).rows[kernel].f32_us for path in paths] == [1024.0, 1024.0]
    assert len(set(kernel_tables.kernels())) > 150


def test_figures_of_another_machine_become_tables(tmp_path):
    source = tmp_path / "figures.csv"
    source.write_text("engine,kind,C,HW,f32_us,int8_us,conv_in_out_us\nov,dw3x3,16,20,10.0,12.0,6.0\n")
    openvino, onnxruntime = map(read_table, kernel_tables.convert(source, tmp_path))
    assert openvino.rows == {Kernel.parse("Conv 16>16 20x20 k3x3 s1x1 d1 g16 Relu"): KernelCost(10, 12, None, 3, 3, 3)}
    assert onnxruntime.rows == {} and "figures.csv" in openvino.how
