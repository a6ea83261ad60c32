"""`edgeq check` and NVIDIA's compiler on a graph for each rule: they agree, or the reason stands here.

The compiler's verdicts are recorded (`tests.exporting.tensorrt.small_graphs`). Where it is installed it is asked again
for every graph that it refuses, and for one graph of each rule and kind of verdict; the recording command asks for all.
"""

from __future__ import annotations

import importlib.util

import onnx_ir as ir
import pytest

from edgeq.exporting.graphs.graph import WEIGHTED_OPS
from edgeq.exporting.tensorrt.check import Checked, check_graph
from edgeq.runtimes.tensorrt.compiled_log import is_known_version
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX
from tests.exporting.tensorrt.small_graphs import GRAPHS, compile_graphs, recorded, verdict

RECORDED = recorded()
VERDICTS = RECORDED["graphs"]

# Errors in graphs that the compiler takes.
TAKEN = {
    "opset 26": "no version 11 was seen to read it: TensorRT for RTX 1.7 is newer than the 11.0 that is checked",
    "scale infinite": "it computes something else than the file says",
    "scales of Q and DQ differ": "it computes something else than the file says",
    "FP32 scales, gemm": "it is computed, in FP32",
    "FP32 scales, matmul": "it is computed, in FP32",
    "attention, FP32": "it is computed, in FP32",
    "attention of one query, FP32": "it is computed, in FP32",
}
# Layers in another type than check says.
OTHERWISE = {
    "attention of one query, FP32": "one kernel computes it in FP32, whatever its pairs",
    "two equal layers": "the compiler merges them, and keeps the bias of one",
}


def check(name: str) -> tuple[Checked, dict[str, str]]:
    """Returns what check finds in a graph for TensorRT 11.0, and its layers -> what they multiply."""
    model = ir.from_proto(GRAPHS[name].model())
    layers = [str(node.name) for node in model.graph if node.op_type in WEIGHTED_OPS]
    checked = check_graph(model, (11, 0), strongly_typed=True)
    return checked, {layer: "int8" if layer in checked.int8_layers else "float" for layer in layers}


def test_every_graph_was_recorded_and_all_rules_have_one():
    assert list(VERDICTS) == list(GRAPHS)
    assert {graph.rule for graph in GRAPHS.values()} - {""} == {f"T{number}" for number in range(1, 17)}
    assert len(GRAPHS) >= 100 and is_known_version(RECORDED["library"].split()[-1])


@pytest.mark.parametrize("name", GRAPHS)
def test_check_says_what_the_compiler_says(name):
    checked, planned = check(name)
    found = VERDICTS[name]
    errors = {finding.rule for finding in checked.errors}
    if found["stage"] != "built":
        assert errors, "the compiler refuses what check takes"
        assert GRAPHS[name].rule in errors
        return
    assert bool(errors) == (name in TAKEN), (errors, TAKEN.get(name))
    compiled = {layer: "int8" if kind == "int8" else "float" for layer, kind in found["layers"].items()}
    assert (compiled == planned) == (name not in OTHERWISE), (compiled, planned)


def test_an_attention_is_advised_against_where_it_is_not_one_kernel():
    """Of those with all pairs; with one query there is nothing to gain by it."""
    for name, graph in GRAPHS.items():
        if graph.rule == "T16" and "qkavo" not in name and "pairs at" not in name and "one query" not in name:
            checked, _ = check(name)
            advised = any(finding.rule == "T16" for finding in checked.findings)
            fused = "int8 to int8" in VERDICTS[name].get("fused_attention", {})
            assert advised != fused or name == "attention in float, FP32", name


@pytest.mark.skipif(
    importlib.util.find_spec(TENSORRT_RTX.module) is None, reason="needs TensorRT for RTX: pip install 'edgeq[rtx]'"
)
def test_the_compiler_still_says_what_was_recorded():
    """In one process. After a new version record all graphs again, and read the difference."""
    names = _asked_again()
    assert len(names) >= 30 and {GRAPHS[name].rule for name in names} == {graph.rule for graph in GRAPHS.values()}
    assert {name: verdict(compiled) for name, compiled in compile_graphs(names).items()} == {
        name: VERDICTS[name] for name in names
    }


def _asked_again() -> list[str]:
    """Returns the graphs that are refused, and the first of each rule with its verdict.

    The one that ends the compiler's process is asked for in `tests.runtimes.tensorrt.test_compile`.
    """
    first: dict[object, str] = {}
    for name, found in VERDICTS.items():
        kinds = frozenset(found.get("layers", {}).values()), frozenset(found.get("fused_attention", {}))
        case = name if found["stage"] == "parser" else (GRAPHS[name].rule, found["stage"], kinds)
        first.setdefault(case, name)
    return [name for name in first.values() if VERDICTS[name]["stage"] != "died"]
