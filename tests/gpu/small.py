"""A small net, and what steps share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.runtimes.cuda import open_cuda
from edgeq.runtimes.tensorrt.gpus import gpu_of
from tests.gpu.files import TARGET

_SHAPE = (1, 8, 16, 16)
_NET = """<ir_version: 8, opset_import: ["" : 19]> g (float[1,8,16,16] x) => (float[1,8,16,16] y)
    { a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) y = Conv(r, v) }"""


def gpu() -> str:
    """Returns the kind of this machine's GPU."""
    return gpu_of(open_cuda().facts().compute_capability)


def small_net(folder: Path, seed: int = 0) -> Artifact:
    """Returns a file of two convolutions, written to a folder."""
    rng, proto = np.random.default_rng(seed), onnx.parser.parse_model(_NET)
    for name, shape in (("w", (16, 8, 3, 3)), ("v", (8, 16, 1, 1))):
        weight = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "net.onnx"
    onnx.save(proto, path)
    image, result = (TensorSpec(name, "float32", _SHAPE) for name in ("x", "y"))
    return Artifact(path, "onnx", "fp32", TARGET, (image,), (result,), None).save()


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the root mean square difference over that of what was wanted."""
    exact = wanted.astype(np.float64)
    return float(np.sqrt(np.mean((found - exact) ** 2))) / max(float(np.sqrt(np.mean(exact**2))), 1e-15)
