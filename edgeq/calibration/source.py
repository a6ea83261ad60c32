"""Where INT8 ranges come from: images, ranges of an earlier calibration, or a calibration cache of TensorRT."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from edgeq.boundary import read_json
from edgeq.calibration.calibrate import DEFAULT_METHOD, DEFAULT_NUM, calibrate
from edgeq.calibrators.ranges import FORMAT, Ranges
from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.inputs import Item, items_of, model_input
from edgeq.inputs.coverage import Pick
from edgeq.inputs.images import list_images
from edgeq.inputs.preprocessing import FloatArray, Placement
from edgeq.sources.formats import TENSORRT_CACHE
from edgeq.targets import Target

if TYPE_CHECKING:
    from edgeq.exporting.tensorrt.cache import CalibrationCache

_CACHE_MARK = b"TRT-"


class _Head(msgspec.Struct):
    format: str | None = None


@functools.lru_cache(maxsize=16)
def _holds_ranges(path: Path, state: tuple[int, int, int]) -> bool:
    """Returns whether a file is a ranges file; all of it is read for that, so that one `state` of it is read once."""
    del state
    try:
        return read_json(path, _Head, kind="ranges").format == FORMAT
    except InputError:
        return False


@dataclass(frozen=True)
class CalibrationSource:
    """Where INT8 ranges come from.

    Attributes:
        source: A ranges file, a calibration cache, or images (a folder, a text file of paths, a COCO annotation file);
            or ranges, or images and inputs, that are in memory.
        images_dir: Folder of a COCO file's images.
        method: Calibration method; `None` keeps that of a ranges file.
        num: The most images to take.
        pick: How they are chosen for ranges, see `edgeq.inputs.coverage.pick_items`.
    """

    source: Path | Ranges | Sequence[Item]
    images_dir: Path | None = None
    method: str | None = None
    num: int = DEFAULT_NUM
    pick: Pick = "even"

    @property
    def is_ranges_file(self) -> bool:
        """Whether `source` is a ranges file of `edgeq calibrate` (and not, for example, a COCO annotation file)."""
        if not isinstance(self.source, Path) or self.source.suffix != ".json" or not self.source.is_file():
            return False
        found = self.source.stat()
        return _holds_ranges(self.source.absolute(), (found.st_ino, found.st_size, found.st_mtime_ns))

    @property
    def is_cache(self) -> bool:
        """Whether `source` is a calibration cache of TensorRT, by its name or by how it begins."""
        if not isinstance(self.source, Path) or not self.source.is_file():
            return False
        with self.source.open("rb") as stream:
            return self.source.suffix == TENSORRT_CACHE.suffix or stream.read(len(_CACHE_MARK)) == _CACHE_MARK

    @property
    def has_images(self) -> bool:
        """Whether `source` holds images or inputs, and not ranges."""
        return not (isinstance(self.source, Ranges) or self.is_ranges_file or self.is_cache)

    def data(self) -> Sequence[Path] | Sequence[Item]:
        """Returns the images or inputs, none of them read yet; none for ranges and caches.

        Raises:
            InputError: `source` leads to no image.
        """
        if isinstance(self.source, Ranges) or not self.has_images:
            return []
        return list_images(self.source, self.images_dir) if isinstance(self.source, Path) else self.source

    def inputs(self, spec: Preprocessing, num: int | None = None) -> Iterator[tuple[FloatArray, Placement]]:
        """Yields the model's inputs `(1, C, H, W)` for the images that can be read; of ranges those that were kept.

        Args:
            spec: The model's pre-processing.
            num: The most to take, evenly spaced; by default all.

        Raises:
            InputError: an array does not fit the model, or a ranges file is broken.
        """
        if not self.has_images:
            yield from self._kept_inputs(spec, num)
            return
        for item in items_of(self.data(), num or sys.maxsize, len(spec.input_shape)):
            try:
                content = item.read()
            except InputError:
                continue  # calibration names it
            yield model_input(content, spec, item.name)

    def _kept_inputs(self, spec: Preprocessing, num: int | None) -> Iterator[tuple[FloatArray, Placement]]:
        """Yields the inputs that were kept with ranges, if they fit: `ranges` tells of those of another model."""
        if self.is_cache:
            return
        ranges = self.source if isinstance(self.source, Ranges) else _load(cast("Path", self.source))
        for sample in ranges.samples[:num]:
            with contextlib.suppress(InputError):
                yield model_input(sample.array(), spec, "an input that was kept")

    def ranges(
        self, model: FloatModel | TfliteModel, out: Path, threads: int | None, targets: Sequence[Target] = ()
    ) -> tuple[Ranges, Path | None]:
        """Returns a model's ranges and where they lie: the given file, or a new one in the folder `out`.

        Ranges in memory lie nowhere.

        Args:
            model: The float model.
            out: Folder for a new file.
            threads: CPU threads for calibration.
            targets: Targets besides those of edgeq that a new file has to serve.

        Raises:
            InputError: the file is broken, or a cache is to change its method.
            MismatchError: the ranges belong to another model or other pre-processing.
        """
        if isinstance(self.source, Path) and self.is_cache:
            if self.method is not None:
                raise InputError(f"{self.source}: holds ranges alone, `method` {self.method} needs images; omit it")
            cache: CalibrationCache = TENSORRT_CACHE.function("read")(self.source)
            digests = {"model_digest": model.digest, "preprocessing_digest": model.preprocessing.digest}
            return cache.to_ranges(**digests), self.source
        if isinstance(self.source, Ranges):
            return self._of_model(self.source, model), None
        if isinstance(self.source, Path) and self.is_ranges_file:
            return self._of_model(_load(self.source), model), self.source
        path = out / f"{model.name}.ranges.json"
        method = self.method or DEFAULT_METHOD
        return calibrate(
            model, self.data(), path, method=method, num=self.num, threads=threads, targets=targets, pick=self.pick
        ).ranges, path

    def _of_model(self, ranges: Ranges, model: FloatModel | TfliteModel) -> Ranges:
        """Returns ranges by the method that is asked for; raises `MismatchError` if they are not the model's."""
        ranges.check(model_digest=model.digest, preprocessing_digest=model.preprocessing.digest)
        return ranges if self.method in (None, ranges.method) else ranges.with_method(str(self.method))


def _load(path: Path) -> Ranges:
    """Returns the ranges of a file; an export asks for them with each comparison."""
    try:
        found = path.stat()
    except OSError:
        return Ranges.load(path)  # which tells
    return _loaded(path, found.st_ino, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=1)
def _loaded(path: Path, *_state: int) -> Ranges:
    return Ranges.load(path)
