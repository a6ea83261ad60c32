"""Sessions: open a file, run arrays through it, close. One file an engine.

A runtime is one file in this folder and one line in `RUNTIMES`; third parties register through the entry point group
`edgeq.runtimes`.
"""

from __future__ import annotations

from edgeq.export.artifact import Artifact
from edgeq.registry import load_entry
from edgeq.runtimes.base import Session

__all__ = ["RUNTIMES", "Session", "open_session"]

RUNTIMES: dict[str, str] = {
    "onnxruntime": "edgeq.runtimes.onnxruntime:OnnxRuntimeSession",
    "openvino": "edgeq.runtimes.openvino:OpenVinoSession",
}


def open_session(artifact: Artifact, runtime: str, threads: int | None = None) -> Session:
    """Returns an open session of `artifact`.

    Args:
        artifact: The model file with its manifest.
        runtime: A name of `RUNTIMES` or of an entry point.
        threads: CPU threads the engine may use; `None` leaves it to the engine.

    Raises:
        InputError: there is no such runtime.
        MissingDependencyError: the engine is not installed.
        EngineError: the engine refuses the file.
    """
    session_class: type[Session] = load_entry("runtime", RUNTIMES, runtime)
    return session_class(artifact, threads)
