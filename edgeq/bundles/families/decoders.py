"""Decoders without images: Llama and its relatives, and OPT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeq.bundles.families.parts import EMBEDS, Split, cache_of, decoder_part, embedding_part, joined

if TYPE_CHECKING:
    import torch

    from edgeq.bundles.source import ModelFolder


def split_decoder(model: Any, folder: ModelFolder) -> Split:
    """Returns Llama, or a model built like it, in parts."""
    folder.config.require_architecture((type(model).__name__,))
    return _split(model.model, model.lm_head, model.config)


def split_opt(model: Any, folder: ModelFolder) -> Split:
    """Returns OPT in parts."""
    return _split(model.model.decoder, model.lm_head, model.config)


def _split(body: Any, head: torch.nn.Module, config: Any) -> Split:
    cache, table = cache_of(config), body.embed_tokens
    width = int(table.embedding_dim)
    return Split(
        (embedding_part(table, width, None), decoder_part(body, head, cache, width, "sequential")),
        joined(("embedding", EMBEDS, "decoder")),
        cache,
        "sequential",
    )
