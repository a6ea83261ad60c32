"""Presets: how a known family of models is fed and decoded, declared in TOML.

`--preset` takes a built-in name or a `.toml` file of this form; only what differs from the defaults need be there:

    labels = ["cat", "dog"]         # class names by class index, or the name of a built-in list: "coco80"

    [preprocessing]                 # edgeq.export.artifact.Preprocessing explains each key
    height_px = 416                 # both sizes are needed only where the model's input has a free height or width
    width_px = 416
    resize = "letterbox"            # center, letterbox, stretch or crop
    channel_order = "bgr"           # rgb, bgr, or gray for models of one channel
    scale = 0.00392156862745098     # pixels 0..255 become (pixel * scale - mean) / std
    mean = [0.0, 0.0, 0.0]          # for gray one number: [0.0]
    std = [1.0, 1.0, 1.0]
    fill = 114                      # 0..255, outside the image
    antialias = false
    crop_fraction = 0.875           # for crop

    [postprocessing]                # left out for a model that is not to be scored
    decoder = "yolox"               # centernet, fastestdet, yolox, classification, embedding or a.module:function

    [postprocessing.outputs]        # role in the decoder = output's name
    predictions = "output"

    [postprocessing.options]        # numbers; each decoder's docstring names its own
    score_threshold = 0.001
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from edgeq.errors import InputError
from edgeq.export.artifact import ChannelOrder, Postprocessing, Preprocessing, Resize
from edgeq.files import read_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_DATA = files("edgeq") / "data"
_CHOICES = {"resize": get_args(Resize), "channel_order": get_args(ChannelOrder)}
_BY_CHANNEL = ("mean", "std")
_SIZES = ("height_px", "width_px")


@dataclass(frozen=True)
class Preset:
    """How a model is fed and decoded.

    Attributes:
        preprocessing: From image to input.
        postprocessing: From outputs to detections or class scores; `None` for any other model.
        labels: Class names by class index; empty where the preset names none.
    """

    preprocessing: Preprocessing
    postprocessing: Postprocessing | None
    labels: tuple[str, ...]


def preset_names() -> list[str]:
    """Returns the names of the built-in presets."""
    return sorted(Path(entry.name).stem for entry in (_DATA / "presets").iterdir())


def load_preset(name_or_toml: str, input_size: tuple[int, int] | None = None) -> Preset:
    """Returns a built-in preset or that of a TOML file.

    Args:
        name_or_toml: A name of `preset_names()`, or the path of a `.toml` file.
        input_size: Height and width of the model's input in pixels, which replace those of the preset; `None` where
            the model leaves them free.

    Raises:
        InputError: the preset is unknown, cannot be read, has an unknown key, or a value of the wrong kind.
    """
    document = _read(name_or_toml)
    _require_keys(name_or_toml, "", document, {"labels", "preprocessing", "postprocessing"})
    return Preset(
        _preprocessing(name_or_toml, _table(name_or_toml, document, "preprocessing"), input_size),
        _postprocessing(name_or_toml, document),
        _labels(name_or_toml, document.get("labels", [])),
    )


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
            f"--preset whose channel_order is {wanted}"
        )


def parse_labels(text: str) -> tuple[str, ...]:
    """Returns class names by class index.

    Args:
        text: A COCO JSON (its categories by ascending id), a text file with a name a line, or names with commas.

    Raises:
        InputError: the file is missing or has another form.
    """
    path = Path(text)
    if path.suffix == ".json":
        document = read_json(path, kind="a COCO annotation file")
        try:
            categories = sorted(document["categories"], key=lambda category: category["id"])
            return tuple(str(category["name"]) for category in categories)
        except (KeyError, TypeError):
            raise InputError(f"--labels {path}: has no list of categories with id and name") from None
    if path.is_file():
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if path.suffix:
        raise InputError(f"--labels {path}: no such file; wanted a COCO JSON, a text file, or names with commas")
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _read(name_or_toml: str) -> dict[str, Any]:
    if name_or_toml in preset_names():
        return tomllib.loads((_DATA / "presets" / f"{name_or_toml}.toml").read_text(encoding="utf-8"))
    path = Path(name_or_toml)
    if path.suffix != ".toml":
        raise InputError(f"unknown preset {name_or_toml!r}; known: {', '.join(preset_names())}, or a .toml file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; expected a preset ({', '.join(preset_names())} are built in)"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a preset ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: is not valid TOML ({error})") from error


def _preprocessing(source: str, table: Mapping[str, Any], input_size: tuple[int, int] | None) -> Preprocessing:
    _require_keys(source, "preprocessing.", table, {field.name for field in dataclasses.fields(Preprocessing)})
    channels = 1 if table.get("channel_order") == "gray" else 3
    values = {key: _value(source, key, value, channels) for key, value in table.items()}
    if input_size is not None:
        values |= dict(zip(_SIZES, input_size, strict=True))
    if not values.keys() >= set(_SIZES):
        raise InputError(
            f"preset {source}: the model's input size is free; give --size HxW, or height_px and width_px under "
            "[preprocessing] of a .toml file"
        )
    return Preprocessing(**values)


def _value(source: str, key: str, value: Any, channels: int) -> Any:
    """Returns a value of [preprocessing] in the type of its field."""
    if key in _CHOICES:
        valid, wanted = value in _CHOICES[key], f"one of {', '.join(_CHOICES[key])}"
    elif key in _BY_CHANNEL:
        valid = isinstance(value, list) and len(value) == channels and all(map(_is_number, value))
        wanted = "three numbers" if channels == 3 else "one number for gray images: [0.5]"
        valid = valid and (key != "std" or all(part > 0 for part in value))
        value = tuple(map(float, value)) if valid else value
    elif key == "antialias":
        valid, wanted = isinstance(value, bool), "true or false"
    elif key in _SIZES:
        valid, wanted = type(value) is int and value > 0, "a number of pixels"
    else:
        lowest, highest = {"fill": (0, 255), "crop_fraction": (0.01, 1)}.get(key, (0, float("inf")))
        valid, wanted = _is_number(value) and lowest <= value <= highest, f"a number from {lowest} to {highest}"
        value = float(value) if valid else value
    if not valid:
        raise InputError(f"preset {source}: preprocessing.{key} is {value!r}, wanted {wanted}")
    return value


def _postprocessing(source: str, document: Mapping[str, Any]) -> Postprocessing | None:
    if "postprocessing" not in document:
        return None
    table = _table(source, document, "postprocessing")
    _require_keys(source, "postprocessing.", table, {"decoder", "outputs", "options"})
    decoder = table.get("decoder")
    if not isinstance(decoder, str):
        raise InputError(f"preset {source}: postprocessing.decoder is {decoder!r}, wanted a decoder's name")
    outputs, options = _table(source, table, "outputs"), _table(source, table, "options")
    for role, name in outputs.items():
        if not isinstance(name, str):
            raise InputError(f"preset {source}: postprocessing.outputs.{role} is {name!r}, wanted an output's name")
    return Postprocessing(decoder, outputs, options)


def _labels(source: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        known = sorted(Path(entry.name).stem for entry in (_DATA / "labels").iterdir())
        if value not in known:
            raise InputError(
                f"preset {source}: unknown labels {value!r}; known: {', '.join(known)}, or a list of names"
            )
        return tuple((_DATA / "labels" / f"{value}.txt").read_text(encoding="utf-8").splitlines())
    if not (isinstance(value, list) and all(isinstance(label, str) for label in value)):
        raise InputError(f"preset {source}: labels is {value!r}, wanted a list of names")
    return tuple(value)


def _table(source: str, parent: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = parent.get(key, {})
    if not isinstance(table, dict):
        raise InputError(f"preset {source}: {key} is {table!r}, wanted a table")
    return table


def _require_keys(source: str, prefix: str, table: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise InputError(f"preset {source}: unknown key {prefix}{unknown[0]}; known: {', '.join(sorted(known))}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
