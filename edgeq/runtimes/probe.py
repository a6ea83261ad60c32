"""`python -m edgeq.runtimes.probe RUNTIME`: does an engine run here, and does it add up INT8 products exactly?

One JSON line on stdout: `ok`, then either `environment` and `relative_error`, or `message`. A process of its own,
because a broken engine may crash on import. The file it runs, one INT8 convolution, is part of the package; the script
`tests/make_probe.py` writes it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import EdgeqError
from edgeq.export.artifact import Artifact, Preprocessing, TensorSpec
from edgeq.runtimes import open_session

# The largest input against the largest weights, 1.0 each: every output is the number of products, 16 channels of 3x3.
INPUT = np.ones((1, 16, 6, 6), np.float32)
EXPECTED = np.full((1, 16, 4, 4), 16 * 9, np.float32)
ARTIFACT = Artifact(
    path=Path(__file__).parents[1] / "data" / "probe.onnx",
    format="onnx",
    precision="int8",
    target="x86",
    inputs=(TensorSpec("input", "float32", INPUT.shape),),
    outputs=(TensorSpec("output", "float32", EXPECTED.shape),),
    preprocessing=Preprocessing(height_px=INPUT.shape[2], width_px=INPUT.shape[3]),
)


def probe(runtime: str) -> dict[str, Any]:
    """Returns the session's `environment` and the largest `relative_error` of the probe's outputs.

    Sums of U8S8 products that saturate in 16 bits, as on x86 CPUs without VNNI, give errors of about 0.5; exact sums
    give less than one step of 200.

    Raises:
        EdgeqError: the engine is not installed, or does not run the file.
    """
    with open_session(ARTIFACT, runtime, threads=1) as session:
        output = session.run({"input": INPUT})["output"]
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
