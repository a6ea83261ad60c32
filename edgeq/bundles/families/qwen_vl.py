"""Qwen2-VL and Qwen2.5-VL: a ViT for images of any size, positions in three directions ("Qwen2-VL", Wang et al., 2024).

As transformers has it, the ViT cannot be exported: it cuts its tokens by image in Python. Here what a patch belongs to
is computed from the images' grids inside of the graph, and attention is masked by it: one file for any number and size
of images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeq.bundles.families.parts import (
    EMBEDS,
    FEATURES,
    GRIDS,
    PIXELS,
    Split,
    cache_of,
    decoder_part,
    drawn,
    embedding_part,
    joined,
)
from edgeq.bundles.torch_part import TorchPart

if TYPE_CHECKING:
    import torch

    from edgeq.bundles.source import ModelFolder

# Larger than any number of frames or windows of a direction.
_MANY = 1 << 14


def split_qwen_vl(model: Any, folder: ModelFolder) -> Split:
    """Returns Qwen2-VL or Qwen2.5-VL in parts; the merger is the vision part's last layer."""
    config, body = model.config, model.model
    text = config.text_config
    hidden, cache, token = int(text.hidden_size), cache_of(text), int(config.image_token_id)
    return Split(
        (
            _vision(body.visual),
            embedding_part(body.language_model.embed_tokens, hidden, token),
            decoder_part(body.language_model, model.lm_head, cache, hidden, "multimodal"),
        ),
        joined(("vision", FEATURES, "embedding"), ("embedding", EMBEDS, "decoder")),
        cache,
        "multimodal",
        image_token=token,
        around_image=((int(config.vision_start_token_id),), (int(config.vision_end_token_id),)),
    )


def _vision(tower: Any) -> TorchPart:
    import torch

    merge = int(tower.spatial_merge_size)
    channels = int(tower.config.in_channels * tower.config.temporal_patch_size * tower.config.patch_size**2)
    window = getattr(tower, "window_size", None)
    side = window // merge // int(tower.config.patch_size) if window else None

    def compute(module: Any, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        places, frames, windows = _geometry(pixels.shape[0], grid, merge, side)
        whole = (frames[:, None] == frames[None])[None, None]
        near = whole if windows is None else (windows[:, None] == windows[None])[None, None]
        tokens = module.patch_embed(pixels)
        angles = module.rotary_pos_emb(tokens, places)
        for number, block in enumerate(module.blocks):
            is_near = windows is not None and number not in module.fullatt_block_indexes
            tokens = tokens + _attention(block.attn, block.norm1(tokens), near if is_near else whole, angles)
            tokens = tokens + block.mlp(block.norm2(tokens))
        return module.merger(tokens)  # type: ignore[no-any-return]

    def example(*grid: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        patches = sum(frames * rows * columns for frames, rows, columns in grid)
        return {PIXELS: drawn(patches, channels), GRIDS: torch.tensor(grid)}

    two = merge * 2
    examples = (
        example((1, two * 2, two), (1, two, merge * 3)), example((1, two, two)), example((2, merge * 3, two))
    )  # fmt: skip
    axes = {PIXELS: {0: "patches"}, GRIDS: {0: "images"}}
    return TorchPart("vision", tower, compute, examples[0], axes, {FEATURES: {0: "image_rows"}}, examples[1:])


def _geometry(
    patches: int, grid: torch.Tensor, merge: int, side: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Returns row and column `(patches, 2)`, frame and window `(patches,)` of each patch.

    Patches come image by image, frame by frame, in blocks of `merge` x `merge`.

    Args:
        patches: How many there are.
        grid: Frames, rows and columns of each image, `(images, 3)`.
        merge: Side of a block.
        side: Side of a window in blocks; `None` without windows.
    """
    import torch

    frames, rows, columns = grid.unbind(1)
    ends = (frames * rows * columns).cumsum(0)
    number = torch.arange(patches)
    image = (number[:, None] >= ends[None]).sum(1)
    starts = torch.nn.functional.pad(ends, (1, 0))[:-1]
    local, width = number - starts[image], columns[image]
    area = rows[image] * width
    frame, inside = local // area, local % area
    block, corner = inside // merge**2, inside % merge**2
    row, column = block // (width // merge), block % (width // merge)
    places = torch.stack([row * merge + corner // merge, column * merge + corner % merge], -1)
    shown = image * _MANY + frame
    if side is None:
        return places, shown, None
    return places, shown, (shown * _MANY + row // side) * _MANY + column // side


def _attention(
    layer: Any, tokens: torch.Tensor, mask: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Returns what an attention layer gives where each patch sees those of its image or window alone."""
    import torch
    from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

    count = tokens.shape[0]
    query, key, value = layer.qkv(tokens).reshape(count, 3, layer.num_heads, -1).permute(1, 0, 2, 3).unbind(0)
    query, key = apply_rotary_pos_emb_vision(query, key, *angles)
    query, key, value = (each.transpose(0, 1)[None] for each in (query, key, value))
    found = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=layer.scaling)
    return layer.proj(found.transpose(1, 2).reshape(count, -1))  # type: ignore[no-any-return]
