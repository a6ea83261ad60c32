"""Jetson Orin: `jetson-orin` for TensorRT 8.5 to 10 (weak typing), `jetson-orin-trt11` for 11 (strong typing alone)."""

from __future__ import annotations

import dataclasses

from edgeq.schemes import INT8, INT8_WEIGHT, LayerScheme, PerTensor
from edgeq.targets.base import Rules, SmallestLayers, Target

# The parser takes no zero point but zero.
_INT8 = LayerScheme(INT8_WEIGHT, INT8)

JETSON_ORIN = Target(
    name="jetson-orin",
    runtimes=("tensorrt", "onnxruntime"),
    formats=("onnx",),
    rules=Rules(
        # The newest that TensorRT 8.6 reads.
        opset=17,
        schemes={"Conv": (_INT8,), "Gemm": (_INT8,), "MatMul": (_INT8,), "Add": (_INT8.without_weight,)},
        on_request={
            "DepthwiseConv": (_INT8,),
            # INT8 deconvolutions can be slower than FP16 ones, and a Q behind them fails to fuse in some versions 8:
            # `--int8-deconv` adds them. TensorRT's kernels want a scale for each input channel, ONNX's tools write one
            # for each output channel.
            "ConvTranspose": (dataclasses.replace(_INT8, weight=INT8_WEIGHT.along(PerTensor())),),
        },
        output_pairs="none",
        residual_pairs="identity",
        pairs_before_moves=False,
        moved_in_float={},
        shared_pairs="int8",
        # Every version folds Q and DQ of a float weight; int8 weights behind a DQ alone are documented from 10 on.
        quantizes_float=False,
        # Tensor cores want several rows and 16 features: NVIDIA's Model Optimizer 0.47 leaves the others in float, too.
        smallest=SmallestLayers(features=16, rows=2),
        float_weights=True,
        rewrite_conv_transpose=False,
        rewrite_linear=False,
        barriers=False,
        split_projections=False,
        fold_channel_selection=False,
        fold_space_to_depth=False,
        int8_attention="fused",
        fp16="engine",
        calibration_cache=True,
        whole_projections=True,
        fp16_attention=True,
    ),
)

# TensorRT 11 computes every tensor in the type that the file gives it: FP32 scales would make all layers between FP32.
JETSON_ORIN_TRT11 = dataclasses.replace(
    JETSON_ORIN,
    name="jetson-orin-trt11",
    rules=dataclasses.replace(
        JETSON_ORIN.rules,
        # The first whose QuantizeLinear takes FP16 scales.
        opset=19,
        # With strong typing the compiler was seen without an INT8 kernel for ConvTranspose (TensorRT for RTX 1.7): on
        # request it becomes Conv + DepthToSpace.
        on_request={name: schemes for name, schemes in JETSON_ORIN.rules.on_request.items() if name != "ConvTranspose"},
        fp16="graph",
        calibration_cache=False,
        fp16_attention=False,
        pooled_pairs=True,
    ),
)
