"""x86 CPUs through OpenVINO and ONNX Runtime: one Q/DQ file that both run in INT8."""

from __future__ import annotations

from edgeq.targets.base import Rules, Target

X86 = Target(
    name="x86",
    runtimes=("openvino", "onnxruntime"),
    formats=("onnx",),
    rules=Rules(
        opset=18,
        # ONNX Runtime's U8S8 kernels use VNNI; its signed ones ran slower than FP32.
        activation_dtype="uint8",
        symmetric_activations=False,
        quantize_bias=True,
        int8_ops=frozenset({"Conv", "Gemm", "MatMul", "Add", "Concat", "ConvTranspose"}),
    ),
)
