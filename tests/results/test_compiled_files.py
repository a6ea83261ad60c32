"""What check and export wrote of NVIDIA's compiler is read as it was; anything else is one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeq.errors import InputError
from edgeq.results.compilation import Compilation, CompiledFile, LayerGroup, NodePrecision
from edgeq.results.compiled_files import read_compiled, require_compiled
from edgeq.results.serialization import RESULTS_VERSION, to_json
from tests.reporting.made import BUILT, REFUSED, make_check


def write(path, document: Any):
    path.write_text(json.dumps(document))
    return path


def test_a_check_is_read_as_it_was_written(tmp_path):
    (found,) = read_compiled(write(tmp_path / "check.json", make_check("net.onnx", BUILT)))
    assert found == CompiledFile("net.onnx", "net.onnx" * 8, "rtx", BUILT)


def test_of_an_export_those_files_are_read_that_were_compiled(tmp_path):
    files: list[dict[str, Any]] = [
        {"file": f"out/net.{name}.onnx", "manifest": "m", "target": "rtx", "comparison": {}, "digest": name}
        for name in ("fp16", "int8", "fp8")
    ]
    for entry, compiled in zip(files, (BUILT, REFUSED), strict=False):
        entry["compiled"] = to_json(compiled)
    found = require_compiled(write(tmp_path / "export.json", {"files": files, "ranges": None}))
    assert [(each.name, each.digest, each.compiled) for each in found] == [
        ("net.fp16.onnx", "fp16", BUILT),
        ("net.int8.onnx", "int8", REFUSED),
    ]


def test_layers_are_counted_by_what_they_became():
    layers = [
        NodePrecision("a", "Conv", "int8", "int8", "int8", True),
        NodePrecision("b", "Conv", "float", "fp16", "", True),
        NodePrecision("c", "Conv", "int8", "int8", "int8", True),
        NodePrecision("d", "MatMul", "int8", "", "", False, "folded"),
    ]
    made = Compilation("TensorRT for RTX 1.7", "SM86", "built", nodes=tuple(layers))
    assert made.groups == (
        LayerGroup("Conv", "float", "fp16", "", 1),
        LayerGroup("Conv", "int8", "int8", "int8", 2),
        LayerGroup("MatMul", "int8", "", "", 1),
    )
    assert (made.agreeing, made.by_precision) == (3, {"int8": 2, "fp16": 1, "unknown": 1})
    assert (made.is_wrong, REFUSED.is_wrong) == (False, True)


def test_results_without_the_compiler_or_of_a_newer_edgeq_are_a_line(tmp_path):
    plain = make_check("net.onnx", BUILT)
    newer = write(tmp_path / "newer.json", {**plain, "results_version": RESULTS_VERSION + 1})
    with pytest.raises(InputError, match="update edgeq"):
        read_compiled(newer)
    del plain["compiled"]
    path = write(tmp_path / "check.json", plain)
    assert read_compiled(path) == ()
    with pytest.raises(InputError, match=r"check\.json: no file was compiled; wanted .* with `compile`"):
        require_compiled(path)
    plain["compiled"] = {"library": "x", "sm": "SM86", "stage": "halfway"}
    with pytest.raises(InputError, match=r"\$\.compiled\.stage"):
        read_compiled(write(path, plain))
