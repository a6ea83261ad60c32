"""Published models as folders, and the parameters that transformers counts of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.published_models import CONFIGS

PARTS: dict[str, dict[str, int]] = {
    "llava-1.5-7b": {
        "vision": 303_507_456,
        "connector": 20_979_712,
        "embedding": 131_334_144,
        "decoder": 6_476_271_616,
        "head": 131_334_144,
    },
    "llava-1.5-13b": {
        "vision": 303_507_456,
        "connector": 31_467_520,
        "embedding": 164_167_680,
        "decoder": 12_688_184_320,
        "head": 164_167_680,
    },
    "llava-v1.6-mistral-7b": {
        "vision": 303_507_456,
        "connector": 20_983_808,
        "embedding": 131_334_144,
        "decoder": 6_979_588_096,
        "head": 131_334_144,
    },
    "llama-3.2-11b-vision": {
        "vision": 863_567_379,
        "connector": 31_461_376,
        "embedding": 525_369_344,
        "decoder": 8_724_486_160,
        "head": 525_336_576,
    },
    "qwen2-vl-2b": {
        "vision": 631_183_360,
        "connector": 34_087_936,
        "embedding": 233_373_696,
        "decoder": 1_310_340_608,
    },
    "qwen2-vl-7b": {
        "vision": 631_183_360,
        "connector": 44_575_744,
        "embedding": 544_997_376,
        "decoder": 6_525_621_760,
        "head": 544_997_376,
    },
    "qwen2.5-vl-3b": {
        "vision": 631_975_680,
        "connector": 36_708_608,
        "embedding": 311_164_928,
        "decoder": 2_774_773_760,
    },
    "blip2-opt-2.7b": {
        "vision": 985_952_256,
        "connector": 107_130_880,
        "embedding": 134_026_240,
        "decoder": 2_517_652_480,
    },
    "smolvlm-256m": {
        "vision": 86_433_024,
        "connector": 7_077_888,
        "embedding": 28_385_280,
        "decoder": 106_203_456,
        "head": 28_385_280,
    },
    "idefics3-8b": {
        "vision": 412_926_192,
        "connector": 18_874_368,
        "embedding": 525_348_864,
        "decoder": 6_979_588_096,
        "head": 525_348_864,
    },
    "paligemma-3b-224": {
        "vision": 412_442_352,
        "connector": 2_361_344,
        "embedding": 526_778_368,
        "decoder": 1_981_884_416,
    },
    "clip-vit-large-patch14": {
        "vision": 303_966_209,
        "embedding": 37_945_344,
        "text": 85_704_960,
    },
    "siglip-base-patch16-224": {
        "vision": 92_884_226,
        "embedding": 24_576_000,
        "text": 85_695_744,
    },
    "siglip-so400m-patch14-384": {
        "vision": 428_225_602,
        "embedding": 36_864_000,
        "text": 412_870_896,
    },
    "llama-3.2-1b": {
        "embedding": 262_668_288,
        "decoder": 973_146_112,
    },
    "mistral-7b": {
        "embedding": 131_072_000,
        "decoder": 6_979_588_096,
        "head": 131_072_000,
    },
    "qwen2-0.5b": {
        "embedding": 136_134_656,
        "decoder": 357_898_112,
    },
    "gemma-2-2b": {
        "embedding": 589_824_000,
        "decoder": 2_024_517_888,
    },
    "opt-350m": {
        "embedding": 28_887_040,
        "decoder": 302_309_376,
    },
    "opt-2.7b": {
        "embedding": 133_944_320,
        "decoder": 2_517_652_480,
    },
    "bert-base": {
        "embedding": 23_837_184,
        "encoder": 85_054_464,
        "head": 622_650,
    },
    "bert-base-classifier": {
        "embedding": 23_837_184,
        "encoder": 85_054_464,
        "head": 592_899,
    },
}
"""Name -> part -> parameters, as transformers 5.24 counts them on the meta device."""


def write_config(folder: Path, name: str, **changes: Any) -> Path:
    """Returns a folder with the description of a published model, some keys of which are changed."""
    return write_description(folder / name, CONFIGS[name] | changes)


def write_description(model: Path, document: dict[str, Any]) -> Path:
    """Returns a folder with a description."""
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(document))
    return model
