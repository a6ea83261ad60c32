"""Local Hugging Face folders: what is refused, in one line, before a model is opened."""

from __future__ import annotations

import json

import pytest

from edgeq.bundles.families import SPLITS, splitter
from edgeq.bundles.source import is_model_folder, open_folder
from edgeq.errors import InputError, ModelError
from edgeq.memory.families import FAMILIES

_CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def _folder(path, config=None, **files):
    """Writes a folder: `model__safetensors=b"..."` becomes model.safetensors."""
    (path / "config.json").write_text(json.dumps(_CONFIG | (config or {})))
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_whole_folder_is_opened(tmp_path):
    config = {"text_config": {"eos_token_id": 5, "pad_token_id": 6}}
    generation = json.dumps({"eos_token_id": [2, 3]})
    folder = open_folder(
        _folder(
            tmp_path, config, model__safetensors=b"", tokenizer__json="{}", tokenizer_config__json="{}",
            generation_config__json=generation,
        )
    )  # fmt: skip
    assert [file.name for file in folder.weights] == ["model.safetensors"]
    assert [file.name for file in folder.tokenizer] == ["tokenizer.json", "tokenizer_config.json"]
    # generation_config.json comes before config.json, and that before what is nested in it.
    assert folder.stated("eos_token_id", "text_config") == [2, 3]
    assert folder.stated("pad_token_id", "text_config") == 6
    assert is_model_folder(tmp_path)


@pytest.mark.parametrize("target", ["x86-ort", "jetson-orin"])
def test_blip_2_with_t5_is_refused_with_what_is_taken_instead(tmp_path, edgeq, target):
    config = {"model_type": "blip-2", "architectures": ["Blip2ForConditionalGeneration"]}
    (tmp_path / "model").mkdir()
    _folder(tmp_path / "model", config | {"text_config": {"model_type": "t5"}}, model__safetensors=b"")
    options = ("--target", target, "--tokenizer", "none", "--out", tmp_path / "out")
    refused = edgeq("export", tmp_path / "model", *options)
    assert "its language model is T5, an encoder and a decoder; of BLIP-2, edgeq takes those with" in refused.error
    assert (refused.code, refused.error.count("\n")) == (1, 0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_the_processor_of_transformers_5_is_read(tmp_path):
    processor = json.dumps({"processor_class": "LlavaProcessor", "image_processor": {"size": {"shortest_edge": 336}}})
    found = open_folder(_folder(tmp_path, model__safetensors=b"", processor_config__json=processor), "none")
    assert found.processor == {"size": {"shortest_edge": 336}}
    assert found.tokenizer == ()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no weights; wanted model.safetensors"),
        ({"model__safetensors": b""}, r"holds no tokenizer .*`tokenizer` none"),
        (
            {"pytorch_model__bin": b"", "tokenizer__json": "{}"},
            r"pickled \(pytorch_model\.bin\).*never unpickles; convert .*weights_only=True",
        ),
        (
            {
                "model__safetensors__index__json": json.dumps(
                    {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
                ),
                "tokenizer__json": "{}",
            },
            r"has no model-00001-of-00002\.safetensors and 1 more",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path, files, message):
    with pytest.raises(InputError, match=message) as refused:
        open_folder(_folder(tmp_path, **files))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"auto_map": {"AutoModel": "modeling.X"}}, "brings code .* edgeq never runs code of a model"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"are quantized already \(gptq\)"),
    ],
)
def test_code_and_quantized_weights_are_refused(tmp_path, config, message):
    with pytest.raises(ModelError, match=message):
        open_folder(_folder(tmp_path, config, model__safetensors=b"", tokenizer__json="{}"))


def test_every_family_in_parts_is_one_whose_memory_is_planned():
    assert set(SPLITS) <= set(FAMILIES)


def test_an_unknown_family_is_named_with_those_that_are_known(tmp_path):
    folder = open_folder(_folder(tmp_path, {"model_type": "lama"}, model__safetensors=b""), "none")
    with pytest.raises(InputError, match=r"'lama', .* did you mean llama"):
        splitter(folder)
