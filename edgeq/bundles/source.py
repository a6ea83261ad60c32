"""A local Hugging Face folder: what it has to hold, and its model. Nothing is downloaded, no code of it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.boundary import read_json
from edgeq.errors import InputError, MissingDependencyError, ModelError
from edgeq.exporting.checkpoints.stored import weight_files
from edgeq.files import sha256_file, sha256_json
from edgeq.memory.config_file import ConfigFile, read_config
from edgeq.wording import and_others

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NO_TOKENIZER = "none"
"""What `tokenizer` says for a model of bare numbers."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Each of them alone is a vocabulary; the first is what fast tokenizers are stored in."""
_WITH_TOKENIZER = (
    *_TOKENIZERS, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_GENERATION = "generation_config.json"
_MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class ModelFolder:
    """A Hugging Face folder whose files are all there.

    Attributes:
        path: The folder.
        config: Its description.
        weights: The files with weights.
        tokenizer: The files of its tokenizer; none for a model of bare numbers.
        generation: What `generation_config.json` holds; empty without.
        processor: What says how images are prepared; empty without.
    """

    path: Path
    config: ConfigFile
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    generation: Mapping[str, Any]
    processor: Mapping[str, Any]

    @property
    def processor_files(self) -> tuple[Path, ...]:
        """The files that say how images are prepared."""
        return _present(self.path, _PROCESSOR)

    @property
    def configuration_files(self) -> tuple[Path, ...]:
        """The files that describe the model and how it generates."""
        return _present(self.path, (self.config.path.name, _GENERATION))

    def digest(self) -> str:
        """Returns the SHA-256 over the digests of description and weights."""
        return sha256_json({file.name: sha256_file(file) for file in (self.config.path, *self.weights)})

    def stated(self, key: str, *nested: str) -> Any:
        """Returns a value of `generation_config.json`, or of the description or a nested one; `None` without."""
        places = (self.generation, self.config.document, *(self.config.nested(each) for each in nested))
        return next((place[key] for place in places if place.get(key) is not None), None)


def is_model_folder(path: Path) -> bool:
    """Returns whether a path is a folder with a model of transformers."""
    return (path / "config.json").is_file()


def open_folder(path: Path, tokenizer: str | None = None) -> ModelFolder:
    """Returns a folder after checking that all its files are there.

    Args:
        path: The folder.
        tokenizer: Folder of the tokenizer, if not the model's; `none` for a model of bare numbers.

    Raises:
        InputError: description, weights or tokenizer are missing, or the weights are pickled.
        ModelError: the model brings code, or its weights are quantized already.
    """
    config = read_config(path)
    if (quantized := config.document.get("quantization_config")) is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise ModelError(
            f"{path}: its weights are quantized already ({method}); give the folder of the unquantized model"
        )
    generation, processor = path / _GENERATION, _present(path, _PROCESSOR)
    return ModelFolder(
        path,
        config,
        tuple(weight_files(path)),
        _tokenizer(path, tokenizer),
        _object(generation) if generation.is_file() else {},
        _image_processor(_object(processor[0])) if processor else {},
    )


def load_model(folder: ModelFolder) -> PreTrainedModel:
    """Returns the model of a folder in FP32, in eval mode.

    Raises:
        MissingDependencyError: transformers is not installed.
        ModelError: the weights do not fit the description.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError("transformers", "language", "exporting a Hugging Face folder") from error
    import torch

    kind = getattr(transformers, folder.config.architecture)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, report = kind.from_pretrained(
            str(folder.path), dtype=torch.float32, local_files_only=True, use_safetensors=True,
            trust_remote_code=False, output_loading_info=True,
        )  # fmt: skip
    # Damaged files and sizes that contradict each other raise errors of many kinds.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder.path}: cannot be opened by transformers ({reason[:200]})") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder.path}: its weights have no {missing[0]!r}{and_others(missing)}, which {kind.__name__} needs; "
            "take a complete copy of the model"
        )
    return model.eval()


def _tokenizer(path: Path, stated: str | None) -> tuple[Path, ...]:
    if stated == NO_TOKENIZER:
        return ()
    folder = path if stated is None else Path(stated)
    if not _present(folder, _TOKENIZERS):
        raise InputError(
            f"{folder}: holds no tokenizer ({', '.join(_TOKENIZERS)}); copy it there, name its folder with "
            f"`tokenizer`, or say `tokenizer` {NO_TOKENIZER} for a model that is only to be run on token numbers"
        )
    return _present(folder, _WITH_TOKENIZER)


def _image_processor(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what is said of images: transformers 5 stores it inside of `processor_config.json`."""
    nested = document.get("image_processor")
    return nested if isinstance(nested, Mapping) else document


def _object(path: Path) -> dict[str, Any]:
    return read_json(path, dict[str, Any], kind="a file of transformers", max_bytes=_MAX_BYTES)


def _present(folder: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(folder / name for name in names if (folder / name).is_file())
