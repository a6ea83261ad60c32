"""An export for x86 by kernel costs: what it asks for, and what the file and its manifest say."""

from __future__ import annotations

import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.cli.export_console import describe_export
from edgeq.errors import InputError
from edgeq.exporting.costs.table import KernelCost, KernelTable
from edgeq.sources.model import ModelRequest
from edgeq.verbs import export_costs
from edgeq.verbs.export import ExportResult, export_model
from edgeq.verbs.export_costs import default_plan


@pytest.fixture
def export(small_onnx, drawn, tmp_path):
    def write(target: str = "x86", plan: str = "cost", measure_speed: bool = False) -> ExportResult:
        return export_model(
            ModelRequest(str(small_onnx), preset="centernet"),
            target,
            ["int8"],
            tmp_path,
            calibration=CalibrationSource(drawn.annotations, drawn.folder, method="minmax", num=2),
            formats=["onnx"],
            threads=1,
            measure_speed=measure_speed,
            plan=plan,  # type: ignore[arg-type]
        )

    return write


@pytest.fixture
def tables(monkeypatch):
    """Tables in which INT8 gains in stems alone; what they are asked for is kept."""
    asked = []

    def costs(runtime, kernels, *, threads, measure):
        asked.append((runtime, threads, measure))
        rows = {kernel: KernelCost(9.0, 3.0 if kernel.is_stem else 12.0) for kernel in kernels}
        return KernelTable(runtime, "1.2", "a CPU", ("avx2",), 1, "shipped", rows)

    monkeypatch.setattr(export_costs, "costs_here", costs)
    return asked


def test_only_layers_that_gain_run_in_int8_and_the_others_say_why(export, tables):
    result = export()
    facts = result.files[0].artifact.quantization_facts
    assert tables == [("openvino", 1, False)]
    assert facts.int8_nodes == 1
    slow = [reason for reason in facts.float_nodes.values() if reason == "INT8 is no faster: 12 us against 9 in float"]
    assert len(slow) > 5
    assert facts.kernel_costs is not None and not facts.kernel_costs.measured
    assert facts.kernel_costs.float_us - facts.kernel_costs.predicted_us == 6.0
    lines = describe_export(result)
    assert any(f"{len(slow)} in float, INT8 is no faster: " in line for line in lines)
    assert any("layers chosen by kernel costs shipped, of a CPU (openvino 1.2, 1 thread):" in line for line in lines)


def test_the_rules_alone_ask_for_no_costs(export, tables):
    facts = export(plan="rules").files[0].artifact.quantization_facts
    assert tables == [] and facts.kernel_costs is None and facts.int8_nodes is not None and facts.int8_nodes > 5


def test_other_devices_are_planned_by_their_rules(export, tables):
    export("jetson-orin")
    assert tables == []


def test_an_unknown_plan_is_refused():
    with pytest.raises(InputError, match="`plan` price: expected one of cost, rules"):
        default_plan("price")
