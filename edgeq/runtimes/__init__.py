"""Sessions: open a file, run arrays through it, close. One file an engine.

A runtime is one file in this folder and one line in `RUNTIMES`; third parties register through the entry point group
`edgeq.runtimes`.
"""

from __future__ import annotations

from edgeq.errors import InputError
from edgeq.export.artifact import Artifact
from edgeq.registry import load_entry
from edgeq.runtimes.base import Session
from edgeq.targets import get_target

__all__ = ["RUNTIMES", "Session", "default_runtime", "get_runtime", "is_installed", "open_session"]

RUNTIMES: dict[str, str] = {
    "onnxruntime": "edgeq.runtimes.onnxruntime:OnnxRuntimeSession",
    "openvino": "edgeq.runtimes.openvino:OpenVinoSession",
    "litert": "edgeq.runtimes.litert:LiteRtSession",
}


def open_session(
    artifact: Artifact, runtime: str, threads: int | None = None, compute_precision: str | None = None
) -> Session:
    """Returns an open session of `artifact`.

    Args:
        artifact: The model file with its manifest.
        runtime: A name of `RUNTIMES` or of an entry point.
        threads: CPU threads the engine may use; `None` leaves it to the engine.
        compute_precision: What float layers are computed in (`f32`, `bf16`, `f16`); `None` is f32 for an `fp32` file
            and the engine's choice for every other.

    Raises:
        InputError: there is no such runtime, or it does not know that precision.
        MissingDependencyError: the engine is not installed.
        EngineError: the engine refuses the file.
    """
    return get_runtime(runtime)(artifact, threads, compute_precision)


def get_runtime(name: str) -> type[Session]:
    """Returns the Session class of that name, without importing its engine.

    Raises:
        InputError: there is none of that name.
    """
    runtime = load_entry("runtime", RUNTIMES, name)
    if not (isinstance(runtime, type) and issubclass(runtime, Session)):
        raise InputError(f"runtime {name!r}: its entry is {runtime!r}, wanted a class under edgeq.runtimes.Session")
    return runtime


def is_installed(runtime: str) -> bool:
    """Returns whether the runtime's engine can be found, without importing it."""
    return get_runtime(runtime).is_installed()


_BY_FORMAT = {"onnx": ("onnxruntime", "openvino"), "tflite": ("litert",)}


def default_runtime(artifact: Artifact) -> str:
    """Returns the first runtime that is installed of the artifact's target, or of its format where it has no target.

    Raises:
        InputError: none of them is; the message names them.
    """
    candidates = get_target(artifact.target).runtimes if artifact.target else _BY_FORMAT[artifact.format]
    for name in candidates:
        if is_installed(name):
            return name
    of = f"its target {artifact.target}" if artifact.target else f"{artifact.format} files"
    raise InputError(
        f"{artifact.name}: none of the runtimes of {of} is installed ({', '.join(candidates)}); run: edgeq doctor"
    )
