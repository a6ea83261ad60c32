"""What every file of an export is held against: the model's outputs on a few inputs, and how much signal it keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.errors import EdgeqError
from edgeq.evaluation.exact_comparison import ComparedImages, Groups, measure, warn_of_loss, with_signal
from edgeq.evaluation.output_difference import Reference, compare
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.exporting.jobs import FileJob
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks import find_decoder
from edgeq.verbs.export_speed import Exported
from edgeq.verbs.saturation_cost import warn_of_saturation_cost, with_saturation_cost


@dataclass(frozen=True)
class FileCheck:
    """Writes files and compares them.

    Attributes:
        inputs: Inputs `(1, C, H, W)`.
        reference: The model's outputs for them.
        groups: Groups of channels of each output.
        images: What the signal that a file keeps is measured on.
        threads: CPU threads of the engine.
    """

    inputs: list[np.ndarray]
    reference: Reference
    groups: Groups
    images: ComparedImages
    threads: int | None

    def written(self, job: FileJob, write: Callable[[FileJob], Artifact]) -> Exported:
        """Returns a file with its comparison, after writing it.

        A file that does not compute what the model does is removed.
        """
        artifact = write(job)
        try:
            comparison = compare(artifact, self.inputs, self.reference, self.groups)
            signal = measure(artifact, job.model, job.target, self.images, self.groups, self.threads)
            found = with_saturation_cost(with_signal(artifact, signal), job, write, self.images, self.groups)
        except EdgeqError:
            _remove(artifact)
            raise
        return Exported(found, dataclasses.replace(comparison, signal=signal))

    def warn_of(self, files: Sequence[Exported]) -> None:
        """Warns of what files lose; asked once all are written, because one may take the place of another."""
        for file in files:
            if (signal := file.comparison.signal) is not None:
                warn_of_loss(file.artifact, signal, self.images, self.groups)
            warn_of_saturation_cost(file.artifact)


def _remove(artifact: Artifact) -> None:
    """Removes a file with all that belongs to it."""
    artifact.path.unlink()
    artifact.manifest_path.unlink()
    cache = artifact.quantization.get("calibration_cache")
    if cache is not None:
        artifact.path.with_name(cache["file"]).unlink()
    if (weights := artifact.weights_path) is not None:
        weights.unlink()


def check_decoder(
    names: Sequence[str], model: FloatModel | TfliteModel, reference: Reference, placement: Placement
) -> None:
    """Fails early if the decoder would reject the outputs of these names.

    Args:
        names: Of the outputs.
        model: The float model.
        reference: Its outputs.
        placement: Where the first input lies in its image.
    """
    declared: Postprocessing | None = model.postprocessing
    if declared is not None:
        outputs = dict(zip(names, reference[1][0], strict=True))
        find_decoder(declared).decode(outputs, declared, placement)
