"""NNCF's `quantize_with_accuracy_control` on a model and images of edgeq, scored by edgeq's task, in a fresh process.

`PYTHON -m benchmarks.nncf_accuracy_control JOB.json` reads what to do and prints one JSON line: seconds of the CPU, how
many images were scored, and which layers ended in INT8; or why there is no file. What NNCF quantizes before it looks at
the score is written too. The environment needs nncf, the engine and edgeq's base install.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from edgeq.boundary import read_json
from edgeq.inputs import evenly_spaced
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.sources.artifact_file import open_artifact
from edgeq.tasks import find_decoder

Inference = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""An input -> the outputs by their names."""


@dataclasses.dataclass(frozen=True)
class ControlJob:
    """What is to be done.

    Attributes:
        model: FP32 file with its manifest.
        runtime: `openvino`, or `onnxruntime`, whose files are ONNX.
        calibration: Folder or annotations of the images to calibrate on.
        calibration_images: Folder that annotations start from; empty without one.
        calibration_num: How many of them are taken.
        truth: Annotations or labels of the images to score on.
        images: Folder of these.
        max_drop: Points that may be lost.
        is_transformer: Whether NNCF is told that the model is one.
        threads: CPU threads of the engine.
        cpu_minutes: Time of all threads after which there is no file.
        out: File for the result, OpenVINO IR or ONNX; that before any control is called `plain` there.
    """

    model: str
    runtime: str
    calibration: str
    calibration_images: str
    calibration_num: int
    truth: str
    images: str
    max_drop: float
    is_transformer: bool
    threads: int
    cpu_minutes: float
    out: str


class TimeOverError(Exception):
    """The CPU's time is used up."""


def control(job: ControlJob) -> dict[str, Any]:
    """Returns what NNCF took, after writing its files."""
    import nncf

    artifact = open_artifact(Path(job.model))
    post, spec = artifact.postprocessing, artifact.preprocessing
    assert post is not None
    assert spec is not None
    decoder = find_decoder(post)
    task = decoder.task.from_files(Path(job.truth), Path(job.images), "pycocotools")
    folder = Path(job.calibration_images) if job.calibration_images else None
    chosen = evenly_spaced(list_images(Path(job.calibration), folder), job.calibration_num)
    calibrated = [preprocess(read_image(path), spec)[0] for path in chosen]
    scored = [preprocess(read_image(path), spec) for path in task.paths]
    backend, plain = BACKENDS[job.runtime], Path(job.out).with_name("plain")
    plain.mkdir(parents=True, exist_ok=True)
    images = 0

    def validate(model: Any, numbers: Iterable[int]) -> tuple[float, None]:
        nonlocal images
        predictions = {}
        infer = backend.inference(model, job.threads)
        for number in numbers:
            array, placement = scored[number]
            predictions[number] = decoder.decode(infer(array), post, placement)
        images += len(predictions)
        value = task.score(artifact, predictions, {}).main_value
        return (0.0 if value is None else value), None

    model = backend.read(job)
    (feed,) = artifact.inputs
    inputs = [{feed.name: array} for array in calibrated] if job.runtime == "onnxruntime" else calibrated
    begin = time.process_time()
    try:
        model = nncf.quantize_with_accuracy_control(
            model,
            calibration_dataset=nncf.Dataset(inputs),
            validation_dataset=nncf.Dataset(range(len(scored))),
            validation_fn=validate,
            max_drop=job.max_drop / 100,
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset.MIXED,
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                intermediate_model_dir=str(plain)
            ),
            **({"model_type": nncf.ModelType.TRANSFORMER} if job.is_transformer else {}),
        )
    except TimeOverError:
        passes = images / len(scored)
        return {"why": f"not done in {job.cpu_minutes:g} minutes of the CPU; it had scored {passes:.1f} passes"}
    seconds = time.process_time() - begin
    backend.write(model, job.out)
    answer = {"seconds": seconds, "passes": images / len(scored), "nncf": nncf.__version__}
    return answer | {"layers": backend.int8_layers(model)}


class OpenVino:
    """Models of OpenVINO."""

    @staticmethod
    def read(job: ControlJob) -> Any:
        """Returns the float model."""
        import openvino

        core = openvino.Core()
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": job.threads, "INFERENCE_PRECISION_HINT": "f32"})
        return core.read_model(job.model)

    @staticmethod
    def inference(compiled: Any, _threads: int) -> Inference:
        """Returns what runs a model, which NNCF has compiled."""

        def infer(array: np.ndarray) -> Mapping[str, np.ndarray]:
            found = compiled(array)
            return {name: np.asarray(found[port]) for port in compiled.outputs for name in port.get_names()}

        return infer

    @staticmethod
    def write(model: Any, out: str) -> None:
        """Writes a model."""
        import openvino

        openvino.save_model(model, out, compress_to_fp16=False)

    @staticmethod
    def int8_layers(model: Any) -> int:
        """Returns how many layers read what was quantized."""
        layers = [
            node for node in model.get_ops() if node.get_type_name() in {"Convolution", "GroupConvolution", "MatMul"}
        ]
        return sum(node.input_value(0).get_node().get_type_name() == "FakeQuantize" for node in layers)


class OnnxRuntime:
    """ONNX models."""

    @staticmethod
    def read(job: ControlJob) -> Any:
        """Returns the float model."""
        import onnx

        return onnx.load(job.model)

    @staticmethod
    def inference(model: Any, threads: int) -> Inference:
        """Returns what runs a model."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        name, outputs = session.get_inputs()[0].name, [each.name for each in session.get_outputs()]
        return lambda array: dict(zip(outputs, session.run(outputs, {name: array}), strict=True))

    @staticmethod
    def write(model: Any, out: str) -> None:
        """Writes a model."""
        import onnx

        onnx.save(model, out)

    @staticmethod
    def int8_layers(model: Any) -> int:
        """Returns how many layers read what was quantized."""
        dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        layers = [node for node in model.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
        return sum(node.input[0] in dequantized for node in layers)


BACKENDS: Mapping[str, type[OpenVino | OnnxRuntime]] = {"openvino": OpenVino, "onnxruntime": OnnxRuntime}


def end_after(cpu_minutes: float) -> None:
    """Has `TimeOverError` raised as soon as this process has used so much of the CPU."""

    def over(_signal: int, _frame: FrameType | None) -> None:
        raise TimeOverError

    signal.signal(signal.SIGXCPU, over)
    soft = math.ceil(60 * cpu_minutes)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, 2 * soft))


def main() -> None:
    logging.disable(logging.WARNING)
    job = read_json(Path(sys.argv[1]), ControlJob, kind="a job of this benchmark")
    end_after(job.cpu_minutes)
    print(json.dumps(control(job)))


if __name__ == "__main__":
    main()
