"""How images are prepared, by what `preprocessor_config.json` says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgeq.boundary import convert
from edgeq.bundles.contents import GridLayout, ImageInput, PatchLayout, Resample, TileLayout
from edgeq.bundles.source import ModelFolder
from edgeq.exporting.artifact import Preprocessing, Resize

_RESAMPLE: Mapping[int, Resample] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""
_LEAST_PIXELS, _MOST_PIXELS = 56 * 56, 28 * 28 * 1280
"""Of an image of Qwen2-VL, if its folder says nothing."""
_OF_PATCHES = ("qwen2_vl", "qwen2_5_vl")
_OF_TILES = {"smolvlm": (4 * 364, 364), "idefics3": (4 * 364, 364)}
"""Longer side of an image, and side of a tile, if a folder says nothing."""
_OF_GRIDS = ("llava_next",)
_KIND = "an image processor of transformers"
_LANCZOS, _BICUBIC = 1, 3
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def image_input(folder: ModelFolder) -> ImageInput:
    """Returns how the images of a model are prepared; nothing but the defaults if its folder does not say.

    Raises:
        InputError: what it says is not how transformers says it.
    """
    said, family = folder.processor, folder.config.model_type
    own = _LANCZOS if family in _OF_TILES else _BICUBIC
    resample = _RESAMPLE.get(said.get("resample", own), "bicubic")
    if family in _OF_PATCHES:
        return _cut(folder, {"resample": resample, "patches": _patches(folder, said)}, (_CLIP_MEAN, _CLIP_STD))
    if family in _OF_TILES and said:
        return _cut(folder, {"resample": resample, "tiles": _tiles(folder, said)}, ((0.5,) * 3, (0.5,) * 3))
    if family in _OF_GRIDS and said:
        return _cut(folder, {"resample": resample, "grid": _grid(folder, said)}, (_CLIP_MEAN, _CLIP_STD))
    found = _resize(said)
    if found is None:
        return ImageInput(resample=resample)
    resize, (height, width), crop = found
    scale = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
    values: dict[str, Any] = {"height_px": height, "width_px": width, "resize": resize, "scale": scale}
    if resize == "crop":
        values["crop_fraction"] = crop
    if said.get("do_normalize", True) and said.get("image_mean"):
        values |= {"mean": said["image_mean"], "std": said["image_std"]}
    preprocessing = convert(values | {"antialias": True}, Preprocessing, source=folder.path, kind=_KIND)
    return ImageInput(preprocessing=preprocessing, resample=resample)


def _resize(said: Mapping[str, Any]) -> tuple[Resize, tuple[int, int], float] | None:
    """Returns how images get their size, the size, and the share of the short side that a crop keeps."""
    size = said.get("size")
    if isinstance(size, int):
        size = {"shortest_edge": size} if said.get("do_center_crop") else {"height": size, "width": size}
    if not isinstance(size, Mapping) or not said.get("do_resize", True):
        return None
    if "height" in size and "width" in size:
        return "stretch", (size["height"], size["width"]), 1.0
    crop, short = said.get("crop_size"), size.get("shortest_edge")
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    if not said.get("do_center_crop") or not isinstance(crop, Mapping) or not short or "height" not in crop:
        return None
    return "crop", (crop["height"], crop["width"]), min(1.0, crop["height"] / short)


def _cut(folder: ModelFolder, layout: Mapping[str, Any], default: tuple[tuple[float, ...], ...]) -> ImageInput:
    """Returns how images that are cut are prepared.

    Args:
        folder: The model.
        layout: How they are cut and resized.
        default: Mean and deviation, if the folder does not say.
    """
    said = folder.processor
    scale = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
    values: dict[str, Any] = {"scale": scale}
    if said.get("do_normalize", True):
        values |= {"mean": said.get("image_mean", default[0]), "std": said.get("image_std", default[1])}
    return dataclasses.replace(convert(values, ImageInput, source=folder.path, kind=_KIND), **layout)


def _tiles(folder: ModelFolder, said: Mapping[str, Any]) -> TileLayout:
    longest, tile = _OF_TILES[folder.config.model_type]
    stated = {
        "longest_px": (said.get("size") or {}).get("longest_edge", longest),
        "tile_px": (said.get("max_image_size") or {}).get("longest_edge", tile),
        "cut": said.get("do_image_splitting", True),
    }
    return convert(stated, TileLayout, source=folder.path, kind=_KIND)


def _grid(folder: ModelFolder, said: Mapping[str, Any]) -> GridLayout:
    vision = folder.config.nested("vision_config")
    side, patch = vision.get("image_size", 336), vision.get("patch_size", 14)
    grids = folder.config.document.get("image_grid_pinpoints") or said.get("image_grid_pinpoints")
    stated = {"tile_px": side, "tokens": side // patch, "grids": grids}
    return convert(stated, GridLayout, source=folder.path, kind=_KIND)


def _patches(folder: ModelFolder, said: Mapping[str, Any]) -> PatchLayout:
    """Returns the patches of Qwen2-VL's vision part, which its description states too."""
    size, vision = said.get("size") or {}, folder.config.nested("vision_config")
    stated = {
        "patch_px": vision.get("patch_size", 14),
        "frames": vision.get("temporal_patch_size", 2),
        "merge": vision.get("spatial_merge_size", 2),
        "min_pixels": said.get("min_pixels") or size.get("shortest_edge") or _LEAST_PIXELS,
        "max_pixels": said.get("max_pixels") or size.get("longest_edge") or _MOST_PIXELS,
    }
    return convert(stated, PatchLayout, source=folder.path, kind=_KIND)
