"""`edgeq eval`: COCO scores of detectors, each in the engine that is to run it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.detection import Decoder, Detections, get_decoder
from edgeq.detection.coco import (
    GroundTruth,
    ImageRecord,
    category_ids,
    check_engine,
    evaluate,
    load_ground_truth,
)
from edgeq.errors import EdgeqError, InputError, ModelError
from edgeq.export.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.images import UnreadableImages, list_images, read_image, work_ahead
from edgeq.preprocessing import Placement, preprocess
from edgeq.progress import progress_bar
from edgeq.runtimes import Session, default_runtime, get_runtime, open_session

# Two threads keep images ready for the engine; more would only take its cores.
_WORKERS = 2
_AHEAD = 4

_log = logging.getLogger(__name__)


def evaluate_artifacts(
    paths: Sequence[Path],
    annotations: Path,
    images_dir: Path,
    *,
    runtimes: Sequence[str] = (),
    compute_precisions: Sequence[str] = (),
    threads: int | None = None,
    engine: str = "pycocotools",
) -> list[dict[str, Any]]:
    """Returns one result for each artifact, runtime and compute precision, in this order.

    A result is a JSON object with `artifact`, `digest`, `target`, `runtime`, `precision`, `images` (how many were
    scored), the twelve COCO numbers (`AP`, `AP50`, ..., null where there is no box to find), `per_class` (a list of
    `name`, `category_id`, `boxes`, `ap`, `ap50`, `ar_100`), `skipped_images` (file names), `inference_images_per_s`
    (inference alone), `eval_images_per_s` (everything from file to detections), `annotations`, `evaluator`,
    `environment` and `obtained` ("measured").

    Images are decoded and resized while the engine computes earlier ones; artifacts that share a pre-processing share
    this work.

    Args:
        paths: Model files, or their manifests.
        annotations: COCO annotation file.
        images_dir: Folder of its images.
        runtimes: Runtimes to run each in; by default the first of its target that is installed.
        compute_precisions: What float layers are computed in (`f32`, `bf16`, `f16`); by default f32 for an `fp32` file
            and the engine's choice for every other.
        threads: CPU threads of the engine; `None` leaves it to the engine.
        engine: COCO evaluator, see `edgeq.detection.coco.evaluate`.

    Raises:
        InputError: a file, runtime or evaluator cannot be used, an artifact is no detector or detects what the
            annotations do not know, or more than 5 % of the images cannot be read.
        MismatchError: a file is not the one that its manifest describes.
        ModelError: the decoder does not know the model's outputs.
        MissingDependencyError: the engine or evaluator is not installed.
        EngineError: the engine refuses or fails to run a file.
    """
    if not paths:
        raise InputError("no artifact to score; name at least one file that `edgeq export` wrote")
    check_engine(engine)
    ground_truth = load_ground_truth(annotations)
    list_images(annotations, images_dir)  # tells at once when the folder is the wrong one
    for runtime in runtimes:
        get_runtime(runtime)
    jobs = [
        _job(artifact, runtime, compute, ground_truth)
        for artifact in map(Artifact.load, paths)
        for runtime in (runtimes or (default_runtime(artifact),))
        for compute in (compute_precisions or (None,))
    ]
    groups: dict[Preprocessing, list[_Job]] = {}
    for job in jobs:
        groups.setdefault(job.artifact.preprocessing, []).append(job)
    for preprocessing, group in groups.items():
        _run_group(group, preprocessing, ground_truth, images_dir, threads)
    return [_result(job, ground_truth, engine) for job in jobs]


@dataclass
class _Job:
    """An artifact in a runtime, and what came of it."""

    artifact: Artifact
    postprocessing: Postprocessing
    runtime: str
    compute_precision: str | None
    decoder: Decoder
    environment: dict[str, Any] = field(default_factory=dict)
    detections: dict[int, Detections] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    inference_s: float = 0.0
    total_s: float = 0.0


def _job(artifact: Artifact, runtime: str, compute: str | None, ground_truth: GroundTruth) -> _Job:
    """Returns a job that was checked as far as possible before an image is read."""
    if artifact.postprocessing is None:
        raise InputError(
            f"{artifact.path}: its manifest names no decoder, so it cannot be scored as a detector; export it with a "
            "--preset that has one"
        )
    if len(artifact.inputs) != 1:
        names = ", ".join(spec.name for spec in artifact.inputs)
        raise InputError(f"{artifact.path}: takes {len(artifact.inputs)} inputs ({names}), wanted a single image")
    category_ids(ground_truth, artifact.labels)
    return _Job(artifact, artifact.postprocessing, runtime, compute, get_decoder(artifact.postprocessing.decoder))


def _run_group(
    jobs: Sequence[_Job],
    preprocessing: Preprocessing,
    ground_truth: GroundTruth,
    images_dir: Path,
    threads: int | None,
) -> None:
    """Runs all images through jobs that take the same input."""
    unreadable = UnreadableImages(len(ground_truth.images))
    skipped: list[str] = []
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(_WORKERS))
        sessions = [open_session(job.artifact, job.runtime, threads, job.compute_precision) for job in jobs]
        runs = [_Run(job, stack.enter_context(session), pool) for job, session in zip(jobs, sessions, strict=True)]
        advance = stack.enter_context(progress_bar(len(ground_truth.images), "eval"))
        started = time.perf_counter()
        prepared = work_ahead(
            pool, ground_truth.images, lambda record: _prepare(images_dir, record, preprocessing), _AHEAD
        )
        for record, image in zip(ground_truth.images, prepared, strict=True):
            if isinstance(image, InputError):
                _log.warning("skipped: %s", image)
                unreadable.add(images_dir / record.file_name, image)
                skipped.append(record.file_name)
            else:
                for run in runs:
                    run.submit(record.id, *image)
            advance(1)
        for run in runs:
            run.finish()
        total_s = time.perf_counter() - started
    for job in jobs:
        job.skipped = skipped
        job.total_s = total_s - sum(other.inference_s for other in jobs if other is not job)


class _Run:
    """Infers in the calling thread and decodes in the pool."""

    def __init__(self, job: _Job, session: Session, pool: ThreadPoolExecutor) -> None:
        self._job = job
        self._session = session
        self._pool = pool
        self._pending: deque[tuple[int, Future[Detections]]] = deque()
        job.environment = session.environment()

    def submit(self, image_id: int, array: np.ndarray, placement: Placement) -> None:
        (spec,) = self._job.artifact.inputs
        started = time.perf_counter()
        outputs = self._session.run({spec.name: array.astype(spec.dtype, copy=False)})
        self._job.inference_s += time.perf_counter() - started
        self._pending.append((image_id, self._pool.submit(_decode, self._job, outputs, placement)))
        if len(self._pending) > _AHEAD:
            self._collect()

    def finish(self) -> None:
        while self._pending:
            self._collect()

    def _collect(self) -> None:
        image_id, future = self._pending.popleft()
        self._job.detections[image_id] = future.result()


def _prepare(
    images_dir: Path, record: ImageRecord, preprocessing: Preprocessing
) -> tuple[np.ndarray, Placement] | InputError:
    path = images_dir / record.file_name
    try:
        image = read_image(path)
    except InputError as error:
        return error
    found, stated = (image.shape[1], image.shape[0]), (record.width_px, record.height_px)
    if all(stated) and found != stated:
        raise InputError(
            f"{path}: has {found[0]}x{found[1]} pixels, its annotations were made on {stated[0]}x{stated[1]}; wanted "
            "the images that the annotations belong to, neither resized nor rotated"
        )
    return preprocess(image, preprocessing)


def _decode(job: _Job, outputs: dict[str, np.ndarray], placement: Placement) -> Detections:
    name = job.postprocessing.decoder
    try:
        detections = job.decoder(outputs, job.postprocessing, placement)
    except EdgeqError:
        raise
    except Exception as error:
        raise ModelError(f"{job.artifact.name}: decoder {name} failed on its outputs ({error!r})") from error
    if not isinstance(detections, Detections):
        raise ModelError(f"decoder {name}: returned {type(detections).__name__}, wanted edgeq.detection.Detections")
    if not (np.isfinite(detections.boxes).all() and np.isfinite(detections.scores).all()):
        raise ModelError(f"{job.artifact.name}: computed boxes or scores that are not finite numbers; it is broken")
    return detections


def _result(job: _Job, ground_truth: GroundTruth, engine: str) -> dict[str, Any]:
    image_ids = sorted(job.detections)
    scores = evaluate(ground_truth, job.detections, image_ids, labels=job.artifact.labels, engine=engine)
    return {
        "artifact": job.artifact.name,
        "digest": job.artifact.digest,
        "target": job.artifact.target,
        "runtime": job.runtime,
        "precision": job.artifact.precision,
        "images": len(image_ids),
        **scores.numbers,
        "per_class": [dataclasses.asdict(entry) for entry in scores.per_class],
        "skipped_images": job.skipped,
        "inference_images_per_s": len(image_ids) / job.inference_s,
        "eval_images_per_s": len(image_ids) / job.total_s,
        "annotations": ground_truth.source.name,
        "evaluator": engine,
        "environment": job.environment,
        "obtained": "measured",
    }
