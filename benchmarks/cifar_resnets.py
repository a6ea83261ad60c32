"""What does INT8 cost the CIFAR ResNets, in every engine of this CPU?

`python -m benchmarks.cifar_resnets` scores ResNet-20 and ResNet-44 with their published weights on all 10,000 test
images (re-encoded as JPEG, which costs FP32 its published accuracy), calibrated on 512 training images. 15 minutes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.cases import DATA, RESULTS
from benchmarks.image_sets import unpack_cifar
from benchmarks.json_results import evaluate_artifacts, merge
from edgeq.files import write_text
from edgeq.model_source import ModelRequest
from edgeq.results.rows import provenance
from edgeq.verbs.calibration_source import CalibrationSource
from edgeq.verbs.export import export_model

ENGINES = (("x86", "onnxruntime"), ("x86", "openvino"), ("arm", "litert"))


def run(folder: Path) -> str:
    unpack_cifar(DATA, "cifar10_train5k_jpeg_calib", folder / "train", every=1)
    labels = unpack_cifar(DATA, "cifar10_test10k_jpeg", folder / "test", every=1)
    calibration = CalibrationSource(folder / "train", num=512)
    lines = [
        "# CIFAR-10 ResNets, top-1 on 10,000 test images, calibrated on 512 training images",
        "",
        "| model | runtime | FP32 | INT8 | INT8 against FP32, points |",
        "|---|---|---:|---:|---:|",
    ]
    results = []
    for depth in (20, 44):
        request = ModelRequest(f"cifar_resnet{depth}", DATA / "weights" / f"resnet{depth}_cifar10.safetensors")
        for target, runtime in ENGINES:
            exported = export_model(
                request, target, ("fp32", "int8"), folder / f"{depth}.{target}", calibration=calibration,
                formats=("tflite",) if runtime == "litert" else (),
            )  # fmt: skip
            paths = [file.artifact.path for file in exported.files]
            fp32, int8 = evaluate_artifacts(paths, labels, folder / "test", runtimes=[runtime], threads=2)
            points = 100 * (int8["top1"] - fp32["top1"])
            lines.append(f"| ResNet-{depth} | {runtime} | {fp32['top1']:.4f} | {int8['top1']:.4f} | {points:+.2f} |")
            print(lines[-1], flush=True)
            results += [fp32, int8]
    return "\n".join([*lines, "", *provenance(merge(results))]) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = run(Path(folder))
    write_text(RESULTS / "cifar_resnets.md", text)
    print(text)


if __name__ == "__main__":
    main()
