"""What families have in common: an embedding that takes rows of images, and a decoder with an explicit cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgeq.bundles.contents import Edge, KeyValueCache, PartName, Similarity
from edgeq.bundles.torch_part import FreeAxes, TorchPart

if TYPE_CHECKING:
    import torch

Positions = Literal["sequential", "multimodal", "none"]

EMBEDS, FEATURES, HIDDEN, PIXELS = "inputs_embeds", "image_features", "image_hidden", "pixel_values"
IDS, GRIDS = "input_ids", "grid_thw"
ROWS = "image_row_numbers"
"""Which rows of the tiles of an image are read, -1 for what ends a row of the image."""
TILE = "tile_features"
"""Rows of a tile, and in the end what ends a row of the image."""
SEED = 0
_AXES: FreeAxes = {0: "batch", 1: "seq"}
# Free lengths of examples are neither 0 nor 1, which torch.export takes for fixed, and differ from each other.
_BATCH, _SEQ, _PAST, _ROWS, _IMAGES = 2, 5, 3, 4, 2


@dataclass(frozen=True)
class Split:
    """A model in parts.

    Attributes:
        parts: Its parts, in the order in which they run.
        edges: Which outputs feed which inputs.
        cache: The decoder's keys and values.
        positions: What the decoder's `position_ids` are.
        similarity: How vectors of two towers are compared.
        image_token: Stands where rows of an image go.
        per_image: How many of them an image takes, if always as many.
        around_image: Tokens before and after those of an image.
        per_tile: Part -> what takes its place in engines that take one tile of an image at a time.
    """

    parts: tuple[TorchPart, ...]
    edges: tuple[Edge, ...] = ()
    cache: KeyValueCache | None = None
    positions: Positions = "none"
    similarity: Similarity | None = None
    image_token: int | None = None
    per_image: int | None = None
    around_image: tuple[tuple[int, ...], tuple[int, ...]] = field(default=((), ()))
    per_tile: Mapping[PartName, TorchPart] = field(default_factory=dict)


def joined(*names: tuple[PartName, str, PartName]) -> tuple[Edge, ...]:
    """Returns edges from triples of a part, its output, and the part with an input of that name."""
    return tuple(Edge(source=source, output=name, target=target, input=name) for source, name, target in names)


def image_part(
    name: PartName, module: torch.nn.Module, compute: Callable[..., Any], size: tuple[int, int], output: str = HIDDEN
) -> TorchPart:
    """Returns a part that takes images of one size.

    Args:
        name: `vision`, or a tower.
        module: Holds its weights.
        compute: From the module and images `(images, 3, height, width)` to the output.
        size: Height and width.
        output: Name of the output.
    """
    examples = [{PIXELS: drawn(count, 3, *size)} for count in (_IMAGES, 1, 3)]
    axes: FreeAxes = {0: "images"}
    return TorchPart(name, module, compute, examples[0], {PIXELS: axes}, {output: axes}, examples[1:])


def connector_part(
    module: torch.nn.Module, compute: Callable[..., torch.Tensor], rows: tuple[int, int], *, fixed_rows: bool = True
) -> TorchPart:
    """Returns the part that turns a tower's tokens into rows for the decoder.

    Args:
        module: Holds its weights.
        compute: From the module and `(images, tokens, channels)` to `(rows, hidden)`.
        rows: Tokens and channels of an image.
        fixed_rows: Whether an image always has as many tokens.
    """
    examples = [{HIDDEN: drawn(count, *rows)} for count in (_IMAGES, 1, 3)]
    axes: FreeAxes = {0: "images"} if fixed_rows else {0: "images", 1: "tokens"}
    return TorchPart(
        "connector", module, compute, examples[0], {HIDDEN: axes}, {FEATURES: {0: "image_rows"}}, examples[1:]
    )


def embedding_part(table: torch.nn.Module, hidden: int, image_token: int | None) -> TorchPart:
    """Returns the part that turns tokens into vectors, and puts rows of images where their token stands.

    Rows are taken in order. A run without images takes 0 rows.

    Args:
        table: From tokens `(batch, seq)` to vectors.
        hidden: Their channels.
        image_token: The token; `None` for a model without images.
    """
    import torch

    tokens = torch.arange(1, 1 + _BATCH * _SEQ).reshape(_BATCH, _SEQ) % _least_vocabulary(table)
    one = tokens[:1, :1]
    if image_token is None:
        return TorchPart(
            "embedding", table, lambda module, ids: module(ids), {"input_ids": tokens}, {"input_ids": _AXES},
            {EMBEDS: _AXES}, [{"input_ids": one}],
        )  # fmt: skip

    def merged(module: torch.nn.Module, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        is_image = ids == image_token
        # The token may be beyond the table.
        vectors = module(torch.where(is_image, 0, ids))
        # A row of zeros in the end, so that there is one to take where there is no image.
        padded = torch.cat([rows, rows.new_zeros(1, hidden)])
        number = (is_image.reshape(-1).cumsum(0) - 1).clamp(min=0)
        number = torch.minimum(number, rows.new_tensor(rows.shape[0]).long())
        taken = torch.nn.functional.embedding(number, padded).reshape(vectors.shape)
        return torch.where(is_image[..., None], taken, vectors)

    tokens[tokens == image_token] = 0
    with_image = tokens.clone()
    with_image[:, 1:3] = image_token
    checks = [
        {"input_ids": one * 0, FEATURES: drawn(0, hidden)},
        {"input_ids": torch.tensor([[0, image_token, image_token, image_token, 0, 0]]), FEATURES: drawn(3, hidden)},
    ]
    return TorchPart(
        "embedding", table, merged, {"input_ids": with_image, FEATURES: drawn(_ROWS, hidden)},
        {"input_ids": _AXES, FEATURES: {0: "image_rows"}}, {EMBEDS: _AXES}, checks,
    )  # fmt: skip


def decoder_part(
    body: torch.nn.Module,
    head: torch.nn.Module,
    cache: KeyValueCache,
    hidden: int,
    positions: Positions,
    *,
    both_directions: bool = False,
    first_position: int = 0,
) -> TorchPart:
    """Returns the decoder with its head: a prompt and a further token run through the same graph.

    Args:
        body: Its layers.
        head: From vectors to scores of tokens.
        cache: Its keys and values.
        hidden: Channels of its tokens.
        positions: What position it is told.
        both_directions: Whether the tokens of a run see those behind them, too.
        first_position: What it calls the position of the first token, which is 0 outside of it.
    """
    import torch
    from transformers import DynamicCache

    signature = inspect.signature(body.forward).parameters
    # transformers renamed it in 5.24.
    cache_name = "cache" if "cache" in signature else "past_key_values"

    def compute(
        module: torch.nn.Module, embeds: torch.Tensor, mask: torch.Tensor, *others: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        past = others[1:] if positions != "none" else others
        told = {"position_ids": others[0] + first_position} if positions != "none" else {}
        if both_directions:
            mask = (mask != 0)[:, None, None, :].expand(-1, 1, embeds.shape[1], -1)
        earlier = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        options: dict[str, Any] = {**told, cache_name: earlier, "use_cache": True}
        found = module["body"](inputs_embeds=embeds, attention_mask=mask, **options)  # type: ignore[index]
        kept = [tensor for layer in earlier.layers for tensor in (layer.keys, layer.values)]
        return module["head"](found.last_hidden_state), *kept  # type: ignore[index]

    def example(batch: int, seq: int, past: int) -> dict[str, torch.Tensor]:
        numbers = torch.arange(past, past + seq)
        told = numbers.expand(3, batch, seq) if positions == "multimodal" else numbers.expand(batch, seq)
        inputs = {EMBEDS: drawn(batch, seq, hidden), "attention_mask": torch.ones(batch, past + seq, dtype=torch.long)}
        if positions != "none":
            inputs["position_ids"] = told.contiguous()
        shape = batch, cache.kv_heads, past, cache.head_dim
        return inputs | {name: drawn(*shape, seed=number) for number, name in enumerate(cache.past_names)}

    axes: dict[str, FreeAxes] = {EMBEDS: _AXES, "attention_mask": {0: "batch", 1: "total"}}
    if positions != "none":
        axes["position_ids"] = {1: "batch", 2: "seq"} if positions == "multimodal" else _AXES
    axes |= {name: {0: "batch", 2: "past"} for name in cache.past_names}
    outputs: dict[str, FreeAxes] = {"logits": _AXES}
    outputs |= {name: {0: "batch", 2: "total"} for name in cache.present_names}
    module = torch.nn.ModuleDict({"body": body, "head": head})
    checks = [example(1, 9, 0), example(1, 1, 7), example(3, 4, 0)]
    return TorchPart("decoder", module, compute, example(_BATCH, _SEQ, _PAST), axes, outputs, checks)


def cache_of(config: Any) -> KeyValueCache:
    """Returns the cache of a decoder of transformers, by its config."""
    heads = int(config.num_attention_heads)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return KeyValueCache(layers=int(config.num_hidden_layers), kv_heads=int(kv_heads), head_dim=int(head_dim))


def drawn(*shape: int, seed: int = SEED) -> torch.Tensor:
    """Returns normally distributed numbers, the same at every call."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def square(config: Any) -> tuple[int, int]:
    """Returns height and width of the images of a vision config."""
    size = config.image_size
    return (int(size[0]), int(size[1])) if isinstance(size, Mapping | list | tuple) else (int(size), int(size))


def _least_vocabulary(table: torch.nn.Module) -> int:
    return int(getattr(table, "num_embeddings", 2))
