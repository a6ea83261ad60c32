"""What do weights of 8, 4, 3 and 2 bits cost, by each method and in groups of each size?

`python -m benchmarks.low_bit_weights` scores the Fashion-MNIST ViT and two CIFAR ResNets with their published weights
on all 10,000 test images; calibrated on 256 training images, activations in float. Figures are kept below `--work`, so
that a second call continues where one was interrupted. An hour of an idle core; `--models vit` measures one model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import DATA, kept_result, result_parser, write_result
from benchmarks.image_sets import image_set
from edgeq.calibration.quantize_layers import quantize_layers
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import QuantizeLayers
from edgeq.exporting.onnx.low_bit import write_weights
from edgeq.exporting.onnx.writer import FloatModel, write_fp32
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.machine import read_machine
from edgeq.quantizers.weight import stored_bits
from edgeq.schemes import NF4, Granularity, PerAxis, PerGroup, Scheme, minmax
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target

MODELS = {
    "vit": ("ViT-d128, Fashion-MNIST", "vit_fashionmnist", "vit_d128_l6_fashionmnist", "fashionmnist"),
    "resnet20": ("ResNet-20, CIFAR-10", "cifar_resnet20", "resnet20_cifar10", "cifar10"),
    "resnet44": ("ResNet-44, CIFAR-10", "cifar_resnet44", "resnet44_cifar10", "cifar10"),
}
"""Name -> title, zoo name, weights, images."""

CALIBRATION_NUM = 256
METHODS = ("rtn", "hqq", "gptq", "gptq-act-order", "awq", "awq+gptq")
_BY_INPUTS = ("rtn", "gptq", "gptq-act-order", "awq", "awq+gptq")
_BATCH = 64
_TARGET = get_target("x86-ort")


class Subject(NamedTuple):
    """A model with images.

    Attributes:
        title: What the table calls it.
        model: The float model, of a free batch.
        calibration: Inputs of the graph.
        inputs: Inputs to score on, `(N, C, H, W)`.
        classes: What they show, `(N,)`.
    """

    title: str
    model: FloatModel
    calibration: Sequence[Mapping[str, np.ndarray]]
    inputs: np.ndarray
    classes: np.ndarray


class Variant(NamedTuple):
    """A row of the table.

    Attributes:
        bits: What the table calls the scheme.
        group: What it calls the granularity.
        scheme: How weights are stored.
        methods: Names of recipes.
    """

    bits: str
    group: str
    scheme: Scheme
    methods: tuple[str, ...]


def even(bits: int, group: int | None, methods: Sequence[str] = METHODS) -> Variant:
    """Returns the row of evenly spaced integers with zero points, in groups or with a scale for each output."""
    granularity: Granularity = PerAxis() if group is None else PerGroup(group)
    scheme = Scheme(bits=bits, signed=False, symmetric=False, granularity=granularity)
    return Variant(str(bits), "row" if group is None else str(group), scheme, tuple(methods))


ROWS = (
    even(2, None),
    even(2, 32),
    even(3, None),
    even(3, 32),
    even(4, None, _BY_INPUTS),
    even(4, 32),
    even(2, 16),
    Variant("2, real zeros", "32", replace(even(2, 32).scheme, real_zero=True), ("rtn", "hqq")),
    even(2, 128, _BY_INPUTS),
    even(4, 128, ("rtn", "gptq-act-order")),
    even(8, 32, ("rtn", "gptq-act-order")),
    Variant("NF4", "64", NF4, ("rtn", "gptq")),
    Variant("minmax-4", "tensor", minmax(4), ("rtn",)),
    Variant("minmax-2", "tensor", minmax(2), ("rtn",)),
)
"""The rows of a table, the most telling first; 8 bits hide what methods differ in."""

CNN_ROWS = (
    even(2, 32),
    even(3, 32),
    even(4, 32),
    even(2, None, _BY_INPUTS),
    even(4, None, _BY_INPUTS),
    even(2, 16, ("rtn", "gptq-act-order", "awq+gptq")),
    even(8, 32, ("rtn", "gptq-act-order")),
)
"""Those of a CNN."""


def subject(name: str, data: Path, work: Path) -> Subject:
    """Returns one of `MODELS`; its images are unpacked into the folder `work`."""
    title, zoo, weights, images = MODELS[name]
    model = open_model(ModelRequest(zoo, data / "weights" / f"{weights}.safetensors", dynamic_batch=True)).model
    work.mkdir(parents=True, exist_ok=True)
    known = image_set(images, data, work)
    train = list_images(known.calibration)
    rows = [line.split(",") for line in known.truth.read_text().splitlines()]

    def read(paths: Sequence[Path]) -> np.ndarray:
        return np.concatenate([preprocess(read_image(path), model.preprocessing)[0] for path in paths])

    # They are sorted by class.
    spread = np.linspace(0, len(train) - 1, min(CALIBRATION_NUM, len(train))).round().astype(int)
    calibration = read([train[index] for index in spread])
    feeds = [{model.input.name: part} for part in np.split(calibration, range(_BATCH, len(calibration), _BATCH))]
    inputs = read([known.images / path for path, _ in rows])
    return Subject(title, model, feeds, inputs, np.array([int(number) for _, number in rows]))


def logits(artifact: Artifact, inputs: np.ndarray) -> np.ndarray:
    """Returns what a file gives for each input, float64 `(N, classes)`, computed in FP32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    name = artifact.inputs[0].name
    parts = np.split(inputs, range(_BATCH, len(inputs), _BATCH))
    return np.concatenate([session.run(None, {name: part})[0] for part in parts]).astype(np.float64)


def divergence(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the mean Kullback-Leibler divergence of the classes' probabilities from those wanted, in nats."""

    def log_share(values: np.ndarray) -> np.ndarray:
        shifted = values - values.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

    first, second = log_share(wanted), log_share(found)
    return float((np.exp(first) * (first - second)).sum(axis=1).mean())


def score(one: Subject, variant: Variant, method: str | None, reference: np.ndarray, folder: Path) -> dict[str, Any]:
    """Returns top-1 and divergence of a model with weights of a variant, as JSON; `None` is FP32."""
    quantize: QuantizeLayers | None = None
    if method is not None:
        quantize = partial(quantize_layers, method=method, feeds=one.calibration, threads=1)
    artifact = write_weights(one.model, _TARGET, folder, "float", variant.scheme, quantize=quantize)
    found = logits(artifact, one.inputs)
    top1 = float((found.argmax(axis=1) == one.classes).mean())
    return {"top1": top1, "kl": divergence(found, reference)}


def measure(one: Subject, rows: Sequence[Variant], folder: Path, work: Path) -> dict[str, Any]:
    """Returns the figures of a model by row and method; those that are in the folder `work` are not measured anew."""
    reference = logits(write_fp32(one.model, _TARGET, folder), one.inputs)
    top1 = float((reference.argmax(axis=1) == one.classes).mean())
    found: dict[str, Any] = {"title": one.title, "top1": top1, "images": len(one.classes), "rows": {}}
    for row in rows:
        for method in row.methods:
            name = f"{row.bits}.{row.group}.{method}"
            found["rows"][name] = kept_result(work / f"{name}.json", score, one, row, method, reference, folder)
            print(one.title, name, found["rows"][name], flush=True)
    return found


def table(found: Mapping[str, Any], rows: Sequence[Variant]) -> list[str]:
    """Returns the table of a model."""
    title = f"## {found['title']}: top-1 in FP32 {found['top1']:.4f} on {found['images']:,} images"
    lines = [title, "", f"| bits | group | bits stored per weight | {' | '.join(METHODS)} |"]
    lines.append("|---|---|" + "---:|" * (1 + len(METHODS)))
    for row in rows:
        granularity = row.scheme.granularity
        stored = (
            f"{stored_bits(row.scheme, granularity.size):.2f}"
            if isinstance(granularity, PerGroup)
            else str(row.scheme.bits)
        )
        cells = []
        for method in METHODS:
            figures = found["rows"].get(f"{row.bits}.{row.group}.{method}")
            cells.append("" if figures is None else f"{figures['top1']:.4f} / {1000 * figures['kl']:.1f}")
        lines.append(f"| {row.bits} | {row.group} | {stored} | {' | '.join(cells)} |")
    return lines


def run(subjects: Mapping[str, tuple[Callable[[], Subject], Sequence[Variant]]], work: Path, out: Path) -> Path:
    """Returns the file of the tables.

    Args:
        subjects: Name -> what opens the model, and the rows of its table.
        work: Folder for figures and files.
        out: Folder for the tables.
    """
    lines = []
    for name, (opened, rows) in subjects.items():
        lines += ["", *table(measure(opened(), rows, work / name, work / name), rows)]
    import onnxruntime

    head = [
        "# Weights of 2 to 8 bits: methods and groups",
        "",
        "Each cell: top-1 / mean divergence of the class probabilities from FP32's, in thousandths of a nat. Integers "
        "have integer zero points, as kernels want them; `row` has a scale for each output, NF4 has scales in FP8, "
        "`minmax-k` has one scale for the tensor. The first layer of a transformer stays in float, below 4 bits the "
        "first and last layers of all. A 95 % interval of top-1 is about ±0.006; the "
        "divergence ranks what it hides.",
        *lines,
        "",
        f"Simulated: the files hold the floats that the integers stand for, computed in FP32 by ONNX Runtime "
        f"{onnxruntime.__version__} on {read_machine().cpu}. Calibrated on {CALIBRATION_NUM} training images of all "
        "classes.",
    ]
    return write_result(out, "low_bit_weights.md", "\n".join(head) + "\n")


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("low_bit_weights"), help="folder for files and figures")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS), help="models to measure")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    work = arguments.work.resolve()
    rows = {"vit": ROWS}
    opened = {name: (partial(subject, name, DATA, work), rows.get(name, CNN_ROWS)) for name in arguments.models}
    run(opened, work, arguments.out)


if __name__ == "__main__":
    main()
