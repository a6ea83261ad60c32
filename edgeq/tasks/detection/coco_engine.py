"""What compares results with COCO annotations: pycocotools, and faster-coco-eval, which does the same sooner.

Boxes, masks and keypoints differ only in how two of them are compared.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, MissingDependencyError
from edgeq.tasks.detection.coco_matching import match_quickly

ENGINES = ("pycocotools", "faster")

IouType = Literal["bbox", "segm", "keypoints"]

_SILENCING = threading.Lock()


@dataclass(frozen=True, eq=False)
class CocoProblem:
    """What an evaluator is given.

    Attributes:
        iou_type: How an object is compared with a result.
        images: `id`, and for masks `width` and `height`, of every image.
        categories: Category id -> name, by ascending id.
        truth: Annotations, each with an `id` from 1.
        results: What `loadRes` would make of results: annotations with a `score`.
        image_ids: The images that count.
        sigmas: `(K,)`, how much each keypoint may be off; `None` for boxes and masks.
    """

    iou_type: IouType
    images: Sequence[Mapping[str, Any]]
    categories: Mapping[int, str]
    truth: Sequence[Mapping[str, Any]]
    results: Sequence[Mapping[str, Any]]
    image_ids: Sequence[int]
    sigmas: NDArray[np.float64] | None = None


def check_engine(engine: str) -> None:
    """Raises what `evaluate` would raise for this engine, before the work of detecting is done."""
    _import_engine(engine)


def evaluate_problem(engine: str, problem: CocoProblem) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns precision `(T, 101, classes, areas, limits)` and recall without the 101; -1 where there is no object.

    Raises:
        InputError: there is no such engine.
        MissingDependencyError: it is not installed.
    """
    with _silenced():
        evaluator = _evaluator(engine, problem)
        evaluator.evaluate()
        evaluator.accumulate()
    thresholds, levels, *rest = evaluator.eval["counts"]
    precision, recall = (np.asarray(evaluator.eval[name], np.float64) for name in ("precision", "recall"))
    return precision.reshape(thresholds, levels, *rest), recall.reshape(thresholds, *rest)


def mean_present(values: NDArray[np.float64]) -> float | None:
    """Returns the mean over what is there of precision or recall; -1 marks what is not."""
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def match_problem(problem: CocoProblem) -> list[dict[str, Any] | None]:
    """Returns what matches what for each class, area and image, in this order; see `coco_matching.evaluate_image`."""
    with _silenced():
        evaluator = _evaluator("pycocotools", problem)
        evaluator.params.maxDets = [max(evaluator.params.maxDets)]
        evaluator.evaluate()
    matches: list[dict[str, Any] | None] = evaluator.evalImgs
    return matches


def _evaluator(engine: str, problem: CocoProblem) -> Any:
    coco_class, evaluator_class = _import_engine(engine)
    truth, found = (_index(coco_class, problem, entries) for entries in (problem.truth, problem.results))
    evaluator = evaluator_class(truth, found, problem.iou_type)
    evaluator.params.imgIds = sorted(problem.image_ids)
    if engine == "pycocotools":
        match_quickly(evaluator)
    if problem.sigmas is not None:
        evaluator.params.kpt_oks_sigmas = problem.sigmas
    return evaluator


def _import_engine(engine: str) -> tuple[Any, Any]:
    if engine == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    if engine != "faster":
        raise InputError(f"unknown COCO evaluator {engine!r}; known: {', '.join(ENGINES)}")
    if importlib.util.find_spec("faster_coco_eval") is None:
        raise MissingDependencyError("faster-coco-eval", "faster", "The COCO evaluator `faster`")
    import faster_coco_eval

    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _index(coco_class: Any, problem: CocoProblem, annotations: Sequence[Mapping[str, Any]]) -> Any:
    # `loadRes` would do for the detections, but not where there are none.
    coco = coco_class()
    coco.dataset = {
        "images": [dict(image) for image in problem.images],
        "categories": [{"id": category, "name": name} for category, name in problem.categories.items()],
        "annotations": [dict(entry) for entry in annotations],
    }
    coco.createIndex()
    return coco


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keeps pycocotools' prints out of stdout, which belongs to the results; one thread at a time, as stdout is one."""
    with _SILENCING, contextlib.redirect_stdout(io.StringIO()):
        yield
