"""x86 CPUs: `x86` for a Q/DQ file that OpenVINO and ONNX Runtime both run in INT8, `x86-ort` for ONNX Runtime alone."""

from __future__ import annotations

import dataclasses

from edgeq.schemes import DYNAMIC_INT8, INT8_WEIGHT, INT32, UINT8, LayerScheme
from edgeq.targets.base import Rules, Target

# ONNX Runtime's U8S8 kernels use VNNI; its signed ones ran slower than FP32.
_INT8 = LayerScheme(INT8_WEIGHT, UINT8, INT32)

X86 = Target(
    name="x86",
    runtimes=("openvino", "onnxruntime"),
    formats=("onnx",),
    rules=Rules(
        opset=18,
        schemes={
            "Conv": (_INT8, DYNAMIC_INT8),
            "ConvTranspose": (_INT8,),
            "Gemm": (_INT8, DYNAMIC_INT8),
            "MatMul": (_INT8, DYNAMIC_INT8),
            "Add": (_INT8.without_weight,),
        },
        # YOLOX-nano: AP .33 of .33 in FP32 without, .26 with; 3 % slower in OpenVINO, the same in ONNX Runtime.
        on_request={"DepthwiseConv": (_INT8,)},
        output_pairs="fused",
        residual_pairs="both",
        pairs_before_moves=True,
        shared_pairs="all",
        float_weights=False,
        rewrite_conv_transpose=False,
        rewrite_linear=True,
        # Four blocks of a ViT-B in ONNX Runtime: 0.95 of the time; vit_b_16 in INT8 in OpenVINO: 1.01.
        split_projections=True,
        # vit_b_16 with the products in INT8: 1.03 of the time without in ONNX Runtime, 1.14 in OpenVINO.
        int8_attention="none",
        fp16="weights",
        calibration_cache=False,
        isa="vnni",
    ),
)

# ONNX Runtime has no INT8 kernel for ConvTranspose, and runs the same sums as Conv + DepthToSpace in half the time;
# OpenVINO has one and loses a few percent by the detour (benchmarks/conv_transpose.py).
X86_ORT = Target(
    name="x86-ort",
    runtimes=("onnxruntime", "openvino"),
    formats=("onnx",),
    # Without a pair behind it a layer runs in float between conversions: YOLOX-nano took 2.3 times its FP32 time.
    rules=dataclasses.replace(X86.rules, rewrite_conv_transpose=True, output_pairs="required"),
)
