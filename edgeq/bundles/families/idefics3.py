"""SmolVLM and Idefics3: a SigLIP tower, a connector that folds neighbouring tokens into channels, a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeq.bundles.families.llava import EDGES
from edgeq.bundles.families.parts import (
    Split,
    cache_of,
    connector_part,
    decoder_part,
    embedding_part,
    image_part,
    square,
)

if TYPE_CHECKING:
    from edgeq.bundles.source import ModelFolder


def split_idefics3(model: Any, folder: ModelFolder) -> Split:
    """Returns SmolVLM or Idefics3 in parts; the vision part takes tiles, whole and of one size."""
    config, body = model.config, model.model
    text, size = config.text_config, square(config.vision_config)
    vision = image_part(
        "vision", body.vision_model, lambda module, pixels: module(pixel_values=pixels).last_hidden_state, size
    )
    (example,) = vision.run(vision.inputs)
    hidden, cache, rows = int(text.hidden_size), cache_of(text), int(example.shape[1])
    table = body.get_input_embeddings()
    return Split(
        (
            vision,
            connector_part(
                body.connector, lambda module, found: module(found).reshape(-1, hidden), (rows, int(example.shape[2]))
            ),
            embedding_part(table, hidden, int(config.image_token_id)),
            decoder_part(body.text_model, model.lm_head, cache, hidden, "sequential"),
        ),
        EDGES,
        cache,
        "sequential",
        image_token=int(config.image_token_id),
        per_image=rows // int(config.scale_factor) ** 2,
    )
