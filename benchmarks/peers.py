"""Calibrates and quantizes with edgeq or a peer in a fresh process, and reports what it took.

`python -m benchmarks.peers nncf MODEL IMAGES OUT` prints one JSON line: seconds, peak memory and the memory before the
work began. IMAGES is a text file of paths; all tools read them through the same pre-processing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.calibration.calibrate import DEFAULT_METHOD, calibrate
from edgeq.evaluation.execution_site import Here
from edgeq.exporting.artifact import Artifact
from edgeq.inputs import evenly_spaced
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.machine import peak_rss_bytes

Work = Callable[[], None]


def run_peer(tool: str, model: Path, images: Path, out: Path) -> dict[str, Any]:
    """Returns what a tool took, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.peers", tool, str(model), str(images), str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        sys.exit(f"{tool} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def quantize(tool: str, fp32: Artifact, images: Path, path: Path) -> Artifact:
    """Returns the INT8 file that a peer made of an FP32 file, with a manifest so that edgeq can score and time it."""
    run_peer(tool, fp32.path, images, path)
    kind = "openvino" if path.suffix == ".xml" else "onnx"
    return dataclasses.replace(fp32, path=path, precision="int8", format=kind).save()


class AnyFormat(Here):
    """This machine, running each file in the runtimes named.

    edgeq scores files of the formats that it writes; NNCF's OpenVINO IR is none of them, though OpenVINO opens it.
    """

    def choose_runtimes(self, artifact: Artifact, wished: Sequence[str]) -> list[str]:
        """Returns the runtimes that were named, whatever formats they declare."""
        return list(wished)


def size_bytes(artifact: Artifact) -> int:
    """Returns the size of a file, including the weights that OpenVINO IR keeps in a second one."""
    weights = artifact.path.with_suffix(".bin")
    return artifact.size_bytes + (weights.stat().st_size if artifact.format == "openvino" else 0)


def write_listing(path: Path, images: Sequence[Path], count: int) -> Path:
    """Returns a text file of image paths, written to name `count` of them, evenly spaced."""
    path.write_text("\n".join(str(image.resolve()) for image in evenly_spaced(images, count)))
    return path


def _arrays(artifact: Artifact, images: Path) -> Iterator[np.ndarray]:
    assert artifact.preprocessing is not None
    for path in list_images(images):
        yield preprocess(read_image(path), artifact.preprocessing)[0]


# Each function imports and opens what its tool needs and returns the work to be timed.


def _plain(artifact: Artifact, images: Path, out: Path) -> Work:
    from edgeq.runtimes import open_session

    session = open_session(artifact, {"onnx": "onnxruntime", "tflite": "litert"}[artifact.format], 2)
    (spec,) = artifact.inputs

    def work() -> None:
        for array in _arrays(artifact, images):
            session.run({spec.name: spec.encode(array)})

    return work


def _edgeq(artifact: Artifact, images: Path, out: Path, method: str = DEFAULT_METHOD) -> Work:
    from edgeq.exporting.graphs.graph import read_onnx
    from edgeq.exporting.onnx.writer import FloatModel
    from edgeq.exporting.passes.cleaning import clean

    assert artifact.preprocessing is not None
    graph = read_onnx(artifact.path)
    clean(graph)
    model = FloatModel("model", graph, artifact.preprocessing)
    paths = list_images(images)

    def work() -> None:
        calibrate(model, paths, out, method=method, num=len(paths), threads=2)

    return work


def _edgeq_tflite(artifact: Artifact, images: Path, out: Path) -> Work:
    from edgeq.exporting.tflite.writer import TfliteModel

    assert artifact.preprocessing is not None
    model = TfliteModel("model", artifact.path.read_bytes(), artifact.preprocessing)
    paths = list_images(images)

    def work() -> None:
        calibrate(model, paths, out, num=len(paths), threads=2)

    return work


def _ai_edge_quantizer(artifact: Artifact, images: Path, out: Path) -> Work:
    from ai_edge_quantizer import quantizer, recipe

    worker = quantizer.Quantizer(str(artifact.path))
    worker.load_quantization_recipe(recipe.static_wi8_ai8())
    (spec,) = artifact.inputs

    def work() -> None:
        samples = [{spec.name: spec.encode(array)} for array in _arrays(artifact, images)]
        worker.calibrate({"serving_default": samples}, num_threads=2)

    return work


def _nncf(artifact: Artifact, images: Path, out: Path, *, transformer: bool = False) -> Work:
    import nncf
    import openvino

    model = openvino.Core().read_model(artifact.path)
    preset = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}

    def work() -> None:
        arrays = list(_arrays(artifact, images))
        quantized = nncf.quantize(model, nncf.Dataset(arrays), subset_size=len(arrays), **preset)
        openvino.save_model(quantized, out, compress_to_fp16=False)

    return work


def _nncf_onnx(artifact: Artifact, images: Path, out: Path) -> Work:
    import nncf
    import onnx

    model = onnx.load(artifact.path)

    def work() -> None:
        arrays = [{artifact.inputs[0].name: array} for array in _arrays(artifact, images)]
        dataset = nncf.Dataset(arrays)
        quantized = nncf.quantize(
            model, dataset, subset_size=len(arrays), model_type=nncf.ModelType.TRANSFORMER
        )  # fmt: skip
        onnx.save(quantized, out)

    return work


def _quantize_static(
    artifact: Artifact, images: Path, out: Path, *, unsigned: bool = False, entropy: bool = False
) -> Work:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._arrays = _arrays(artifact, images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            array = next(self._arrays, None)
            return None if array is None else {artifact.inputs[0].name: array}

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(artifact.path), str(prepared))

    def work() -> None:
        quantize_static(
            str(prepared),
            str(out),
            Reader(),
            activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Entropy if entropy else CalibrationMethod.MinMax,
        )

    return work


TOOLS: dict[str, Callable[[Artifact, Path, Path], Work]] = {
    "plain": _plain,
    "edgeq": _edgeq,
    "edgeq-entropy": partial(_edgeq, method="entropy"),
    "edgeq-tflite": _edgeq_tflite,
    "ai-edge-quantizer": _ai_edge_quantizer,
    "nncf": _nncf,
    "nncf-transformer": partial(_nncf, transformer=True),
    "nncf-transformer-onnx": _nncf_onnx,
    "ort-u8s8": partial(_quantize_static, unsigned=True),
    "ort-u8s8-entropy": partial(_quantize_static, unsigned=True, entropy=True),
    "ort-s8s8": _quantize_static,
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("model", type=Path, help="FP32 file with its manifest")
    parser.add_argument("images", type=Path, help="text file of image paths")
    parser.add_argument("out", type=Path, help="file to write")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    logging.disable(logging.WARNING)
    artifact = Artifact.load(arguments.model)
    work = TOOLS[arguments.tool](artifact, arguments.images, arguments.out)
    before = peak_rss_bytes()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    count = len(list_images(arguments.images))
    print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak_rss_bytes(), "before_bytes": before, "images": count}))


if __name__ == "__main__":
    main()
