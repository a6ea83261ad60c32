"""`ExportOptions`: what the user decides about the files of one export, whatever their formats."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from edgeq.exporting.planning.keep import VitPlan

Rounding = Literal["nearest", "reconstruct"]


@dataclass(frozen=True)
class ExportOptions:
    """Decisions about the files of one export. Which files an option changes is in `edgeq.sources.formats`.

    Attributes:
        keep: What stays in float: names, regular expressions, operator types, or parts of a transformer
            (`edgeq.exporting.planning.keep`).
        vit_plan: What of a transformer runs in INT8: `fast`, `balanced` or `safe`
            (`edgeq.exporting.planning.selection`, rule 8).
        rescale: How channels are rescaled first, exact in float: `smooth` or `unify` those between LayerNorm and
            linear layers, `equalize` those between convolutions. By default they are not: on the trained ViT of the
            benchmarks INT8 gains nothing by it, on five CNNs -.9 to 1.5 dB.
        int8_deconv: Whether ConvTranspose runs in INT8 if the target by itself leaves it in float.
        integer_io: Whether inputs and outputs of static TFLite files are integers.
        compat: An older engine that has to run TFLite files correctly.
        isa: The x86 CPUs that files are for: `avx2`, `vnni`, `amx` or `any`; by default this machine's
            (`edgeq.targets.isa`).
        rounding: How weights are rounded: to the `nearest` integers, or as `reconstruct` learns it, block by block
            (`edgeq.calibration.reconstruction`).
        weight_method: How weights of 2 to 8 bits are quantized, a name of `edgeq.quantizers.recipes.RECIPES`; by
            default `gptq` with images to calibrate on, and `rtn` without.
        group_size: How many inputs of a layer share the scale of such weights; by default 32.
        finetune: On how many calibration images a quantized ONNX file is trained (`edgeq.calibration.finetuning`).
    """

    keep: tuple[str, ...] = ()
    vit_plan: VitPlan = "balanced"
    rescale: str | None = None
    int8_deconv: bool = False
    integer_io: bool = False
    compat: str | None = None
    isa: str | None = None
    rounding: Rounding = "nearest"
    finetune: int | None = None
    weight_method: str | None = None
    group_size: int | None = None

    @property
    def given(self) -> list[str]:
        """The options that are not at their default, by the names of their parameters in `edgeq.export`."""
        changed = [each.name for each in dataclasses.fields(self) if getattr(self, each.name) != each.default]
        return [_CALLED.get(name, name) for name in changed]


_CALLED = {"integer_io": "int8_io"}
