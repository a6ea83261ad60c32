"""BLIP-2: a ViT, a Q-Former that asks it questions, a decoder ("BLIP-2", Li et al., 2023)."""

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


def split_blip2(model: Any, folder: ModelFolder) -> Split:
    """Returns BLIP-2 with OPT in parts; the queries and the Q-Former are the connector.

    Raises:
        ModelError: its decoder is another than OPT.
    """
    import torch

    config = model.config
    text = config.text_config
    if text.model_type != "opt":
        raise ModelError(f"{folder.path}: its decoder is {text.model_type}; of BLIP-2, edgeq exports those with OPT")
    vision = image_part(
        "vision", model.vision_model, lambda module, pixels: module(pixels).last_hidden_state,
        square(config.vision_config),
    )  # fmt: skip
    (example,) = vision.run(vision.inputs)
    hidden = int(text.hidden_size)

    class Connector(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query_tokens = model.query_tokens
            self.qformer, self.language_projection = model.qformer, model.language_projection

    def answers(module: Any, tokens: torch.Tensor) -> torch.Tensor:
        queries = module.query_tokens.expand(tokens.shape[0], -1, -1)
        found = module.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
        return module.language_projection(found).reshape(-1, hidden)  # type: ignore[no-any-return]

    body, cache = model.language_model.model.decoder, cache_of(text)
    token = int(config.image_token_index if hasattr(config, "image_token_index") else config.image_token_id)
    return Split(
        (
            vision,
            connector_part(Connector().eval(), answers, (int(example.shape[1]), int(example.shape[2]))),
            embedding_part(body.embed_tokens, hidden, token),
            decoder_part(body, model.language_model.lm_head, cache, hidden, "sequential"),
        ),
        EDGES,
        cache,
        "sequential",
        image_token=token,
        per_image=int(config.num_query_tokens),
    )
