"""LLaVA-1.5: a CLIP tower, a connector of two layers, a decoder ("Visual Instruction Tuning", Liu et al., 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeq.bundles.families.parts import (
    EMBEDS,
    FEATURES,
    HIDDEN,
    Split,
    cache_of,
    connector_part,
    decoder_part,
    embedding_part,
    image_part,
    joined,
    square,
)

if TYPE_CHECKING:
    import torch

    from edgeq.bundles.source import ModelFolder

EDGES = joined(("vision", HIDDEN, "connector"), ("connector", FEATURES, "embedding"), ("embedding", EMBEDS, "decoder"))
"""Those of all models with four parts."""


def split_llava(model: Any, folder: ModelFolder) -> Split:
    """Returns LLaVA-1.5 in parts."""
    config, body = model.config, model.model
    layers, has_class_token = config.vision_feature_layer, config.vision_feature_select_strategy == "default"

    def tokens(tower: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        found = tower(pixels, output_hidden_states=True).hidden_states
        read = [found[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        read = [each[:, 1:] for each in read] if has_class_token else read
        return read[0] if len(read) == 1 else torch.cat(read, dim=-1)

    text, vision = config.text_config, image_part("vision", body.vision_tower, tokens, square(config.vision_config))
    hidden, cache = int(text.hidden_size), cache_of(text)
    (example,) = vision.run(vision.inputs)
    connector = connector_part(
        body.multi_modal_projector,
        lambda module, found: module(found).reshape(-1, hidden),
        (int(example.shape[1]), int(example.shape[2])),
    )
    table = body.get_input_embeddings()
    return Split(
        (
            vision,
            connector,
            embedding_part(table, hidden, config.image_token_id),
            decoder_part(body.language_model, model.lm_head, cache, hidden, "sequential"),
        ),
        EDGES,
        cache,
        "sequential",
        image_token=int(config.image_token_id),
        per_image=int(example.shape[1]),
    )
