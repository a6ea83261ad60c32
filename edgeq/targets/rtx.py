"""PCs and workstations with an RTX GPU, for TensorRT for RTX: strong typing alone, as TensorRT 11."""

from __future__ import annotations

import dataclasses

from edgeq.schemes import FP4, FP8, W4
from edgeq.targets.base import Rules, Target
from edgeq.targets.jetson import JETSON_ORIN_TRT11


def _rules() -> Rules:
    rules = JETSON_ORIN_TRT11.rules
    # FP8 by GPUs from SM89 on, INT4 from SM80 on, FP4 from SM120 on.
    linear = (FP8, W4, FP4)
    further = {"Conv": (FP8,), "Gemm": linear, "MatMul": linear}
    return dataclasses.replace(
        rules, schemes={name: (*found, *further.get(name, ())) for name, found in rules.schemes.items()}
    )


RTX = Target(name="rtx", runtimes=("tensorrt-rtx", "onnxruntime"), formats=("onnx",), rules=_rules())
