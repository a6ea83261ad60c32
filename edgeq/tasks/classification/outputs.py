"""What a classifier's output says: the scores of its classes, how many there are, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs

TOP = 5
"""How many classes of an image are ranked."""

_ROLES = {"scores": "scores"}
_OPTIONS = {"offset": 0}


def count_classes(artifact: Artifact) -> int:
    """Returns how many classes a classifier tells apart: the length of its scores without the option `offset`.

    Raises:
        ModelError: its scores are missing, or not of one fixed length.
    """
    post = _postprocessing(artifact)
    outputs = {}
    for spec in artifact.outputs:
        if None in spec.shape[1:]:
            raise ModelError(
                f"{artifact.name}: its output {spec.name!r} has the shape {spec.shape}, wanted (1, classes)"
            )
        outputs[spec.name] = spec.decode(np.zeros([length or 1 for length in spec.shape], spec.dtype))
    return len(decode(outputs, post))


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing) -> NDArray[np.float32]:
    """Returns the score of every class `(classes,)`, as the model gives them.

    Args:
        outputs: Role `scores`: `(1, offset + classes)`, logits or probabilities; further axes have length 1.
        post: Option `offset`: how many classes at the front the labels do not have (TensorFlow's models of ImageNet
            often count a background class first). They are left out of the ranking.

    Raises:
        ModelError: the output is missing or has another shape.
        InputError: `post` has an unknown role or option.
    """
    return _class_scores(pick_outputs(outputs, post, _ROLES)["scores"], post)


def class_names(artifact: Artifact) -> tuple[str, ...]:
    """Returns the names of the classes that the labels may have, by index; empty where the artifact has none.

    Raises:
        InputError: there are more or fewer names than classes.
    """
    offset = int(pick_options(_postprocessing(artifact), _OPTIONS)["offset"])
    classes, names = count_classes(artifact), artifact.labels
    if len(names) == classes + offset:
        return names[offset:]
    if names and len(names) != classes:
        raise InputError(f"{artifact.name}: has {classes} classes, but {len(names)} labels; wanted one label per class")
    return names


def rank(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Returns the class indices of the best `TOP` scores `(classes,)`, best first; of equal ones the lower index."""
    return np.argsort(-scores, kind="stable")[:TOP].astype(np.int64)


def _postprocessing(artifact: Artifact) -> Postprocessing:
    assert artifact.postprocessing is not None  # noqa: S101 - it names the decoder by which this module was chosen
    return artifact.postprocessing


def _class_scores(scores: NDArray[np.float32], post: Postprocessing) -> NDArray[np.float32]:
    offset = pick_options(post, _OPTIONS)["offset"]
    if offset < 0 or offset != int(offset):
        raise InputError(f"decoder {post.decoder}: option 'offset' is {offset!r}, wanted a whole number from 0")
    if scores.ndim < 2 or scores.shape[0] != 1 or scores.size != scores.shape[1] or scores.size - offset < 2:
        raise ModelError(
            f"decoder {post.decoder}: wanted scores (1, classes) of at least two classes after an offset of "
            f"{int(offset)}, found {describe({'scores': scores})}; a detector or embedding needs another preset"
        )
    return scores.reshape(-1)[int(offset) :]
