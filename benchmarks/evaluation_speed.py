"""How fast are images scored, from file to prediction, compared with the engine alone on inputs that are ready?

`python -m benchmarks.evaluation_speed` takes turns: the engine alone over prepared inputs, then reading, preparing,
inferring and decoding of the same images, as `edgeq eval` does it. Each task has a model: public ones where there are,
for the others a ResNet-18 whose last layers have the outputs that the decoder reads, with random weights. Of an image
they say about as many scores above .001 as YOLOX-nano does: some 300 to 2,800.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import read_subjects, subjects_parser, write_result
from edgeq.evaluation.inference import Job, predict
from edgeq.exporting.artifact import Artifact
from edgeq.files import write_text
from edgeq.inputs import InputCache, Item, model_input
from edgeq.inputs.images import list_images
from edgeq.inputs.items import image_files
from edgeq.machine import keep_freed_memory, read_machine
from edgeq.runtimes import open_session
from edgeq.sources.artifact_file import open_artifact

if TYPE_CHECKING:
    import torch

IMAGES, ROUNDS, SIDE = 24, 3, 320
WORK = Path("artifacts/evaluation_speed")

Heads = Mapping[str, tuple[str, int, float]]
"""Output -> which features it is of, its channels, and the mean of what it says."""


@dataclass(frozen=True)
class Subject:
    """A model of a task.

    Attributes:
        title: What the table calls it.
        preset: A preset's name, or the text of one.
        file: A file below the data folder.
        heads: Without a file: the outputs. Features are `cells` (those of the strides 8, 16 and 32 in a row), `fine`
            (stride 4, of the first stage and the last), or `rows` (columns of stride 8, without height).
        sigmoid: Whether outputs but for the prototypes of masks are probabilities.
    """

    title: str
    preset: str
    file: str = ""
    heads: Heads | None = None
    sigmoid: bool = True


def _plain(decoder: str, labels: str = "", options: str = "") -> str:
    stated = f"labels = [{labels}]\n" if labels else ""
    return (
        f'{stated}[preprocessing]\nresize = "stretch"\n\n[postprocessing]\ndecoder = "{decoder}"\n'
        f"\n[postprocessing.options]\n{options}\n"
    )


SUBJECTS = {
    "detection": Subject("detection, YOLOX-nano", "yolox", "weights/yolox_nano_coco_416.onnx"),
    "detection-yolov8": Subject("detection, YOLOv8's head", "yolov8", heads={"output0": ("cells", 84, -7.7)}),
    "instances": Subject(
        "instance segmentation, YOLO's head",
        "yolo_seg",
        heads={"output0": ("cells", 4 + 80 + 32, -7.7), "output1": ("fine", 32, 0.0)},
    ),
    "keypoints": Subject("keypoints, YOLO's head", "yolo_pose", heads={"output0": ("cells", 5 + 3 * 17, -7.4)}),
    "oriented": Subject("oriented boxes, YOLO's head", "yolo_obb", heads={"output0": ("cells", 5 + 15, -7.4)}),
    "semantic": Subject(
        "semantic segmentation, 21 classes", _plain("semantic"), heads={"scores": ("fine", 21, 0.0)}, sigmoid=False
    ),
    "text-detection": Subject("text detection, DB's head", _plain("db"), heads={"map": ("fine", 1, -2.0)}),
    "text-recognition": Subject(
        "text recognition, 6,625 characters", _plain("ctc"), heads={"scores": ("rows", 6625, 0.0)}, sigmoid=False
    ),
    "depth": Subject("depth", _plain("depth"), heads={"depth": ("fine", 1, 0.0)}, sigmoid=False),
    "classification": Subject(
        "classification, 1,000 classes", "imagenet", heads={"scores": ("mean", 1000, 0.0)}, sigmoid=False
    ),
}


class Pictures:
    """Images without a truth, as `edgeq.evaluation.inference` takes them."""

    max_unreadable = 0.0

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.items: Sequence[Item] = image_files(paths)

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Takes any image."""


@dataclass(frozen=True)
class Speeds:
    """What one round took, in seconds.

    Attributes:
        engine_s: The engine alone, on inputs that are ready.
        evaluation_s: The same images from file to prediction, as `edgeq eval` does it, without scoring.
        engine_cpu_s: CPU time of the engine.
        prepare_cpu_s: CPU time of reading, resizing and normalising.
        decode_cpu_s: CPU time of decoding.
    """

    engine_s: float
    evaluation_s: float
    engine_cpu_s: float
    prepare_cpu_s: float
    decode_cpu_s: float

    @property
    def one_core(self) -> float:
        """The engine's share of all CPU time: the ratio of speeds if no other core is free."""
        return self.engine_cpu_s / (self.engine_cpu_s + self.prepare_cpu_s + self.decode_cpu_s)


_TITLES = (
    "task and model", "engine alone, images/s", "evaluation, images/s", "ratio", "CPU ms/image: engine", "preparing",
    "decoding", "ratio on one core",
)  # fmt: skip


def run(out: Path, names: Sequence[str], data: Path, images: int, work: Path, *, rounds: int = ROUNDS) -> Path:
    """Returns the result file: for each task the speed of both and their ratio, and where the CPU time goes."""
    pictures = Pictures(list_images(data / "coco" / "val2017")[:images])
    count = len(pictures.paths)
    lines = [f"| {' | '.join(_TITLES)} |", "|---|" + "---:|" * (len(_TITLES) - 1)]
    for name in names:
        found = measure(_artifact(SUBJECTS[name], name, data, work), pictures, rounds)
        costs = ([each.engine_cpu_s, each.prepare_cpu_s, each.decode_cpu_s] for each in found)
        cells = [
            f"{count / statistics.median(each.engine_s for each in found):.1f}",
            f"{count / statistics.median(each.evaluation_s for each in found):.1f}",
            f"{statistics.median(each.engine_s / each.evaluation_s for each in found):.2f}",
            *(f"{1000 * statistics.median(part) / count:.1f}" for part in zip(*costs, strict=True)),
            f"{statistics.median(each.one_core for each in found):.2f}",
        ]
        lines.append(f"| {SUBJECTS[name].title} | {' | '.join(cells)} |")
    machine = read_machine()
    how = (
        f"Medians of {rounds} rounds in turns over {count} COCO images; onnxruntime with 1 thread, besides the two "
        "threads that read and decode. The ratio on one core is the engine's share of all CPU time: that of the speeds "
        f"if no other core were free. Models of heads have random weights. "
        f"Measured on {machine.cpu}, {machine.usable_cpus} CPUs, Python {machine.python}, load average at the end "
        f"{os.getloadavg()[0]:.1f}."
    )
    return write_result(out, "evaluation_speed.md", "\n".join(["# Speed of evaluation", "", *lines, "", how]) + "\n")


def measure(artifact: Artifact, pictures: Pictures, rounds: int) -> list[Speeds]:
    """Returns the rounds, each of which measures all of `Speeds`."""
    pre, post = artifact.preprocessing, artifact.postprocessing
    assert pre is not None and post is not None  # every subject has a preset with a decoder
    spec = artifact.inputs[0]
    keep_freed_memory()  # as `predict` does
    found = []
    with open_session(artifact, "onnxruntime", 1) as session:
        for _ in range(rounds):
            cpu = [time.process_time()]
            prepared = [model_input(item.read(), pre, item.name) for item in pictures.items]
            cpu.append(time.process_time())
            ready = [{spec.name: spec.encode(array)} for array, _ in prepared]
            session.run(ready[0])
            cpu.append(time.process_time())
            started = time.perf_counter()
            answers = [session.run(inputs) for inputs in ready]
            engine_s = time.perf_counter() - started
            cpu.append(time.process_time())
            job = Job(artifact, pre, post, "onnxruntime", None)
            decode = job.decoder.decode
            for outputs, (_, placement) in zip(answers, prepared, strict=True):
                decode({each.name: each.decode(outputs[each.name]) for each in artifact.outputs}, post, placement)
            cpu.append(time.process_time())
            predict([job], pictures, 1, InputCache(0))
            found.append(Speeds(engine_s, job.total_s, cpu[3] - cpu[2], cpu[1] - cpu[0], cpu[4] - cpu[3]))
    return found


def _artifact(subject: Subject, name: str, data: Path, work: Path) -> Artifact:
    """Returns a subject's FP32 file; one of random weights is written once."""
    if subject.file:
        return open_artifact(data / subject.file, subject.preset)
    written = work / f"{name}.onnx"
    preset = subject.preset
    if "\n" in preset:
        preset = str(work / f"{name}.toml")
        write_text(Path(preset), subject.preset)
    if not written.is_file():
        import onnx_ir as ir
        import torch

        from edgeq.sources.torch_export import export_torch

        network = _network(subject)
        work.mkdir(parents=True, exist_ok=True)
        ir.save(export_torch(network, torch.zeros(1, 3, SIDE, SIDE), tuple(subject.heads or ()), opset=18), written)
    return open_artifact(written, preset)


def _network(subject: Subject) -> torch.nn.Module:
    """Returns a ResNet-18 with the outputs of a subject."""
    import torch
    from torchvision.models import resnet18

    heads = subject.heads or {}
    widths = {"fine": [64], "cells": [128, 256, 512], "rows": [128], "mean": [512]}

    class Network(torch.nn.Module):
        output_names = tuple(heads)

        def __init__(self) -> None:
            super().__init__()
            self.trunk = resnet18(weights=None)
            self.deep = torch.nn.Conv2d(512, 64, 1)
            self.last = torch.nn.ModuleList()
            for kind, channels, _ in heads.values():
                self.last.extend([torch.nn.Conv2d(width, channels, 1) for width in widths[kind]])

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            trunk = self.trunk
            fine = trunk.layer1(trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images)))))
            maps = [trunk.layer2(fine)]
            maps += [trunk.layer3(maps[0])]
            maps += [trunk.layer4(maps[1])]
            fine = fine + torch.nn.functional.interpolate(self.deep(maps[2]), scale_factor=8.0)
            taken = {"fine": [fine], "cells": maps, "rows": maps[:1], "mean": maps[2:]}
            last = iter(self.last)
            found: list[Any] = []
            for kind, _, mean in heads.values():
                said = [next(last)(each) for each in taken[kind]]
                found.append(_said(kind, said, mean, probable=subject.sigmoid))
            return tuple(found)

    torch.manual_seed(0)
    return Network().eval()


def _said(kind: str, maps: Sequence[torch.Tensor], mean: float, *, probable: bool) -> torch.Tensor:
    """Returns an output of maps `(1, C, H, W)`: boxes of 20 to some 60 pixels before scores, maps, or rows."""
    import torch

    if kind == "mean":
        return maps[0].mean((2, 3))
    if kind == "rows":
        return maps[0].mean(2).transpose(1, 2).softmax(2)
    if kind == "cells":
        cells = torch.cat([each.flatten(2) for each in maps], 2)
        return torch.cat([cells[:, :4].abs() * 20 + 20, (cells[:, 4:] + mean).sigmoid()], 1)
    return (maps[0] + mean).sigmoid() if probable and mean else maps[0]


def make_parser() -> argparse.ArgumentParser:
    return subjects_parser(__doc__, SUBJECTS, SUBJECTS, IMAGES, WORK)


def main() -> None:
    given = read_subjects(make_parser(), SUBJECTS)
    run(given.out, given.names, given.data, given.images, given.work)


if __name__ == "__main__":
    main()
