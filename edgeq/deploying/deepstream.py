"""DeepStream: the `[property]` group of Gst-nvinfer's configuration, and what of a pre-processing it cannot express.

Gst-nvinfer computes `net-scale-factor * (pixel - offset)` with one factor for all channels, fits or stretches an
image, and pads with black (https://docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvinfer.html).
Where that is not what the manifest states, the file asks for prepared tensors (`input-tensor-from-meta`) instead of
feeding the model something else, or says what differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgeq.deploying.packed import MAX_BATCH, Packed
from edgeq.deploying.triton import PLAN
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec

_COLOURS = {"rgb": 0, "bgr": 1, "gray": 2}
_MODES = {"fp32": 0, "int8": 1, "fp16": 2}
# Output tensors are handed out as they are: a network of another kind than DeepStream parses itself.
_OTHER_NETWORK = 100
_BILINEAR = 1
_FLOATS = ("float32", "float16")


@dataclass(frozen=True)
class Expressed:
    """A pre-processing as Gst-nvinfer has it.

    Attributes:
        keys: Key -> value of what it does itself; empty if it takes prepared tensors.
        impossible: Why it takes prepared tensors; empty if it does not.
        differs: What it does otherwise than the manifest states, each with what follows.
    """

    keys: dict[str, str]
    impossible: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()


def config_path(model: Packed) -> str:
    """Returns where the configuration of a model lies."""
    return f"deepstream/{model.name}.txt"


def config(model: Packed) -> str:
    """Returns the configuration: the engine that the build scripts leave, its input, and raw output tensors."""
    artifact = model.artifact
    expressed = express(artifact.preprocessing, artifact.inputs)
    parent = f"../{model.folder}"
    values = {
        "gpu-id": "0",
        "gie-unique-id": "1",
        "process-mode": "1",
        "interval": "0",
        "batch-size": str(MAX_BATCH if model.batch_is_free else _batch(artifact.inputs)),
        "model-engine-file": f"{parent}/{PLAN}",
        "network-mode": str(_MODES.get(artifact.precision, _MODES["fp32"])),
        "network-type": str(_OTHER_NETWORK),
        "output-tensor-meta": "1",
    }
    if artifact.precision != "int8":
        # An INT8 engine is not rebuilt by DeepStream, which knows INT8 by a calibration cache alone.
        values["onnx-file"] = f"{parent}/{model.file}"
    if model.labels_path is not None:
        values["labelfile-path"] = f"../{model.labels_path}"
    comments = [
        *(f"# Not possible with net-scale-factor and offsets: {reason}." for reason in expressed.impossible),
        *(f"# Differs from the manifest: {reason}." for reason in expressed.differs),
    ]
    if expressed.impossible:
        comments.append("# So nvinfer takes tensors that Gst-nvdspreprocess, or your plugin, has prepared.")
    values |= expressed.keys or {"input-tensor-from-meta": "1"}
    return "\n".join(["[property]", *comments, *(f"{key}={value}" for key, value in values.items())]) + "\n"


def express(spec: Preprocessing | None, inputs: tuple[TensorSpec, ...]) -> Expressed:
    """Returns a pre-processing in DeepStream's keys, with everything that they cannot say."""
    impossible = tuple(_impossible(spec, inputs))
    if impossible or spec is None:
        return Expressed({}, impossible)
    (image,) = inputs
    factor = spec.scale / spec.std[0]
    lengths = f"{spec.channels};{spec.height_px};{spec.width_px}"
    keys = {
        "network-input-order": "1" if image.layout == "NHWC" else "0",
        "infer-dims": lengths,
        "model-color-format": str(_COLOURS[spec.channel_order]),
        "net-scale-factor": repr(factor),
        "maintain-aspect-ratio": "0" if spec.resize == "stretch" else "1",
        "symmetric-padding": "1" if spec.resize in ("center", "letterbox_center") else "0",
        "scaling-filter": str(_BILINEAR),
    }
    if any(spec.mean):
        keys["offsets"] = ";".join(repr(mean / spec.scale) for mean in spec.mean)
    return Expressed(keys, (), tuple(_differences(spec)))


def _impossible(spec: Preprocessing | None, inputs: tuple[TensorSpec, ...]) -> Iterator[str]:
    if spec is None:
        yield "the manifest does not say how images are prepared"
        return
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype not in _FLOATS:
        yield "the model does not take one image of floats"
        return
    if not all(math.isclose(std, spec.std[0], rel_tol=1e-6) for std in spec.std):
        yield f"std differs per channel ({', '.join(map(str, spec.std))}), and there is one factor for all channels"
    if spec.scale <= 0 and any(spec.mean):
        yield "pixels are multiplied by 0"
    elif any(mean < 0 for mean in spec.mean):
        yield f"a mean is negative ({', '.join(map(str, spec.mean))}), and offsets are 0 or more"
    if spec.resize == "crop":
        yield "the centre of the image is cut out, and nvinfer fits or stretches whole images"


def _differences(spec: Preprocessing) -> Iterator[str]:
    if spec.resize != "stretch" and any(spec.fill_colour):
        fills = dict.fromkeys(f"{fill:g}" for fill in spec.fill_colour)
        yield f"it pads with black, and the model expects the pixel value {', '.join(fills)}"
    if spec.resize == "center":
        yield "it centres the image on whole pixels, and the model expects a warp to the exact centre"
    if spec.antialias:
        yield "it samples bilinearly, and the model expects an average over the source pixels (antialiasing)"


def _batch(inputs: tuple[TensorSpec, ...]) -> int:
    length = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return length or 1
