"""Warns of files that lose accuracy on this CPU because it has no VNNI and they were not made for such a CPU."""

from __future__ import annotations

from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.saturation.integer_layers import integer_layers
from edgeq.exporting.saturation.kernels import ENGINES
from edgeq.machine import Machine
from edgeq.notes import log_of
from edgeq.targets.isa import machine_isa

_log = log_of(__name__)


def warn_of_saturation(artifact: Artifact, runtime: str, machine: Machine) -> None:
    """Warns if sums of a file can saturate in a runtime on a machine, in one line.

    Args:
        artifact: The file.
        runtime: Name of the runtime.
        machine: Where it runs.
    """
    engine = next((each for each in ENGINES if each == runtime), None)
    facts = artifact.quantization_facts.saturation
    if engine is None or artifact.format != "onnx" or machine_isa(machine) != "avx2":
        return
    if artifact.precision in ("fp32", "fp16") or (facts is not None and facts.isa in ("avx2", "any")):
        return
    layers = integer_layers(read_onnx(artifact.path), engine)
    risky = [layer.name for layer in layers if layer.can_saturate().any()]
    if risky:
        written = "" if facts is None else f" and the file is for {facts.isa}"
        _log.warning(
            "%s: %d of %d INT8 layers can saturate in %s (%s, ...): this CPU has no VNNI%s; export it with `isa` avx2, "
            "or see how much it loses by edgeq check with `isa` avx2 and `images`",
            artifact.name, len(risky), len(layers), runtime, risky[0], written,
        )  # fmt: skip
