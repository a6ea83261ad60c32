"""Bytes that a model takes besides its weights while it runs: keys and values, and the outputs of layers."""

from __future__ import annotations

from edgeq.memory.architecture import Architecture, Decoder, ImageTokens

_SCALE_BYTES, _SCORE_BYTES = 2, 4

CACHE_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Type of keys and values -> bytes of one of them."""

ASSUMPTIONS = (
    "Activations: no layer's outputs are kept longer than the next layer needs them, attention is computed in blocks "
    "without a matrix of all scores, and logits are those of the last token.",
    "One image and one sequence at a time; the peak is that of a context that is read in one piece.",
)
"""What `activation_bytes` takes for granted."""


def cache_bytes(decoder: Decoder, context: int, attended: int, kind: str) -> int:
    """Returns what keys and values take after `context` tokens.

    Layers with a sliding window keep at most its tokens; layers of cross-attention keep the image's instead of the
    context's. In `int8`, each head has a scale per token, of 2 bytes, for its keys and for its values.

    Args:
        decoder: The decoder.
        context: Tokens, image tokens included.
        attended: Tokens that layers of cross-attention read.
        kind: `fp32`, `fp16` or `int8`.
    """
    kept = decoder.full_layers * context + decoder.sliding_layers * min(context, decoder.window)
    tokens = kept + decoder.cross_layers * attended
    head = decoder.head_dim * CACHE_BYTES[kind] + (_SCALE_BYTES if kind == "int8" else 0)
    return tokens * 2 * decoder.kv_heads * head


def activation_bytes(architecture: Architecture, context: int, image: ImageTokens | None, width: int) -> int:
    """Returns the outputs of layers at the peak, see `ASSUMPTIONS`.

    Of a layer, the residual stream and its norm are alive, and either queries, keys, values and what attention makes of
    them, or what is inside the feed-forward layer. What the vision part found is alive while the decoder reads it.

    Args:
        architecture: The model.
        context: Tokens that are read, image tokens included.
        image: The image; `None` without.
        width: Bytes of a value: 2 or 4.
    """
    peaks = [0]
    if architecture.vision is not None and image is not None:
        tower = architecture.vision.tower
        inside = 2 * tower.hidden + max(4 * tower.hidden, tower.intermediate) + tower.kept
        peaks.append(image.tiles * image.patches * inside * width)
    if architecture.text is not None:
        tower = architecture.text[0]
        peaks.append(context * (2 * tower.hidden + max(4 * tower.hidden, tower.intermediate)) * width)
    if (decoder := architecture.decoder) is not None:
        attention = 2 * decoder.query + 2 * decoder.kv_heads * decoder.head_dim
        inside = 2 * decoder.hidden + max(attention, decoder.intermediate)
        found = 0 if image is None else (image.prompt + image.attended) * decoder.hidden
        peaks.append((context * inside + found) * width + decoder.vocabulary * _SCORE_BYTES)
    return max(peaks)
