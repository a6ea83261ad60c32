"""What does each step against the losses of an INT8 vision transformer bring?

`python -m benchmarks.vit_accuracy` scores the trained Fashion-MNIST ViT on all 10,000 test images, calibrated on 512
training images: first as plain quantizers write it, with a Q/DQ pair on every activation, then with one step after the
other. INT8 runs in ONNX Runtime and OpenVINO; 6 and 4 bits, where the steps come apart, are simulated. Some 40 minutes
on two cores; a second call goes on where one was interrupted (`--work`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import DATA, result_parser, write_result
from benchmarks.image_sets import unpack_fashionmnist
from benchmarks.json_results import evaluate_artifacts, merge
from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.channel_extremes import channel_statistics
from edgeq.calibrators.ranges import Ranges
from edgeq.calibrators.twin_uniform import twin_uniform
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.moves import moves_values
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.onnx.writer import FloatModel, plan_int8, write_artifact, write_fp32
from edgeq.exporting.passes.layernorm import NormedLinears, fold_layernorm_affine, normed_linears
from edgeq.exporting.passes.rescale import rescalable_tensors, smooth_channels, unify_channels
from edgeq.exporting.planning.keep import VitPlan
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import Selection, observed_tensors, select_layers
from edgeq.files import write_json
from edgeq.inputs.images import list_images
from edgeq.results.rows import provenance
from edgeq.sources.model import ModelRequest, OpenedModel, open_model
from edgeq.sources.torch_export import export_torch
from edgeq.targets import get_target

X86 = get_target("x86")
REQUEST = ModelRequest("vit_fashionmnist", DATA / "weights" / "vit_d128_l6_fashionmnist.safetensors")
CALIBRATION_NUM = 512
BITS = ((8, 8), (6, 6), (4, 4))
Results = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """A row of the table.

    Attributes:
        title: What it is.
        graph: Which float graph: `plain`, `folded`, `smooth` or `unify`.
        method: Calibration method.
        plan: A plan for transformers, or `everything`: a pair on every activation.
    """

    title: str
    graph: str
    method: str
    plan: str


STEPS = (
    Step("min-max, everything in INT8", "plain", "minmax", "everything"),
    Step("entropy, everything in INT8", "plain", "entropy", "everything"),
    Step("+ LayerNorm folded into linear layers", "folded", "entropy", "everything"),
    Step("+ channels rescaled (`--rescale smooth`)", "smooth", "entropy", "everything"),
    Step("+ ranges by the layers' output error (`--method best`)", "smooth", "best", "everything"),
    Step("+ selective precision (`--vit-plan balanced`)", "smooth", "best", "balanced"),
    Step("the default: folded, lp, balanced", "folded", "lp", "balanced"),
    Step("the default with `--rescale unify`", "unify", "lp", "balanced"),
    Step("the default with `--vit-plan fast`", "folded", "lp", "fast"),
    Step("the default with `--vit-plan safe`", "folded", "lp", "safe"),
)

OUTLIERS = (
    Step("min-max, everything in INT8", "outliers", "minmax", "everything"),
    Step("lp, `--vit-plan balanced`, LayerNorm as it is", "outliers", "lp", "balanced"),
    Step("the default: folded, lp, balanced", "outliers-folded", "lp", "balanced"),
)
"""The same for a network that computes the same function with outlier channels, as large trained ViTs have them."""

_OUTLIER_SHARE, _OUTLIER_FACTOR = 0.05, 24.0


def plain_model(opened: OpenedModel) -> FloatModel:
    """Returns the model as torch exports it, without the rewrites for transformers."""
    import torch

    preprocessing = opened.model.preprocessing
    example = torch.zeros(1, preprocessing.channels, preprocessing.height_px, preprocessing.width_px)
    assert opened.module is not None
    graph = export_torch(opened.module, example, ["scores"], opset=X86.rules.opset)
    return dataclasses.replace(opened.model, graph=graph)


def add_outliers(model: FloatModel) -> FloatModel:
    """Returns the model with every twentieth channel behind a LayerNorm 24 times as large, and its weights as small."""
    changed = dataclasses.replace(model, graph=model.copy_graph())
    rng = np.random.default_rng(0)
    for _, found in normed_linears(changed.graph):
        assert isinstance(found, NormedLinears)
        factor = np.ones_like(found.gamma)
        factor[rng.permutation(len(factor))[: round(_OUTLIER_SHARE * len(factor))]] = _OUTLIER_FACTOR
        for layer in found.readers:
            layer.replace(changed.graph, layer.weight / factor[:, None], layer.bias)
        found.replace(changed.graph, found.gamma * factor, found.beta * factor)
    return changed


def everything(model: FloatModel) -> Selection:
    """Returns a selection with a pair on every activation that is computed."""
    chosen = select_layers(model.graph, X86.rules, vit_plan="fast")
    outputs = {value.name for value in model.graph.graph.outputs}
    values = [*model.graph.graph.inputs]
    values += [value for node in model.graph.graph if not moves_values(node) for value in node.outputs]
    names = [str(value.name) for value in values if str(value.dtype) == "FLOAT" and value.name not in outputs]
    return dataclasses.replace(chosen, tensors=tuple(dict.fromkeys([*names, *chosen.tensors])))


def write(model: FloatModel, step: Step, ranges: Ranges, bits: tuple[int, int], folder: Path) -> Artifact:
    """Returns the file of a step with so many bits for weights and activations."""
    if step.plan == "everything":
        graph = model.copy_graph()
        facts: Results = {"method": ranges.method}
        plan = make_plan(graph, everything(model).with_bits(*bits), ranges, X86.rules)
    else:
        vit_plan: VitPlan = step.plan  # type: ignore[assignment]
        graph, plan, facts = plan_int8(model, X86, ranges, vit_plan=vit_plan, bits=bits)
    insert_qdq(graph, plan, X86.rules)
    precision = "int8" if bits == (8, 8) else f"simulated-w{bits[0]}a{bits[1]}"
    return write_artifact(model, graph, X86, precision, folder, facts)


class Study:
    """The models and their ranges, each made when it is first wanted, and the images.

    Args:
        work: Folder for files and results; a second study in it goes on where the first ended.
        request: The vision transformer.
        train: Folder of the images to calibrate on.
        labels: File of the labels of the test images, which lie beside it.
    """

    def __init__(self, work: Path, request: ModelRequest, train: Path, labels: Path) -> None:
        self.work, self.labels = work, labels
        self._train = train
        self._opened = open_model(request)
        self._models: dict[str, FloatModel] = {}
        self._ranges: dict[tuple[str, str, int], Ranges] = {}

    def model(self, graph: str) -> FloatModel:
        """Returns a float graph, by the name that a step gives it."""
        if graph not in self._models:
            self._models[graph] = self._make(graph)
        return self._models[graph]

    def _make(self, graph: str) -> FloatModel:
        if graph == "plain":
            return plain_model(self._opened)
        if graph.startswith("outliers"):
            model = add_outliers(self.model("plain"))
            if graph == "outliers-folded":
                fold_layernorm_affine(model.graph)
            return model
        folded = self._opened.model
        if graph == "folded":
            return folded
        model = dataclasses.replace(folded, graph=folded.copy_graph())
        names = rescalable_tensors(folded.graph)
        statistics = channel_statistics(folded, names, list_images(self._train), num=128, threads=2)
        {"smooth": smooth_channels, "unify": unify_channels}[graph](model.graph, statistics)
        return model

    def ranges(self, graph: str, method: str, bits: int) -> Ranges:
        """Returns the ranges of every activation over the training images."""
        wanted = graph, method, bits
        if wanted not in self._ranges:
            self._ranges[wanted] = self._find_ranges(graph, method, bits)
        return self._ranges[wanted]

    def _find_ranges(self, graph: str, method: str, bits: int) -> Ranges:
        model = self.model(graph)
        searched = method == "best"
        path = self.work / (f"{graph}.best{bits}.json" if searched else f"{graph}.json")
        if not path.is_file():
            tensors = observed_tensors(model.graph, [everything(model)])
            options = {"method": "best", "options": {"bits": bits}} if searched else {"method": "lp"}
            images = list_images(self._train)
            calibrate(model, images, path, tensors=tensors, num=CALIBRATION_NUM, threads=2, **options)
        ranges = Ranges.load(path)
        if searched:
            return ranges
        return ranges.with_method(method, **({} if method == "minmax" else {"bits": bits}))

    def score(self, artifact: Artifact, runtimes: Sequence[str]) -> list[Results]:
        """Returns top-1 on all test images, in every runtime."""
        return evaluate_artifacts([artifact.path], self.labels, self.labels.parent, runtimes=runtimes, threads=2)


def fashionmnist(work: Path) -> Study:
    """Returns the study of the trained Fashion-MNIST ViT, with all real images."""
    work.mkdir(parents=True, exist_ok=True)
    train, labels = work / "train", work / "test" / "labels.csv"
    if not labels.is_file():
        unpack_fashionmnist(DATA, "fashionmnist_train2k_calib", train, every=1)
        unpack_fashionmnist(DATA, "fashionmnist_test10k", labels.parent, every=1)
    return Study(work, REQUEST, train, labels)


def once(path: Path, work: Callable[[], Any]) -> Any:
    """Returns what an earlier run has kept, or what `work` returns, which is kept."""
    if not path.is_file():
        write_json(path, {"results": work()})
    return json.loads(path.read_text())["results"]


def light(results: list[Results]) -> list[Results]:
    """Returns results without what is said of each image."""
    return [{key: value for key, value in each.items() if key not in ("predictions", "per_class")} for each in results]


def score_steps(
    study: Study,
    steps: Sequence[Step],
    prefix: str,
    everyone: list[Results],
    every_bits: Sequence[tuple[int, int]],
) -> list[str]:
    """Returns a row for each step, and adds its results to `everyone`."""
    lines = []
    for number, step in enumerate(steps):
        row = []
        for bits in every_bits:
            name = f"{prefix}{number}.w{bits[0]}a{bits[1]}"

            def measure(step: Step = step, bits: tuple[int, int] = bits, name: str = name) -> list[Results]:
                ranges = study.ranges(step.graph, step.method, bits[0])
                artifact = write(study.model(step.graph), step, ranges, bits, study.work / name)
                return light(study.score(artifact, ["onnxruntime", "openvino"] if bits == (8, 8) else []))

            found = once(study.work / f"{name}.result.json", measure)
            row += [f"{each['top1']:.4f}" for each in found]
            everyone += found
            print(step.title, name, row, flush=True)
        lines.append(f"| {step.title} | {' | '.join(row)} |")
    return lines


def twin_sentence(study: Study) -> str:
    """Returns what PTQ4ViT's twin uniform quantizer would gain over one grid."""
    model, ranges = study.model("folded").graph, study.ranges("folded", "lp", 8)
    roles = find_transformer(model).roles
    tensors = {
        "Softmax": [node.outputs[0].name for node in model.graph if node.op_type == "Softmax"],
        "GELU": [node.inputs[0].name for node in model.graph
                 if (role := roles.get(str(node.name))) is not None and role.part == "fc2" and node.inputs[0]],
    }  # fmt: skip
    gains = {
        what: [twin_uniform(ranges.histograms[str(name)]).gain_db for name in names] for what, names in tensors.items()
    }
    said = " and ".join(f"{min(found):+.1f} to {max(found):+.1f} dB behind {what}" for what, found in gains.items())
    return (
        "Twin uniform quantization (PTQ4ViT), which plain operators do not compute at the speed of one grid, would "
        f"gain {said} at 8 bits: computed from the histograms, with the best single grid as reference."
    )


def run(
    study: Study,
    out: Path,
    *,
    steps: Sequence[Step] = STEPS,
    outliers: Sequence[Step] = OUTLIERS,
    every_bits: Sequence[tuple[int, int]] = BITS,
) -> Path:
    """Returns the result file: a row for each step, without and with outlier channels.

    Args:
        study: The model and its images.
        out: Folder of the result file.
        steps: The rows without outlier channels.
        outliers: The rows with them.
        every_bits: Bits of weights and activations; 8 and 8 first.
    """
    fp32 = once(study.work / "fp32.result.json", lambda: light(study.score(
        write_fp32(study.model("folded"), X86, study.work / "fp32"), ["onnxruntime", "openvino"])))  # fmt: skip
    titles = ["ONNX Runtime", "OpenVINO", *(f"W{weights}A{values} simulated" for weights, values in every_bits[1:])]
    head = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * len(titles)]
    everyone = [*fp32]
    # What is simulated is computed by ONNX Runtime.
    float_scores = [result["top1"] for result in (*fp32, *[fp32[0]] * len(every_bits[1:]))]
    lines = [
        f"# Fashion-MNIST ViT (6 blocks of 128), top-1 on {fp32[0]['images']:,} test images, calibrated on "
        f"{CALIBRATION_NUM} training images",
        "",
        f"| INT8 and fewer bits, step by step {head[0]}",
        head[1],
        f"| FP32 | {' | '.join(f'{top1:.4f}' for top1 in float_scores)} |",
        *score_steps(study, steps, "", everyone, every_bits),
        "",
        f"The same function with outlier channels, which large ViTs have: behind each LayerNorm {_OUTLIER_SHARE:.0%} "
        f"of the channels made {_OUTLIER_FACTOR:.0f} times as large, and the weights that read them as much smaller.",
        "",
        f"| with outlier channels | {' | '.join(titles[:3])} |",
        "|---|---:|---:|---:|",
        *score_steps(study, outliers, "outliers", everyone, every_bits[:2]),
        "",
        twin_sentence(study),
        *provenance(merge(everyone)),
    ]
    return write_result(out, "vit_accuracy.md", "\n".join(lines) + "\n")


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("vit_accuracy"), help="folder for files and ranges")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    run(fashionmnist(arguments.work.resolve()), arguments.out)


if __name__ == "__main__":
    main()
