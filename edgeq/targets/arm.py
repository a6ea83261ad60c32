"""64-bit ARM CPUs (Raspberry Pi, phones, boards): TFLite files for LiteRT, and signed INT8 ONNX for ONNX Runtime."""

from __future__ import annotations

import dataclasses

from edgeq.schemes import INT8_ASYMMETRIC
from edgeq.targets.base import Target
from edgeq.targets.tflite import LITERT
from edgeq.targets.x86 import QDQ

ARM = Target(
    name="arm",
    runtimes=("litert", "onnxruntime"),
    formats=("tflite", "onnx"),
    # ONNX Runtime's ARM kernels multiply signed by signed numbers (SDOT, SMMLA); elsewhere as the rules for x86.
    rules=dataclasses.replace(QDQ.changed(activation=INT8_ASYMMETRIC), isa=None),
    tflite=LITERT,
)
