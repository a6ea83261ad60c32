"""Vision transformers ("An Image is Worth 16x16 Words", Dosovitskiy et al., 2021), and CLIP's image tower.

One module for all of them, so that their graphs look alike to whatever rewrites and quantizes them. Its key names are
timm's, which public DeiT checkpoints have; `edgeq.models.vit_weights` translates those of others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeq.models.vit_configs import VitConfig

_INITIAL_STD = 0.02


class VisionTransformer(nn.Module):
    """Patches and a class token through pre-norm blocks; the class token, normalised and projected, is the output.

    Args:
        config: Its sizes.

    Attributes:
        config: The same.
        output_names: `scores` (logits), or `embedding` for a CLIP tower.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.output_names = ("embedding" if config.is_clip_tower else "scores",)
        has_bias = not config.is_clip_tower
        self.patch_embed = _PatchEmbedding(config.channels, config.dim, config.patch_px, has_bias)
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.dim) * _INITIAL_STD)
        self.pos_embed = nn.Parameter(torch.randn(1, config.patches + 1, config.dim) * _INITIAL_STD)
        self.norm_pre = nn.LayerNorm(config.dim, config.epsilon) if config.is_clip_tower else nn.Identity()
        self.blocks = nn.Sequential(*(_Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.dim, config.epsilon)
        self.head = nn.Linear(config.dim, config.outputs, has_bias)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `(N, outputs)`, or a CLIP tower's embeddings, not normalised to length 1.

        Args:
            images: `(N, channels, image_px, image_px)`, normalised.
        """
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], 1) + self.pos_embed
        tokens = self.blocks(self.norm_pre(tokens))
        outputs: Tensor = self.head(self.norm(tokens[:, 0]))
        return outputs


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), which the CLIP of OpenAI was trained with (Hendrycks and Gimpel, 2016, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the shape of `x`."""
        return x * torch.sigmoid(1.702 * x)


class _PatchEmbedding(nn.Module):
    def __init__(self, channels: int, dim: int, patch_px: int, has_bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_px, patch_px, bias=has_bias)

    def forward(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.proj(images)
        return embedded.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, config.epsilon)
        self.attn = _Attention(config.dim, config.heads)
        self.norm2 = nn.LayerNorm(config.dim, config.epsilon)
        self.mlp = _Mlp(config)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        result: Tensor = tokens + self.mlp(self.norm2(tokens))
        return result


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        _, count, dim = tokens.shape
        # Each part by itself, so that no tensor has five dimensions; the batch is -1, so that no shape is computed.
        query, key, value = (
            part.reshape(-1, count, self._heads, dim // self._heads).transpose(1, 2)
            for part in self.qkv(tokens).chunk(3, 2)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.proj(mixed.transpose(1, 2).reshape(-1, count, dim))
        return result


class _Mlp(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.mlp_dim)
        self.act = QuickGELU() if config.activation == "quick_gelu" else nn.GELU()
        self.fc2 = nn.Linear(config.mlp_dim, config.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return result
