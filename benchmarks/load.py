"""What do large inputs cost: 100,000 images, 1,000 artifacts, 10,000 classes, 2,000 boxes an image?

`python -m benchmarks.load` does each job on a quarter of its size and on all of it, each in a separate process, and
writes times, memory and how they grow: four times as much should take about four times as long. Minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import cpu_and_threads, write_result
from edgeq.machine import read_machine

_PART = 4
_LINEAR = 1.5 * _PART
"""Growth that passes for linear; small jobs have a part that does not grow."""

_MIN_S = 0.5
"""CPU time after which a job is not run again."""

Job = Callable[[], object]


def coco_images(size: int, folder: Path) -> Job:
    """Returns the job of reading a COCO file of so many images, with a box on each."""
    from edgeq.datasets import open_split

    path = _write_coco(folder, images=size, boxes=1, classes=80)
    return lambda: open_split(path, "evaluation")


def listed_images(size: int, folder: Path) -> Job:
    """Returns the job of reading a CSV of so many images with a class each."""
    from edgeq.datasets import open_split

    (folder / "0.png").touch()
    path = folder / "labels.csv"
    path.write_text("path,label\n" + "".join(f"{number}.png,c{number % 100}\n" for number in range(size)))
    return lambda: open_split(path, "evaluation")


def classes(size: int, folder: Path) -> Job:
    """Returns the job of matching so many classes of a model with those of a data set."""
    from edgeq.tasks.detection.categories import category_ids
    from edgeq.tasks.detection.coco import load_ground_truth

    path = _write_coco(folder, images=100, boxes=1, classes=size)
    labels = tuple(f"class {number}" for number in reversed(range(size)))
    return lambda: category_ids(load_ground_truth(path), labels)


def boxes(size: int, folder: Path) -> Job:
    """Returns the job of scoring ten images with so many boxes each."""
    from edgeq.tasks.detection.coco import evaluate, load_ground_truth
    from edgeq.tasks.detection.detections import Detections

    truth = load_ground_truth(_write_coco(folder, images=10, boxes=size, classes=80))
    found: dict[int, Detections] = {}
    for record in truth.images:
        own = [each for each in truth.annotations if each["image_id"] == record.id]
        placed = np.array([each["bbox"] for each in own], np.float32)
        placed[:, 2:] += placed[:, :2]
        scores = np.linspace(0.9, 0.1, len(own)).astype(np.float32)
        found[record.id] = Detections(placed, scores, np.array([each["category_id"] for each in own]))
    return lambda: evaluate(truth, found, sorted(found))


def artifacts(size: int, folder: Path) -> Job:
    """Returns the job of the report on so many timed files."""
    from edgeq.reporting.build import build_document
    from edgeq.reporting.page import render
    from edgeq.reporting.runs import read_runs

    rng = np.random.default_rng(0)
    files = []
    for number in range(size):
        samples = (1e6 * rng.normal(8, 0.2, 60)).astype(int).tolist()
        files.append(
            {
                "artifact": f"net{number}.x86.{'int8' if number % 2 else 'fp32'}.onnx",
                "digest": f"{number:064}",
                "source_digest": f"{number // 2:064}",
                "target": "x86",
                "runtime": "onnxruntime",
                "precision": "int8" if number % 2 else "fp32",
                "size_bytes": 1_000_000,
                "runs": len(samples),
                "obtained": "measured",
                "latency_ms": {"p50": 8.0, "p90": 8.8, "p99": None, "mean": 8.0, "min": 7.0, "max": 9.0, "mad": 0.1},
                "samples_ns": samples,
                "round_runs": [4] * 15,
                "environment": {"engine": "onnxruntime 1.32.0", "threads": 2, "cpu": "a CPU", "emulated": False},
            }
        )
    path = folder / "bench.json"
    path.write_text(json.dumps(files))
    return lambda: render(build_document(read_runs([path]), examples=0))


JOBS: dict[str, tuple[int, str, Callable[[int, Path], Job]]] = {
    "read COCO": (100_000, "images", coco_images),
    "read a CSV": (100_000, "images", listed_images),
    "match classes": (10_000, "classes", classes),
    "score ten images": (2000, "boxes per image", boxes),
    "write a report": (1000, "artifacts", artifacts),
}


def run(out: Path, sizes: Mapping[str, int] | None = None) -> Path:
    """Does all jobs, or those of `sizes` in these sizes, and writes `load.md`; returns its path."""
    rows = []
    for name, (whole, unit, _) in JOBS.items():
        if sizes is not None and name not in sizes:
            continue
        size = whole if sizes is None else sizes[name]
        (part_s, part_bytes), (whole_s, whole_bytes) = (_measured(name, each) for each in (size // _PART, size))
        growth = whole_s / part_s
        rows.append(
            f"| {name} | {size:,} {unit} | {part_s:.3f} s | {whole_s:.3f} s | {growth:.1f} | "
            f"{'yes' if growth <= _LINEAR else 'no'} | {part_bytes / 1e6:.0f} MB | {whole_bytes / 1e6:.0f} MB |"
        )
        print(rows[-1], flush=True)
    lines = [
        "# Large inputs",
        "",
        f"`python -m benchmarks.load` on {cpu_and_threads(read_machine(), 1)}, measured: each job on a quarter of its "
        "size and on all of it, in CPU time of a separate process. Memory is the process's peak, imports included.",
        "",
        f"| Job | Size | A quarter | All | Times | Linear (up to {_LINEAR:g}) | Memory, a quarter | Memory, all |",
        "|---|--:|--:|--:|--:|---|--:|--:|",
        *rows,
        "",
    ]
    return write_result(out, "load.md", "\n".join(lines))


def _measured(name: str, size: int) -> tuple[float, int]:
    """Returns CPU seconds and peak memory in bytes of a job."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(name, size, sender))
    process.start()
    sender.close()
    try:
        found: tuple[float, int] = receiver.recv()
    finally:
        process.join()
    return found


def _measure(name: str, size: int, sender: Any) -> None:
    make = JOBS[name][2]
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        make(8, Path(first))()  # imports
        job = make(size, Path(second))
        took_s = _fastest_s(job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    sender.send((took_s, peak))


def _fastest_s(job: Job) -> float:
    """Returns the CPU time of a job; of one of milliseconds the least of many runs."""
    times: list[float] = []
    while sum(times) < _MIN_S:
        begun = time.process_time()
        job()
        times.append(time.process_time() - begun)
    return min(times)


def _write_coco(folder: Path, images: int, boxes: int, classes: int) -> Path:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 500, (images * boxes, 4)).round(2)
    document = {
        "images": [{"id": each, "file_name": f"{each}.png", "width": 640, "height": 640} for each in range(images)],
        "annotations": [
            {
                "id": number,
                "image_id": number // boxes,
                "category_id": number % classes,
                "bbox": [left, top, 20 + width / 10, 20 + height / 10],
                "area": (20 + width / 10) * (20 + height / 10),
                "iscrowd": 0,
            }
            for number, (left, top, width, height) in enumerate(places.tolist())
        ],
        "categories": [{"id": each, "name": f"class {each}"} for each in range(classes)],
    }
    (folder / "0.png").touch()
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    return path


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser


def main() -> None:
    """Reads the arguments and runs."""
    print(run(make_parser().parse_args().out))


if __name__ == "__main__":
    main()
