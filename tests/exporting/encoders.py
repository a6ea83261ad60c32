"""Small encoders as three libraries build them, exported once for each opset."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torchvision.models import VisionTransformer

from edgeq.sources.torch_export import export_torch
from tests.exporting import nets

IMAGE = (1, 3, 16, 16)
WIDTH = 24
HEADS = 3
OPSETS = (17, 18, 20)


class _Deit(nn.Module):
    """One layer for queries, keys and values; an attention that torch fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        batch, tokens, width = x.shape
        packed = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*packed.unbind(0))
        x = x + self.proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        x = x + self.mlp(self.norm2(x))
        scores: torch.Tensor = self.head(self.norm(x)[:, 0])
        return scores


class _QuickGelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Clip(nn.Module):
    """Layers of their own for queries, keys and values, the scale on the queries, keys without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4, bias=False)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pre, self.norm1, self.norm2, self.post = (nn.LayerNorm(WIDTH) for _ in range(4))
        self.q, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.k = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), _QuickGelu(), nn.Linear(2 * WIDTH, WIDTH))
        self.projection = nn.Linear(WIDTH, 8, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = self.pre(torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1))
        normed = self.norm1(x)
        q = self._heads(self.q(normed) * (WIDTH // HEADS) ** -0.5)
        scores = q @ self._heads(self.k(normed)).transpose(2, 3)
        attended = (scores.softmax(-1) @ self._heads(self.v(normed))).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        x = x + self.mlp(self.norm2(x))
        embedding: torch.Tensor = self.projection(self.post(x[:, 0]))
        return embedding

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)


def _torchvision() -> nn.Module:
    encoder: nn.Module = VisionTransformer(
        image_size=16, patch_size=4, num_layers=1, num_heads=HEADS, hidden_dim=WIDTH, mlp_dim=2 * WIDTH, num_classes=5
    )
    return encoder


ENCODERS: dict[str, Callable[[], nn.Module]] = {"deit": _Deit, "torchvision": _torchvision, "clip": _Clip}


@functools.cache
def module(name: str) -> nn.Module:
    """Returns an encoder in eval mode, every parameter of which does something."""
    torch.manual_seed(5)
    encoder = ENCODERS[name]().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


@functools.cache
def _exported(name: str, opset: int, dynamic_batch: bool) -> ir.Model:
    return export_torch(module(name), torch.zeros(IMAGE), ["out"], opset=opset, dynamic_batch=dynamic_batch)


def exported(name: str, opset: int, *, dynamic_batch: bool = False) -> ir.Model:
    """Returns a fresh copy of an encoder's graph."""
    return nets.copy(_exported(name, opset, dynamic_batch))


def image(seed: int = 0, batch: int = 1) -> np.ndarray:
    """Returns an input of the encoders."""
    return nets.normal(seed, batch, *IMAGE[1:])


def assert_computes_the_same(model: ir.Model, before: ir.Model, *, batch: int = 1) -> None:
    """Compares two graphs in ONNX Runtime, at the rounding of float32, on images of their own."""
    for seed in range(3):
        x = image(seed, batch)
        (wanted,), (found,) = nets.run(before, x), nets.run(model, x)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max())
