"""x86 CPUs through OpenVINO and ONNX Runtime: one Q/DQ file that both run in INT8."""

from __future__ import annotations

from edgeq.targets.base import Rules, Target

X86 = Target(
    name="x86",
    runtimes=("openvino", "onnxruntime"),
    formats=("onnx",),
    rules=Rules(
        opset=18,
        int8_ops=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Add"}),
        # ONNX Runtime's U8S8 kernels use VNNI; its signed ones ran slower than FP32.
        activation_dtype="uint8",
        symmetric_activations=True,
        quantize_outputs=True,
        quantize_bias=True,
        per_channel_conv_transpose=True,
        rewrite_conv_transpose=False,
    ),
)
