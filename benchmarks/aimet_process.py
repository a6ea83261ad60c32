"""AIMET's W4A8 with its AdaRound on an ONNX model, in a fresh process of an environment with `aimet-onnx`.

`PYTHON benchmarks/aimet_process.py JOB.json` reads what to do, writes files with QuantizeLinear and DequantizeLinear,
and prints one JSON line: what AdaRound took. It imports nothing of edgeq, so that the environment needs none of it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

WIDE_BITS = 8


def adaround(job: dict[str, Any]) -> dict[str, Any]:
    """Returns what the work took, after writing the files.

    Args:
        job: `model`, an FP32 ONNX file; `inputs`, a `.npy` file `(N, C, H, W)`; `batch`, inputs per batch;
            `iterations` per layer; `nearest` and `learned`, the files to write.
    """
    import aimet_onnx
    import onnx
    from aimet_onnx import apply_adaround
    from aimet_onnx.common.defs import QuantScheme
    from aimet_onnx.common.quantsim_config.utils import get_path_for_per_channel_config
    from aimet_onnx.quantsim import QuantizationSimModel

    model = onnx.load(job["model"])
    name = model.graph.input[0].name
    inputs = np.load(job["inputs"], allow_pickle=False)
    batches = [{name: inputs[begin : begin + job["batch"]]} for begin in range(0, len(inputs), job["batch"])]
    singles = [{name: each[None]} for each in inputs]
    weights = [node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")]
    taken: dict[str, Any] = {"aimet": aimet_onnx.__version__}
    free = _with_free_batch(model)
    for kind in ("nearest", "learned"):
        sim = QuantizationSimModel(
            onnx.ModelProto.FromString(free.SerializeToString()),
            param_type="int4",
            activation_type="int8",
            quant_scheme=QuantScheme.post_training_tf_enhanced,
            config_file=get_path_for_per_channel_config(),
            providers=["CPUExecutionProvider"],
        )
        for weight in (weights[0], weights[-1]):
            sim.qc_quantize_op_dict[weight].set_bitwidth(WIDE_BITS)
        if kind == "learned":
            started, cpu = time.monotonic(), time.process_time()
            apply_adaround(sim, batches, job["iterations"])
            taken |= {"wall_s": time.monotonic() - started, "cpu_s": time.process_time() - cpu}
        sim.compute_encodings(singles)
        onnx.save(sim.to_onnx_qdq(), job[kind])
    return taken


def _with_free_batch(model: Any) -> Any:
    """Returns a copy of a model that takes any number of inputs, if it reshapes nothing."""
    import onnx

    free = onnx.ModelProto.FromString(model.SerializeToString())
    for value in (*free.graph.input, *free.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    del free.graph.value_info[:]
    return free


def main() -> None:
    print(json.dumps(adaround(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main()
