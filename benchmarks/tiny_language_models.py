"""Language and vision-language models of a few thousand random weights, one per family, as Hugging Face folders.

They show shapes and equality, and nothing about accuracy. Weights are drawn wider than for training, so that outputs
differ from token to token; BLIP-2's vision tower would give zeros otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMAGE_TOKEN, SIDE, PATCH, VOCABULARY = 200, 28, 7, 256
_SPREAD = 0.1
_TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 128, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "initializer_range": _SPREAD,
}  # fmt: skip
_TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "initializer_range": _SPREAD,
}  # fmt: skip
_VISION = {**_TOWER, "image_size": SIDE, "patch_size": PATCH}
_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
_OPT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "ffn_dim": 64, "num_attention_heads": 4,
    "max_position_embeddings": 128, "word_embed_proj_dim": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "init_std": _SPREAD,
}  # fmt: skip
_GRID_TOKENS = 16 + 2 * 8 + 2
"""Of an image three times as wide as high: 16 of the whole, two rows of eight without filling, each with an end."""
_GRID = ((1, 8, 4), (1, 4, 4))
_QWEN_VISION = {
    "depth": 2, "num_heads": 4, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "in_channels": 3, "initializer_range": _SPREAD,
}  # fmt: skip
_QWEN_TOKENS = {"image_token_id": IMAGE_TOKEN, "video_token_id": 201, "vision_start_token_id": 202,
                "vision_end_token_id": 203}  # fmt: skip


@dataclass(frozen=True)
class TinyModel:
    """A family's model.

    Attributes:
        title: What tables call it.
        kind: Name of its class in transformers.
        config: Name of its config's class.
        options: Of its config.
        image_tokens: Tokens of the images of its prompt; none without images.
        images: Returns what its forward takes besides tokens.
    """

    title: str
    kind: str
    config: str
    options: Mapping[str, Any]
    image_tokens: tuple[int, ...] = ()
    images: Callable[[], dict[str, Any]] = field(default=dict)

    def save(self, folder: Path) -> Any:
        """Returns the model, after writing its Hugging Face folder."""
        import torch
        import transformers

        transformers.logging.disable_progress_bar()
        torch.manual_seed(0)
        model = getattr(transformers, self.kind)(getattr(transformers, self.config)(**self.options)).eval()
        model.save_pretrained(folder)
        return model

    def prompt(self) -> list[int]:
        """Returns the tokens of a prompt with its images."""
        found = [1, 5, 6]
        for count in self.image_tokens:
            found += [202, *[IMAGE_TOKEN] * count, 203]
        return [*found, 7, 8, 9]


def _square(extra: int = 0) -> dict[str, Any]:
    import torch

    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    if not extra:
        return {"pixel_values": pixels}
    return {"pixel_values": pixels[:, None], "pixel_attention_mask": torch.ones(1, 1, SIDE, SIDE, dtype=torch.bool)}


def _grid() -> dict[str, Any]:
    """Returns an image in two tiles and as a whole."""
    import torch

    pixels = torch.randn(1, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": pixels, "image_sizes": torch.tensor([[SIDE, 3 * SIDE]])}


def _prefix(length: int) -> dict[str, Any]:
    """Returns what says that all tokens belong to the prompt."""
    import torch

    return {"token_type_ids": torch.zeros(1, length, dtype=torch.long)}


def _patches() -> dict[str, Any]:
    import torch

    count = sum(rows * columns for _, rows, columns in _GRID)
    pixels = torch.randn(count, 3 * 2 * PATCH**2, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor(_GRID)}


_QWEN_IMAGES = tuple(rows * columns // 4 for _, rows, columns in _GRID)
_TILED = {"text_config": {**_TEXT, "model_type": "llama"}, "scale_factor": 2, "image_token_id": IMAGE_TOKEN}

TINY_MODELS: dict[str, TinyModel] = {
    "llama": TinyModel("Llama", "LlamaForCausalLM", "LlamaConfig", _TEXT),
    "qwen2": TinyModel("Qwen2", "Qwen2ForCausalLM", "Qwen2Config", _TEXT),
    "mistral": TinyModel("Mistral", "MistralForCausalLM", "MistralConfig", {**_TEXT, "sliding_window": 8}),
    "gemma": TinyModel("Gemma", "GemmaForCausalLM", "GemmaConfig", {**_TEXT, "head_dim": 8}),
    "opt": TinyModel("OPT", "OPTForCausalLM", "OPTConfig", _OPT),
    "llava": TinyModel(
        "LLaVA-1.5", "LlavaForConditionalGeneration", "LlavaConfig",
        {
            "vision_config": {**_VISION, "model_type": "clip_vision_model", "num_hidden_layers": 2},
            "text_config": {**_TEXT, "model_type": "llama"}, "image_token_id": IMAGE_TOKEN,
            "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "image_seq_length": 16,
        },
        (16,), _square,
    ),
    "llava_next": TinyModel(
        "LLaVA-NeXT", "LlavaNextForConditionalGeneration", "LlavaNextConfig",
        {
            "vision_config": {**_VISION, "model_type": "clip_vision_model", "num_hidden_layers": 2},
            "text_config": {**_TEXT, "model_type": "llama"}, "image_token_id": IMAGE_TOKEN,
            "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
            "image_grid_pinpoints": [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]], "image_seq_length": 16,
        },
        (_GRID_TOKENS,), _grid,
    ),
    "blip-2": TinyModel(
        "BLIP-2", "Blip2ForConditionalGeneration", "Blip2Config",
        {
            "vision_config": _VISION,
            "qformer_config": {**_TOWER, "encoder_hidden_size": 32, "vocab_size": 64, "cross_attention_frequency": 1},
            "text_config": {**_OPT, "model_type": "opt"}, "num_query_tokens": 8, "image_token_index": IMAGE_TOKEN,
        },
        (8,), _square,
    ),
    "paligemma": TinyModel(
        "PaliGemma", "PaliGemmaForConditionalGeneration", "PaliGemmaConfig",
        {
            "vision_config": {**_VISION, "model_type": "siglip_vision_model", "projection_dim": 32},
            "text_config": {**_TEXT, "model_type": "gemma", "head_dim": 8}, "image_token_id": IMAGE_TOKEN,
            "projection_dim": 32, "hidden_size": 32,
        },
        (16,), lambda: _square() | _prefix(24),
    ),
    "qwen2_vl": TinyModel(
        "Qwen2-VL", "Qwen2VLForConditionalGeneration", "Qwen2VLConfig",
        {
            "text_config": {**_TEXT, "rope_parameters": _ROPE},
            "vision_config": {**_QWEN_VISION, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}, **_QWEN_TOKENS,
        },
        _QWEN_IMAGES, _patches,
    ),
    "qwen2_5_vl": TinyModel(
        "Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig",
        {
            "text_config": {**_TEXT, "rope_parameters": _ROPE},
            "vision_config": {
                **_QWEN_VISION, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "window_size": 28,
                "fullatt_block_indexes": [1],
            }, **_QWEN_TOKENS,
        },
        _QWEN_IMAGES, _patches,
    ),
    "smolvlm": TinyModel(
        "SmolVLM", "SmolVLMForConditionalGeneration", "SmolVLMConfig",
        {"vision_config": {**_VISION, "model_type": "smolvlm_vision"}, **_TILED}, (4,), lambda: _square(1),
    ),
    "idefics3": TinyModel(
        "Idefics3", "Idefics3ForConditionalGeneration", "Idefics3Config", {"vision_config": _VISION, **_TILED}, (4,),
        lambda: _square(1),
    ),
    "clip": TinyModel(
        "CLIP", "CLIPModel", "CLIPConfig",
        {
            "vision_config": _VISION, "projection_dim": 32,
            "text_config": {
                **_TOWER, "vocab_size": VOCABULARY, "max_position_embeddings": 32, "eos_token_id": 2,
                "bos_token_id": 1, "pad_token_id": 0,
            },
        },
        (), _square,
    ),
    "siglip": TinyModel(
        "SigLIP", "SiglipModel", "SiglipConfig",
        {
            "vision_config": _VISION,
            "text_config": {**_TOWER, "vocab_size": VOCABULARY, "max_position_embeddings": 8, "projection_size": 32},
        },
        (), _square,
    ),
    "bert": TinyModel(
        "BERT", "BertModel", "BertConfig",
        {**_TOWER, "vocab_size": VOCABULARY, "max_position_embeddings": 64},
    ),
}  # fmt: skip
"""`model_type` -> the model."""
