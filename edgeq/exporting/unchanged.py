"""A model file that is replaced while an engine reads it."""

from __future__ import annotations

from edgeq.errors import MismatchError
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_file


def require_unchanged(artifact: Artifact) -> None:
    """Checks, once an engine has read a file, that it is still the one whose digest results will state.

    Raises:
        MismatchError: it is another one.
    """
    if artifact.digest and artifact.path.is_file() and sha256_file(artifact.path) != artifact.digest:
        raise MismatchError(f"{artifact.path}: was changed while it was read; run the command again")
