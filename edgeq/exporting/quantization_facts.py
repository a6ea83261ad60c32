"""What manifests say of how their files were quantized, as far as edgeq reads it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeq.boundary import Count
from edgeq.calibrators.ranges import Provenance
from edgeq.exporting.signal.ratio import LayerSignal


@dataclass(frozen=True)
class CalibrationCacheFacts:
    """The calibration cache of TensorRT that was written with an INT8 file.

    Attributes:
        file: Name of the cache, next to the INT8 file.
        digest: SHA-256 of the cache.
        float_file: Name of the file whose tensors its scales are for.
        algorithm: TensorRT's calibrator that it names.
        tensorrt: Version of TensorRT in its header.
        tensors: How many scales it holds.
    """

    file: str
    float_file: str
    digest: str = ""
    algorithm: str = ""
    tensorrt: str = ""
    tensors: Count = 0

    def __post_init__(self) -> None:
        for name in (self.file, self.float_file):
            require_file_name(name)


@dataclass(frozen=True)
class WeightsFile:
    """The weights of an ONNX file of more than 2 GB, next to it.

    Attributes:
        file: Its name.
        digest: Its SHA-256.
    """

    file: str
    digest: str

    def __post_init__(self) -> None:
        require_file_name(self.file)


@dataclass(frozen=True)
class SimulatedBits:
    """Grids that are coarser than those of INT8.

    Attributes:
        weights: Bits of weights.
        activations: Bits of activations.
    """

    weights: Count
    activations: Count


@dataclass(frozen=True)
class TriedSelection:
    """A smaller selection of INT8 layers that was timed, because a file with more of them is no faster than FP32.

    Attributes:
        int8_nodes: How many layers compute in INT8.
        ratio: Its time over FP32's, median over the rounds.
        low: Lower end of its 95 % interval.
        high: Upper end of it.
    """

    int8_nodes: Count
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class SpeedFacts:
    """A quantized file's time over that of its float model in the same engine, measured in turns when it was exported.

    Attributes:
        runtime: The engine that ran both.
        engine: Its name and version.
        cpu: Name of the CPU.
        cpu_features: Its instruction sets that matter for INT8.
        threads: CPU threads of the engine.
        ratio: Its time over FP32's, median over the rounds.
        low: Lower end of its 95 % interval.
        high: Upper end of it.
        bf16_ratio: The float file's time in BF16 over that in FP32; `None` where it was not measured.
        rounds: How many rounds were measured.
        recommended: What is fastest here: the file's precision, `fp32` or `fp32 computed in bf16`; empty where the
            machine was too busy to tell.
        tried: Smaller selections of the INT8 layers that were timed because the file with all of them was not faster,
            and before them that file; the last one is the file if it is faster.
    """

    runtime: str
    engine: str
    cpu: str
    threads: Count
    ratio: float
    low: float
    high: float
    rounds: Count
    recommended: str
    cpu_features: tuple[str, ...] = ()
    bf16_ratio: float | None = None
    tried: tuple[TriedSelection, ...] = ()


@dataclass(frozen=True)
class KernelCostFacts:
    """The kernel costs that decided which layers of an INT8 file stay in float.

    Attributes:
        source: Whose figures they are, with engine, version and threads.
        measured: Whether they were measured on the machine that wrote the file; others are shipped with edgeq.
        predicted_us: What the layers with a choice take by them, conversions included, batch 1.
        float_us: What the same layers take in FP32.
        estimated: How many of these layers the table lacked: their costs are those of the nearest kernel, scaled.
    """

    source: str
    measured: bool
    predicted_us: float
    float_us: float
    estimated: Count = 0


@dataclass(frozen=True)
class SaturationFacts:
    """What was done so that sums of two products stay within 16 bits on x86 CPUs without VNNI.

    Attributes:
        isa: The CPUs that the file is for (`edgeq.targets.isa`).
        fitted_layers: How many layers have weights with enlarged scales.
        fitted_channels: How many scales these are.
        mean_bits: How many bits of precision that took from a channel on average.
        most_bits: The most that it took.
        wide_grids: Tensors whose grid has twice the step.
        costs_db: How much it lowers the least signal-to-noise ratio of an output, in exact arithmetic.
    """

    isa: str
    fitted_layers: Count = 0
    fitted_channels: Count = 0
    mean_bits: float = 0.0
    most_bits: float = 0.0
    wide_grids: tuple[str, ...] = ()
    costs_db: float | None = None


@dataclass(frozen=True)
class FinetuningFacts:
    """How a file was trained, and whether it is the better for it.

    Attributes:
        images: Images without labels, those held out among them.
        held_out: How many of them were not trained on.
        output_error_before: Squared error of the outputs on held-out images, relative to their energy, untrained.
        output_error_after: The same, trained: after the best epoch of training.
        kept: Whether the file is the trained one.
    """

    images: Count
    held_out: Count
    output_error_before: float
    output_error_after: float
    kept: bool


@dataclass(frozen=True)
class LowBitFacts:
    """Weights of 2 to 8 bits behind activations in float.

    Attributes:
        nodes: How many layers have such weights.
        bits: Of a weight.
        form: How linear layers hold them: `matmul_nbits`, `dequantize_linear`, `decompression` (OpenVINO's format),
            `blockwise` (LiteRT), or `float` in a simulated file.
        group_size: Inputs with a scale of their own; `None` for whole rows or tensors.
        bits_per_weight: What is stored for a weight, its share of scales and zero points included.
        convolutions: How many of the layers are convolutions, which are computed in FP32.
        folded: Inputs of layers whose channels AWQ scales, and whose producers hold the scales.
        multiplied: Those that a Mul scales.
        codebook: Name of the table that the bits are indices of, such as `nf4`; empty for evenly spaced numbers.
    """

    nodes: Count
    bits: Count
    form: str
    group_size: Count | None = None
    bits_per_weight: float | None = None
    convolutions: Count = 0
    folded: Count = 0
    multiplied: Count = 0
    codebook: str = ""


@dataclass(frozen=True)
class SignalFacts:
    """How much of the float model's signal a file keeps, see `edgeq.exporting.signal.ratio.Signal`.

    Attributes:
        snr_db: The least signal-to-noise ratio of an output.
        how: How it was obtained: the arithmetic and the images.
        course: What is left at every layer, those in float too, in the network's order; empty in older manifests.
    """

    snr_db: float
    how: str = ""
    course: tuple[LayerSignal, ...] = ()


@dataclass(frozen=True)
class CalibratedOn:
    """The images that ranges were collected on.

    Attributes:
        images: How many.
        digest: SHA-256 over their sorted digests.
        edgeq: Version of edgeq that collected them.
    """

    images: Count
    digest: str
    edgeq: str = ""

    @classmethod
    def stated(cls, provenance: Provenance) -> dict[str, Any]:
        """Returns the entry of a manifest; none for ranges that were taken of a file instead of images."""
        if not provenance.images:
            return {}
        found = cls(provenance.images, provenance.images_digest, provenance.tool_version)
        return {"calibrated_on": asdict(found)}


@dataclass(frozen=True)
class QuantizationFacts:
    """What a manifest says of how its file was quantized; anything it does not say is empty or `None`.

    A manifest may hold further entries, of other writers and later versions: they stay in `Artifact.quantization`.

    Attributes:
        method: How the ranges were found, a name of `edgeq.calibrators.METHODS`.
        method_reason: Why it is that method, if an export has chosen it.
        ranges_digest: Digest of the ranges that the file was made from.
        calibrated_on: The images that they were collected on; `None` in older manifests, and of files without ranges.
        int8_nodes: How many layers compute in INT8.
        fp8_nodes: How many layers compute in FP8.
        w4a8_nodes: How many layers have INT4 weights and compute in INT8.
        w4_nodes: How many layers have INT4 weights and compute in FP16.
        fp4_nodes: How many layers have FP4 weights and compute in FP16.
        low_bit: Of a file for CPUs whose weights alone have 2 to 8 bits; `None` for all others.
        float_nodes: Layer kept in float -> why.
        dynamic_nodes: Layer with INT8 weights whose activations are quantized while it runs -> why.
        fp16_islands: Layer kept in FP32, because FP16 would overflow -> why.
        fp16: Where FP16 is used: `in the graph`, or only in the weights.
        fp16_scales: Whether a file of another tool has Q/DQ pairs with scales in FP16.
        calibration_cache: The calibration cache that was written with it.
        simulated_bits: Bits of weights and activations, if no engine has kernels for them.
        weights_file: The file with the weights, of one that is too large for its format or keeps them apart.
        speed: How its time compares with the float model's, where that was measured.
        kernel_costs: What decided by time which layers stay in float, if it was not the target's rules alone.
        saturation: What CPUs without VNNI asked for; `None` for files of other targets and tools.
        finetuning: How it was trained; `None` if it was not.
        signal: What it keeps of the model's signal; `None` where that was not measured.
    """

    method: str | None = None
    method_reason: str | None = None
    ranges_digest: str | None = None
    calibrated_on: CalibratedOn | None = None
    int8_nodes: Count | None = None
    fp8_nodes: Count | None = None
    w4a8_nodes: Count | None = None
    w4_nodes: Count | None = None
    fp4_nodes: Count | None = None
    low_bit: LowBitFacts | None = None
    float_nodes: Mapping[str, str] = field(default_factory=dict)
    dynamic_nodes: Mapping[str, str] = field(default_factory=dict)
    fp16_islands: Mapping[str, str] = field(default_factory=dict)
    fp16: str | None = None
    fp16_scales: bool = False
    calibration_cache: CalibrationCacheFacts | None = None
    simulated_bits: SimulatedBits | None = None
    weights_file: WeightsFile | None = None
    speed: SpeedFacts | None = None
    kernel_costs: KernelCostFacts | None = None
    saturation: SaturationFacts | None = None
    finetuning: FinetuningFacts | None = None
    signal: SignalFacts | None = None

    @property
    def signal_course(self) -> tuple[LayerSignal, ...]:
        """What is left of the model's signal at each layer; nothing if that was not measured."""
        return () if self.signal is None else self.signal.course


def require_file_name(name: str) -> None:
    """Raises `ValueError` if a text names no file."""
    if not Path(name).name or "\0" in name:
        raise ValueError(f"{name!r} is not a file name")
