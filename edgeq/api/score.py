"""`edgeq.score`: answers that another program let models give, scored."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.api.arguments import FilePath, optional_path, path, paths
from edgeq.verbs.score import ScoredAnswers, score_answers


def score(
    files: FilePath | Sequence[FilePath], task: str, truth: FilePath, *, images: FilePath | None = None
) -> list[ScoredAnswers]:
    """Returns the score of each file of answers, with intervals; the first is what the others are compared with.

    Args:
        files: JSON lines of `id` and `answer` (or `answers`, the likeliest first), of one model each. A first line
            without an id may state `model`, `precision` and `runtime`.
        task: `transcription`, `vqa`, `captioning`, `object-presence` or `last-word`.
        truth: JSON lines of `id`, `image` and `answers`, or a COCO file of captions.
        images: Folder of the images that the questions are about; by default that of `truth`.

    Raises:
        InputError: there is no such task, or a file cannot be used.
        MismatchError: a file does not answer all questions, or answers others.
    """
    return score_answers(paths(files, "files"), task, path(truth, "truth"), images=optional_path(images, "images"))
