"""What an INT8 file computes in exact sums on any CPU, and which CPUs have kernels whose sums are exact.

Without VNNI ONNX Runtime and OpenVINO add u8 x s8 products in pairs in saturating 16-bit sums. Whether a file of ours
is right is judged here; what an engine makes of it is asserted only where its kernels are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeq.exporting.artifact import Artifact
from edgeq.machine import Machine, read_machine
from edgeq.runtimes.onnxruntime import OnnxRuntimeSession

EXACT = "onnxruntime-exact"


def saturates(machine: Machine) -> bool:
    """Returns whether kernels for this CPU add u8 x s8 products in 16 bits."""
    return machine.architecture == "x86_64" and not {"avx512_vnni", "avx_vnni"} & set(machine.cpu_features)


KERNELS_ARE_EXACT = not saturates(read_machine())
needs_exact_kernels = pytest.mark.skipif(
    not KERNELS_ARE_EXACT, reason="this CPU has no VNNI: the engine's INT8 sums saturate"
)


def sums_exactly(runtime: str) -> bool:
    """Returns whether a runtime for ONNX files adds INT8 products exactly on this CPU."""
    return runtime == EXACT or KERNELS_ARE_EXACT


def configure(options: Any) -> None:
    """Makes ONNX Runtime add exactly: without VNNI it shifts weights to u8, with VNNI nothing changes."""
    options.add_session_config_entry("session.x64quantprecision", "1")


class ExactSession(OnnxRuntimeSession):
    """ONNX Runtime with exact sums. The fixture `exact_runtime` lists it among the runtimes."""

    runtime = EXACT

    def _session_options(self) -> Any:
        options = super()._session_options()
        configure(options)
        return options


def outputs(artifact: Artifact, array: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the outputs of a file for one input, by name."""
    with ExactSession(artifact, threads=1) as session:
        return session.run({artifact.inputs[0].name: array})
