"""The declaration of a target. Numbers and names only: what they mean is carried out in `edgeq.exporting`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rules:
    """What a target's engines reward when a graph is quantized.

    Attributes:
        opset: ONNX opset that the files are written in.
        int8_ops: Operators that the engines run in INT8 and that are worth it.
        activation_dtype: Integer type of activations.
        symmetric_activations: Whether the grid of a signed tensor is symmetric around zero.
        int8_depthwise: Whether depthwise convolutions run in INT8. Their channels share one activation scale but no
            sum, so that channels of small range lose most, and engines gain little by them.
        output_pairs: What a convolution's output needs for the engine to run it in INT8. `none`: nothing, its inputs
            decide.
            `fused`: a Q/DQ pair behind it or its ReLU, even where only float nodes read it; a layer before another
            function (SiLU, GELU) goes without. `required`: the same, and a layer before another function stays float.
        residual_pairs: Which inputs of a residual Add get a Q/DQ pair. `both`, or `identity`: not the output of the
            layer that the engine fuses with the Add.
        pairs_before_moves: Whether a tensor that is only moved (pooled, joined, reshaped) on its way to an INT8 layer
            has a pair too; otherwise the pair stands directly before the layer, and the engine moves it.
        shared_pairs: Who reads the dequantized side of a tensor with a pair: `all` its readers, or `int8`: all but the
            weighted layers that stay in float.
        float_weights: Whether weights are float behind a QuantizeLinear and a DequantizeLinear; otherwise they are int8
            behind a DequantizeLinear.
        quantize_bias: Whether biases are int32 behind a DequantizeLinear; otherwise they stay float.
        per_channel_conv_transpose: Whether ConvTranspose weights have a scale for each output channel.
        rewrite_conv_transpose: Whether ConvTranspose 4x4, stride 2, padding 1 becomes Conv + DepthToSpace.
        rewrite_linear: Whether a MatMul by a constant matrix becomes a Gemm.
        split_projections: Whether a packed projection of queries, keys and values becomes three layers.
        int8_attention: Which products of activations in an attention `vit_plan` fast puts into INT8: `none`, where
            the engines are no faster by it; `any`; or `fused`: where heads, tokens and scales are what TensorRT's fused
            kernel takes.
        fp16: What makes an `fp16` file. `weights`: they are stored in FP16 and cast when the file is loaded. `engine`:
            nothing, the engine computes an FP32 file in FP16. `graph`: every tensor, and every scale of an `int8` file.
        dynamic: Whether the engines take dynamic INT8 files.
        calibration_cache: Whether an `int8` file comes with TensorRT's calibration cache and the FP32 file for it.
    """

    opset: int
    int8_ops: frozenset[str]
    activation_dtype: Literal["uint8", "int8"]
    symmetric_activations: bool
    int8_depthwise: bool
    output_pairs: Literal["none", "fused", "required"]
    residual_pairs: Literal["both", "identity"]
    pairs_before_moves: bool
    shared_pairs: Literal["all", "int8"]
    float_weights: bool
    quantize_bias: bool
    per_channel_conv_transpose: bool
    rewrite_conv_transpose: bool
    rewrite_linear: bool
    split_projections: bool
    int8_attention: Literal["none", "any", "fused"]
    fp16: Literal["weights", "engine", "graph"]
    dynamic: bool
    calibration_cache: bool


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        name: As users write it.
        runtimes: Names of the runtimes that run its files, the preferred one first.
        formats: File formats that are written for it.
        rules: Its quantization rules.
    """

    name: str
    runtimes: tuple[str, ...]
    formats: tuple[str, ...]
    rules: Rules
