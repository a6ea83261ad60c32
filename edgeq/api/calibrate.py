"""`edgeq.calibrate`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeq.api.arguments import (
    FilePath,
    Listener,
    Names,
    calibration_split,
    names,
    optional_path,
    reporting,
    require_positive,
)
from edgeq.api.model import Model, require_model
from edgeq.calibration.calibrate import DEFAULT_METHOD, DEFAULT_NUM
from edgeq.calibration.calibrate import calibrate as run
from edgeq.calibration.sample_keeper import DEFAULT_KEPT
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.evaluation.preset_proof import AnnotatedImages, proven_request
from edgeq.inputs.coverage import Pick
from edgeq.inputs.images import list_images
from edgeq.sources.model import open_float_model
from edgeq.targets import get_target


def calibrate(
    model: Model,
    data: FilePath | Iterable[Any],
    *,
    images: FilePath | None = None,
    split: str | None = None,
    allow_outside: bool = False,
    pick: Pick = "even",
    num: int = DEFAULT_NUM,
    method: str = DEFAULT_METHOD,
    options: Mapping[str, float] | None = None,
    out: FilePath | None = None,
    target: Names = (),
    keep_samples: int = DEFAULT_KEPT,
    threads: int | None = None,
    progress: Listener = None,
) -> Ranges:
    """Returns the ranges of a model's activations over images, once for every target.

    Another method can be taken later without the images: `ranges.with_method("mse")`.

    Args:
        model: What `edgeq.load` returned.
        data: A data set of any format that `edgeq data` knows: a folder of images, COCO, YOLO, a video, ...; a list of
            paths; or an array or any iterable of arrays: images `(H, W, 3)` of uint8, RGB, or prepared inputs
            `(C, H, W)` or `(N, C, H, W)` of floating point. Of an iterable that is no sequence, one element at a time
            is in memory.
        images: Folder of the images of a COCO annotation file, if they are not found next to it.
        split: Split of a data set to take; by default `train`, or else `val`.
        allow_outside: Whether files may be read that a data set names outside its own folder.
        pick: How `num` images are chosen: `even`, or `spread`: by coverage, with k-means++.
        num: Maximum number of images: evenly spaced from files, arrays and lists, the first ones of another iterable.
        method: `minmax`, `percentile`, `entropy`, `mse`, `lp`, or `best`: per tensor, the method with the least layer
            error on held-out images.
        options: Options of the method, for example `{"percentile": 99.99}`.
        out: Ranges file to write, which `edgeq export --calib` reads; an interrupted run over files resumes.
        target: Further targets that the ranges have to serve: names of installed ones; edgeq's own are always served.
        keep_samples: Maximum number of prepared inputs to keep with the ranges, for tensors that only the files of
            another format have: an export measures these without images; 0 keeps no inputs.
        threads: CPU threads of the engine; by default one per physical core.
        progress: Called for each job, returns an `edgeq.Progress`.

    Raises:
        InputError: an argument cannot be used, more than 5 % of the files cannot be read, an array has a shape, type or
            values that do not fit the model, or the iterable raises; nothing is written.
        ModelError: the model cannot be opened, or an activation is NaN or infinite.
    """
    require_model(model)
    require_positive(num, "num")
    require_positive(threads, "threads")
    target_file = optional_path(out, "out")
    request = model.request()
    if isinstance(data, str | os.PathLike):
        source, images_dir = Path(data), optional_path(images, "images")
        found = calibration_split(source, split, allow_outside) if images_dir is None else None
        request = proven_request(request, AnnotatedImages.of(source, images_dir, found))
        data = list_images(source, images_dir) if found is None else found.items
    elif split is not None:
        raise InputError("`split`: is for a data set in files, and `data` is not one; omit `split`")
    elif images is not None:
        raise InputError("`images` is the folder of a COCO file's images, and `data` is not a file; omit `images`")
    with reporting(progress):
        return run(
            open_float_model(request),
            data,
            target_file,
            method=method,
            options=dict(options or {}),
            num=num,
            threads=threads,
            targets=[get_target(name) for name in names(target)],
            keep_samples=keep_samples,
            pick=pick,
        ).ranges
