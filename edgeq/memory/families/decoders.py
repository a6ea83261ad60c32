"""Decoders: Llama and what is built like it (Mistral, Qwen2, Gemma), and OPT.

Sizes that a nested config leaves out are those of the family's class in transformers, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edgeq.errors import InputError, ModelError
from edgeq.memory.architecture import Architecture, Decoder, Part
from edgeq.memory.config_file import ConfigFile, Size
from edgeq.memory.weights import Weights, layer_norm, linear, rms_norm, table, values

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_FULL, _SLIDING = "full_attention", "sliding_attention"
# OPT's positions are counted from 2.
_OPT_OFFSET = 2


@dataclass(frozen=True)
class Language:
    """A decoder with the weights of its parts.

    Attributes:
        embedding: What turns tokens into vectors.
        layers: Its layers and what follows them, but for the head.
        head: What turns vectors into scores of tokens, if it is not the embedding once more.
        tied: Whether it is.
        decoder: What its cache and its outputs take.
    """

    embedding: Weights
    layers: Weights
    head: Weights
    tied: bool
    decoder: Decoder

    def parts(self, *, tied: bool | None = None) -> tuple[Part, ...]:
        """Returns its parts; a head that is the embedding is not one.

        Args:
            tied: Whether the head is the embedding; by default what the decoder's own config says.
        """
        parts = (Part("embedding", self.embedding), Part("decoder", self.layers))
        is_tied = self.tied if tied is None else tied
        return parts if is_tied else (*parts, Part("head", self.head))


class LlamaConfig(msgspec.Struct, kw_only=True):
    """The keys of Llama's config, and those that its relatives have besides, with Llama's defaults."""

    vocab_size: Size = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Size = 32
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    max_position_embeddings: Size = 2048
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    sliding_window: Size | None = None
    use_sliding_window: bool = False
    max_window_layers: int = 28
    layer_types: list[str] | None = None

    @property
    def kv_heads(self) -> int:
        """Heads of keys, and of values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def channels_of_a_head(self) -> int:
        """Channels of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def query(self) -> int:
        """Channels of all queries of a token."""
        return self.num_attention_heads * self.channels_of_a_head


class MistralConfig(LlamaConfig, kw_only=True):
    """Llama's keys with Mistral's defaults."""

    intermediate_size: Size = 14336
    num_key_value_heads: Size | None = 8
    max_position_embeddings: Size = 4096 * 32


class Qwen2Config(LlamaConfig, kw_only=True):
    """Llama's keys with Qwen2's defaults."""

    vocab_size: Size = 151936
    intermediate_size: Size = 22016
    num_key_value_heads: Size | None = 32
    max_position_embeddings: Size = 32768
    sliding_window: Size | None = 4096


class Qwen2VlConfig(Qwen2Config, kw_only=True):
    """Qwen2's keys with the defaults of the decoders of Qwen2-VL and Qwen2.5-VL."""

    vocab_size: Size = 152064
    hidden_size: Size = 8192
    intermediate_size: Size = 29568
    num_hidden_layers: Size = 80
    num_attention_heads: Size = 64
    num_key_value_heads: Size | None = 8
    max_window_layers: int = 80


class GemmaConfig(LlamaConfig, kw_only=True):
    """Llama's keys with Gemma's defaults."""

    vocab_size: Size = 256000
    hidden_size: Size = 3072
    intermediate_size: Size = 24576
    num_hidden_layers: Size = 28
    num_attention_heads: Size = 16
    num_key_value_heads: Size | None = 16
    head_dim: Size | None = 256
    max_position_embeddings: Size = 8192
    tie_word_embeddings: bool = True


class Gemma2Config(GemmaConfig, kw_only=True):
    """Gemma's keys with Gemma 2's defaults."""

    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Size = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size | None = 4
    sliding_window: Size | None = 4096


class OptConfig(msgspec.Struct, kw_only=True):
    """The keys of OPT's config with its defaults."""

    vocab_size: Size = 50272
    hidden_size: Size = 768
    num_hidden_layers: Size = 12
    ffn_dim: Size = 3072
    num_attention_heads: Size = 12
    max_position_embeddings: Size = 2048
    word_embed_proj_dim: Size | None = None
    do_layer_norm_before: bool = True
    _remove_final_layer_norm: bool = False
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True


_LLAMAS: Mapping[str, type[LlamaConfig]] = {
    "llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "gemma": GemmaConfig, "gemma2": Gemma2Config,
    "qwen2_vl_text": Qwen2VlConfig, "qwen2_5_vl_text": Qwen2VlConfig,
}  # fmt: skip
_CLASSES = {
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "gemma": "Gemma", "gemma2": "Gemma2", "opt": "OPT"
}  # fmt: skip


def read_decoder(config: ConfigFile) -> Architecture:
    """Returns the architecture of a decoder without images."""
    name = _CLASSES[config.model_type]
    with_head = config.require_architecture((f"{name}ForCausalLM", f"{name}Model")) == f"{name}ForCausalLM"
    language = read_language(config, "", config.model_type)
    parts = language.parts() if with_head else language.parts(tied=True)
    return Architecture(config.model_type, parts, decoder=language.decoder)


def read_language(config: ConfigFile, key: str, default: str) -> Language:
    """Returns the decoder that a config, or a nested one, describes.

    Args:
        config: The model's description.
        key: Name of the nested config; empty for the model's own.
        default: Its family if it names none.

    Raises:
        InputError: a size is missing or wrong.
        ModelError: its family is not known.
    """
    family = str(config.nested(key).get("model_type", default)) if key else default
    required = () if key else _SIZES
    if family == "opt":
        return _opt(config.read(OptConfig, key, required), config)
    if family not in _LLAMAS:
        known = ", ".join((*_LLAMAS, "opt"))
        raise ModelError(f"{config.path}: its decoder is of the family {family!r}; known are {known}")
    sizes = (*required, "intermediate_size") if required else ()
    return llama_like(config.read(_LLAMAS[family], key, sizes), family, config)


def llama_like(found: LlamaConfig, family: str, config: ConfigFile) -> Language:
    """Returns a decoder of RMSNorms, gated feed-forward layers and grouped queries.

    Args:
        found: Its sizes.
        family: Which biases and norms it has.
        config: The model's description, for errors.

    Raises:
        InputError: heads do not divide the channels.
    """
    if found.head_dim is None and found.hidden_size % found.num_attention_heads:
        raise InputError(
            f"{config.path}: {found.num_attention_heads} heads do not divide {found.hidden_size} channels; the file "
            "contradicts itself"
        )
    hidden, key_width = found.hidden_size, found.kv_heads * found.channels_of_a_head
    has_bias = found.attention_bias or family.startswith("qwen2")
    attention = (
        linear(hidden, found.query, bias=has_bias)
        + 2 * linear(hidden, key_width, bias=has_bias)
        + linear(found.query, hidden, bias=found.attention_bias)
    )
    layer = attention + gated_feed_forward(hidden, found.intermediate_size, bias=found.mlp_bias)
    layer += (4 if family == "gemma2" else 2) * rms_norm(hidden)
    sliding = _sliding_layers(found, family)
    decoder = Decoder(
        family=family,
        hidden=hidden,
        intermediate=3 * found.intermediate_size,
        query=found.query,
        kv_heads=found.kv_heads,
        head_dim=found.channels_of_a_head,
        vocabulary=found.vocab_size,
        context=found.max_position_embeddings,
        full_layers=found.num_hidden_layers - sliding,
        sliding_layers=sliding,
        window=found.sliding_window or 0,
    )
    words = table(found.vocab_size, hidden)
    layers = found.num_hidden_layers * layer + rms_norm(hidden)
    return Language(words, layers, words, found.tie_word_embeddings, decoder)


def gated_feed_forward(hidden: int, intermediate: int, *, bias: bool) -> Weights:
    """Returns a feed-forward layer with a gate (SwiGLU, GeGLU)."""
    return 2 * linear(hidden, intermediate, bias=bias) + linear(intermediate, hidden, bias=bias)


def _sliding_layers(found: LlamaConfig, family: str) -> int:
    """Returns how many layers keep only the last tokens."""
    if found.sliding_window is None:
        return 0
    if family.startswith("qwen2"):
        # Qwen2 states a window that it does not use, unless another key says so.
        if not found.use_sliding_window:
            return 0
        return _listed(found, max(0, found.num_hidden_layers - found.max_window_layers))
    if family == "gemma2":
        return _listed(found, (found.num_hidden_layers + 1) // 2)
    return _listed(found, found.num_hidden_layers if family == "mistral" else 0)


def _listed(found: LlamaConfig, default: int) -> int:
    return default if found.layer_types is None else found.layer_types.count(_SLIDING)


def _opt(found: OptConfig, config: ConfigFile) -> Language:
    hidden, width = found.hidden_size, found.word_embed_proj_dim or found.hidden_size
    if hidden % found.num_attention_heads:
        raise InputError(
            f"{config.path}: {found.num_attention_heads} heads do not divide {hidden} channels; the file contradicts "
            "itself"
        )
    norm = layer_norm(hidden) if found.layer_norm_elementwise_affine else values(0)
    layer = 4 * linear(hidden, hidden, bias=found.enable_bias) + 2 * norm
    layer += linear(hidden, found.ffn_dim, bias=found.enable_bias)
    layer += linear(found.ffn_dim, hidden, bias=found.enable_bias)
    has_final_norm = found.do_layer_norm_before and not found._remove_final_layer_norm
    layers = found.num_hidden_layers * layer + (norm if has_final_norm else values(0))
    embedding = table(found.vocab_size, width) + values((found.max_position_embeddings + _OPT_OFFSET) * hidden)
    if width != hidden:
        # Tokens have fewer channels than layers: one layer widens them, another narrows them in front of the head.
        embedding += linear(width, hidden, bias=False) + linear(hidden, width, bias=False)
    decoder = Decoder(
        family="opt",
        hidden=hidden,
        intermediate=2 * found.ffn_dim,
        query=hidden,
        kv_heads=found.num_attention_heads,
        head_dim=hidden // found.num_attention_heads,
        vocabulary=found.vocab_size,
        context=found.max_position_embeddings,
        full_layers=found.num_hidden_layers,
    )
    return Language(embedding, layers, table(found.vocab_size, width), found.tie_word_embeddings, decoder)


def is_tied(config: ConfigFile, language: Language, default: bool) -> bool:
    """Returns whether a model's head is its embedding: its own config says so, or else the default of its family."""
    stated: Any = config.document.get("tie_word_embeddings")
    return bool(default or language.tied) if stated is None else bool(stated)
