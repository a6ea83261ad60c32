"""Sessions: open a file, run arrays through it, close. One module per engine.

A runtime is one file in this folder and one line in `RUNTIMES`; third parties register through the entry point group
`edgeq.runtimes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.registry import load_entry
from edgeq.runtimes.base import LATENCY, Session
from edgeq.targets import get_target

__all__ = [
    "RUNTIMES",
    "SIMULATED",
    "Session",
    "choose_runtimes",
    "default_runtime",
    "get_runtime",
    "is_installed",
    "open_session",
]

RUNTIMES: dict[str, str] = {
    "onnxruntime": "edgeq.runtimes.onnxruntime:OnnxRuntimeSession",
    "openvino": "edgeq.runtimes.openvino:OpenVinoSession",
    "litert": "edgeq.runtimes.litert:LiteRtSession",
    "tensorrt": "edgeq.runtimes.tensorrt.session:TensorRtSession",
    "tensorrt-rtx": "edgeq.runtimes.tensorrt.session:TensorRtRtxSession",
}

SIMULATED: dict[str, str] = {
    "simulated-avx2-onnxruntime": "edgeq.runtimes.simulated_avx2:SimulatedAvx2OnnxRuntimeSession",
    "simulated-avx2-openvino": "edgeq.runtimes.simulated_avx2:SimulatedAvx2OpenVinoSession",
    "simulated-narrow": "edgeq.runtimes.simulated:SimulatedNarrowSession",
    "simulated-tensorrt": "edgeq.runtimes.simulated:SimulatedTensorRtSession",
    "simulated-tensorrt-rtx": "edgeq.runtimes.simulated:SimulatedTensorRtRtxSession",
}
"""Runtimes that answer what another engine should, and tell nothing of its speed; never chosen by default."""


AVX2 = "avx2"
"""What follows a target's name where its engine is simulated as on an x86 CPU without VNNI."""


def open_session(
    artifact: Artifact,
    runtime: str,
    threads: int | None = None,
    compute_precision: str | None = None,
    hint: str = LATENCY,
) -> Session:
    """Returns an open session of `artifact`.

    Args:
        artifact: The model file with its manifest.
        runtime: A name of `RUNTIMES`, `SIMULATED` or of an entry point.
        threads: CPU threads the engine may use; `None` leaves it to the engine.
        compute_precision: What float layers are computed in (`f32`, `bf16`, `f16`); `None` is f32 for an `fp32` file
            and the engine's choice for every other.
        hint: What to tune the engine for: the `latency` of one request at a time, or the `throughput` of several.

    Raises:
        InputError: there is no such runtime, or it does not know that precision or hint.
        MissingDependencyError: the engine is not installed.
        EngineError: the engine refuses the file.
    """
    return get_runtime(runtime)(artifact, threads, compute_precision, hint)


def get_runtime(name: str) -> type[Session]:
    """Returns the Session class of that name, without importing its engine.

    Raises:
        InputError: there is none of that name.
    """
    runtime = load_entry("runtime", RUNTIMES | SIMULATED, name)
    if not (isinstance(runtime, type) and issubclass(runtime, Session)):
        raise InputError(f"runtime {name!r}: its entry is {runtime!r}, wanted a class under edgeq.runtimes.Session")
    return runtime


def simulation_of(target_name: str) -> str:
    """Returns the name of the runtime that simulates a target's engine.

    Args:
        target_name: A target, `-avx2` behind it for its first engine on x86 CPUs without VNNI: `x86-avx2`.

    Raises:
        InputError: there is no such target, or no simulation of its engine.
    """
    kind = f"{AVX2}-" if target_name.endswith(f"-{AVX2}") else ""
    engine = get_target(target_name.removesuffix(f"-{AVX2}") if kind else target_name).runtimes[0]
    name = f"simulated-{kind}{engine}"
    if name not in SIMULATED:
        known = ", ".join(each.removeprefix("simulated-") for each in SIMULATED if each != "simulated-narrow")
        raise InputError(f"`simulate` {target_name}: its engine {kind}{engine} is not simulated, only {known}")
    return name


def is_installed(runtime: str) -> bool:
    """Returns whether the runtime's engine can be found, without importing it."""
    return get_runtime(runtime).is_installed()


def choose_runtimes(artifact: Artifact, wished: Sequence[str] = ()) -> list[str]:
    """Returns the runtimes to run an artifact in: those of the wished ones that read its format, or the default one.

    A file of fewer than 8 bits has one, whatever is wished: `simulated-narrow`, so that nothing calls it measured.

    Raises:
        InputError: none of the wished ones reads it, there is none of that name, or none is installed by default.
    """
    if artifact.quantization_facts.simulated_bits is not None:
        return ["simulated-narrow"]
    if not wished:
        return [default_runtime(artifact)]
    readers = [name for name in wished if artifact.format in get_runtime(name).formats]
    if not readers:
        raise InputError(
            f"{artifact.name}: `runtime` {', '.join(wished)} does not read {artifact.format} files; add `runtime` "
            f"{' or '.join(_readers(artifact, RUNTIMES))}"
        )
    return readers


def default_runtime(artifact: Artifact) -> str:
    """Returns the first runtime that is installed and reads the artifact, in its target's order where it has a target.

    Raises:
        InputError: none of them is; the message names them.
    """
    ordered = get_target(artifact.target).runtimes if artifact.target else tuple(RUNTIMES)
    candidates = _readers(artifact, ordered)
    for name in candidates:
        if is_installed(name):
            return name
    raise InputError(
        f"{artifact.name}: no runtime that reads {artifact.format} files is installed ({', '.join(candidates)}); run: "
        "edgeq doctor"
    )


def _readers(artifact: Artifact, names: Iterable[str]) -> list[str]:
    """Returns those of the named runtimes that read an artifact's format.

    Raises:
        InputError: no runtime at all reads it.
    """
    formats = {each for name in RUNTIMES for each in get_runtime(name).formats}
    readers = [name for name in names if artifact.format in get_runtime(name).formats]
    if not readers and artifact.format not in formats:
        raise InputError(
            f"{artifact.name}: its manifest says the format {artifact.format!r}, which no runtime reads; wanted "
            f"{', '.join(sorted(formats))}: write the file with `edgeq export`"
        )
    return readers
