"""Where INT8 ranges come from: images, a ranges file, or a calibration cache of TensorRT."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgeq.boundary import read_json
from edgeq.calibration.calibrate import DEFAULT_METHOD, calibrate
from edgeq.calibrators.ranges import FORMAT, Ranges
from edgeq.errors import InputError
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.tensorrt.cache import parse_cache
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.inputs import evenly_spaced
from edgeq.inputs.images import list_images, read_image
from edgeq.targets import Target

DEFAULT_NUM = 512
"""Most images to take, if nothing else is said."""

_CACHE_MARK = b"TRT-"


class _Head(msgspec.Struct):
    format: str | None = None


@dataclass(frozen=True)
class CalibrationSource:
    """Where INT8 ranges come from.

    Attributes:
        source: A ranges file, a calibration cache, or images (a folder, a text file of paths, a COCO annotation file).
        images_dir: Folder of a COCO file's images.
        method: Calibration method; `None` keeps that of a ranges file.
        num: The most images to take.
    """

    source: Path
    images_dir: Path | None = None
    method: str | None = None
    num: int = DEFAULT_NUM

    @property
    def is_ranges_file(self) -> bool:
        """Whether `source` is a ranges file of `edgeq calibrate` (and not, for example, a COCO annotation file)."""
        if self.source.suffix != ".json" or not self.source.is_file():
            return False
        try:
            return read_json(self.source, _Head, kind="ranges").format == FORMAT
        except InputError:
            return False

    @property
    def is_cache(self) -> bool:
        """Whether `source` is a calibration cache of TensorRT, by its name or by how it begins."""
        if not self.source.is_file():
            return False
        with self.source.open("rb") as stream:
            return self.source.suffix == ".cache" or stream.read(len(_CACHE_MARK)) == _CACHE_MARK

    def images(self, num: int | None = None) -> Iterator[np.ndarray]:
        """Yields the images that can be read, `(H, W, 3)` uint8; none for a ranges file or a cache.

        Args:
            num: The most to take, evenly spaced; by default all.
        """
        if self.is_ranges_file or self.is_cache:
            return
        paths = list_images(self.source, self.images_dir)
        for path in paths if num is None else evenly_spaced(paths, num):
            with contextlib.suppress(InputError):  # calibration names it
                yield read_image(path)

    def ranges(
        self, model: FloatModel | TfliteModel, out: Path, threads: int | None, targets: Sequence[Target] = ()
    ) -> tuple[Ranges, Path]:
        """Returns a model's ranges and where they lie: the given file, or a new one in the folder `out`.

        Args:
            model: The float model.
            out: Folder for a new file.
            threads: CPU threads for calibration.
            targets: Targets beside those of edgeq that a new file has to serve.

        Raises:
            InputError: the file is broken, or a cache is to change its method.
            MismatchError: the file belongs to another model or other pre-processing.
        """
        if self.is_cache:
            if self.method is not None:
                raise InputError(f"{self.source}: holds ranges alone, `method` {self.method} needs images; omit it")
            cache = parse_cache(self.source.read_bytes(), str(self.source))
            digests = {"model_digest": model.digest, "preprocessing_digest": model.preprocessing.digest}
            return cache.to_ranges(**digests), self.source
        if self.is_ranges_file:
            ranges = Ranges.load(self.source)
            ranges.check(model_digest=model.digest, preprocessing_digest=model.preprocessing.digest)
            if self.method not in (None, ranges.method):
                ranges = ranges.with_method(str(self.method))
            return ranges, self.source
        path = out / f"{model.name}.ranges.json"
        images = list_images(self.source, self.images_dir)
        method = self.method or DEFAULT_METHOD
        return calibrate(
            model, images, path, method=method, num=self.num, threads=threads, targets=targets
        ).ranges, path
