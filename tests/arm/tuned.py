"""Do tuned TFLite files score on aarch64 as they do on x86, where they were tuned?

`python -m tests.arm.tuned WORK` scores what `benchmarks.tuning --engines litert --work WORK` has left there on the
emulated machine, and writes benchmarks/results/tuning_arm_emulated.md; it takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import DATA
from benchmarks.image_sets import image_set
from benchmarks.json_results import merge
from benchmarks.scored_models import TUNED
from benchmarks.tuning_cases import FACES
from edgeq.exporting.artifact import Artifact
from edgeq.files import write_text
from edgeq.results.rows import provenance
from tests.arm.agreement import ROOT, Machine, compare, on_both
from tests.arm.figures import CPU, machines
from tests.arm.subjects import first_images

PAGE = ROOT / "benchmarks/results/tuning_arm_emulated.md"
_ENGINE = "litert"
_TITLES = ("FP32", "default INT8", "tuned for 0.3 points")
_COMPARED = 2
_FEW = {"centernet": 4, "yolox": 8}
"""Scored images of large networks, which take seconds each there."""

_IMAGES, _LABELS = 16, 100
_HEAD = """# Tuned TFLite files on aarch64, emulated

| model | file | images | score on x86 | on aarch64 | values that differ | largest |
|---|---|---:|---:|---:|---:|---:|
"""


def kept_file(name: str, work: Path) -> Path:
    """Returns what `benchmarks.tuning` has kept of a model's files, with NNCF asked for or without."""
    folder = work / name / _ENGINE
    return next((path for path in (folder / "files.json", folder / "own files.json") if path.is_file()), folder)


def scored_images(name: str, data: Path, work: Path, folder: Path) -> tuple[Path, Path, int]:
    """Returns annotations of the first scored images of a model, their folder, and how many there are."""
    if name in FACES:
        truth, images = work / name / "own_faces.json", data / "coco"
    else:
        found = image_set(TUNED[name].images, data, work / name)
        truth, images = found.truth, found.images
    if truth.suffix == ".json":
        count = _FEW.get(name, _IMAGES)
        return first_images(truth, count, folder), images, count
    lines = truth.read_text().splitlines()[:_LABELS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv", images, len(lines)


def lines_of(
    name: str, x86: Machine, arm: Machine, data: Path, work: Path, folder: Path, results: list[dict[str, Any]]
) -> list[str]:
    """Returns the lines of a model, and adds what was scored to `results`."""
    kept = json.loads(kept_file(name, work).read_text())
    annotations, images, count = scored_images(name, data, work, folder)
    lines = []
    for row in kept["rows"]:
        if row["title"] not in _TITLES or "path" not in row:
            continue
        artifact = Artifact.load(work / name / row["path"])
        scored = on_both(x86, arm, "score", artifact, _ENGINE, annotations, images)
        results += scored
        found = compare(*on_both(x86, arm, "outputs", artifact, _ENGINE, flat(images), _COMPARED))
        scores = [f"{result.get('AP', result.get('top1')):.4f}" for result in scored]
        cells = (TUNED[name].subject.title, row["title"], count, *scores, f"{found.share:.1%}", f"{found.largest:.2g}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
        print(lines[-1], flush=True)
    return lines


def flat(images: Path) -> Path:
    """Returns a folder with images directly in it."""
    return images if any(each.suffix in (".jpg", ".png") for each in images.iterdir()) else images / "val2017"


def run(names: Sequence[str], data: Path, work: Path, page: Path = PAGE) -> Path:
    """Returns the page with the files of some models."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        emulator, arm = machines(folder)
        lines = [
            line
            for name in names
            for line in lines_of(name, Machine(Path(sys.executable)), arm, data, work, folder / name, results)
        ]
    facts = emulator.facts()
    how = (
        f"aarch64 is QEMU {facts['qemu']} in user mode, CPU {CPU}, glibc {facts['glibc']}; it tells nothing of speed. "
        f"Values of {_COMPARED} images are compared, over the range of the output. Faces: truth is what FP32 finds."
    )
    sources = dict.fromkeys(sentence for result in results for sentence in provenance(merge([result])))
    write_text(page, "\n".join([_HEAD + "\n".join(lines), "", how, *sources]) + "\n")
    return page


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of `benchmarks.tuning`")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    return parser


def main() -> None:
    """Writes the page."""
    given = make_parser().parse_args()
    names = [name for name in TUNED if kept_file(name, given.work).is_file()]
    print(run(names, given.data, given.work))


if __name__ == "__main__":
    main()
