"""Parameters from a description are those that transformers counts, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.published_models import CONFIGS
from edgeq.memory.config_file import read_config
from edgeq.memory.families import FAMILIES, read_architecture
from tests.memory.named_models import PARTS, write_config, write_description

_TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 99}
_TINY_VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip
_OPT = {"model_type": "opt", "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 99, "pad_token_id": 0}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "biases everywhere": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, **_TEXT},
    "heads wider than the channels": {"model_type": "llama", "head_dim": 40, "num_key_value_heads": 2, **_TEXT},
    "untied gemma": {"model_type": "gemma", "tie_word_embeddings": False, "num_key_value_heads": 1, **_TEXT},
    "opt without biases and scales": {**_OPT, "enable_bias": False, "layer_norm_elementwise_affine": False},
    "narrow opt": {**_OPT, "word_embed_proj_dim": 16, "_remove_final_layer_norm": True},
    "llava with siglip, two layers read, no bias": {
        "model_type": "llava", "vision_feature_layer": [-2, -1], "multimodal_projector_bias": False,
        "text_config": {"model_type": "qwen2", "num_key_value_heads": 2, **_TEXT},
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **_TINY_VISION},
    },
    "tied llava": {
        "model_type": "llava", "tie_word_embeddings": True, "text_config": {"model_type": "llama", **_TEXT},
        "vision_config": {"model_type": "clip_vision_model", **_TINY_VISION},
    },
    "nested qwen": {
        "model_type": "qwen2_vl", "text_config": {"num_key_value_heads": 2, **_TEXT},
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2},
    },
    "blip-2 without biases of queries": {
        "model_type": "blip-2", "text_config": _OPT, "vision_config": {"qkv_bias": False, **_TINY_VISION},
        "qformer_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
                           "encoder_hidden_size": 32, "num_attention_heads": 4, "cross_attention_frequency": 2},
    },
    "siglip without pooling": {
        "model_type": "siglip", "vision_config": {"vision_use_head": False, **_TINY_VISION},
        "text_config": {**_TEXT, "projection_size": 24},
    },
    "small mllama": {
        "model_type": "mllama",
        "text_config": {"num_key_value_heads": 2, "cross_attention_layers": [1], "pad_token_id": 0, **_TEXT},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_global_layers": 1,
            "attention_heads": 4, "image_size": 28, "patch_size": 7, "vision_output_dim": 64,
            "intermediate_layers_indices": [1],
        },
    },
}  # fmt: skip
"""Keys that no published model of the list above sets."""


def counted(document: dict[str, Any], folder: Path) -> dict[str, int]:
    """Returns part -> parameters of a description."""
    config = read_config(write_description(folder / "variant", document))
    return {part.name: part.weights.parameters for part in read_architecture(config).parts}


@pytest.mark.parametrize("name", PARTS)
def test_parts_have_the_parameters_of_transformers(tmp_path, name):
    architecture = read_architecture(read_config(write_config(tmp_path, name)))
    assert {part.name: part.weights.parameters for part in architecture.parts} == PARTS[name]
    assert architecture.parameters == sum(PARTS[name].values())


def test_every_family_is_checked():
    assert {CONFIGS[name]["model_type"] for name in PARTS} | {"gemma"} == set(FAMILIES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_have_the_parameters_of_transformers(tmp_path, variant):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    document = VARIANTS[variant]
    config = transformers.AutoConfig.for_model(**document)
    family = document["model_type"]
    auto = "AutoModel" if family == "siglip" else "AutoModelForCausalLM"
    auto = "AutoModelForImageTextToText" if "vision_config" in document and family != "siglip" else auto
    with torch.device("meta"):
        model = getattr(transformers, auto).from_config(config)
    model.tie_weights()
    assert sum(counted(document, tmp_path).values()) == sum(each.numel() for each in model.parameters())


def test_a_folder_of_weights_holds_as_many_numbers(shared_data):
    """The weights of a real folder: transformers wrote both its description and them."""
    safetensors = pytest.importorskip("safetensors")
    folder = shared_data / "vlm" / "tiny_llava_hex"
    if not folder.is_dir():
        pytest.skip("vlm/tiny_llava_hex is not among the shared data")
    with safetensors.safe_open(folder / "model.safetensors", "np") as file:
        stored = sum(int(file.get_tensor(name).size) for name in file.keys())  # noqa: SIM118 - it is no dict
    assert read_architecture(read_config(folder)).parameters == stored
