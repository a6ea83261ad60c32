"""`Artifact`: an exported file and its JSON manifest, which is all that crosses from host to device."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgeq.boundary import convert, read_json
from edgeq.errors import InputError, MismatchError
from edgeq.exporting.quantization_facts import QuantizationFacts, require_file_name
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.files import sha256_file, sha256_json, write_json

MANIFEST_VERSION = 1
UNFINISHED = -1
"""The version of a manifest whose model file is being written, or whose export was cut there."""

Pixels = Annotated[int, msgspec.Meta(ge=1, le=1 << 15)]
"""Height or width of an image."""
PixelValue = Annotated[float, msgspec.Meta(ge=0, le=255)]
Factor = Annotated[float, msgspec.Meta(ge=0)]
CropFraction = Annotated[float, msgspec.Meta(ge=0.01, le=1)]

Resize = Literal["center", "letterbox", "letterbox_center", "fit", "stretch", "crop"]
ChannelOrder = Literal["rgb", "bgr", "gray"]

_KIND = "an edgeq manifest"
_EXPORT_AGAIN = "export the model again"
_MAX_PIXELS = 1 << 26


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes a model input of shape `(1, channels, height_px, width_px)`, float32.

    Pixels `p` in 0..255 become `(p * scale - mean) / std`, channel by channel in `channel_order`.

    Attributes:
        height_px: Height of the model's input.
        width_px: Width of the model's input.
        resize: `center` scales to fit and centres (CenterNet's affine warp), `letterbox` scales to fit in the top left
            corner (YOLOX), `letterbox_center` scales to fit, to whole pixels, and centres (YOLOv5), `fit` is
            `letterbox` with boxes mapped by the whole sizes (torchvision's detectors), `stretch` ignores the aspect
            ratio, `crop` scales the short side and cuts the centre.
        channel_order: Order of the three channels, or `gray` for one: luminance as ITU-R BT.601 weighs it.
        scale: Factor on the 0..255 pixel values.
        mean: Subtracted after scaling: a number a channel, in `channel_order`; by default zeros.
        std: Divisor after the subtraction: a number a channel, in `channel_order`; by default ones.
        fill: Pixel value in 0..255 of what lies outside the image; a number, or one a channel, in `channel_order`.
        antialias: Whether shrinking averages over the source pixels (Pillow, torchvision) or samples bilinearly
            between four of them (OpenCV's `INTER_LINEAR`).
        crop_fraction: For `crop`: the model's input size over the length the short side is scaled to (224/256).

    Raises:
        ValueError: `mean`, `std` or `fill` has another number of entries than there are channels, `std` holds one that
            is not above 0, or the input has more than 64 megapixels.
    """

    height_px: Pixels
    width_px: Pixels
    resize: Resize = "center"
    channel_order: ChannelOrder = "rgb"
    scale: Factor = 1.0 / 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    fill: PixelValue | tuple[PixelValue, ...] = 0.0
    antialias: bool = False
    crop_fraction: CropFraction = 0.875

    def __post_init__(self) -> None:
        # The defaults are filled in, so that a pre-processing has one digest however it was written.
        for name, default in (("mean", 0.0), ("std", 1.0)):
            given = getattr(self, name)
            if given and len(given) != self.channels:
                raise ValueError(f"{name} is {given}, wanted {self.channels} numbers for {self.channel_order} images")
            object.__setattr__(self, name, given or (default,) * self.channels)
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}, wanted numbers above 0")
        if len(self.fill_colour) != self.channels:
            raise ValueError(f"fill is {self.fill}, wanted one number or {self.channels}")
        if self.height_px * self.width_px > _MAX_PIXELS:
            raise ValueError(f"an input of {self.height_px} x {self.width_px} pixels is beyond 64 megapixels")

    @property
    def channels(self) -> int:
        """Channels of the model's input: 1 for gray, otherwise 3."""
        return 1 if self.channel_order == "gray" else 3

    @property
    def fill_colour(self) -> tuple[float, ...]:
        """The fill of each channel, in `channel_order`."""
        return self.fill if isinstance(self.fill, tuple) else (self.fill,) * self.channels

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without its batch: `(channels, height_px, width_px)`."""
        return self.channels, self.height_px, self.width_px

    @property
    def takes_images(self) -> bool:
        """Whether inputs are images of this size, prepared here or by the caller."""
        return True

    @property
    def value_range(self) -> tuple[float, float]:
        """The least and the largest value that a pixel of any channel can become."""
        ends = [
            (pixel * self.scale - mean) / std
            for mean, std in zip(self.mean, self.std, strict=True)
            for pixel in (0, 255)
        ]
        return min(ends), max(ends)

    @property
    def digest(self) -> str:
        """SHA-256 over all fields; ranges remember it."""
        return sha256_json(dataclasses.asdict(self))

    @property
    def declared(self) -> Preprocessing | None:
        """What a manifest says of it."""
        return self


@dataclass(frozen=True)
class Postprocessing:
    """How a model's outputs become detections, class scores or an embedding.

    Attributes:
        decoder: A name of a task's decoders (docs/tasks.md), or `package.module:function` for a detector;
            such a function runs only if the user names it as well.
        outputs: Role in the decoder -> output tensor's name, for example `{"heatmap": "hm"}`.
        options: What the decoder takes: numbers, names, lists (`stride`, `top_k`, `anchors`, ...).
        published_ap: AP on COCO val2017, 0..1, of the smallest and the largest model that the family's authors
            published, so that a figure far below is noticed; `None` where they published none.
    """

    decoder: str
    outputs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    published_ap: tuple[float, float] | None = None


@dataclass(frozen=True)
class Artifact:
    """An exported model file with everything that a runtime needs to score it.

    A file of another tool has no manifest: what only that would tell is empty (see `edgeq.sources.artifact_file`).

    Attributes:
        path: The model file. The manifest lies beside it as `<path>.json` and stores only the file's name.
        format: `onnx`, `tflite` or `openvino`, later `engine`.
        precision: `fp32`, `fp16`, `int8`, `int16x8`, `dynamic`, `fp8`, `w4`, `fp4`, `nf4`.
        target: Name of the target whose rules it was written by.
        inputs: The model's inputs.
        outputs: The model's outputs.
        preprocessing: From image file to input; `None` for a file of another tool without a preset.
        postprocessing: From outputs to detections or class scores; `None` for a bare network.
        labels: Class names by class index.
        digest: SHA-256 of the file's bytes.
        source_digest: Digest of the float graph that it was made from.
        quantization: What was quantized and how, as JSON values; `quantization_facts` has what is read of it.
        tools: Package name -> version of what wrote the file.
    """

    path: Path
    format: str
    precision: str
    target: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing | None
    postprocessing: Postprocessing | None = None
    labels: tuple[str, ...] = ()
    digest: str = ""
    source_digest: str = ""
    quantization: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name, as tables print it."""
        return self.path.name

    @property
    def size_bytes(self) -> int:
        """Size of the model file, with its weights if they lie in a file of their own."""
        return sum(path.stat().st_size for path in (self.path, self.weights_path) if path is not None)

    @property
    def quantization_facts(self) -> QuantizationFacts:
        """What was quantized and how.

        Raises:
            InputError: `quantization` holds something of another type.
        """
        return _quantization_facts(self.quantization, self.manifest_path)

    @property
    def weights_path(self) -> Path | None:
        """Where the weights of a file lie that does not hold them itself."""
        stated = self.quantization_facts.weights_file
        return None if stated is None else self.path.with_name(stated.file)

    @property
    def manifest_path(self) -> Path:
        """Where the manifest lies."""
        return manifest_path(self.path)

    def save(self) -> Artifact:
        """Returns this artifact with the digest of the file as it lies on the disk, after writing the manifest."""
        stamped = dataclasses.replace(self, digest=sha256_file(self.path))
        write_json(self.manifest_path, stamped.to_json())
        return stamped

    def to_json(self) -> dict[str, Any]:
        """Returns the content of its manifest."""
        found = dataclasses.asdict(self) | {"path": self.path.name, "manifest_version": MANIFEST_VERSION}
        if self.postprocessing is not None and self.postprocessing.published_ap is None:
            del found["postprocessing"]["published_ap"]
        return found

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Artifact:
        """Returns the artifact of a model file or of its manifest.

        Raises:
            InputError: the file or its manifest is missing or is not one of ours.
            MismatchError: the file's bytes are not those that the manifest describes.
        """
        path = Path(path)
        manifest = path if path.suffix == ".json" else manifest_path(path)
        if path != manifest and not path.is_file():
            raise InputError(f"{path}: no such file; expected a model file that `edgeq export` wrote")
        if not manifest.is_file():
            raise InputError(
                f"{path}: has no manifest next to it ({manifest.name}); write the file with `edgeq export`"
            )
        artifact = parse_manifest(manifest, read_json(manifest, dict[str, Any], kind=_KIND, advice=_EXPORT_AGAIN))
        if not artifact.path.is_file():
            raise InputError(f"{manifest}: describes {artifact.path.name}, which is not next to it")
        _require_digest(artifact.path, artifact.digest)
        if artifact.quantization_facts.weights_file is not None and (weights := artifact.weights_path) is not None:
            if not weights.is_file():
                raise InputError(f"{artifact.path}: its weights are in {weights.name}, which is not next to it")
            _require_digest(weights, artifact.quantization_facts.weights_file.digest)
        return artifact


def _require_digest(path: Path, wanted: str) -> None:
    found = sha256_file(path)
    if found != wanted:
        raise MismatchError(
            f"{path}: is not the file that its manifest describes (SHA-256 {found[:12]}, wanted {wanted[:12]}); it was "
            "cut short or changed, export it again"
        )


def manifest_path(path: Path) -> Path:
    """Returns where the manifest of a model file lies: beside it, with `.json` added to the whole name."""
    return path.with_name(path.name + ".json")


def parse_manifest(manifest: Path, document: Any) -> Artifact:
    """Returns the artifact that a manifest's content describes; the model file is not looked at.

    Args:
        manifest: Where the manifest lies; its model is beside it.
        document: Its content.

    Raises:
        InputError: it is not one of ours.
    """
    stated = convert(document, _Versioned, source=manifest, kind=_KIND, advice=_EXPORT_AGAIN)
    if stated.manifest_version == UNFINISHED:
        raise InputError(f"{manifest}: its model file was not written to the end; {_EXPORT_AGAIN}")
    if stated.manifest_version != MANIFEST_VERSION:
        raise InputError(
            f"{manifest}: manifest version {stated.manifest_version}, this edgeq reads {MANIFEST_VERSION}; "
            f"{_EXPORT_AGAIN}"
        )
    read = convert(document, _Manifest, source=manifest, kind=_KIND, advice=_EXPORT_AGAIN)
    fields = {entry.name: getattr(read, entry.name) for entry in dataclasses.fields(Artifact)}
    _quantization_facts(read.quantization, manifest)  # refuses what a later reader could not use
    return Artifact(**fields | {"path": manifest.with_name(Path(read.path).name)})


def _quantization_facts(stated: Mapping[str, Any], manifest: Path) -> QuantizationFacts:
    return convert(
        dict(stated), QuantizationFacts, source=manifest, kind=_KIND, advice=_EXPORT_AGAIN, place="$.quantization"
    )


class _Versioned(msgspec.Struct):
    manifest_version: int


@dataclass(frozen=True)
class _Manifest:
    """The content of a manifest of this version; `Artifact` explains it."""

    path: str
    format: str
    precision: str
    target: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing | None
    postprocessing: Postprocessing | None
    labels: tuple[str, ...]
    digest: str
    source_digest: str
    quantization: dict[str, Any]
    tools: dict[str, str]

    def __post_init__(self) -> None:
        require_file_name(self.path)
