"""How images are prepared, by what `preprocessor_config.json` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeq.boundary import convert
from edgeq.bundles.contents import ImageInput, PatchLayout, Resample
from edgeq.bundles.source import ModelFolder
from edgeq.exporting.artifact import Preprocessing, Resize

_RESAMPLE: Mapping[int, Resample] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""
_LEAST_PIXELS, _MOST_PIXELS = 56 * 56, 28 * 28 * 1280
"""Of an image of Qwen2-VL, if its folder says nothing."""
_OF_PATCHES = ("qwen2_vl", "qwen2_5_vl")
_KIND = "an image processor of transformers"


def image_input(folder: ModelFolder) -> ImageInput:
    """Returns how the images of a model are prepared; nothing but the defaults if its folder does not say.

    Raises:
        InputError: what it says is not how transformers says it.
    """
    said = folder.processor
    resample = _RESAMPLE.get(said.get("resample", 3), "bicubic")
    if folder.config.model_type in _OF_PATCHES:
        return ImageInput(resample=resample, patches=_patches(folder, said))
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
