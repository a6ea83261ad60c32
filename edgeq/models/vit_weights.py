"""Checkpoints of vision transformers: key names of others in ours, and the sizes that follow from the weights."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from edgeq.models.vit_configs import KeyNames, VitConfig

_CLIP_PREFIX = "visual."

_TRANSLATIONS: dict[KeyNames, tuple[tuple[str, str], ...]] = {
    "timm": (),
    "torchvision": (
        (r"class_token", "cls_token"),
        (r"encoder\.pos_embedding", "pos_embed"),
        (r"conv_proj\.", "patch_embed.proj."),
        (r"encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"encoder\.ln\.", "norm."),
        (r"heads\.head\.", "head."),
        (r"(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
        (r"(blocks\.\d+)\.self_attention\.in_proj_", r"\1.attn.qkv."),
        (r"(blocks\.\d+)\.self_attention\.out_proj\.", r"\1.attn.proj."),
        # Published files have the names that torchvision's MLP had before it became a Sequential.
        (r"(blocks\.\d+)\.mlp\.(?:0|linear_1)\.", r"\1.mlp.fc1."),
        (r"(blocks\.\d+)\.mlp\.(?:3|linear_2)\.", r"\1.mlp.fc2."),
    ),
    "clip": (
        (r"class_embedding$", "cls_token"),
        (r"positional_embedding$", "pos_embed"),
        (r"conv1\.", "patch_embed.proj."),
        (r"ln_pre\.", "norm_pre."),
        (r"ln_post\.", "norm."),
        (r"proj$", "head.weight"),
        (r"transformer\.resblocks\.", "blocks."),
        (r"(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
        (r"(blocks\.\d+)\.attn\.in_proj_", r"\1.attn.qkv."),
        (r"(blocks\.\d+)\.attn\.out_proj\.", r"\1.attn.proj."),
        (r"(blocks\.\d+)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
        (r"(blocks\.\d+)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
    ),
    "fashionmnist": (
        (r"patch_embedding\.patch_embed\.", "patch_embed.proj."),
        (r"mlp_head\.0\.", "norm."),
        (r"mlp_head\.1\.", "head."),
        (r"transformer_layers\.", "blocks."),
        (r"(blocks\.\d+)\.layer_norm_([12])\.", r"\1.norm\2."),
        (r"(blocks\.\d+)\.self_attention\.in_proj_", r"\1.attn.qkv."),
        (r"(blocks\.\d+)\.self_attention\.out_proj\.", r"\1.attn.proj."),
        (r"(blocks\.\d+)\.mlp\.0\.", r"\1.mlp.fc1."),
        (r"(blocks\.\d+)\.mlp\.2\.", r"\1.mlp.fc2."),
    ),
}


def translate_weights(state: Mapping[str, Tensor], key_names: KeyNames) -> dict[str, Tensor]:
    """Returns a checkpoint's tensors under the key names of `edgeq.models.vit.VisionTransformer`.

    Keys without a translation stay as they are. Of a whole CLIP, only the image tower is taken (`visual.*`).
    """
    if key_names == "clip":
        state = _clip_tower(state)
    return {_translate(key, key_names): value for key, value in state.items()}


def fit_config(config: VitConfig, state: Mapping[str, Tensor]) -> VitConfig:
    """Returns the sizes of a model that fits the weights; what they do not tell, and their width, stay as given.

    Width and heads belong to a model's name, because no tensor tells how many heads share the width.

    Args:
        config: The sizes of the model's name.
        state: Weights under our own key names.
    """
    shapes = {key: value.shape for key, value in state.items() if value.numel()}
    patch_weight = shapes.get("patch_embed.proj.weight", ())
    sizes: dict[str, Any] = {}
    if len(patch_weight) == 4:
        sizes |= {"channels": patch_weight[1], "patch_px": patch_weight[2]}
    if blocks := [int(match[1]) for key in shapes if (match := re.match(r"blocks\.(\d{1,3})\.", key))]:
        sizes["depth"] = max(blocks) + 1
    for name, key in (("mlp_dim", "blocks.0.mlp.fc1.weight"), ("outputs", "head.weight")):
        if len(shapes.get(key, ())) == 2:
            sizes[name] = shapes[key][0]
    if len(shapes.get("pos_embed", ())) == 3:
        patches_a_side = math.isqrt(max(shapes["pos_embed"][1] - 1, 1))
        sizes["image_px"] = patches_a_side * sizes.get("patch_px", config.patch_px)
    return dataclasses.replace(config, **sizes)


def _clip_tower(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the image tower of a CLIP, with a projection and embeddings of the shapes that ours have."""
    if any(key.startswith(_CLIP_PREFIX) for key in state):
        state = {key.removeprefix(_CLIP_PREFIX): value for key, value in state.items() if key.startswith(_CLIP_PREFIX)}
    tower = dict(state)
    for key, dimensions in (("class_embedding", 1), ("positional_embedding", 2)):
        if key in tower and tower[key].ndim == dimensions:
            tower[key] = tower[key].reshape(1, -1, tower[key].shape[-1])
    if "proj" in tower and tower["proj"].ndim == 2:
        tower["proj"] = tower["proj"].T.contiguous()
    return tower


def _translate(key: str, key_names: KeyNames) -> str:
    for pattern, replacement in _TRANSLATIONS[key_names]:
        key = re.sub(rf"^{pattern}", replacement, key)
    return key
