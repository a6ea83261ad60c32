"""`--download`: a model of the Hugging Face hub by its id, into the cache that Hugging Face's tools share.

Descriptions, tokenizers and weights in safetensors are fetched, and nothing else: no code, and nothing that is pickled.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeq.errors import InputError, MissingDependencyError

ALLOWED = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "chat_template.json", "chat_template.jinja",
    "*.safetensors", "*.safetensors.index.json",
)  # fmt: skip
"""What is fetched: names, and what names end with."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def download_model(model: str) -> Path:
    """Returns the folder of a model of the hub; files that are in the cache are not fetched again.

    Args:
        model: Its id, `ORGANISATION/NAME`.

    Raises:
        InputError: that is no id, or the model cannot be fetched.
        MissingDependencyError: huggingface_hub is not installed.
    """
    if Path(model).exists():
        raise InputError(f"`download`: {model} is here already; omit `download`")
    if _ID.fullmatch(model) is None:
        raise InputError(f"`download` {model!r}: wanted the id of a model, such as llava-hf/llava-1.5-7b-hf")
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "language", "downloading a model") from error
    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=list(ALLOWED)))
    # Networks, hubs, tokens and disks raise errors of many kinds.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"`download` {model}: cannot be fetched ({reason[:200]}); check its name and the network, or copy its "
            "folder here and omit `download`"
        ) from error
