"""Families of models that are cut into parts: one file per way of cutting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeq.errors import InputError
from edgeq.registry import load_object
from edgeq.wording import did_you_mean

if TYPE_CHECKING:
    from edgeq.bundles.families.parts import Split
    from edgeq.bundles.source import ModelFolder

SPLITS: dict[str, str] = {
    "bert": "edgeq.bundles.families.towers:split_bert",
    "blip-2": "edgeq.bundles.families.blip2:split_blip2",
    "clip": "edgeq.bundles.families.towers:split_clip",
    "gemma": "edgeq.bundles.families.decoders:split_decoder",
    "idefics3": "edgeq.bundles.families.idefics3:split_idefics3",
    "llama": "edgeq.bundles.families.decoders:split_decoder",
    "llava": "edgeq.bundles.families.llava:split_llava",
    "llava_next": "edgeq.bundles.families.llava_next:split_llava_next",
    "mistral": "edgeq.bundles.families.decoders:split_decoder",
    "opt": "edgeq.bundles.families.decoders:split_opt",
    "paligemma": "edgeq.bundles.families.paligemma:split_paligemma",
    "qwen2": "edgeq.bundles.families.decoders:split_decoder",
    "qwen2_5_vl": "edgeq.bundles.families.qwen_vl:split_qwen_vl",
    "qwen2_vl": "edgeq.bundles.families.qwen_vl:split_qwen_vl",
    "siglip": "edgeq.bundles.families.towers:split_siglip",
    "smolvlm": "edgeq.bundles.families.idefics3:split_idefics3",
}
"""`model_type` -> function from a model of transformers and its folder to a `Split`."""


def splitter(folder: ModelFolder) -> Callable[..., Split]:
    """Returns what cuts the model of a folder into parts.

    Raises:
        InputError: its family is unknown.
    """
    family = folder.config.model_type
    if family not in SPLITS:
        hint = did_you_mean(family, SPLITS)
        raise InputError(
            f"{folder.config.path}: is of the family {family!r}, which edgeq cannot export in parts; {hint}"
            f"known: {', '.join(SPLITS)}"
        )
    found: Callable[..., Split] = load_object("family", SPLITS[family])
    return found
