"""What does INT8 cost the CIFAR ResNets, in every engine of this CPU?

`python -m benchmarks.cifar_resnets` scores ResNet-20 and ResNet-44 with their published weights on all 10,000 test
images (re-encoded as JPEG, which costs FP32 its published accuracy), calibrated on 512 training images. 15 minutes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.cases import DATA, result_parser, write_result
from benchmarks.image_sets import unpack_cifar
from benchmarks.json_results import evaluate_artifacts, merge
from edgeq.calibration.source import CalibrationSource
from edgeq.results.rows import provenance
from edgeq.sources.model import ModelRequest
from edgeq.verbs.export import export_model

ENGINES = (("x86", "onnxruntime"), ("x86", "openvino"), ("arm", "litert"))
CALIBRATION_NUM = 512


def run(models: Mapping[str, ModelRequest], train: Path, labels: Path, out: Path) -> Path:
    """Returns the result file.

    Args:
        models: What the table calls a model -> the model.
        train: Folder of the images to calibrate on.
        labels: File of the labels of the test images, which lie beside it.
        out: Folder of the result file.
    """
    calibration = CalibrationSource(train, num=CALIBRATION_NUM)
    lines = ["| model | runtime | FP32 | INT8 | INT8 against FP32, points |", "|---|---|---:|---:|---:|"]
    results = []
    with tempfile.TemporaryDirectory() as name:
        for number, (title, request) in enumerate(models.items()):
            for target, runtime in ENGINES:
                exported = export_model(
                    request, target, ("fp32", "int8"), Path(name) / f"{number}.{target}", calibration=calibration,
                    formats=("tflite",) if runtime == "litert" else (),
                )  # fmt: skip
                paths = [file.artifact.path for file in exported.files]
                fp32, int8 = evaluate_artifacts(paths, labels, labels.parent, runtimes=[runtime], threads=2)
                points = 100 * (int8["top1"] - fp32["top1"])
                lines.append(f"| {title} | {runtime} | {fp32['top1']:.4f} | {int8['top1']:.4f} | {points:+.2f} |")
                print(lines[-1], flush=True)
                results += [fp32, int8]
    head = f"# CIFAR-10 ResNets, top-1 on {results[0]['images']:,} test images, calibrated on {CALIBRATION_NUM}"
    text = [f"{head} training images", "", *lines, "", *provenance(merge(results))]
    return write_result(out, "cifar_resnets.md", "\n".join(text) + "\n")


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    arguments = make_parser().parse_args()
    models = {
        f"ResNet-{depth}": ModelRequest(f"cifar_resnet{depth}", DATA / "weights" / f"resnet{depth}_cifar10.safetensors")
        for depth in (20, 44)
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack_cifar(DATA, "cifar10_train5k_jpeg_calib", folder / "train", every=1)
        labels = unpack_cifar(DATA, "cifar10_test10k_jpeg", folder / "test", every=1)
        run(models, folder / "train", labels, arguments.out)


if __name__ == "__main__":
    main()
