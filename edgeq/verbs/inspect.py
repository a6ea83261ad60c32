"""`edgeq inspect`: what an engine consists of, and where its time goes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.results.serialization import RESULTS_VERSION
from edgeq.runtimes.runner import make_inputs
from edgeq.runtimes.tensorrt.facts import BuildFacts
from edgeq.runtimes.tensorrt.inspector import Inspection, profile_session
from edgeq.runtimes.tensorrt.session import session_of


@dataclass(frozen=True)
class EngineReport:
    """What `edgeq inspect` found.

    Attributes:
        artifact: The engine.
        facts: How it was built.
        device_memory_bytes: Memory that running it takes, besides the weights.
        inspection: Its layers, with times.
    """

    artifact: Artifact
    facts: BuildFacts
    device_memory_bytes: int
    inspection: Inspection

    def to_json(self) -> dict[str, Any]:
        """Returns the same as JSON values."""
        return {
            "results_version": RESULTS_VERSION,
            "artifact": self.artifact.name,
            "digest": self.artifact.digest,
            "size_bytes": self.artifact.size_bytes,
            "device_memory_bytes": self.device_memory_bytes,
            **self.facts.to_json(),
            **self.inspection.to_json(),
        }


def inspect_engine(path: Path) -> EngineReport:
    """Returns what an engine consists of; it is run a few times on noise.

    Raises:
        InputError: it is no engine.
        MismatchError: it was built by another TensorRT or for another GPU.
        EngineError: TensorRT or CUDA are missing, or fail.
    """
    artifact = Artifact.load(path)
    session_type = session_of(artifact)
    if session_type is None:
        raise InputError(f"{artifact.path}: is of the format {artifact.format}; wanted an engine of `edgeq build`")
    with contextlib.closing(session_type(artifact)) as session:
        inspection = profile_session(session, make_inputs(artifact))
        return EngineReport(artifact, BuildFacts.of(artifact), session.device_memory_bytes, inspection)
