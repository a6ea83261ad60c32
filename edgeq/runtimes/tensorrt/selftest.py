"""`python -m edgeq.runtimes.tensorrt.selftest`: does this board build INT8 engines that compute the right thing?

Builds an engine of three INT8 convolutions, asks the inspector which precision they got, and compares the outputs with
ONNX Runtime where it is installed. One JSON line on stdout: `ok`, then the findings or `message`. A process of its own,
because a broken driver may crash it. The script `tests/make_device_test.py` writes the model.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import EdgeqError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.runtimes import is_installed, open_session
from edgeq.runtimes.cuda import open_cuda
from edgeq.runtimes.tensorrt.build_options import BuildOptions
from edgeq.runtimes.tensorrt.builder import build_plan
from edgeq.runtimes.tensorrt.engine import save_engine
from edgeq.runtimes.tensorrt.facts import read_platform
from edgeq.runtimes.tensorrt.inspector import inspect_session
from edgeq.runtimes.tensorrt.library import TENSORRT
from edgeq.runtimes.tensorrt.session import TensorRtSession

MODEL = Path(__file__).parents[2] / "data" / "device_test.onnx"
CONVOLUTIONS = 3

_SHAPE = (1, 32, 32, 32)
_SOURCE = Artifact(
    path=MODEL,
    format="onnx",
    precision="int8",
    target="",
    inputs=(TensorSpec("image", "float32", _SHAPE),),
    outputs=(TensorSpec("result", "float32", _SHAPE),),
    preprocessing=None,
)


def run_self_test() -> dict[str, Any]:
    """Returns what was found, as JSON values.

    `tensorrt`, `cuda` (version and binding), `gpu`, `compute_capability`, `power_mode`, `layers` (precision -> number
    of layers), `int8_layers`, `compute_ms` (of one run, by CUDA's events), and `relative_error`: the root mean square
    difference from ONNX Runtime over that of its output, `null` where it is not installed.

    Raises:
        EdgeqError: TensorRT, CUDA or the GPU do not work.
    """
    trt, cuda = TENSORRT.load(), open_cuda()
    platform = read_platform(trt, cuda)
    options = BuildOptions(int8=True, fp16=True)
    inputs = {"image": np.random.default_rng(0).uniform(-1, 1, _SHAPE).astype(np.float32)}
    plan = build_plan(trt, cuda, MODEL, _SOURCE.inputs, options)
    with tempfile.TemporaryDirectory() as folder:
        engine = save_engine(_SOURCE, Path(folder) / "device_test.engine", plan, options, platform, {})
        with contextlib.closing(TensorRtSession(engine)) as session:
            output = session.run(inputs)["result"]
            layers = inspect_session(session).counts
            times = session.device_times
    return {
        "tensorrt": platform.tensorrt,
        "cuda": f"{platform.cuda} through {cuda.name}",
        "gpu": platform.gpu,
        "compute_capability": platform.compute_capability,
        "power_mode": platform.power_mode,
        "layers": layers,
        "int8_layers": layers.get("int8", 0),
        "compute_ms": None if times is None else times.compute_ms,
        "relative_error": _relative_error(output, inputs),
    }


def _relative_error(output: np.ndarray, inputs: dict[str, np.ndarray]) -> float | None:
    if not is_installed("onnxruntime"):
        return None
    with open_session(_SOURCE, "onnxruntime", threads=1) as session:
        wanted = session.run(inputs)["result"]
    return float(np.sqrt(np.mean((output - wanted) ** 2) / np.mean(wanted**2)))


def main() -> None:
    """Prints the answer."""
    try:
        answer = {"ok": True, **run_self_test()}
    except EdgeqError as error:
        answer = {"ok": False, "message": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
