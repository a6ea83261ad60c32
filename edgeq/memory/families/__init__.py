"""Families of models: one file per way in which a `config.json` describes an architecture."""

from __future__ import annotations

from collections.abc import Callable

from edgeq.errors import InputError
from edgeq.memory.architecture import Architecture
from edgeq.memory.config_file import ConfigFile
from edgeq.registry import load_object
from edgeq.wording import did_you_mean

FAMILIES: dict[str, str] = {
    "bert": "edgeq.memory.families.bert:read_bert",
    "blip-2": "edgeq.memory.families.blip2:read_blip2",
    "clip": "edgeq.memory.families.two_towers:read_clip",
    "gemma": "edgeq.memory.families.decoders:read_decoder",
    "gemma2": "edgeq.memory.families.decoders:read_decoder",
    "idefics3": "edgeq.memory.families.idefics3:read_idefics3",
    "llama": "edgeq.memory.families.decoders:read_decoder",
    "llava": "edgeq.memory.families.llava:read_llava",
    "llava_next": "edgeq.memory.families.llava:read_llava_next",
    "mistral": "edgeq.memory.families.decoders:read_decoder",
    "mllama": "edgeq.memory.families.mllama:read_mllama",
    "opt": "edgeq.memory.families.decoders:read_decoder",
    "paligemma": "edgeq.memory.families.paligemma:read_paligemma",
    "qwen2": "edgeq.memory.families.decoders:read_decoder",
    "qwen2_5_vl": "edgeq.memory.families.qwen_vl:read_qwen2_5_vl",
    "qwen2_vl": "edgeq.memory.families.qwen_vl:read_qwen2_vl",
    "siglip": "edgeq.memory.families.two_towers:read_siglip",
    "smolvlm": "edgeq.memory.families.idefics3:read_idefics3",
}
"""`model_type` -> function from a `ConfigFile` to an `Architecture`."""


def read_architecture(config: ConfigFile) -> Architecture:
    """Returns what a model's description says about its memory.

    Raises:
        InputError: the family is unknown, or the description is not whole.
        ModelError: the family is known, and this variant of it is not.
    """
    if config.model_type not in FAMILIES:
        hint = did_you_mean(config.model_type, FAMILIES)
        raise InputError(
            f"{config.path}: is of the family {config.model_type!r}, which edgeq cannot plan; {hint}"
            f"known: {', '.join(FAMILIES)}"
        )
    read: Callable[[ConfigFile], Architecture] = load_object("family", FAMILIES[config.model_type])
    return read(config)
