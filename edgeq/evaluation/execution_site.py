"""Where files are run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgeq.evaluation.inference import Images, Job, predict
from edgeq.exporting.artifact import Artifact
from edgeq.inputs import InputCache
from edgeq.runtimes import choose_runtimes


class Place(Protocol):
    """A machine that files are run on: this one, or a device behind ssh.

    Attributes:
        is_here: Whether it is this one.
    """

    is_here: bool

    def choose_runtimes(self, artifact: Artifact, wished: Sequence[str]) -> list[str]:
        """Returns the runtimes to run an artifact in there, see `edgeq.runtimes.choose_runtimes`."""

    def predict(self, jobs: Sequence[Job], images: Images, threads: int | None, inputs: InputCache) -> None:
        """Runs all images through all jobs there, see `edgeq.evaluation.inference.predict`."""


class Here:
    """This machine."""

    is_here = True

    def choose_runtimes(self, artifact: Artifact, wished: Sequence[str]) -> list[str]:
        """Returns those of the wished runtimes that read it, or the first of its target that is installed."""
        return choose_runtimes(artifact, wished)

    def predict(self, jobs: Sequence[Job], images: Images, threads: int | None, inputs: InputCache) -> None:
        """Runs the images in this process."""
        predict(jobs, images, threads, inputs)


HERE = Here()
