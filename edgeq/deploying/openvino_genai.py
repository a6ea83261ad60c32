"""A bundle as the folder that OpenVINO GenAI opens: a model that keeps its own cache, and its tokenizer, both as IR.

OpenVINO GenAI's pipelines know nothing of keys and values: the model holds them as its state, whose rows an input
`beam_idx` reorders before each run. That is done here to the graph of a bundle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeq.bundles.manifest import Bundle
from edgeq.deploying.onnxruntime_genai import joined_files
from edgeq.deploying.packed import Content
from edgeq.errors import InputError, MissingDependencyError
from edgeq.runtimes.openvino import OpenVinoSession

_MODEL, _TOKENIZER, _DETOKENIZER = "openvino_model", "openvino_tokenizer", "openvino_detokenizer"
_BEAMS = "beam_idx"


def contents(bundle: Bundle, scratch: Path) -> dict[str, Content]:
    """Returns path -> content of the folder, without README and digests.

    Args:
        bundle: The bundle of a model of texts.
        scratch: Folder for files that are written on the way.

    Raises:
        InputError: OpenVINO GenAI has no way to run such a model, or it has no tokenizer.
        MissingDependencyError: openvino, openvino-tokenizers or transformers is not installed.
    """
    if bundle.cache is None:
        raise InputError(f"{bundle.folder}: has no decoder with keys and values; OpenVINO GenAI writes no text with it")
    if bundle.part("vision") is not None:
        raise InputError(
            f"{bundle.folder}: reads images, for which edgeq writes no folder of OpenVINO GenAI; use the target "
            "onnxruntime-genai"
        )
    if not any(each.file == "tokenizer.json" for each in bundle.tokenizer):
        raise InputError(
            f"{bundle.folder}: has no tokenizer.json, without which OpenVINO GenAI opens no model; export it from a "
            "folder with a tokenizer"
        )
    engine = OpenVinoSession.import_engine()
    onnx_file = scratch / "model.onnx"
    joined_files(bundle, "embedding", "decoder", onnx_file)
    model = engine.Core().read_model(str(onnx_file))
    keep_cache(engine, model, dict(zip(bundle.cache.past_names, bundle.cache.present_names, strict=True)))
    models = {_MODEL: model} | dict(zip((_TOKENIZER, _DETOKENIZER), _tokenizers(bundle), strict=True))
    files: dict[str, Content] = {}
    for name, each in models.items():
        engine.save_model(each, scratch / f"{name}.xml", compress_to_fp16=False)
        files |= {file: scratch / file for file in (f"{name}.xml", f"{name}.bin")}
    return files | {each.file: bundle.folder / each.file for each in (*bundle.configuration, *bundle.tokenizer)}


def keep_cache(engine: Any, model: Any, past_to_present: dict[str, str]) -> None:
    """Turns a model's keys and values into its state, in place; an input `beam_idx` says which rows go on.

    Args:
        engine: The package openvino.
        model: Its model.
        past_to_present: Input of the model -> the output that replaces it in the next run.
    """
    import numpy as np
    from openvino import opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    beams = opset13.parameter([-1], np.int32, name=_BEAMS)
    beams.output(0).get_tensor().set_names({_BEAMS})
    model.add_parameters([beams])
    for port in [port for port in model.inputs if port.any_name in past_to_present]:
        readers = list(port.get_target_inputs())
        chosen = opset13.gather(port.node.output(0), beams, opset13.constant(np.int64(0)))
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, past_to_present)


def _tokenizers(bundle: Bundle) -> tuple[Any, Any]:
    """Returns the tokenizer and what turns its tokens into text, as OpenVINO's models."""
    try:
        import openvino_tokenizers
    except ImportError as error:
        raise MissingDependencyError("openvino-tokenizers", None, "The target openvino-genai") from error
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError("transformers", "language", "The target openvino-genai") from error
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
        str(bundle.folder), local_files_only=True, trust_remote_code=False
    )
    both: tuple[Any, Any] = openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)
    return both
