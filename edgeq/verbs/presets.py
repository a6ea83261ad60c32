"""Which presets ship with the package, and for which models they are."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.inputs.presets import load_preset, preset_names
from edgeq.tasks import find_decoder

_ANY_SIZE = (64, 64)


@dataclass(frozen=True)
class ListedPreset:
    """A preset in a list.

    Attributes:
        name: What `preset` takes.
        family: What people call the models that it is for.
        task: The task of its decoder.
        images: How images are prepared, in a few words.
    """

    name: str
    family: str
    task: str
    images: str


def list_presets() -> list[ListedPreset]:
    """Returns the built-in presets, by task and name."""
    found = []
    for name in preset_names():
        preset = load_preset(name, _ANY_SIZE)
        spec = preset.preprocessing
        task = "" if preset.postprocessing is None else find_decoder(preset.postprocessing).task.name
        found.append(ListedPreset(name, preset.family, task, f"{spec.resize}, {spec.channel_order.upper()}"))
    return sorted(found, key=lambda each: (each.task, each.name))
