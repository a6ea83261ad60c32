"""The state of a training in the user's cache, one file that each epoch replaces; the next run resumes from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import InputError
from edgeq.files import atomic_path, cache_folder, sha256_json
from edgeq.inputs.array_files import read_arrays
from edgeq.resume import forget_unused


class Checkpoint:
    """Arrays of one job, in a `.npz` file whose name is the job's digest.

    Files to which nothing was written for 30 days are deleted: nobody resumes these jobs any more.

    Args:
        job: Everything that the arrays depend on, as JSON.

    Attributes:
        path: The file.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        folder = cache_folder() / "finetuning"
        forget_unused(folder, "*.npz")
        self.path: Path = folder / f"{sha256_json(job)}.npz"

    def load(self) -> dict[str, np.ndarray] | None:
        """Returns the arrays; `None` if there are none, or the file is damaged."""
        try:
            return read_arrays(self.path)
        except InputError:
            return None

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replaces the arrays, whole or not at all.

        Raises:
            InputError: they cannot be written.
        """
        with atomic_path(self.path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    def remove(self) -> None:
        """Forgets everything, once the job is complete."""
        self.path.unlink(missing_ok=True)
