"""`python -m edgeq.runtimes.probe RUNTIME`: does an engine run here, and does it add up INT8 products exactly?

One JSON line on stdout: `ok`, then either `environment` and `relative_error`, or `message`. A process of its own,
because a broken engine may crash on import. The file it runs, one INT8 convolution as ONNX or TFLite, is part of the
package; the script `tests/make_probe.py` writes it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import EdgeqError
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.runtimes import get_runtime, open_session

# The largest input against the largest weights, 1.0 each: every output is the number of products, 16 channels of 3x3.
INPUT = np.ones((1, 16, 6, 6), np.float32)
EXPECTED = np.full((1, 16, 4, 4), 16 * 9, np.float32)
ONNX = Artifact(
    path=Path(__file__).parents[1] / "data" / "probe.onnx",
    format="onnx",
    precision="int8",
    target="x86",
    inputs=(TensorSpec("input", "float32", INPUT.shape),),
    outputs=(TensorSpec("output", "float32", EXPECTED.shape),),
    preprocessing=Preprocessing(height_px=INPUT.shape[2], width_px=INPUT.shape[3]),
)
TFLITE = dataclasses.replace(
    ONNX,
    path=ONNX.path.with_suffix(".tflite"),
    format="tflite",
    target="arm",
    inputs=(TensorSpec("input", "float32", (1, *INPUT.shape[2:], INPUT.shape[1]), "NHWC"),),
    outputs=(TensorSpec("output", "float32", (1, *EXPECTED.shape[2:], EXPECTED.shape[1]), "NHWC"),),
)


def probe(runtime: str) -> dict[str, Any]:
    """Returns the session's `environment` and the largest `relative_error` of the probe's outputs.

    Sums of U8S8 products that saturate in 16 bits, as on x86 CPUs without VNNI, give errors of about 0.5; exact sums
    give less than one step of 200.

    Raises:
        EdgeqError: the engine is not installed, or does not run the file.
    """
    artifact = TFLITE if "tflite" in get_runtime(runtime).formats else ONNX
    with open_session(artifact, runtime, threads=1) as session:
        output = artifact.outputs[0].decode(session.run({"input": artifact.inputs[0].encode(INPUT)})["output"])
        return {
            "environment": session.environment(),
            "relative_error": float(np.abs(output / EXPECTED - 1).max()),
        }


def main(runtime: str) -> None:
    """Prints the answer for one runtime."""
    try:
        answer = {"ok": True, **probe(runtime)}
    except EdgeqError as error:
        answer = {"ok": False, "message": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
