"""NNCF's `quantize_with_accuracy_control` on a model and images of edgeq, scored by edgeq's task, in a fresh process.

`PYTHON -m benchmarks.nncf_accuracy_control JOB.json` reads what to do and prints one JSON line: seconds, and how many
images were scored. The environment needs nncf, openvino and edgeq's base install.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.boundary import read_json
from edgeq.inputs import evenly_spaced
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.sources.artifact_file import open_artifact
from edgeq.tasks import find_decoder


@dataclasses.dataclass(frozen=True)
class ControlJob:
    """What is to be done.

    Attributes:
        model: FP32 file with its manifest.
        calibration: Folder or annotations of the images to calibrate on.
        calibration_images: Folder that annotations start from; empty without one.
        calibration_num: How many of them are taken.
        truth: Annotations or labels of the images to score on.
        images: Folder of these.
        max_drop: Points that may be lost.
        is_transformer: Whether NNCF is told that the model is one.
        threads: CPU threads of OpenVINO.
        out: File for the result, OpenVINO IR.
    """

    model: str
    calibration: str
    calibration_images: str
    calibration_num: int
    truth: str
    images: str
    max_drop: float
    is_transformer: bool
    threads: int
    out: str


def control(job: ControlJob) -> dict[str, Any]:
    """Returns what NNCF took, after writing its file."""
    import nncf
    import openvino

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
    images = 0

    def validate(compiled: Any, numbers: Iterable[int]) -> tuple[float, None]:
        nonlocal images
        predictions = {}
        for number in numbers:
            array, placement = scored[number]
            predictions[number] = decoder.decode(_named(compiled, array), post, placement)
        images += len(predictions)
        value = task.score(artifact, predictions, {}).main_value
        return (0.0 if value is None else value), None

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": job.threads, "INFERENCE_PRECISION_HINT": "f32"})
    begin = time.monotonic()
    model = nncf.quantize_with_accuracy_control(
        core.read_model(job.model),
        calibration_dataset=nncf.Dataset(calibrated),
        validation_dataset=nncf.Dataset(range(len(scored))),
        validation_fn=validate,
        max_drop=job.max_drop / 100,
        drop_type=nncf.DropType.ABSOLUTE,
        preset=nncf.QuantizationPreset.MIXED,
        **({"model_type": nncf.ModelType.TRANSFORMER} if job.is_transformer else {}),
    )
    seconds = time.monotonic() - begin
    openvino.save_model(model, job.out, compress_to_fp16=False)
    return {"seconds": seconds, "passes": images / len(scored), "nncf": nncf.__version__}


def _named(compiled: Any, array: np.ndarray) -> Mapping[str, np.ndarray]:
    found = compiled(array)
    return {port.get_any_name(): np.asarray(found[port]) for port in compiled.outputs}


def main() -> None:
    logging.disable(logging.WARNING)
    job = read_json(Path(sys.argv[1]), ControlJob, kind="a job of this benchmark")
    print(json.dumps(control(job)))


if __name__ == "__main__":
    main()
