"""Folders of whole models in parts, for programs that generate text: one function per program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeq.bundles.manifest import Bundle
from edgeq.deploying import onnxruntime_genai, openvino_genai
from edgeq.deploying.packed import Content
from edgeq.errors import InputError


@dataclass(frozen=True)
class BundleDeployment:
    """How a bundle becomes a folder for a program.

    Attributes:
        title: What opens the folder.
        contents: Returns path -> content, given the bundle and a folder for files on the way.
        use: Python that opens it and generates, for the README.
    """

    title: str
    contents: Callable[[Bundle, Path], dict[str, Content]]
    use: str


_ONNXRUNTIME = """import numpy as np
import onnxruntime_genai as og

model = og.Model(".")
options = og.GeneratorParams(model)
options.set_search_options(max_length=64, do_sample=False)
generator = og.Generator(model, options)
generator.append_tokens(np.array([[TOKENS]], np.int32))
while not generator.is_done():
    generator.generate_next_token()
print(generator.get_sequence(0))"""

_ONNXRUNTIME_IMAGE = """# With an image: instead of append_tokens, everything by name.
inputs = og.NamedTensors()
inputs["input_ids"] = np.array([[TOKENS_WITH_IMAGE]], np.int32)
inputs["pixel_values"] = PIXELS  # (images, 3, height, width), float32
inputs["num_image_tokens"] = np.array([IMAGE_TOKENS], np.int64)
generator.set_inputs(inputs)"""

_OPENVINO = """import openvino_genai

# Its defaults round activations and the cache; these compute as the manifest says.
exact = {"ATTENTION_BACKEND": "SDPA", "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
pipeline = openvino_genai.LLMPipeline(".", "CPU", **exact)
print(pipeline.generate("a prompt", max_new_tokens=32))"""

BUNDLE_DEPLOYMENTS = {
    "onnxruntime-genai": BundleDeployment(
        "onnxruntime-genai", onnxruntime_genai.contents, f"{_ONNXRUNTIME}\n\n{_ONNXRUNTIME_IMAGE}"
    ),
    "openvino-genai": BundleDeployment("OpenVINO GenAI", openvino_genai.contents, _OPENVINO),
}
"""Name of a target of `edgeq deploy` -> how a bundle becomes its folder."""


def get_bundle_deployment(target: str) -> BundleDeployment:
    """Returns the folder for bundles of a name.

    Raises:
        InputError: there is none.
    """
    if target not in BUNDLE_DEPLOYMENTS:
        known = " and ".join(BUNDLE_DEPLOYMENTS)
        raise InputError(f"`target` {target}: has no folder for bundles; there is one for {known}")
    return BUNDLE_DEPLOYMENTS[target]
