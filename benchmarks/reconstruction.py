"""What does W4A8 cost, with weights rounded to nearest and with rounding that is learned, in the engines of this CPU?

`python -m benchmarks.reconstruction` exports and scores three models; `python -m benchmarks.reconstruction resnet20`
one. Figures are kept below `--work`: models can be measured one by one, and the table is written of all that there are.
`--aimet-python PATH` names the Python of an environment with `aimet-onnx`: its AdaRound learns on the same images, and
its files are scored in ONNX Runtime next to ours, on a page of their own. 10,000 iterations per layer take two hours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from benchmarks.cases import case, kept_result, read_subjects, subjects_parser, write_result
from benchmarks.image_sets import unpack_cifar
from benchmarks.json_results import evaluate_artifacts, merge
from benchmarks.peers_aimet import AimetJob, adaround
from benchmarks.scored_models import decibels, outputs_of
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.options import ExportOptions, Rounding
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.reporting.comparison import compare
from edgeq.results.rows import provenance
from edgeq.sources.artifact_file import open_artifact
from edgeq.sources.model import ModelRequest
from edgeq.verbs.export import export_model

SUBJECTS = ("resnet20", "resnet44", "centernet")
ENGINES = ("openvino", "onnxruntime")
TITLES = ("FP32", "INT8", "W4A8, to nearest", "W4A8, learned")
SCORED_EVERY = 4
"""Of the 10,000 test images of CIFAR-10."""


class Subject(NamedTuple):
    """A model with images.

    Attributes:
        title: What the table calls it.
        request: The model.
        calibration: Images to calibrate and to learn on.
        truth: Annotations or labels of the images to score on.
        images: Folder of these.
    """

    title: str
    request: ModelRequest
    calibration: CalibrationSource
    truth: Path
    images: Path


def subject(name: str, data: Path, work: Path, images: int) -> Subject:
    """Returns one of `SUBJECTS`; images of CIFAR-10 are unpacked into the folder `work`."""
    if name == "centernet":
        known = case(name)
        return Subject("CenterNet-R18", known.request, known.source, known.validation, known.validation_images)
    depth = name.removeprefix("resnet")
    request = ModelRequest(f"cifar_resnet{depth}", data / "weights" / f"resnet{depth}_cifar10.safetensors")
    train, test = work / "cifar_train", work / "cifar_test"
    if not (test / "labels.csv").is_file():
        unpack_cifar(data, "cifar10_train5k_jpeg_calib", train, every=1)
        unpack_cifar(data, "cifar10_test10k_jpeg", test, every=SCORED_EVERY)
    return Subject(f"ResNet-{depth}", request, CalibrationSource(train, num=images), test / "labels.csv", test)


def measure(one: Subject, folder: Path, rounding: Rounding) -> dict[str, Any]:
    """Returns the figures of a model's files whose weights are rounded in one way, as JSON; FP32 is `nearest`."""
    started, cpu = time.monotonic(), time.process_time()
    precisions = ("fp32", "int8", "w4a8") if rounding == "nearest" else ("w4a8",)
    exported = export_model(
        one.request, "x86", precisions, folder / rounding, calibration=one.calibration, threads=1,
        options=ExportOptions(rounding=rounding),
    )  # fmt: skip
    spent = {"wall_s": time.monotonic() - started, "cpu_s": time.process_time() - cpu}
    return {**spent, **score(one, [each.artifact for each in exported.files])}


def score(one: Subject, artifacts: Sequence[Artifact], engines: Sequence[str] = ENGINES) -> dict[str, Any]:
    """Returns what files score in engines, and what their manifests say of learned rounding."""
    paths = [artifact.path for artifact in artifacts]
    return {
        "title": one.title,
        "reconstruction": artifacts[-1].quantization.get("reconstruction"),
        "size_bytes": [path.stat().st_size for path in paths],
        "results": evaluate_artifacts(paths, one.truth, one.images, runtimes=list(engines), threads=1),
    }


def measure_aimet(one: Subject, fp32: Path, folder: Path, python: Path, iterations: int) -> dict[str, Any]:
    """Returns the figures of AIMET's files of a model as JSON, to nearest and learned, and what AdaRound took.

    Args:
        one: The model.
        fp32: Its FP32 file.
        folder: Where the files go.
        python: Python of an environment with aimet-onnx.
        iterations: How many per layer.
    """
    artifact = open_artifact(fp32)
    assert artifact.preprocessing is not None
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [array for array, _ in one.calibration.inputs(artifact.preprocessing, one.calibration.num)]
    files, taken = adaround(AimetJob(artifact, iterations, folder), inputs, python)
    ours = [open_artifact(next((folder.parent / rounding).glob("*.w4a8.onnx"))) for rounding in get_args(Rounding)]
    return {
        "title": one.title,
        "iterations": iterations,
        **taken,
        "signals": signals(one, [artifact, *ours, *files]),
        **score(one, files, ("onnxruntime",)),
    }


def signals(one: Subject, artifacts: Sequence[Artifact]) -> list[float]:
    """Returns the signal in dB that each file leaves of FP32's outputs, the first file's, on the scored images."""
    preprocessing = artifacts[0].preprocessing
    assert preprocessing is not None
    inputs = [preprocess(read_image(path), preprocessing)[0] for path in list_images(one.images)]
    real, *others = (outputs_of(each, "onnxruntime", inputs) for each in artifacts)
    return [min(decibels(real, dict(zip(real, each.values(), strict=True)))) for each in others]


def joined(nearest: Mapping[str, Any], learned: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures of all files of a model."""
    both = {name: [*nearest[name], *learned[name]] for name in ("size_bytes", "results")}
    return {**learned, **both}


def rows_of(found: Mapping[str, Any]) -> list[str]:
    """Returns the rows of the table for a model, each file in each engine."""
    lines = []
    count = len(ENGINES)
    for position, (title, size) in enumerate(zip(TITLES, found["size_bytes"], strict=True)):
        for engine in range(count):
            fp32, result = found["results"][engine], found["results"][position * count + engine]
            row = (found["title"], title, result["runtime"], *scored(fp32, result), f"{size / 1e6:.2f}")
            lines.append(f"| {' | '.join(row)} |")
    return lines


def scored(fp32: dict[str, Any], result: dict[str, Any]) -> tuple[str, str, str]:
    """Returns the score of a file, and its points against FP32 with their interval; empty for FP32 itself."""
    drop = next((each.main for each in compare(merge([fp32, result])) if not each.row.is_float), None)
    score = f"{result.get('top1', result.get('AP')):.4f}"
    if drop is None or drop.low is None:
        return score, "", ""
    return score, f"{0 - drop.points:+.2f}", f"{-(drop.high or 0):+.2f} .. {-drop.low:+.2f}"


def run(subjects: Mapping[str, Subject], work: Path, out: Path) -> Path:
    """Returns the file of the table: of these models, measured if they were not before, and of others in `work`.

    Args:
        subjects: Name -> model.
        work: Folder for the files and figures.
        out: Folder for the table.
    """
    for name, one in subjects.items():
        for rounding in get_args(Rounding):
            kept_result(work / f"{name}.{rounding}.json", measure, one, work / name, rounding)
    names = dict.fromkeys((*SUBJECTS, *subjects))
    done = [[work / f"{name}.{rounding}.json" for rounding in get_args(Rounding)] for name in names]
    found = [[kept_result(path, dict) for path in pair] for pair in done if all(path.is_file() for path in pair)]
    return write([joined(*pair) for pair in found], out)


def run_aimet(subjects: Mapping[str, Subject], work: Path, out: Path, python: Path, iterations: int) -> Path:
    """Returns the file of the table of AIMET's files next to edgeq's, of what `run` has measured in `work`.

    Args:
        subjects: Name -> model.
        work: Folder for the files and figures.
        out: Folder for the table.
        python: Python of an environment with aimet-onnx.
        iterations: How many AdaRound gets per layer, if it is not measured yet.
    """
    files = {name: work / f"{name}.aimet.json" for name in dict.fromkeys((*SUBJECTS, *subjects))}
    for name, one in subjects.items():
        (fp32,) = (work / name / "nearest").glob("*.fp32.onnx")
        kept_result(files[name], measure_aimet, one, fp32, work / name / "aimet", python, iterations)
    lines = ["| model | file | top-1 or AP | against FP32, points | 95 % interval | signal dB | CPU min of learning |"]
    lines.append("|---|---|" + "---:|" * 5)
    tools = ""
    used: list[dict[str, Any]] = []
    for name, path in files.items():
        if not path.is_file():
            continue
        aimet = kept_result(path, dict)
        ours = [kept_result(work / f"{name}.{rounding}.json", dict) for rounding in get_args(Rounding)]
        fp32_result, _, nearest, learned = joined(*ours)["results"][ENGINES.index("onnxruntime") :: len(ENGINES)]
        took = f"{aimet['cpu_s'] / 60:.1f} ({aimet['iterations']:,} iterations per layer)"
        own, own_learned, its, its_learned = (f"{each:.1f}" for each in aimet["signals"])
        rows = (
            ("FP32", fp32_result, "", ""),
            ("edgeq, to nearest", nearest, own, ""),
            ("AIMET, to nearest", aimet["results"][0], its, ""),
            ("edgeq, learned", learned, own_learned, f"{ours[-1]['cpu_s'] / 60:.1f}, the whole export"),
            ("AIMET, AdaRound", aimet["results"][1], its_learned, took),
        )
        lines += [
            f"| {' | '.join((aimet['title'], title, *scored(fp32_result, each), *rest))} |"
            for title, each, *rest in rows
        ]
        tools, used = f"aimet-onnx {aimet['aimet']}", [*used, *aimet["results"]]
    text = [
        "# W4A8: learned rounding next to AIMET's AdaRound",
        "",
        *lines,
        "",
        "Both learn on the same images, and their files with QuantizeLinear and DequantizeLinear are scored in ONNX "
        f"Runtime on the same images (AIMET: `to_onnx_qdq` of {tools}). Both give weights symmetric grids per channel, "
        "the first and the last layer 8 bits, and activations 8 bits; AIMET chooses its grids by "
        "`post_training_tf_enhanced`. Intervals: paired bootstrap over images. The signal is that of the outputs on "
        "the scored images, of a detector that of its weakest output. CPU time on one thread.",
        *dict.fromkeys(provenance(merge(used)) if used else ()),
    ]
    return write_result(out, "reconstruction_aimet.md", "\n".join(text) + "\n")


def write(results: list[dict[str, Any]], out: Path) -> Path:
    """Returns the file of the table."""
    header = "| model | file | engine | top-1 or AP | against FP32, points | 95 % interval | size MB |"
    lines = [header, "|---|---|---|" + "---:|" * 4]
    spent = ["| model | images | units kept | outputs' error to nearest | learned | CPU min | wall min |"]
    spent.append("|---|" + "---:|" * 6)
    for found in results:
        lines += rows_of(found)
        facts = found["reconstruction"]
        kept = sum(unit["kept"] for unit in facts["units"])
        spent.append(
            f"| {found['title']} | {facts['images']}, {facts['held_out']} held out | {kept} of {len(facts['units'])} | "
            f"{facts['output_error_nearest']:.3g} | {facts['output_error_learned']:.3g} | {found['cpu_s'] / 60:.1f} | "
            f"{found['wall_s'] / 60:.1f} |"
        )
    text = [
        "# W4A8: weights rounded to nearest and learned",
        "",
        *lines,
        "",
        "Scores are measured in the engines named, intervals are the paired bootstrap over images that `edgeq gate` "
        "draws. Both W4A8 files have the scales of least squared error; the first and the last layers have weights of "
        "8 bits.",
        "",
        "What learning took, the whole export with its calibration, on one thread of a CPU that other work shared:",
        "",
        *spent,
        "",
        "The outputs' error is squared, relative to their energy, on the images held out.",
        *dict.fromkeys(line for found in results for line in provenance(merge(found["results"]))),
    ]
    return write_result(out, "reconstruction.md", "\n".join(text) + "\n")


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, SUBJECTS, SUBJECTS, 512, Path("reconstruction_work"))
    parser.add_argument("--aimet-python", type=Path, help="Python of an environment with aimet-onnx")
    parser.add_argument("--aimet-iterations", type=int, default=10_000, help="iterations of its AdaRound per layer")
    return parser


def main() -> None:
    arguments = read_subjects(make_parser(), SUBJECTS)
    arguments.work.mkdir(parents=True, exist_ok=True)
    known = (arguments.data, arguments.work, arguments.images)
    subjects = {name: subject(name, *known) for name in arguments.names}
    run(subjects, arguments.work, arguments.out)
    if arguments.aimet_python is not None:
        run_aimet(subjects, arguments.work, arguments.out, arguments.aimet_python, arguments.aimet_iterations)


if __name__ == "__main__":
    main()
