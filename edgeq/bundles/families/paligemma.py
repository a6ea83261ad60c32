"""PaliGemma: a SigLIP tower, a linear connector, Gemma ("PaliGemma", Beyer et al., 2024)."""

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
from edgeq.errors import ModelError

if TYPE_CHECKING:
    import torch

    from edgeq.bundles.source import ModelFolder


def split_paligemma(model: Any, folder: ModelFolder) -> Split:
    """Returns PaliGemma in parts. Its tokens see each other in both directions: a run holds a prompt or one more token.

    Raises:
        ModelError: its decoder is Gemma 2, whose layers differ in what they see.
    """
    config, body = model.config, model.model
    text = config.text_config
    if text.model_type != "gemma":
        raise ModelError(
            f"{folder.path}: its decoder is {text.model_type}; of PaliGemma, edgeq exports those with Gemma"
        )

    def tokens(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
        return tower(pixels).last_hidden_state  # type: ignore[no-any-return]

    vision = image_part("vision", body.vision_tower, tokens, square(config.vision_config))
    (example,) = vision.run(vision.inputs)
    hidden, cache, token = int(text.hidden_size), cache_of(text), int(config.image_token_id)
    connector = connector_part(
        body.multi_modal_projector,
        lambda module, found: module(found).reshape(-1, hidden),
        (int(example.shape[1]), int(example.shape[2])),
    )
    return Split(
        (
            vision,
            connector,
            embedding_part(body.get_input_embeddings(), hidden, token),
            decoder_part(
                body.language_model, model.lm_head, cache, hidden, "sequential", both_directions=True, first_position=1
            ),
        ),
        EDGES,
        cache,
        "sequential",
        image_token=token,
        per_image=int(example.shape[1]),
    )
