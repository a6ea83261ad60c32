"""The declaration of a target. Numbers and names only: what they mean is carried out in `edgeq.exporting`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from edgeq.schemes import LayerScheme, Scheme
from edgeq.targets.tflite import LITERT

Isa = Literal["avx2", "vnni", "amx", "any"]
"""What x86 CPUs add INT8 products with: without VNNI in 16 bits, with VNNI or AMX exactly. `any` is right on all."""


LARGEST_FP8_KERNEL = 32
"""Positions of the largest kernel with which TensorRT for RTX 1.7 was seen to compute a convolution in FP8: 4 x 8."""


@dataclass(frozen=True)
class SmallestLayers:
    """From which size on a layer is worth its conversions.

    Attributes:
        pointwise: Channels, of input and of output each, of a 1x1 convolution.
        spatial: Of a larger one.
        features: Features, of input and of output each, of a product by a matrix.
        rows: Rows that are multiplied by the matrix.
    """

    pointwise: int = 1
    spatial: int = 1
    features: int = 1
    rows: int = 1


@dataclass(frozen=True)
class Rules:
    """What a target's engines reward when a graph is quantized.

    Attributes:
        opset: ONNX opset that the files are written in.
        schemes: Operator -> how the engines run it where that is worth it, the preferred first; what is not named stays
            in float. Convolutions of one channel each are called `DepthwiseConv`: their channels share one activation
            scale but no sum, so that channels of small range lose most, and engines gain little by them. Products of
            two activations are called `Product` where their operands are stored otherwise than those of layers.
        on_request: The same for operators that run so only when asked for (`requested`). Where ConvTranspose is in
            neither table, it runs in INT8 on request as Conv + DepthToSpace.
        output_pairs: What a convolution's output needs for the engine to run it in INT8. `none`: nothing, its inputs
            decide. `required`: a Q/DQ pair behind it or its ReLU, even where only float nodes read it; a layer before
            another function (SiLU, GELU) stays float.
        residual_pairs: Which inputs of a residual Add get a Q/DQ pair. `both`, or `identity`: not the output of the
            layer that the engine fuses with the Add.
        pairs_before_moves: Whether a tensor that is only moved (pooled, joined, reshaped) on its way to an INT8 layer
            has a pair too; otherwise the pair stands directly before the layer, and the engine moves it.
        moved_in_float: Operator that only moves values -> below how many channels the engine runs it faster in float:
            then it reads the tensor itself, which has a pair for its other readers alone.
        shared_pairs: Who reads the dequantized side of a tensor with a pair: `all` its readers, or `int8`: all but the
            weighted layers that stay in float.
        quantizes_float: Whether the engine quantizes float layers between two pairs by itself, which their form has to
            prevent (`edgeq.exporting.onnx.float_layers`).
        largest_kernel: Most positions of a kernel of a convolution that is quantized; `None` means any number.
        smallest: The smallest layers that run in INT8; smaller ones stay in float.
        float_weights: Whether weights are float behind a QuantizeLinear and a DequantizeLinear; otherwise they are int8
            behind a DequantizeLinear.
        rewrite_conv_transpose: Whether ConvTranspose 4x4, stride 2, padding 1 becomes Conv + DepthToSpace.
        rewrite_linear: Whether a MatMul by a constant matrix becomes a Gemm.
        barriers: Whether operators that change nothing stand where OpenVINO would not load a quantized file.
        split_projections: Whether a packed projection of queries, keys and values becomes three layers.
        fold_channel_selection: Whether a 1x1 convolution of some channels of a map reads them all.
        fold_space_to_depth: Whether a convolution of pixels that were moved into channels becomes one of the map.
        int8_attention: Which products of activations in an attention `vit_plan` fast puts into INT8: `none`, where
            the engines are no faster by it; `any`; or `fused`: where heads, tokens, queries and scales are what
            TensorRT's fused kernel takes.
        whole_projections: Whether a layer of queries, keys and values is kept whole, so that TensorRT writes all three
            in one kernel: one pair behind it where an INT8 attention reads all of them on one grid; one layer instead
            of three, and a Clip that changes nothing, where the attention stays in float
            (`edgeq.exporting.onnx.float_attention`).
        fp16_attention: Whether an attention that stays in float is FP16 between Casts, in a file that is FP32.
        pooled_pairs: Whether what a MaxPool reads has a pair too, where a Concat joins it with the result: the engine
            then pools floats, and does not copy the parts.
        fp16: What makes an `fp16` file. `weights`: they are stored in FP16 and cast when the file is loaded. `engine`:
            nothing, the engine computes an FP32 file in FP16. `graph`: every tensor, and every scale of an `int8` file.
        calibration_cache: Whether an `int8` file comes with TensorRT's calibration cache and the FP32 file for it.
        isa: The x86 CPUs that files are for; `None` for other CPUs. An export sets it (`edgeq.targets.isa`).
    """

    opset: int
    schemes: Mapping[str, tuple[LayerScheme, ...]]
    on_request: Mapping[str, tuple[LayerScheme, ...]]
    output_pairs: Literal["none", "required"]
    residual_pairs: Literal["both", "identity"]
    pairs_before_moves: bool
    moved_in_float: Mapping[str, int]
    shared_pairs: Literal["all", "int8"]
    quantizes_float: bool
    smallest: SmallestLayers
    float_weights: bool
    rewrite_conv_transpose: bool
    rewrite_linear: bool
    barriers: bool
    split_projections: bool
    fold_channel_selection: bool
    fold_space_to_depth: bool
    int8_attention: Literal["none", "any", "fused"]
    fp16: Literal["weights", "engine", "graph"]
    calibration_cache: bool
    isa: Isa | None = None
    whole_projections: bool = False
    fp16_attention: bool = False
    pooled_pairs: bool = False
    largest_kernel: int | None = None

    @property
    def saturates(self) -> bool:
        """Whether the files may run on CPUs that add two products in saturating 16-bit sums."""
        return self.isa in ("avx2", "any")

    def static(self, operator: str) -> LayerScheme | None:
        """Returns how the engines run an operator by calibrated ranges; `None` where they leave it in float."""
        return next((scheme for scheme in self.schemes.get(operator, ()) if scheme.is_static), None)

    def dynamic(self, operator: str) -> LayerScheme | None:
        """Returns how they run it by ranges measured at every run; `None` where they do not."""
        return next((scheme for scheme in self.schemes.get(operator, ()) if scheme.dynamic), None)

    def weight_only(self, operator: str, name: str) -> LayerScheme | None:
        """Returns how they run it with float activations and weights of the scheme `name`; `None` where they do not."""
        named = (scheme for scheme in self.schemes.get(operator, ()) if scheme.is_weight_only and scheme.name == name)
        return next(named, None)

    @property
    def weight_only_schemes(self) -> tuple[str, ...]:
        """Names of the schemes in which the weights alone are quantized."""
        found = (scheme for schemes in self.schemes.values() for scheme in schemes)
        return tuple(dict.fromkeys(scheme.name for scheme in found if scheme.is_weight_only))

    @property
    def in_fp8(self) -> Rules:
        """The same rules with what the engines run in FP8, instead of INT8."""
        schemes = {name: tuple(each for each in found if each.is_fp8) for name, found in self.schemes.items()}
        return replace(self, schemes=schemes, on_request={}, largest_kernel=LARGEST_FP8_KERNEL)

    @property
    def in_w4a8(self) -> Rules:
        """The same rules with weights of 4 bits first, for the operators that the engines run so."""
        schemes = {
            name: tuple(sorted(found, key=lambda each: not each.is_w4a8)) for name, found in self.schemes.items()
        }
        return replace(self, schemes=schemes)

    @property
    def takes_w4a8(self) -> bool:
        """Whether the engines take files of weights of 4 bits that are computed in INT8."""
        return any(scheme.is_w4a8 for found in self.schemes.values() for scheme in found)

    @property
    def takes_fp8(self) -> bool:
        """Whether the engines take FP8 files."""
        return any(scheme.is_fp8 for found in self.schemes.values() for scheme in found)

    @property
    def of_any_size(self) -> Rules:
        """The same rules for layers of any size: where the costs of kernels are known, they say which are too small."""
        return replace(self, smallest=SmallestLayers())

    @property
    def takes_dynamic(self) -> bool:
        """Whether the engines take files whose ranges are measured at every run."""
        return any(map(self.dynamic, self.schemes))

    @property
    def symmetric(self) -> bool:
        """Whether all activations with calibrated ranges lie on grids around zero."""
        static = [scheme for operator in self.schemes if (scheme := self.static(operator)) is not None]
        return all(scheme.activation.symmetric for scheme in static)

    def requested(self, *operators: str) -> Rules:
        """Returns the rules with further operators of `on_request`."""
        further = {operator: self.on_request[operator] for operator in operators}
        return replace(self, schemes={**self.schemes, **further})

    def changed(self, *, activation: Scheme | None = None, bias: Scheme | None = None) -> Rules:
        """Returns the rules with other activations or biases in all that has calibrated ranges."""

        def change(scheme: LayerScheme) -> LayerScheme:
            if not scheme.is_static:
                return scheme
            stored = bias if bias is not None and scheme.weight.is_integer else scheme.bias
            return replace(scheme, activation=activation or scheme.activation, bias=stored)

        schemes, on_request = (
            {operator: tuple(map(change, each)) for operator, each in table.items()}
            for table in (self.schemes, self.on_request)
        )
        return replace(self, schemes=schemes, on_request=on_request)


@dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        name: As users write it.
        runtimes: Names of the runtimes that run its files, the preferred one first.
        formats: File formats that are written for it.
        optional_formats: Those that are written where they are asked for by name.
        rules: Its quantization rules for ONNX files.
        timed: Whether INT8 files are timed against the float model when they are exported on a machine that runs them.
        engines: Runtime -> name of the target whose files are planned for it, of a target that stands for several.
        tflite: TFLite operator -> how its engines run it in integers; what is not named stays in float.
    """

    name: str
    runtimes: tuple[str, ...]
    formats: tuple[str, ...]
    rules: Rules
    timed: bool = False
    engines: Mapping[str, str] = field(default_factory=dict)
    tflite: Mapping[str, tuple[LayerScheme, ...]] = field(default_factory=lambda: LITERT)
    optional_formats: tuple[str, ...] = ()
