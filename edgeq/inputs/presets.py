"""Presets: how a known family of models is fed and decoded, declared in TOML.

`preset` is a built-in name or a `.toml` file, with settings that replace single ones behind commas
(`yolov8,channel_order=bgr,iou_threshold=0.6`, `centernet,outputs.heatmap=341`). Such a file has this form; only what
differs from the defaults need be there:

    family = "YOLOX"                # what people call such models, for lists
    labels = ["cat", "dog"]         # class names by class index, or the name of a built-in list: "coco80"

    [preprocessing]                 # edgeq.exporting.artifact.Preprocessing explains each key
    height_px = 416                 # both sizes are needed only where the model's input has a free height or width
    width_px = 416
    resize = "letterbox"            # center, letterbox, letterbox_center, fit, stretch or crop
    channel_order = "bgr"           # rgb, bgr, or gray for models of one channel
    scale = 0.00392156862745098     # pixels 0..255 become (pixel * scale - mean) / std
    mean = [0.0, 0.0, 0.0]          # for gray one number: [0.0]
    std = [1.0, 1.0, 1.0]
    fill = 114                      # 0..255, outside the image; a list of three has one number a channel
    antialias = false
    crop_fraction = 0.875           # for crop

    [inputs.scale_factor]           # an input that always gets the same: exported files hold it as a constant
    value = [[1.0, 1.0]]            # nested lists, or one number for all of its elements
    shape = [1, 2]                  # the lengths of an input where the model leaves them free

    [inputs.image]                  # the input that takes the images; needed only where its shape does not say enough
    layout = "NHWC"                 # NCHW or NHWC
    takes = "images"                # or arrays: .npy files and arrays that are ready, of any shape; no [preprocessing]

    [postprocessing]                # left out for a model that is not to be scored
    decoder = "yolox"               # a name of DECODERS, classification, embedding or a trusted a.module:function

    published_ap = [0.258, 0.511]   # on COCO val2017, of the family's smallest and largest model

    [postprocessing.outputs]        # role in the decoder = output's name
    predictions = "output"

    [postprocessing.options]        # numbers, names, lists; each decoder's docstring names its own
    score_threshold = 0.001
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgeq.boundary import Integer, Positive, convert, parse_toml, read_json, read_text, read_toml
from edgeq.errors import InputError
from edgeq.exporting.artifact import (
    ChannelOrder,
    CropFraction,
    Factor,
    Pixels,
    PixelValue,
    Postprocessing,
    Preprocessing,
    Resize,
)
from edgeq.exporting.graphs.image_input import DeclaredInput, DeclaredInputs
from edgeq.exporting.tensor_spec import Layout, TensorSpec
from edgeq.wording import did_you_mean

_DATA = files("edgeq") / "data"
_SIZES = ("height_px", "width_px")
_OUTPUTS = "outputs."
_USUAL = ("imagenet", "yolov8", "yolox", "ssdlite")

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]

Labels = str | Sequence[str]
"""Class names, or where they are; see `parse_labels`."""


class _Category(msgspec.Struct):
    id: Integer
    name: str | Integer


class _Categories(msgspec.Struct):
    categories: tuple[_Category, ...]


@dataclass(frozen=True)
class Preset:
    """How a model is fed and decoded.

    Attributes:
        preprocessing: From image to input.
        postprocessing: From outputs to detections or class scores; `None` for any other model.
        labels: Class names by class index; empty where the preset names none.
        family: What people call models of this form.
    """

    preprocessing: Preprocessing
    postprocessing: Postprocessing | None
    labels: tuple[str, ...]
    family: str = ""


def preset_names() -> list[str]:
    """Returns the names of the built-in presets."""
    return sorted(Path(entry.name).stem for entry in (_DATA / "presets").iterdir())


def preset_advice() -> str:
    """Returns what to give as `preset`, for messages: the names are too many to be read in a line."""
    names = preset_names()
    return f"one of the {len(names)} that `edgeq presets` lists ({', '.join(_USUAL)}, ...) or a TOML file"


def load_preset(name_or_toml: str, input_size: tuple[int, int] | None = None) -> Preset:
    """Returns a built-in preset or that of a TOML file.

    Args:
        name_or_toml: A name of `preset_names()`, or the path of a `.toml` file, with settings behind commas or not.
        input_size: Height and width of the model's input in pixels, which replace those of the preset; `None` where
            the model leaves them free.

    Raises:
        InputError: the preset is unknown, cannot be read, has an unknown key, or a value of the wrong kind.
    """
    document = _read(name_or_toml)
    post = document.postprocessing
    return Preset(
        _preprocessing(name_or_toml, document.preprocessing, input_size),
        None if post is None else Postprocessing(post.decoder, post.outputs, post.options, post.published_ap),
        _labels(name_or_toml, document.labels),
        document.family,
    )


def load_inputs(name_or_toml: str) -> DeclaredInputs:
    """Returns what a preset says of the inputs of a model.

    Raises:
        InputError: as `load_preset`.
    """
    document = _read(name_or_toml)
    table, inputs = document.preprocessing, document.inputs
    declared = {name: DeclaredInput(**msgspec.structs.asdict(each)) for name, each in inputs.items()}
    size = None if table.height_px is None or table.width_px is None else (table.height_px, table.width_px)
    return DeclaredInputs(declared, 1 if table.channel_order == "gray" else 3, size)


def require_channels(source: str, channels: int, name_or_toml: str, preprocessing: Preprocessing) -> None:
    """Checks that a model takes images of as many channels as a preset makes.

    Args:
        source: The model, for the error.
        channels: How many channels its input has.
        name_or_toml: The preset, for the error.
        preprocessing: What the preset declares.

    Raises:
        InputError: it takes another number.
    """
    if channels != preprocessing.channels:
        wanted = "gray" if channels == 1 else "rgb or bgr"
        raise InputError(
            f"{source}: takes images of {channels} {'channel' if channels == 1 else 'channels'}, and preset "
            f"{name_or_toml} makes {preprocessing.channels} (channel_order {preprocessing.channel_order}); give a "
            f"`preset` whose channel_order is {wanted}"
        )


def for_input(image: TensorSpec, preprocessing: Preprocessing) -> Preprocessing:
    """Returns the pre-processing for a model's input: one that takes the bytes of pixels normalises them itself.

    Args:
        image: The input as the file holds it.
        preprocessing: What a preset declares; its resizing and its order of channels count either way.
    """
    if image.dtype != "uint8" or image.scale is not None:
        return preprocessing
    return dataclasses.replace(preprocessing, scale=1.0, mean=(), std=())


def parse_labels(given: Labels) -> tuple[str, ...]:
    """Returns class names by class index.

    Args:
        given: A COCO JSON (its categories by ascending id), a text file with a name a line, or names with commas; or
            the names themselves.

    Raises:
        InputError: the file is missing or has another form.
    """
    if not isinstance(given, str):
        return tuple(given)
    path = Path(given)
    if path.suffix == ".json":
        document = read_json(path, _Categories, kind="a COCO annotation file for `labels`")
        return tuple(str(category.name) for category in sorted(document.categories, key=lambda category: category.id))
    if path.is_file():
        lines = read_text(path, kind="class names for `labels`, one per line").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    if path.suffix:
        raise InputError(f"`labels` {path}: no such file; wanted a COCO JSON, a text file, or names with commas")
    return tuple(name.strip() for name in given.split(",") if name.strip())


def shipped_labels(name: str) -> tuple[str, ...]:
    """Returns the class names of a list that ships with the package: `coco80`, `coco90` or `coco91`."""
    return tuple((_DATA / "labels" / f"{name}.txt").read_text(encoding="utf-8").splitlines())


class _Preprocessing(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The table [preprocessing]; what it leaves out is the default of `Preprocessing`."""

    height_px: Pixels | None = None
    width_px: Pixels | None = None
    resize: Resize | None = None
    channel_order: ChannelOrder | None = None
    scale: Factor | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fill: PixelValue | tuple[PixelValue, ...] | None = None
    antialias: bool | None = None
    crop_fraction: CropFraction | None = None

    def __post_init__(self) -> None:
        channels = 1 if self.channel_order == "gray" else 3
        wanted = "three numbers" if channels == 3 else "one number for gray images: [0.5]"
        if self.mean is not None and len(self.mean) != channels:
            raise ValueError(f"mean is {list(self.mean)}, wanted {wanted}")
        if isinstance(self.fill, tuple) and len(self.fill) != channels:
            raise ValueError(f"fill is {list(self.fill)}, wanted one number or {channels}")
        if self.std is not None and (len(self.std) != channels or min(self.std) <= 0):
            raise ValueError(f"std is {list(self.std)}, wanted {wanted}, each above 0")


class _Postprocessing(msgspec.Struct, forbid_unknown_fields=True):
    """The table [postprocessing]."""

    decoder: str
    outputs: dict[str, str] = {}
    options: dict[str, Any] = {}
    published_ap: tuple[Probability, Probability] | None = None


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    """A table [inputs.NAME]."""

    value: Any = None
    shape: tuple[Positive, ...] | None = None
    layout: Layout | None = None
    takes: Literal["images", "arrays"] = "images"

    def __post_init__(self) -> None:
        if self.value is not None and (self.layout is not None or self.takes != "images"):
            raise ValueError("it has a value, so it takes no images and no arrays; leave out layout and takes")


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    """A preset's file."""

    family: str = ""
    labels: str | tuple[str, ...] = ()
    preprocessing: _Preprocessing = msgspec.field(default_factory=_Preprocessing)
    postprocessing: _Postprocessing | None = None
    inputs: dict[str, _Input] = {}

    def __post_init__(self) -> None:
        filled = [name for name, each in self.inputs.items() if each.value is None]
        if len(filled) > 1:
            raise ValueError(f"inputs {' and '.join(filled)} have no value; one of them can be filled at every run")


def _read(name_or_toml: str) -> _Document:
    name, *settings = [name_or_toml] if Path(name_or_toml).is_file() else name_or_toml.split(",")
    if name in preset_names():
        content = (_DATA / "presets" / f"{name}.toml").read_bytes()
        document = parse_toml(content, _Document, source=f"preset {name}", kind="a preset")
    elif Path(name).suffix == ".toml":
        advice = "`edgeq presets` lists those that are built in"
        document = read_toml(Path(name), _Document, kind="a preset", advice=advice)
    else:
        near = did_you_mean(name, preset_names())
        raise InputError(f"unknown preset {name!r}; {near}wanted {preset_advice()}")
    return _with_settings(document, settings, name_or_toml) if settings else document


def _with_settings(document: _Document, settings: Sequence[str], source: str) -> _Document:
    """Returns a preset with single values replaced: of [preprocessing], outputs.ROLE, or else a decoder's option."""
    plain = msgspec.to_builtins(document)
    for setting in settings:
        key, separator, text = (part.strip() for part in setting.partition("="))
        if not (key and separator and text):
            raise InputError(f"preset {source}: the setting {setting!r} is not of the form name=value")
        if key in _Preprocessing.__struct_fields__:
            plain["preprocessing"][key] = _value(text)
        elif plain["postprocessing"] is None:
            known = ", ".join(_Preprocessing.__struct_fields__)
            raise InputError(f"preset {source}: has no decoder, so {key!r} cannot be set; known are {known}")
        elif key.startswith(_OUTPUTS):
            plain["postprocessing"]["outputs"][key.removeprefix(_OUTPUTS)] = text
        else:
            plain["postprocessing"]["options"][key] = _value(text)
    return convert(plain, _Document, source=f"preset {source}", kind="a preset")


def _value(text: str) -> Any:
    """Returns a number, `True`, `False`, or the text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _preprocessing(source: str, table: _Preprocessing, input_size: tuple[int, int] | None) -> Preprocessing:
    stated = {key: value for key, value in msgspec.structs.asdict(table).items() if value is not None}
    if input_size is not None:
        stated |= dict(zip(_SIZES, input_size, strict=True))
    if not stated.keys() >= set(_SIZES):
        raise InputError(
            f"preset {source}: the model's input size is free; give `size` HxW, or height_px and width_px under "
            "[preprocessing] of a .toml file"
        )
    try:
        return Preprocessing(**stated)
    except ValueError as error:
        raise InputError(f"preset {source}: {error}; choose a smaller input") from error


def _labels(source: str, stated: str | tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(stated, str):
        return stated
    known = sorted(Path(entry.name).stem for entry in (_DATA / "labels").iterdir())
    if stated not in known:
        raise InputError(f"preset {source}: unknown labels {stated!r}; known: {', '.join(known)}, or a list of names")
    return shipped_labels(stated)
