"""The command that exports a point of a study, if one export can."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.passes.packed_projection import whole_of
from edgeq.sources.model import ModelRequest
from edgeq.studying.layers import ENDS, StudyLayer
from edgeq.studying.model import TARGET
from edgeq.studying.space import ALL_IMAGES, LEFT_ALONE, Variant
from edgeq.studying.trials import StudyTrial

_GROUPS = (8, 16, 32, 64, 128, 256)
"""Groups that `edgeq export` writes."""

_ENDS_FROM = 4
"""Bits below which an export leaves the first and the last layers in float."""


@dataclass(frozen=True)
class ExportSource:
    """What the command line of an export names.

    Attributes:
        model: The model as the user gave it, with its options.
        calib: The images to calibrate on, as the user gave them.
    """

    model: tuple[str, ...]
    calib: str

    @classmethod
    def of(cls, request: ModelRequest, calibration: CalibrationSource) -> ExportSource:
        """Returns what a command names that opens the same model and images; `IMAGES` for what has no path."""
        model = [request.reference]
        model += [] if request.weights is None else ["--weights", str(request.weights)]
        model += [] if request.preset is None else ["--preset", request.preset]
        model += [] if request.size is None else ["--size", "x".join(map(str, request.size))]
        source = calibration.source
        return cls(tuple(model), str(source) if isinstance(source, Path) else "IMAGES")


@dataclass(frozen=True)
class TrialExport:
    """The export that writes the file of a trial.

    Attributes:
        variant: How it stores weights.
        keep: Regular expression of the layers that stay in float; empty if none has to be named.
        is_transformer: Whether the model has attention.
    """

    variant: Variant
    keep: str
    is_transformer: bool

    @property
    def precision(self) -> str:
        """The precision of the file."""
        return f"w{self.variant.bits}"

    @property
    def options(self) -> ExportOptions:
        """What decides about the file."""
        return ExportOptions(
            keep=(self.keep,) if self.keep else (),
            vit_plan="fast" if self.is_transformer else "balanced",
            weight_method=self.variant.method,
            group_size=int(self.variant.granularity),
        )

    def command(self, source: ExportSource) -> str:
        """Returns the command line.

        Args:
            source: What it names.
        """
        command = ["edgeq", "export", *source.model, "--target", TARGET, "--precision", self.precision]
        command += ["--weight-method", self.variant.method, "--group-size", str(self.variant.granularity)]
        command += ["--calib", source.calib, *_num(self.variant)]
        command += ["--vit-plan", "fast"] if self.is_transformer else []  # what stays in float is named below
        return shlex.join([*command, *(["--keep", self.keep] if self.keep else [])])


def export_of(trial: StudyTrial, layers: Sequence[StudyLayer]) -> TrialExport | None:
    """Returns the export that writes the file of a trial; `None` if no single one does.

    An export has weights of one kind in groups and floats between layers, leaves what `keep` names in float, and below
    4 bits the first and last layers.

    Args:
        trial: The trial.
        layers: The layers of the study.
    """
    variant = trial.variant
    if variant is None or variant.granularity not in _GROUPS or trial.activation != LEFT_ALONE:
        return None
    quantized = {whole_of(name) for name in trial.weights}
    kept = {whole_of(each.name) for each in layers if each.name not in trial.weights}
    ends = {whole_of(each.name) for each in layers if each.kind in ENDS}
    if quantized & kept or (variant.bits < _ENDS_FROM and quantized & ends):
        return None
    needed = sorted(kept - ends) if variant.bits < _ENDS_FROM else sorted(kept)
    return TrialExport(variant, "|".join(map(re.escape, needed)), any(each.kind == "attention" for each in layers))


def export_command(trial: StudyTrial, layers: Sequence[StudyLayer], source: ExportSource) -> str | None:
    """Returns the command that writes the file of a trial; `None` if no single export does; see `export_of`.

    Args:
        trial: The trial.
        layers: The layers of the study.
        source: What the command names.
    """
    export = export_of(trial, layers)
    return None if export is None else export.command(source)


def bundle_command(trial: StudyTrial, layers: Sequence[StudyLayer], folder: str) -> str | None:
    """Returns the command that writes the bundle of a trial; `None` if no single export does.

    An export has weights of one kind in groups in each part, and leaves its first and last layers in float.

    Args:
        trial: The trial.
        layers: The layers of the study.
        folder: The Hugging Face folder, as the command names it.
    """
    entries = []
    numbers: dict[str, None] = {}
    for part in dict.fromkeys(each.component for each in layers):
        inner = [each.name for each in layers if each.component == part and each.kind not in ENDS]
        ends = [each.name for each in layers if each.component == part and each.kind in ENDS]
        stored = {trial.weights.get(name) for name in inner}
        if len(stored) != 1 or any(name in trial.weights for name in ends):
            return None
        (variant,) = stored
        if variant is None:
            entries.append(f"{part}=fp16")
        elif variant.granularity in _GROUPS:
            entries.append(f"{part}=w{variant.bits}g{variant.granularity}a-{variant.method}")
            numbers |= dict.fromkeys(_num(variant))
        else:
            return None
    options = [word for entry in entries for word in ("--part", entry)]
    return shlex.join(["edgeq", "export", folder, "--target", TARGET, *options, *numbers])


def _num(variant: Variant) -> list[str]:
    """Returns the option for the number of images that a method goes by, if the study varies that."""
    return [] if variant.calibration == ALL_IMAGES else ["--num", str(variant.calibration)]
