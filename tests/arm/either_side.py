"""What runs on both machines, started by its path: `edgeq` with one runtime more, and a command that writes outputs.

either_side.py eval NET.onnx --runtime onnxruntime-basic ...
either_side.py outputs NET.onnx RUNTIME IMAGES COUNT OUT.npz
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.cli import app
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.runtimes import RUNTIMES, open_session
from edgeq.runtimes.onnxruntime import OnnxRuntimeSession

BASIC = "onnxruntime-basic"


class BasicOnnxRuntimeSession(OnnxRuntimeSession):
    """ONNX Runtime with basic graph optimizations: all others depend on the CPU's instruction set."""

    runtime = BASIC

    def _session_options(self) -> Any:
        options = super()._session_options()
        options.graph_optimization_level = self._engine.GraphOptimizationLevel.ORT_ENABLE_BASIC
        return options


def write_outputs(artifact: Artifact, runtime: str, images: list[Path], out: Path) -> None:
    """Writes the outputs of all images, decoded to real numbers, under `<file name>/<output>`."""
    arrays: dict[str, np.ndarray] = {}
    assert artifact.preprocessing is not None
    with open_session(artifact, runtime, threads=1) as session:
        for path in images:
            array, _ = preprocess(read_image(path), artifact.preprocessing)
            outputs = session.run({spec.name: spec.encode(array) for spec in artifact.inputs})
            arrays |= {f"{path.name}/{spec.name}": spec.decode(outputs[spec.name]) for spec in artifact.outputs}
    np.savez(out, allow_pickle=False, **arrays)


def main() -> None:
    """Runs one of the two."""
    RUNTIMES[BASIC] = f"{Path(__file__).stem}:{BasicOnnxRuntimeSession.__name__}"
    if sys.argv[1] != "outputs":
        app.main()
        return
    file, runtime, folder, count, out = sys.argv[2:]
    images = sorted(path for path in Path(folder).iterdir() if path.suffix in (".jpg", ".png"))[: int(count)]
    write_outputs(Artifact.load(Path(file)), runtime, images, Path(out))


if __name__ == "__main__":
    main()
