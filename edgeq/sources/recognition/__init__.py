"""Recognition: which preset fits a model, told by its outputs, its operators and what its file says of itself.

A recogniser is one function in a module of this folder and one line in `RECOGNISERS`: it takes `ModelFacts` and returns
the candidates, one if it is sure of the family, none if the model is not of its kind. What several recognisers or
several candidates claim is in doubt, and nothing is taken in silence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeq.errors import InputError
from edgeq.inputs.presets import Labels, Preset, load_preset, parse_labels, preset_names, require_channels
from edgeq.notes import log_of
from edgeq.registry import load_object
from edgeq.sources.file_metadata import FileMetadata
from edgeq.sources.recognition.candidate import Candidate
from edgeq.sources.recognition.facts import ModelFacts

__all__ = [
    "AUTO",
    "RECOGNISERS",
    "Candidate",
    "ModelFacts",
    "Recogniser",
    "Recognition",
    "recognise",
    "recognised_preset",
    "with_file_names",
]

AUTO = "auto"
"""The preset that stands for recognition, which is the default."""

Recogniser = Callable[[ModelFacts], Sequence[Candidate]]

RECOGNISERS: dict[str, str] = {
    "ultralytics": "edgeq.sources.recognition.rows:recognise_ultralytics",
    "rows": "edgeq.sources.recognition.rows:recognise_rows",
    "distances": "edgeq.sources.recognition.levels:recognise_distances",
    "combined maps": "edgeq.sources.recognition.levels:recognise_combined_maps",
    "fastest": "edgeq.sources.recognition.levels:recognise_fastest",
    "centernet": "edgeq.sources.recognition.levels:recognise_centernet",
    "faces": "edgeq.sources.recognition.known_outputs:recognise_faces",
    "torchvision": "edgeq.sources.recognition.known_outputs:recognise_torchvision",
    "transformers": "edgeq.sources.recognition.known_outputs:recognise_transformers",
    "anchored": "edgeq.sources.recognition.anchored:recognise_anchored",
    "chosen": "edgeq.sources.recognition.chosen:recognise_chosen",
    "paddle": "edgeq.sources.recognition.chosen:recognise_paddle",
    "suppressed": "edgeq.sources.recognition.chosen:recognise_suppressed",
    "corner boxes": "edgeq.sources.recognition.levels:recognise_corner_boxes",
}

_ANY_SIZE = (64, 64)
_COCO = 80
_SCALED = ",scale=1"

_log = log_of(__name__)


@dataclass(frozen=True)
class Recognition:
    """What was recognised of a model.

    Attributes:
        facts: The model.
        candidates: None if no family is known to have such outputs; several if it is in doubt.
    """

    facts: ModelFacts
    candidates: tuple[Candidate, ...]

    def single(self) -> Candidate | None:
        """Returns the one candidate, or `None` if there is none.

        Raises:
            InputError: there are several; the message names what to write for each.
        """
        if len(self.candidates) > 1:
            choices = "; or ".join(f"{each.flags} for {each.family}" for each in self.candidates)
            images = (
                "; or give annotated images, to score these on: `data`, or a COCO annotation file with `images`"
                if self.facts.provable
                else ""
            )
            raise InputError(
                f"{self.facts.name}: its outputs {self.facts.describe()} fit several families, which differ in what "
                f"they compute or in how images are prepared: give {choices}{images}"
            )
        return self.candidates[0] if self.candidates else None

    def describe(self, candidate: Candidate) -> str:
        """Returns in one line what is taken."""
        size = (self.facts.height_px, self.facts.width_px)
        preset = load_preset(candidate.preset, (size[0] or _ANY_SIZE[0], size[1] or _ANY_SIZE[1]))
        spec = preset.preprocessing
        labels = preset.labels if candidate.labels is None else candidate.labels
        by_preset = "taken as COCO's" if len(labels) >= _COCO else "named by the preset"
        names = candidate.labels_source or (by_preset if labels else "without names")
        noun = "class" if candidate.classes == 1 else "classes"
        classes = f", {candidate.classes} {noun} {names}" if candidate.classes else ""
        pixels = "0..255" if spec.scale == 1 else "0..1" if abs(spec.scale * 255 - 1) < 1e-6 else f"x {spec.scale:.4g}"
        mean = (
            "" if not any(spec.mean) and set(spec.std) == {1.0} else f", mean {list(spec.mean)}, std {list(spec.std)}"
        )
        shape = "x".join(str(side) for side in dict.fromkeys(size)) if all(size) else "its own size"
        return (
            f"{self.facts.name}: {candidate.family}{classes}, {spec.resize} {shape}, {spec.channel_order.upper()} "
            f"{pixels}{mean} ({candidate.flags})"
        )


def recognise(facts: ModelFacts) -> Recognition:
    """Returns the candidates of all recognisers, with the names of classes that the file holds."""
    found: dict[str, Candidate] = {}
    for name, reference in RECOGNISERS.items():
        recogniser: Recogniser = load_object(f"recogniser {name}", reference)
        for candidate in recogniser(facts):
            found.setdefault(candidate.preset, _finished(candidate, facts))
    return Recognition(facts, tuple(found.values()))


def recognised_preset(
    facts: ModelFacts, size: tuple[int, int] | None, purpose: str, labels: Labels | None = None
) -> Preset | None:
    """Returns the preset that fits a model, after saying what is taken; `None`, after saying that, if none does.

    Args:
        facts: The model.
        size: Height and width for an input that leaves them free.
        purpose: The command, for what it says: `export` or `eval`.
        labels: Class names that the caller gives, which go before those of the file.

    Raises:
        InputError: several presets fit; the message names what to write for each.
    """
    recognition = recognise(facts)
    candidate = recognition.single()
    if candidate is None:
        stated = f" (its metadata say task {facts.metadata.task!r})" if facts.metadata.task else ""
        without = "it is a bare network, which cannot be scored" if purpose == "export" else "it cannot be scored"
        _log.info(
            "%s: no head that edgeq knows among its outputs %s%s; without `preset` %s",
            *(facts.name, facts.describe(), stated, without),
        )
        return None
    sides = (facts.height_px, facts.width_px) if facts.height_px and facts.width_px else size
    preset = load_preset(candidate.preset, sides)
    if facts.channels is not None:
        require_channels(facts.name, facts.channels, candidate.preset, preset.preprocessing)
    if labels is not None:
        candidate = dataclasses.replace(candidate, labels=parse_labels(labels), labels_source="as given")
    _log.info("%s", recognition.describe(candidate))
    return preset if candidate.labels is None else dataclasses.replace(preset, labels=candidate.labels)


def with_file_names(name: str, preset: Preset, metadata: FileMetadata) -> Preset:
    """Returns a preset with the class names of a file; those that a TOML file declares go before them."""
    built_in = name.partition(",")[0] in preset_names()
    if not metadata.names or (preset.labels and not built_in):
        return preset
    return dataclasses.replace(preset, labels=metadata.names)


def _finished(candidate: Candidate, facts: ModelFacts) -> Candidate:
    """Returns a candidate with the file's class names, and without the scaling that the graph does itself."""
    names = facts.metadata.names
    if names and candidate.classes in (0, len(names)):
        candidate = dataclasses.replace(
            candidate, labels=names, classes=len(names), labels_source="from the file's metadata"
        )
    if facts.scales and _SCALED not in candidate.preset:
        candidate = dataclasses.replace(candidate, preset=candidate.preset + _SCALED)
    return candidate
