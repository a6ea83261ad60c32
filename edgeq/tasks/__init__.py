"""What comes out of a model: tasks, each with its decoders, data sets with their truth, scores, and predictions.

A task is one file in this folder and one line in `TASKS`; third parties register through the entry point group
`edgeq.tasks`. `edgeq.tasks.base.Task` says what its class answers for. The decoder that a manifest names decides the
task: `find_decoder` is the one place that asks.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.registry import load_entry, registered
from edgeq.results.evaluation import EvalResult, Score
from edgeq.tasks.base import Decode, Decoder, Task
from edgeq.wording import did_you_mean

__all__ = ["TASKS", "Decoder", "Task", "all_tasks", "find_decoder", "get_task", "score_types"]

TASKS: dict[str, str] = {
    "detection": "edgeq.tasks.detection.task:DetectionTask",
    "classification": "edgeq.tasks.classification.task:ClassificationTask",
    "embedding": "edgeq.tasks.embedding:EmbeddingTask",
    "semantic-segmentation": "edgeq.tasks.semantic.task:SemanticTask",
    "instance-segmentation": "edgeq.tasks.instances.task:InstanceTask",
    "keypoints": "edgeq.tasks.keypoints.task:KeypointTask",
    "text-detection": "edgeq.tasks.text.detection:TextDetectionTask",
    "text-recognition": "edgeq.tasks.text.recognition:TextRecognitionTask",
    "oriented-boxes": "edgeq.tasks.oriented.task:OrientedTask",
    "depth": "edgeq.tasks.depth:DepthTask",
    "transcription": "edgeq.tasks.language.transcription:TranscriptionTask",
    "vqa": "edgeq.tasks.language.vqa:VqaTask",
    "captioning": "edgeq.tasks.language.captioning:CaptioningTask",
    "object-presence": "edgeq.tasks.language.presence:PresenceTask",
    "last-word": "edgeq.tasks.language.last_word:LastWordTask",
    "perplexity": "edgeq.tasks.language.perplexity:PerplexityTask",
    "retrieval": "edgeq.tasks.language.retrieval:RetrievalTask",
}

_log = logging.getLogger(__name__)


def get_task(name: str) -> type[Task[Any]]:
    """Returns the task of that name.

    Raises:
        InputError: there is none, or it is no `edgeq.tasks.base.Task`.
    """
    task = load_entry("task", TASKS, name)
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise InputError(f"task {name!r}: found {task!r}, wanted a subclass of edgeq.tasks.base.Task")
    if task.name != name:
        raise InputError(f"task {name!r}: its class calls itself {task.name!r}; register it under that name")
    own, common = ({each.name for each in dataclasses.fields(kind)} for kind in (task.score_type, EvalResult))
    if taken := own & common:
        raise InputError(
            f"task {name!r}: its score calls a number {min(taken)!r}, a key that every result has; rename it"
        )
    return task


def all_tasks() -> dict[str, type[Task[Any]]]:
    """Returns name -> task, ours first; a task of another package that cannot be loaded is left out with a warning."""
    tasks: dict[str, type[Task[Any]]] = {}
    for name in dict.fromkeys([*TASKS, *registered("task", TASKS)]):
        try:
            tasks[name] = get_task(name)
        except Exception as error:  # the package of a third party may raise anything
            _log.warning("task %s is left out: it cannot be loaded (%s)", name, error)
    return tasks


def score_types() -> dict[str, type[Score]]:
    """Returns name of a task -> type of its scores, for `edgeq.results.reading`."""
    return {name: task.score_type for name, task in all_tasks().items()}


def _staying(name: str, decode: Decode) -> Decode:
    """Returns a user's decoder that cannot end the process: `sys.exit(0)` in it would look like success."""

    @functools.wraps(decode)
    def staying(*arguments: Any, **options: Any) -> Any:
        try:
            return decode(*arguments, **options)
        except SystemExit as error:
            raise ModelError(f"decoder {name} ends the process ({error!r}); let it return or raise") from error

    return staying


def find_decoder(post: Postprocessing) -> Decoder:
    """Returns the decoder that a manifest or preset names, with the task that it belongs to.

    Raises:
        InputError: no task has a decoder of that name; the message lists those that are similar.
    """
    tasks = all_tasks()
    for task in tasks.values():
        decode = task.find_decoder(post.decoder)
        if decode is not None:
            return Decoder(task, _staying(post.decoder, decode) if ":" in post.decoder else decode)
    names = sorted(name for task in tasks.values() for name in task.decoder_names())
    near = did_you_mean(post.decoder, names)
    raise InputError(
        f"unknown decoder {post.decoder!r}; {near}known: {', '.join(names)}, or a function as package.module:function"
    )
