"""Published models, described from their papers and model cards: what their `config.json` says of sizes."""

from __future__ import annotations

from typing import Any

_CLIP_L = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
_SO400M = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
}  # fmt: skip
_QWEN2_VISION = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14}
_QWEN2_5_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14}
_OPT_2_7B = {
    "model_type": "opt", "hidden_size": 2560, "ffn_dim": 10240, "num_hidden_layers": 32, "num_attention_heads": 32,
    "word_embed_proj_dim": 2560, "vocab_size": 50304,
}  # fmt: skip


def _llava(text: dict[str, Any], family: str = "llava") -> dict[str, Any]:
    return {"model_type": family, "text_config": text, "vision_config": dict(_CLIP_L)}


def _sizes(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, words: int, **more: Any) -> Any:
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": words, **more,
    }  # fmt: skip


CONFIGS: dict[str, dict[str, Any]] = {
    "llava-1.5-7b": _llava({"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096}),
    "llava-1.5-13b": _llava(
        {"model_type": "llama", "max_position_embeddings": 4096} | _sizes(5120, 13824, 40, 40, 40, 32064)
    ),
    "llava-v1.6-mistral-7b": _llava(
        {"model_type": "mistral", "vocab_size": 32064, "max_position_embeddings": 32768, "sliding_window": None},
        "llava_next",
    ),
    "llama-3.2-11b-vision": {"model_type": "mllama", "text_config": {}, "vision_config": {"image_size": 560}},
    "llama-3.2-90b-vision": {
        "model_type": "mllama", "vision_config": {"image_size": 560},
        "text_config": _sizes(8192, 28672, 100, 64, 8, 128256, cross_attention_layers=list(range(3, 100, 5))),
    },
    "qwen2-vl-2b": {
        "model_type": "qwen2_vl", "tie_word_embeddings": True, "max_position_embeddings": 32768,
        "vision_config": _QWEN2_VISION | {"hidden_size": 1536}, **_sizes(1536, 8960, 28, 12, 2, 151936),
    },
    "qwen2-vl-7b": {
        "model_type": "qwen2_vl", "max_position_embeddings": 32768,
        "vision_config": _QWEN2_VISION | {"hidden_size": 3584}, **_sizes(3584, 18944, 28, 28, 4, 152064),
    },
    "qwen2.5-vl-3b": {
        "model_type": "qwen2_5_vl", "tie_word_embeddings": True, "max_position_embeddings": 128000,
        "vision_config": _QWEN2_5_VISION | {"out_hidden_size": 2048}, **_sizes(2048, 11008, 36, 16, 2, 151936),
    },
    "blip2-opt-2.7b": {
        "model_type": "blip-2", "num_query_tokens": 32, "text_config": _OPT_2_7B,
        "vision_config": {"model_type": "blip_2_vision_model"}, "qformer_config": {"model_type": "blip_2_qformer"},
    },
    "smolvlm-256m": {
        "model_type": "smolvlm", "scale_factor": 4,
        "text_config": {"model_type": "llama", "max_position_embeddings": 8192, **_sizes(576, 1536, 30, 9, 3, 49280)},
        "vision_config": {
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 512, "patch_size": 16,
        },
    },
    "idefics3-8b": {
        "model_type": "idefics3", "scale_factor": 2,
        "vision_config": _SO400M | {"model_type": "idefics3_vision", "image_size": 364},
        "text_config": {
            "model_type": "llama", "max_position_embeddings": 131072, **_sizes(4096, 14336, 32, 32, 8, 128259)
        },
    },
    "paligemma-3b-224": {
        "model_type": "paligemma", "projection_dim": 2048,
        "text_config": {"model_type": "gemma", **_sizes(2048, 16384, 18, 8, 1, 257216)},
        "vision_config": _SO400M | {"vision_use_head": False},
    },
    "clip-vit-large-patch14": {
        "model_type": "clip", "projection_dim": 768, "vision_config": _CLIP_L | {"image_size": 224},
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    },
    "siglip-base-patch16-224": {"model_type": "siglip", "text_config": {}, "vision_config": {}},
    "siglip-so400m-patch14-384": {
        "model_type": "siglip", "vision_config": _SO400M | {"image_size": 384},
        "text_config": {
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16
        },
    },
    "llama-3.2-1b": {
        "model_type": "llama", "tie_word_embeddings": True, "head_dim": 64, "max_position_embeddings": 131072,
        **_sizes(2048, 8192, 16, 32, 8, 128256),
    },
    "mistral-7b": {
        "model_type": "mistral", "sliding_window": 4096, "max_position_embeddings": 32768,
        **_sizes(4096, 14336, 32, 32, 8, 32000),
    },
    "qwen2-0.5b": {
        "model_type": "qwen2", "tie_word_embeddings": True, "max_position_embeddings": 131072,
        "sliding_window": 131072, "use_sliding_window": False, **_sizes(896, 4864, 24, 14, 2, 151936),
    },
    "gemma-2-2b": {"model_type": "gemma2", "max_position_embeddings": 8192, **_sizes(2304, 9216, 26, 8, 4, 256000)},
    "opt-350m": {
        "model_type": "opt", "hidden_size": 1024, "ffn_dim": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "vocab_size": 50272, "word_embed_proj_dim": 512, "do_layer_norm_before": False,
    },
    "opt-2.7b": _OPT_2_7B | {"vocab_size": 50272},
    "llama-7b": {"model_type": "llama", **_sizes(4096, 11008, 32, 32, 32, 32000)},
    "bert-large": {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 30522,
    },
    "bert-base": {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 768, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 30522,
    },
    "bert-base-classifier": {
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 768,
        "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 30522,
        "id2label": {"0": "sound", "1": "cracked", "2": "unsure"},
    },
}  # fmt: skip
"""Name -> what its `config.json` says of its size."""
