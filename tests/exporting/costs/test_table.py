"""Tables of kernel costs: as files, and for kernels that they lack."""

from __future__ import annotations

import dataclasses

import pytest

from edgeq.errors import InputError
from edgeq.exporting.costs.kernel import Kernel
from edgeq.exporting.costs.table import SHIPPED, KernelCost, KernelTable, read_table, shipped_table, write_table

SMALL = Kernel.parse("Conv 16>16 40x40 k1x1 s1x1 d1 g1 Relu")
LARGE = Kernel.parse("Conv 64>64 40x40 k1x1 s1x1 d1 g1 Relu")
TABLE = KernelTable(
    "openvino", "1.2", "a CPU, with a comma", ("avx2",), 2, "measured",
    {SMALL: KernelCost(10.0, 6.0, None, 1.0, 2.0, 3.0), LARGE: KernelCost(100.0, 30.0, 50.5)}, "in a test",
)  # fmt: skip


def test_a_table_is_read_back_as_one_that_was_not_measured_here(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(write_table(TABLE))
    assert read_table(path) == dataclasses.replace(TABLE, obtained="shipped")
    assert "measured on this machine" in TABLE.source
    assert read_table(path).source == "shipped, of a CPU, with a comma (openvino 1.2, 2 threads)"


@pytest.mark.parametrize(
    "content", ["", "kernel,f32_us\n", "# engine: x\nkernel,f32_us,int8_us\nConv,1,2\n", "f32_us\n-1\n"]
)
def test_a_broken_table_is_one_line(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(InputError, match="is not a table of kernel costs"):
        read_table(path)


def test_a_kernel_that_the_table_lacks_costs_what_the_nearest_does_by_its_work():
    wider = dataclasses.replace(LARGE, outputs=128)
    assert TABLE.cost(wider) == KernelCost(200.0, 60.0, 101.0)
    shorter = dataclasses.replace(SMALL, height=20)
    assert TABLE.cost(shorter) == KernelCost(5.0, 3.0, None, 0.5, 1.0, 1.5)
    assert TABLE.cost(SMALL) == TABLE.rows[SMALL]
    assert TABLE.cost(dataclasses.replace(SMALL, kernel=(3, 3))) is None


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_time_is_a_finite_number(value):
    with pytest.raises(ValueError, match="expected finite"):
        KernelCost(value, 1.0)


def test_what_is_converted_counts_at_both_ends():
    assert TABLE.rows[SMALL].converted_us == 9.0


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_table_is_shipped_for_cpus_with_and_without_vnni(engine):
    without, vnni, amx = (
        shipped_table(engine, features) for features in (["avx2"], ["avx2", "avx512_vnni"], ["avx2", "amx_int8"])
    )
    assert without is not None and vnni is not None and without != vnni == amx
    assert "avx512_vnni" in vnni.cpu_features and "avx512_vnni" not in without.cpu_features
    assert all(table.how and table.version and not table.is_measured for table in (without, vnni))
    # What no engine disputes: a dense 3x3 convolution of 64 channels gains by INT8, on VNNI most.
    dense = Kernel.parse("Conv 64>64 40x40 k3x3 s1x1 d1 g1 Relu")
    ratios = [cost.int8_us / cost.f32_us for table in (vnni, without) if (cost := table.cost(dense)) is not None]
    assert len(ratios) == 2 and ratios[0] < 0.35 < ratios[1] < 0.75


def test_no_table_is_shipped_for_other_cpus_and_engines():
    assert shipped_table("openvino", ["asimd"]) is None
    assert shipped_table("litert", ["avx2"]) is None
    assert {path.suffix for path in SHIPPED.iterdir()} == {".csv"}
