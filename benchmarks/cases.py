"""What the benchmarks share: the real detectors with their images, found through `EDGEQ_DATA`, and where results go."""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import edgeq
from edgeq.boundary import Plain, read_json
from edgeq.calibration.source import CalibrationSource
from edgeq.files import write_json, write_text
from edgeq.machine import Machine
from edgeq.sources.model import ModelRequest

DATA = Path(os.environ.get("EDGEQ_DATA", Path(__file__).parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"
DETECTORS = ("centernet", "yolox", "fastestdet")
"""Names that `case` knows."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A detector with images to calibrate on and to score on.

    Attributes:
        name: What its result files are named after.
        title: What tables call it: `MODEL on IMAGES`.
        request: The model.
        calibration: Annotations of the images to calibrate on.
        calibration_images: Folder of these images.
        calibration_num: How many of them are taken.
        validation: Annotations of the images to score on.
        validation_images: Folder of these images.
    """

    name: str
    title: str
    request: ModelRequest
    calibration: Path
    calibration_images: Path
    calibration_num: int
    validation: Path
    validation_images: Path

    @property
    def model_title(self) -> str:
        """What tables call the model alone."""
        return self.title.partition(" on ")[0]

    @property
    def source(self) -> CalibrationSource:
        """The images to calibrate on, as `export_model` takes them."""
        return CalibrationSource(self.calibration, self.calibration_images, num=self.calibration_num)


def result_parser(documentation: str | None) -> argparse.ArgumentParser:
    """Returns the parser of a benchmark's command line: its question, and the folder that takes the answer."""
    parser = argparse.ArgumentParser(description=(documentation or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables and pictures")
    return parser


def subjects_parser(
    documentation: str | None, subjects: Iterable[str], default: Iterable[str], images: int, work: Path
) -> argparse.ArgumentParser:
    """Returns the parser of a benchmark of chosen models.

    Args:
        documentation: Of the benchmark.
        subjects: Names of all models.
        default: Names of those that are measured if none is given.
        images: Calibration images, if no number is given.
        work: Folder for the files, if none is given.
    """
    parser = result_parser(documentation)
    chosen = "all" if list(default) == list(subjects) else ", ".join(default)
    names = f"of {', '.join(subjects)}; by default {chosen}"
    parser.add_argument("names", nargs="*", default=list(default), help=names)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--images", type=int, default=images, help="calibration images")
    parser.add_argument("--work", type=Path, default=work, help="folder for the files")
    return parser


def read_subjects(parser: argparse.ArgumentParser, subjects: Collection[str]) -> argparse.Namespace:
    """Returns the arguments of `subjects_parser`; ends the process if one of the names is not known."""
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in subjects]:
        parser.error(f"{', '.join(unknown)}: known are {', '.join(subjects)}")
    return given


def kept_result(path: Path, measure: Callable[..., Mapping[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Returns what an earlier run has kept in a file, or what `measure` returns for the arguments, which is kept."""
    if not path.is_file():
        write_json(path, dict(measure(*arguments)))
    found: dict[str, Any] = read_json(path, Plain, kind="a result of this benchmark")
    return found


def code_state() -> str:
    """Returns which edgeq runs: its version and, in a checkout, the commit and whether files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=RESULTS, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        commit, changes = (
            git("log", "-1", "--format=%h of %cs"),
            git("status", "--porcelain", "--", "../../edgeq", ".."),
        )
    except OSError:  # no git here
        commit = changes = ""
    return f"edgeq {edgeq.__version__}{commit and f', commit {commit}'}{changes and ', changed'}"


def states_of(found: Iterable[Mapping[str, Any]]) -> str:
    """Returns the states of the code that results were measured on, in words; several are a page of several runs."""
    return "; ".join(sorted({str(each["state"]) for each in found if "state" in each})) or "an unknown state of edgeq"


def commit_of(state: str) -> str:
    """Returns the commit of a state of the code as a cell of a table, or the state if it names none."""
    return state.rpartition("commit ")[2]


def rows_of(page: Path, heading: str) -> dict[str, list[str]]:
    """Returns the rows of an earlier run's table by their first cell; one without belongs to the row above it.

    Args:
        page: The result file; there are no rows if there is none.
        heading: The table's first line; there are no rows if the page's table has another.
    """
    found: dict[str, list[str]] = {}
    if not page.is_file() or f"{heading}\n" not in (text := page.read_text(encoding="utf-8")):
        return found
    title = ""
    for line in text.partition(f"{heading}\n")[2].splitlines()[1:]:
        if not line.startswith("| "):
            break
        title = line.split(" | ")[0].removeprefix("|").strip() or title
        found.setdefault(title, []).append(line)
    return found


def write_result(out: Path, name: str, text: str) -> Path:
    """Returns the file of a result in the folder `out`, after writing and printing it."""
    path = out / name
    write_text(path, text)
    print(text)
    return path


def cpu_and_threads(machine: Machine, threads: int) -> str:
    """Returns what figures were measured on: the CPU with its features, and the engine's threads."""
    return f"{machine.cpu} ({', '.join(machine.cpu_features)}), {threads} thread{'s' if threads > 1 else ''}"


def case(name: str) -> Case:
    """Returns one of `DETECTORS` with its real images.

    Raises:
        SystemExit: the real data is not there.
    """
    if not (DATA / "MANIFEST.md").is_file():
        sys.exit(f"real data not found at {DATA}; set EDGEQ_DATA to its folder")
    weights, bccd, coco = DATA / "weights", DATA / "bccd", DATA / "coco"
    if name == "centernet":
        request = ModelRequest(
            "centernet_resnet18",
            weights / "centernet_r18_bccd.safetensors",
            size=(320, 416),
            labels=str(bccd / "instances_train.json"),
        )
        images = bccd / "images"
        title = "CenterNet-R18 on bccd, 87 validation images, calibrated on 64 training images"
        return Case(
            name, title, request, bccd / "instances_train.json", images, 64, bccd / "instances_val.json", images
        )
    file, preset, title = {
        "yolox": ("yolox_nano_coco_416.onnx", "yolox", "YOLOX-nano"),
        "fastestdet": ("fastestdet_coco_352.onnx", "fastestdet", "FastestDet"),
    }[name]
    return Case(
        name,
        f"{title} on 88 COCO val2017 images, calibrated on 166 train2017 images",
        ModelRequest(str(weights / file), preset=preset),
        coco / "instances_train.json",
        coco / "train2017",
        166,
        coco / "instances_val.json",
        coco / "val2017",
    )


def random_centernet(images: Case) -> Case:
    """Returns a large CenterNet with random weights, whose time and memory alone mean something, on a case's images."""
    title = "CenterNet-R50 512x512, random weights"
    return dataclasses.replace(images, title=title, request=ModelRequest("centernet_resnet50", size=(512, 512)))
