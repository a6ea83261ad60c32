"""Trains a planned file on calibration images without labels; the float model is what it learns from.

The student is the network of the file that is about to be written, rounded to exactly its grids; the teacher is the
float model ("Distilling the Knowledge in a Neural Network", Hinton et al., 2015). Every fourth image is held out, and
the trained plan is kept only if it lowers the error of the outputs there, in exact arithmetic.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.calibration.finetuning.checkpoint import Checkpoint
from edgeq.calibration.finetuning.student import Student
from edgeq.calibration.finetuning.training import Samples, Settings, relative_error, train
from edgeq.calibration.learning_job import learning_job
from edgeq.calibration.torch_threads import torch_threads
from edgeq.errors import InputError, ModelError
from edgeq.exporting.graphs.graph import copy_graph
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.progress import progress_bar
from edgeq.runtimes.observer import ActivationObserver, ExactObserver

if TYPE_CHECKING:
    from edgeq.exporting.jobs import PlannedModel
    from edgeq.exporting.planning.plan import QuantPlan

FEWEST = 16
"""Images without which nothing can be learned and judged."""

_EVERY = 4


def finetune(
    planned: PlannedModel,
    feeds: Sequence[Mapping[str, np.ndarray]],
    settings: Settings | None = None,
    threads: int | None = None,
) -> tuple[QuantPlan, dict[str, Any]]:
    """Returns the plan with trained weights, biases and steps, and what the manifest says of it.

    The same inputs, settings, threads and versions give the same integers on the same CPU.

    Args:
        planned: The plan, and the graph that it is for.
        feeds: Inputs of the graph, each by name, all of one shape.
        settings: How to train.
        threads: CPU threads.

    Raises:
        InputError: there are fewer than 16 inputs, or a checkpoint cannot be written.
        ModelError: the graph has operators without a gradient here.
        EngineError: ONNX Runtime cannot run the graph.
    """
    settings, plan = settings or Settings(), planned.plan
    if len(feeds) < FEWEST:
        raise InputError(f"`finetune` {len(feeds)}: wanted at least {FEWEST} images, better 256 or more")
    with torch_threads(threads), _saying_what_to_do():
        student = Student(planned)
        if not student.names or not student.layers:
            raise ModelError(f"no {'layer in INT8' if student.names else 'output of floating point'} to train")
        teacher = ActivationObserver(planned.graph, student.names, threads)
        samples = Samples(_stacked(feeds), _stacked([teacher.observe(feed) for feed in feeds]))
        chosen = np.arange(len(feeds)) % _EVERY == _EVERY - 1
        training, held_out = samples.rows(~chosen), samples.rows(chosen)
        checkpoint = Checkpoint(learning_job(planned, feeds, settings, threads))
        with progress_bar(training.count * settings.epochs, "finetuning") as advance:
            errors = train(student, training, held_out, settings, checkpoint, advance)
    judged = [feed for feed, is_judged in zip(feeds, chosen, strict=True) if is_judged]

    def exact_error(of: QuantPlan) -> float:
        return relative_error(held_out.outputs, _exact_outputs(planned, of, judged, student.names, threads))

    trained, before = student.plan(), exact_error(plan)
    best_epoch = int(np.argmin(errors))
    after = exact_error(trained) if best_epoch else min(errors[1:])
    checkpoint.remove()
    facts = {
        "images": len(feeds),
        "held_out": len(judged),
        "epochs": settings.epochs,
        "best_epoch": best_epoch,
        "seed": settings.seed,
        "output_error_before": before,
        "output_error_after": after,
        "kept": (is_kept := best_epoch > 0 and after < before),
    }
    return (trained if is_kept else plan), facts


def _exact_outputs(
    planned: PlannedModel,
    plan: QuantPlan,
    feeds: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str],
    threads: int | None,
) -> dict[str, np.ndarray]:
    """Returns what the file of a plan gives, as the ONNX specification has it computed."""
    graph = copy_graph(planned.graph)
    insert_qdq(graph, plan, planned.target.rules)
    observer = ExactObserver(graph, names, threads)
    return _stacked([observer.observe(feed) for feed in feeds])


def _stacked(arrays: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}


@contextlib.contextmanager
def _saying_what_to_do() -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        raise ModelError(f"`finetune`: {error}; omit `finetune`") from error
