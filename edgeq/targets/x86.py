"""x86 CPUs: `x86-openvino` and `x86-ort`, a plan for each engine, and `x86`, the one that edgeq recommends.

What makes one engine fast makes the other slow. YuNet without pairs that float layers alone read takes .74 of FP32's
time in OpenVINO and 2.5 times as long as FP32 in ONNX Runtime (measured, AVX2 without VNNI).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from edgeq.schemes import DYNAMIC_INT8, INT4_WEIGHT, INT8, INT8_WEIGHT, INT32, UINT8, W4_FLOAT, LayerScheme
from edgeq.targets.base import Isa, Rules, SmallestLayers, Target

# ONNX Runtime's U8S8 kernels use VNNI; its signed ones ran slower than FP32.
_INT8 = LayerScheme(INT8_WEIGHT, UINT8, INT32)
# Stored in half of INT8's bytes, computed by the same kernels: both engines widen the weights when they load the file.
_W4A8 = LayerScheme(INT4_WEIGHT, UINT8, INT32)

QDQ = Rules(
    opset=18,
    schemes={
        "Conv": (_INT8, DYNAMIC_INT8, _W4A8, W4_FLOAT),
        "ConvTranspose": (_INT8, _W4A8),
        "Gemm": (_INT8, DYNAMIC_INT8, _W4A8, W4_FLOAT),
        "MatMul": (_INT8, DYNAMIC_INT8, _W4A8, W4_FLOAT),
        "Add": (_INT8.without_weight,),
    },
    # YOLOX-nano: AP .33 of .33 in FP32 without, .26 with; 3 % slower in OpenVINO, the same in ONNX Runtime.
    on_request={"DepthwiseConv": (_INT8,)},
    # Without a pair behind it ONNX Runtime runs a layer in float between conversions: YOLOX-nano took 2.3 times its
    # FP32 time.
    output_pairs="required",
    residual_pairs="both",
    pairs_before_moves=True,
    moved_in_float={},
    shared_pairs="all",
    quantizes_float=False,
    smallest=SmallestLayers(),
    float_weights=False,
    # ONNX Runtime has no INT8 kernel for ConvTranspose, and runs the same sums as Conv + DepthToSpace in half the time;
    # OpenVINO has one and loses a few percent by the detour (benchmarks/conv_transpose.py).
    rewrite_conv_transpose=True,
    rewrite_linear=True,
    barriers=True,
    # Four blocks of a ViT-B in ONNX Runtime: 0.95 of the time; vit_b_16 in INT8 in OpenVINO: 1.01.
    split_projections=True,
    fold_channel_selection=False,
    # YOLOX-nano's stem of six slices: FP32 takes .92 of the time in both engines.
    fold_space_to_depth=True,
    # vit_b_16 with the products in INT8: 1.03 of the time without in ONNX Runtime.
    int8_attention="none",
    fp16="weights",
    calibration_cache=False,
    isa="vnni",
)
"""Rules for ONNX Runtime's kernels, from which those of each CPU engine are made."""

X86_ORT = Target(
    name="x86-ort",
    runtimes=("onnxruntime", "openvino"),
    formats=("onnx",),
    # What has pairs around it runs in INT8 whether it is planned or not: planned, a depthwise convolution has a scale
    # for each channel. FastestDet in ONNX Runtime on AVX-512 VNNI: 13.7 dB with, 12.6 without, in the same time.
    rules=dataclasses.replace(QDQ.requested("DepthwiseConv"), quantizes_float=True),
    timed=True,
)

# Time in INT8 over FP32 without VNNI, conversions included (1x1 of 64, 128, 256 channels: 1.3-3.3, .9-1.8, .6-.8; 3x3
# of 32 and 64: .7-1.0, .53-.66; depthwise 2-10; MaxPool of u8 15).
_ORT_WITHOUT_VNNI: Mapping[str, Any] = {
    "schemes": QDQ.schemes,
    "smallest": SmallestLayers(pointwise=128, spatial=64),
    "moved_in_float": {"MaxPool": sys.maxsize},
}

# FastestDet in OpenVINO, time over that of NNCF's file: .88 with it, .98 without on AVX-512 VNNI; .92 and .86 with the
# kernels of AVX2 (emulated), which multiply at a fourth of the speed and move maps no slower.
_OPENVINO_WITH_VNNI: Mapping[str, Any] = {
    "fold_channel_selection": True,
    "schemes": {**QDQ.schemes, "Product": (LayerScheme(activation=INT8),)},
    "int8_attention": "any",
}

X86_OPENVINO = Target(
    name="x86-openvino",
    runtimes=("openvino", "onnxruntime"),
    formats=("onnx",),
    optional_formats=("openvino",),
    rules=dataclasses.replace(
        QDQ,
        # A layer that float layers alone read writes float at no cost; with a pair it writes u8, and a Subgraph
        # dequantizes it: YuNet .94 of FP32's time with these pairs, .80 without.
        output_pairs="none",
        # A MaxPool of u8 takes four times as long as in float with 16 channels, the same with 64, half with 256
        # (AVX-512 VNNI). YuNet without VNNI: .80 -> .755 of FP32's time.
        moved_in_float={"MaxPool": 64},
        # Depthwise layers and heads read floats: YuNet and UltraFace take 2 to 5 % less with the kernels of AVX2, and
        # FastestDet keeps 14.7 dB instead of 14.1.
        shared_pairs="int8",
        rewrite_conv_transpose=False,
    ),
    timed=True,
)

X86 = dataclasses.replace(
    X86_OPENVINO, name="x86", engines={"openvino": X86_OPENVINO.name, "onnxruntime": X86_ORT.name}
)
"""OpenVINO's plan: its INT8 kernels gain on networks of few channels too, where ONNX Runtime's lose."""


def for_isa(target: Target, isa: Isa | None) -> Target:
    """Returns a target with the layers and passes that are worth it on CPUs by how they add INT8 products.

    Args:
        target: The target; one that is not for x86 is the same on all of them.
        isa: `vnni` or `amx`; everything else is taken for `avx2`.
    """
    has_vnni = isa in ("vnni", "amx")
    changes: Mapping[str, Any] = {}
    if target.name == X86_ORT.name and not has_vnni:
        changes = _ORT_WITHOUT_VNNI
    elif target.name in (X86_OPENVINO.name, X86.name) and has_vnni:
        changes = _OPENVINO_WITH_VNNI
    return dataclasses.replace(target, rules=dataclasses.replace(target.rules, **changes))
