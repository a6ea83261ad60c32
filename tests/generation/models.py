"""Tiny folders of Hugging Face's form with random weights and a tokenizer of words."""

from __future__ import annotations

import json

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
IMAGE_TOKEN = 90
PER_IMAGE = 4
SIDE = 16


def _loud(model):
    """Makes the tokens of a random model depend on what it reads."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


def save_llama(folder):
    """Writes a Llama, and returns it."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = _loud(transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def save_llava(folder):
    """Writes a LLaVA with its image processor, and returns it."""
    import torch
    import transformers

    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), image_token_id=IMAGE_TOKEN,
        vision_feature_layer=-1, vision_feature_select_strategy="default", image_seq_length=PER_IMAGE,
    )  # fmt: skip
    model = _loud(transformers.LlavaForConditionalGeneration(config))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    processor = {
        "do_resize": True, "size": {"height": SIDE, "width": SIDE}, "resample": 2, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "image_processor_type": "CLIPImageProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def save_tokenizer(folder):
    """Writes a tokenizer whose words are `w4`, `w5`, ...; it begins texts with token 1."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "<image>": IMAGE_TOKEN}
    words = special | {f"w{each}": each for each in range(4, TEXT["vocab_size"]) if each != IMAGE_TOKEN}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106 - a word, no secret
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
