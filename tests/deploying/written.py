"""Small files with manifests as `edgeq export` writes them, and the folders that `edgeq deploy` makes of them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.files import sha256_file

PREPROCESSING = Preprocessing(8, 12, "letterbox", "bgr", 1.0, fill=114.0)


def save_model(
    path: Path,
    *,
    target: str = "x86",
    precision: str = "int8",
    batch: int | None = 1,
    names: tuple[str, str] = ("image", "scores"),
    labels: Sequence[str] = ("cat", "dog"),
    preprocessing: Preprocessing | None = PREPROCESSING,
    quantization: Mapping[str, Any] | None = None,
    operator: str = "Relu",
) -> Artifact:
    """Returns the artifact of a model of one node, after writing both; a TFLite file holds a few bytes."""
    channels = 3 if preprocessing is None else preprocessing.channels
    shape = (batch, channels, 8, 12)
    if path.suffix == ".onnx":
        _save_onnx(path, shape, names, operator)
    else:
        path.write_bytes(b"TFL3" + precision.encode())
    return Artifact(
        path=path,
        format="openvino" if path.suffix == ".xml" else path.suffix[1:],
        precision=precision,
        target=target,
        inputs=(TensorSpec(names[0], "float32", shape),),
        outputs=(TensorSpec(names[1], "float32", shape),),
        preprocessing=preprocessing,
        postprocessing=Postprocessing("classification"),
        labels=tuple(labels),
        source_digest="one model",
        quantization=dict(quantization or {}),
    ).save()


def save_with_cache(folder: Path, stem: str = "net", **facts: Any) -> list[Path]:
    """Returns the FP32 and the INT8 file for jetson-orin, after writing them with a calibration cache."""
    float_file = save_model(folder / f"{stem}.fp32.onnx", target="jetson-orin", precision="fp32")
    cache = folder / f"{stem}.int8.cache"
    cache.write_text("TRT-100300-EntropyCalibration2\nimage: 3c010a14\n")
    stated = {"file": cache.name, "float_file": float_file.name, "digest": sha256_file(cache), "tensors": 1}
    quantization = {"calibration_cache": stated, **facts}
    int8 = save_model(folder / f"{stem}.int8.onnx", target="jetson-orin", quantization=quantization)
    return [float_file.path, int8.path]


def with_preprocessing(**changes: Any) -> Preprocessing:
    """Returns the pre-processing of these models with other values."""
    return dataclasses.replace(PREPROCESSING, **changes)


def run_script(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Returns what a script of a folder did, called from its folder with nothing else in the environment."""
    return subprocess.run(
        ["/bin/sh", str(script), *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=script.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def write_program(path: Path, text: str) -> str:
    """Returns the path of a program, after writing a shell script there."""
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return str(path)


def recorder(folder: Path, says: str = "") -> tuple[str, Path]:
    """Returns a program that notes its arguments, each followed by a NUL and each call by a newline, and its notes."""
    notes = folder / "calls"
    text = f"printf '%s\\0' \"$@\" >>{notes}\nprintf '\\n' >>{notes}\n{says}"
    return write_program(folder / "program", text), notes


def calls(notes: Path) -> list[list[str]]:
    """Returns the arguments of each call that a `recorder` noted."""
    return [call.split("\0") for call in notes.read_text().split("\0\n")[:-1]]


def _save_onnx(path: Path, shape: tuple[int | None, ...], names: tuple[str, str], operator: str) -> None:
    import onnx
    from onnx import TensorProto, helper

    lengths = [length or "N" for length in shape]
    initializers = []
    inputs = [names[0]]
    if operator == "LayerNormalization":
        inputs.append("weight")
        initializers.append(helper.make_tensor("weight", TensorProto.FLOAT, [12], [1.0] * 12))
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, [names[1]], name="node")],
        "net",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, lengths)],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, lengths)],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
