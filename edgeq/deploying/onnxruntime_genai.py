"""A bundle as the folder that onnxruntime-genai opens: ONNX files and `genai_config.json`.

A text model is one file, from tokens to logits. A model with images is three: images to rows, tokens and rows to
embeddings, embeddings to logits. onnxruntime-genai takes these by the type of a model that it knows; `gemma3` is the
one whose three files ask for nothing else than ours have, so models such as LLaVA are of this type there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeq.boundary import Plain, read_json
from edgeq.bundles.manifest import Bundle
from edgeq.deploying.packed import Content
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import opset_of, read_onnx, save_onnx
from edgeq.exporting.graphs.joining import put_before
from edgeq.exporting.passes.opset import raise_opset

_TEXT_TYPE, _IMAGE_TYPE = "llama", "gemma3"
_CONFIG = "genai_config.json"
_PIXELS, _FEATURES, _IDS, _EMBEDS = "pixel_values", "image_features", "input_ids", "inputs_embeds"


def contents(bundle: Bundle, scratch: Path) -> dict[str, Content]:
    """Returns path -> content of the folder, without README and digests.

    Args:
        bundle: The bundle.
        scratch: Folder for files that are written on the way.

    Raises:
        InputError: onnxruntime-genai has no way to run such a model.
    """
    decoder, cache = bundle.part("decoder"), bundle.cache
    if decoder is None or cache is None:
        raise InputError(
            f"{bundle.folder}: has no decoder with keys and values; onnxruntime-genai runs no other models"
        )
    if bundle.positions == "multimodal":
        raise InputError(f"{bundle.folder}: onnxruntime-genai gives {bundle.family} no positions; use target x86")
    sees = bundle.part("vision") is not None
    files: dict[str, Content] = {}
    if sees:
        _require_three_files(bundle)
        files |= joined_files(bundle, "vision", "connector", scratch / "vision.onnx")
        files |= _copied(bundle, "embedding", "decoder")
    else:
        files |= joined_files(bundle, "embedding", "decoder", scratch / "model.onnx")
    files |= {each.file: bundle.folder / each.file for each in bundle.tokenizer}
    files[_CONFIG] = json.dumps(_config(bundle, sees), indent=2) + "\n"
    return files


def joined_files(bundle: Bundle, first: str, second: str, path: Path) -> dict[str, Content]:
    """Writes two parts as one file and returns it with the file of its weights; one part alone if the other is missing.

    Args:
        bundle: The bundle.
        first: The part that gives.
        second: The part that takes.
        path: The file to write.
    """
    if bundle.part(second) is None:
        model = read_onnx(bundle.path(first))
    else:
        model, before = read_onnx(bundle.path(second)), read_onnx(bundle.path(first))
        newest = max(opset_of(model), opset_of(before))
        for each in (model, before):
            if opset_of(each) < newest:
                raise_opset(each, newest)
        put_before(model, before, {e.output: e.input for e in bundle.edges if (e.source, e.target) == (first, second)})
    weights = save_onnx(model, path)
    return {each.name: each for each in (path, weights) if each is not None}


def _copied(bundle: Bundle, *names: str) -> dict[str, Content]:
    parts = [bundle.require_part(name) for name in names]
    files = [file.file for part in parts for file in (part.model, part.weights) if file is not None]
    return {file: bundle.folder / file for file in files}


def _require_three_files(bundle: Bundle) -> None:
    """Raises `InputError` unless images come as one array and the embedding takes their rows."""
    vision, embedding = bundle.require_part("vision"), bundle.require_part("embedding")
    if [each.name for each in vision.inputs] != [_PIXELS] or embedding.input(_FEATURES) is None:
        taken = ", ".join(each.name for each in vision.inputs)
        raise InputError(
            f"{bundle.folder}: its vision part takes {taken}; wanted {_PIXELS} alone, which onnxruntime-genai can give"
        )


def _config(bundle: Bundle, sees: bool) -> dict[str, Any]:
    cache, decoder, tokens = bundle.cache, bundle.require_part("decoder"), bundle.tokens
    assert cache is not None  # noqa: S101 - models without are refused before
    text = text_config(bundle)
    vocabulary = decoder.outputs[0].shape[-1]
    names = {
        each.name: each.name for each in decoder.inputs if each.name in (_EMBEDS, "attention_mask", "position_ids")
    }
    if not sees:
        names = {_IDS: _IDS, **{name: name for name in names if name != _EMBEDS}}
    past, present = (
        {"key": key.replace("{layer}", "%d"), "value": value.replace("{layer}", "%d")}
        for key, value in ((cache.past_key, cache.past_value), (cache.present_key, cache.present_value))
    )
    model: dict[str, Any] = {
        "type": _IMAGE_TYPE if sees else _TEXT_TYPE,
        "bos_token_id": tokens.bos if tokens.bos is not None else 0,
        "eos_token_id": list(tokens.eos),
        "pad_token_id": next((each for each in (tokens.pad, *tokens.eos) if each is not None and each >= 0), 0),
        "vocab_size": vocabulary,
        "context_length": bundle.memory.context,
        "decoder": {
            "session_options": {"provider_options": []},
            "filename": decoder.model.file if sees else "model.onnx",
            "head_size": cache.head_dim,
            "hidden_size": text["hidden_size"],
            "num_attention_heads": text["num_attention_heads"],
            "num_hidden_layers": cache.layers,
            "num_key_value_heads": cache.kv_heads,
            "inputs": {**names, "past_key_names": past["key"], "past_value_names": past["value"]},
            "outputs": {
                "logits": "logits", "present_key_names": present["key"], "present_value_names": present["value"],
            },
        },
    }  # fmt: skip
    if sees:
        model |= {
            "image_token_id": tokens.image,
            "vision": {
                "filename": "vision.onnx",
                "inputs": {_PIXELS: _PIXELS},
                "outputs": {_FEATURES: _vision_output(bundle)},
            },
            "embedding": {
                "filename": bundle.require_part("embedding").model.file,
                "inputs": {_IDS: _IDS, _FEATURES: _FEATURES},
                "outputs": {_EMBEDS: bundle.require_part("embedding").outputs[0].name},
            },
        }
    # Graphs without GroupQueryAttention give keys and values back as new tensors.
    search = {"max_length": bundle.memory.context, "do_sample": False, "past_present_share_buffer": False}
    return {"model": model, "search": search}


def _vision_output(bundle: Bundle) -> str:
    last = bundle.part("connector") or bundle.require_part("vision")
    return last.outputs[0].name


def text_config(bundle: Bundle) -> dict[str, Any]:
    """Returns what `config.json` says of the model that writes text.

    Raises:
        InputError: the bundle has no `config.json`.
    """
    document: dict[str, Any] = read_json(bundle.folder / "config.json", Plain, kind="a description of a model")
    found: dict[str, Any] = document.get("text_config") or document
    return found
