"""How much of each output's signal does INT8 leave, before any kernel of a CPU has its say?

`python -m benchmarks.exact_signal` exports the real detectors for x86, also with `--rescale equalize`, and writes the
signal-to-noise ratios of their exports as a table. What is finished is kept in `--work`; run it again to go on after an
interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeq
from benchmarks.cases import DATA, kept_result, read_subjects, subjects_parser, write_result
from edgeq.calibration.source import CalibrationSource
from edgeq.errors import EdgeqError, InputError
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.signal.ratio import LOW_DB
from edgeq.files import write_text
from edgeq.machine import read_machine
from edgeq.sources.model import ModelRequest
from edgeq.tasks.detection.shapes import draw_shapes_dataset
from edgeq.verbs.export import export_model
from edgeq.verbs.export_speed import Exported

TARGET, PRECISION = "x86", "int8"
IMAGES = 64
WORK = Path("artifacts/exact_signal")

# Networks without a decoder of ours: how their inputs are made is enough.
PLAIN_PRESETS = {
    "yunet": '[preprocessing]\nresize = "letterbox"\nchannel_order = "bgr"\nscale = 1.0\n',
    "ultraface": '[preprocessing]\nresize = "stretch"\nscale = 1.0\nmean = [127, 127, 127]\nstd = [128, 128, 128]\n',
}


@dataclass(frozen=True)
class Subject:
    """A trained detector and what it is calibrated on: a COCO file below the data folder, or drawn shapes."""

    title: str
    reference: str
    annotations: str = "coco/instances_train.json"
    images: str = "coco/train2017"
    weights: str | None = None
    preset: str | None = None
    size: tuple[int, int] | None = None


SUBJECTS = {
    "shapes": Subject("shapes detector (CenterNet-R18)", "centernet_shapes", annotations="", images=""),
    "centernet": Subject(
        "CenterNet-R18, bccd",
        "centernet_resnet18",
        "bccd/instances_train.json",
        "bccd/images",
        weights="weights/centernet_r18_bccd.safetensors",
        size=(320, 416),
    ),
    "yolox": Subject("YOLOX-nano", "weights/yolox_nano_coco_416.onnx", preset="yolox"),
    "fastestdet": Subject("FastestDet", "weights/fastestdet_coco_352.onnx", preset="fastestdet"),
    "yunet": Subject("YuNet", "models/yunet_n_320.onnx"),
    "ultraface": Subject("UltraFace RFB-320", "models/ultraface_rfb320.onnx"),
}


def measure(name: str, data: Path, images: int, work: Path) -> dict[str, Any]:
    """Returns what exports report of a subject: its signal, also with channels evened out; or the error."""
    try:
        written = _export(name, data, images, work)
    except EdgeqError as error:
        return {"error": str(error)}
    try:
        equalized = _export(name, data, images, work, rescale="equalize").artifact.quantization["signal"]["snr_db"]
    except InputError:  # no two convolutions with ReLU at most between
        equalized = None
    signal = written.artifact.quantization["signal"]
    return {"signal": signal, "equalized_db": equalized, "engine_cosine": written.comparison.cosine}


def _export(name: str, data: Path, images: int, work: Path, rescale: str | None = None) -> Exported:
    result = export_model(
        request_of(name, data, work),
        TARGET,
        [PRECISION],
        work / (name if rescale is None else f"{name}.{rescale}"),
        calibration=calibration_of(SUBJECTS[name], data, images, work),
        options=ExportOptions(rescale=rescale),
    )
    (written,) = result.files
    return written


def request_of(name: str, data: Path, work: Path) -> ModelRequest:
    """Returns the model of a subject; `work` takes its preset if none of ours fits."""
    subject = SUBJECTS[name]
    preset = subject.preset
    if name in PLAIN_PRESETS:
        path = work / f"{name}.toml"
        write_text(path, PLAIN_PRESETS[name])
        preset = str(path)
    file = subject.reference.endswith(".onnx")
    return ModelRequest(
        str(data / subject.reference) if file else subject.reference,
        weights=None if subject.weights is None else data / subject.weights,
        preset=preset,
        size=subject.size,
        labels=str(data / subject.annotations) if subject.weights else None,
    )


def calibration_of(subject: Subject, data: Path, images: int, work: Path) -> CalibrationSource:
    """Returns the images of a subject; `work` takes those that are drawn."""
    if subject.annotations:
        return CalibrationSource(data / subject.annotations, data / subject.images, num=images)
    drawn = draw_shapes_dataset(work / "drawn", images=images, seed=71)
    return CalibrationSource(drawn, drawn.parent, num=images)


def to_markdown(results: Mapping[str, Mapping[str, Any]], images: int) -> str:
    """Returns the table, and below it how its figures were obtained."""
    lines = [
        "# INT8 in exact arithmetic",
        "",
        "Signal-to-noise ratio in dB of each output, or group of channels of an output, of the INT8 file against the "
        f"float model. **Below {LOW_DB:.0f} dB the export warns.**",
        "",
        "| model | least dB | with `--rescale equalize` | outputs | falls most at (dB before, behind) | smallest "
        "cosine in the engine here |",
        "|---|---:|---:|---|---|---:|",
    ]
    lines += [_row(SUBJECTS[name].title, result) for name, result in results.items()]
    how = sorted({result["signal"]["how"] for result in results.values() if "signal" in result})
    machine = read_machine()
    lines += [
        "",
        f"Target {TARGET}, ranges from {images} images by the default method. {'; '.join(how)}. The cosine is that of "
        f"ONNX Runtime's own kernels on {machine.cpu} ({', '.join(machine.cpu_features)}), on 2 images. "
        f"edgeq {edgeq.__version__}, Python {machine.python}.",
    ]
    return "\n".join(lines) + "\n"


def _row(title: str, result: Mapping[str, Any]) -> str:
    if "error" in result:
        return f"| {title} | | | {result['error']} | | |"
    signal = result["signal"]
    outputs = ", ".join(_output(output) for output in signal["outputs"])
    worst = "; ".join(
        f"{layer['name']} ({layer['input_db']:.1f}, {layer['snr_db']:.1f})" for layer in signal["layers"][:2]
    )
    equalized = "-" if result["equalized_db"] is None else f"{result['equalized_db']:.1f}"
    cells = [title, f"{signal['snr_db']:.1f}", equalized, outputs, worst, f"{result['engine_cosine']:.5f}"]
    return f"| {' | '.join(cells)} |"


def _output(output: Mapping[str, Any]) -> str:
    name = f"{output['name']}[{output['channels']}]" if output["channels"] else output["name"]
    figure = f"{name} {output['snr_db']:.1f}{' constant' if output['dead'] else ''}"
    return f"**{figure}**" if output["snr_db"] < LOW_DB or output["dead"] else figure


def make_parser() -> argparse.ArgumentParser:
    return subjects_parser(__doc__, SUBJECTS, SUBJECTS, IMAGES, WORK)


def run(names: Sequence[str], out: Path, *, data: Path = DATA, images: int = IMAGES, work: Path = WORK) -> Path:
    """Returns the result file.

    Args:
        names: Of `SUBJECTS`.
        out: Folder of the result file.
        data: Folder of the real data.
        images: How many images are calibrated on.
        work: Folder for the files; a subject whose result lies there is not measured again.
    """
    work.mkdir(parents=True, exist_ok=True)
    results = {name: kept_result(work / f"{name}.{images}.json", measure, name, data, images, work) for name in names}
    return write_result(out, "exact_signal.md", to_markdown(results, images))


def main() -> None:
    given = read_subjects(make_parser(), SUBJECTS)
    run(given.names, given.out, data=given.data, images=given.images, work=given.work)


if __name__ == "__main__":
    main()
