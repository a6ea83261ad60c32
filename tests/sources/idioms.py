"""Small networks in the idioms of transformers and timm, written by hand, with random weights of a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 32
_WIDTH = 24
_CLASSES = 7


class MaskedDetr(nn.Module):
    """Object queries that look at a map, whose positions are counted where its mask holds an image.

    "End-to-End Object Detection with Transformers" (Carion et al., 2020). Black pixels are padding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, _WIDTH, 3, 2, 1))
        self.queries = nn.Embedding(5, _WIDTH)
        self.attention = nn.ModuleList(nn.MultiheadAttention(_WIDTH, 2, batch_first=True) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(_WIDTH) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(_WIDTH, 48), nn.ReLU(), nn.Linear(48, _WIDTH))
        self.classes, self.boxes = nn.Linear(_WIDTH, _CLASSES), nn.Linear(_WIDTH, 4)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        held = (image.abs().amax(1) > 0)[:, ::8, ::8]
        tokens = self.stem(image).flatten(2).transpose(1, 2)
        places, padding = self.places(held), ~held.flatten(1)
        mask = torch.zeros(padding.shape).masked_fill(padding, float("-inf"))
        looked, _ = self.attention[0](tokens + places, tokens + places, tokens, key_padding_mask=mask)
        tokens = self.norms[0](tokens + looked)
        queries = self.queries.weight[None].expand(image.shape[0], -1, -1)
        looked, _ = self.attention[1](queries, tokens + places, tokens, key_padding_mask=mask)
        found = self.norms[1](queries + looked)
        found = self.norms[2](found + self.mlp(found))
        return self.classes(found), self.boxes(found).sigmoid()

    def places(self, held: Tensor) -> Tensor:
        """Returns sines and cosines of each token's row and column, `(N, tokens, width)`."""
        half = _WIDTH // 2
        steps = 10_000 ** (2 * (torch.arange(half) // 2) / half)
        waves = []
        for axis in (1, 2):
            counted = held.float().cumsum(axis)
            counted = counted / (counted[:, -1:] if axis == 1 else counted[:, :, -1:]).clamp(min=1) * 2 * torch.pi
            angles = counted[..., None] / steps
            waves.append(torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), 4).flatten(3))
        return torch.cat(waves, 3).flatten(1, 2)


class SwiGlu(nn.Module):
    """RMSNorm and SwiGLU, packed in one layer and in two ("GLU Variants Improve Transformer", Shazeer, 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, _WIDTH, 8, 8)
        self.gains = nn.ParameterList(1 + 0.2 * torch.randn(_WIDTH) for _ in range(3))
        self.packed, self.down = nn.Linear(_WIDTH, 96), nn.Linear(48, _WIDTH)
        self.gate, self.up, self.out = (
            nn.Linear(*sides, bias=False) for sides in ((_WIDTH, 48),) * 2 + ((48, _WIDTH),)
        )
        self.classes = nn.Linear(_WIDTH, _CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        gate, value = self.packed(self.normed(x, 0)).chunk(2, -1)
        x = x + self.down(functional.silu(gate) * value)
        normed = self.normed(x, 1)
        x = x + self.out(functional.silu(self.gate(normed)) * self.up(normed))
        scores: Tensor = self.classes(self.normed(x, 2).mean(1))
        return scores

    def normed(self, x: Tensor, number: int) -> Tensor:
        """Returns what has a mean square of 1 per token, times a gain."""
        normed: Tensor = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.gains[number]
        return normed


class ShiftedWindows(nn.Module):
    """Attention in windows that are shifted around the edges, with a bias for each distance.

    "Swin Transformer" (Liu et al., 2021); without the mask between what comes from opposite edges.
    """

    def __init__(self, window: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.window, self.heads = window, heads
        self.patches = nn.Conv2d(3, _WIDTH, 4, 4)
        self.norm = nn.LayerNorm(_WIDTH)
        self.qkv, self.out, self.classes = (nn.Linear(_WIDTH, n) for n in (3 * _WIDTH, _WIDTH, _CLASSES))
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        place = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
        distance = place[:, :, None] - place[:, None] + window - 1
        self.register_buffer("distance", distance[0] * (2 * window - 1) + distance[1])

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).permute(0, 2, 3, 1)
        count, height, width, _ = x.shape
        w = self.window
        shifted = torch.roll(self.norm(x), (-w // 2, -w // 2), (1, 2))
        parts = shifted.view(count, height // w, w, width // w, w, _WIDTH).transpose(2, 3).reshape(-1, w * w, _WIDTH)
        qkv = self.qkv(parts).view(-1, w * w, 3, self.heads, _WIDTH // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.get_buffer("distance").flatten()].view(w * w, w * w, self.heads).permute(2, 0, 1)
        weights = (qkv[0] * (_WIDTH // self.heads) ** -0.5 @ qkv[1].transpose(-2, -1) + bias[None]).softmax(-1)
        parts = self.out((weights @ qkv[2]).transpose(1, 2).reshape(-1, w * w, _WIDTH))
        joined = parts.view(count, height // w, width // w, w, w, _WIDTH).transpose(2, 3)
        x = x + torch.roll(joined.reshape(count, height, width, _WIDTH), (w // 2, w // 2), (1, 2))
        scores: Tensor = self.classes(x.mean((1, 2)))
        return scores


class LinearNorm(nn.Module):
    """A linear layer with a BatchNorm over its tokens."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(given, made, bias=False), nn.BatchNorm1d(made)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        normed: Tensor = self.norm(x.flatten(0, 1)).reshape_as(x)
        return normed


class BiasedAttention(nn.Module):
    """Attention that halves a map, with keys of fewer numbers than values and a bias for each distance.

    "LeViT" (Graham et al., 2021).
    """

    def __init__(self, heads: int = 2, keys: int = 6, values: int = 12) -> None:
        super().__init__()
        self.heads, self.keys, self.values = heads, keys, values
        self.stem = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.Hardswish(),
            nn.Conv2d(12, _WIDTH, 3, 2, 1, bias=False), nn.BatchNorm2d(_WIDTH),
        )  # fmt: skip
        self.kv, self.q = LinearNorm(_WIDTH, heads * (keys + values)), LinearNorm(_WIDTH, heads * keys)
        self.out, self.classes = LinearNorm(heads * values, _WIDTH), nn.Linear(_WIDTH, _CLASSES)
        side = SIDE // 4
        place = torch.stack(torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij"), -1).view(-1, 2)
        chosen = place.view(side, side, 2)[::2, ::2].reshape(-1, 2)
        distance = (chosen[:, None] - place[None]).abs()
        self.register_buffer("distance", distance[..., 0] * side + distance[..., 1])
        self.biases = nn.Parameter(torch.randn(heads, side * side))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        count, width, height, _ = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        kv = self.kv(tokens).view(count, -1, self.heads, self.keys + self.values)
        k, v = kv.split([self.keys, self.values], 3)
        halved = tokens.view(count, height, height, width)[:, ::2, ::2].reshape(count, -1, width)
        q = self.q(halved).view(count, -1, self.heads, self.keys).permute(0, 2, 1, 3)
        weights = q @ k.permute(0, 2, 3, 1) * self.keys**-0.5 + self.biases[:, self.get_buffer("distance")]
        looked = (weights.softmax(-1) @ v.permute(0, 2, 1, 3)).transpose(1, 2).flatten(2)
        scores: Tensor = self.classes(self.out(functional.hardswish(looked)).mean(1))
        return scores


@dataclass(frozen=True)
class Idiom:
    """A network, and a floor of what the INT8 files of all targets keep of the signal, dB in exact arithmetic."""

    make: Callable[[], nn.Module]
    int8_db: float


IDIOMS = {
    "masked_detr": Idiom(MaskedDetr, 18),
    "swiglu": Idiom(SwiGlu, 17),
    "shifted_windows": Idiom(ShiftedWindows, 25),
    "biased_attention": Idiom(BiasedAttention, 20),
}


def idiom(name: str, images: Tensor) -> nn.Module:
    """Returns a network in eval mode whose BatchNorm statistics are those of images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = IDIOMS[name].make().eval()
    for part in network.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.momentum = 1.0
            part.train()
    with torch.no_grad():
        network(images)
    return network.eval()
