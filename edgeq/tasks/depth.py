"""Depth: how far every pixel of an image is from the camera, by AbsRel, RMSE and the share within 25 %.

Numbers are those of each image, averaged over the images ("Depth Map Prediction from a Single Image", Eigen et al.,
2014). Pixels without a true depth do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.split import Split
from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.array_files import read_array
from edgeq.inputs.images import list_images
from edgeq.inputs.items import Item, image_files
from edgeq.inputs.preprocessing import Placement
from edgeq.results.evaluation import Score, ScoreColumn
from edgeq.tasks.base import Task
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.evidence import Finding, require
from edgeq.tasks.labelled_images import relative_names
from edgeq.tasks.maps import ImageSampler, opened_map
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import mean_over_draws
from edgeq.tasks.shapes import DepthBand, PixelSet

if TYPE_CHECKING:
    from typing_extensions import Self

_OPTIONS = {"inverse": 0, "units_per_metre": 1000}
# Nearer than a millimetre is no depth: what a model says below counts as this.
_LEAST_M = 1e-3
# How many shades a picture has.
_BANDS = 8


@dataclass(frozen=True, eq=False)
class DepthMap:
    """What a model says of one image.

    Attributes:
        values: `(h, w)` float32, over the whole input: metres, or inverse depth up to scale and shift.
        placement: Where the image lies in the input.
    """

    values: NDArray[np.float32]
    placement: Placement

    def of_image(self) -> NDArray[np.float32]:
        """Returns the values at every pixel of the image, sampled bilinearly."""
        return ImageSampler.of(self.placement, self.values.shape[1], self.values.shape[0]).bilinear(self.values)


@dataclass(frozen=True, kw_only=True)
class DepthScore(Score):
    """Errors of depth, each the mean over the images.

    Attributes:
        abs_rel: Mean absolute error in parts of the true depth.
        rmse: Root of the mean squared error, in metres.
        delta1: Share of the pixels whose depth and true depth differ by a factor below 1.25, 0..1.
    """

    task = "depth"
    main = "abs_rel"
    lower_is_better = True
    figures = "Errors of depth"
    columns = (ScoreColumn("abs_rel", "AbsRel"), ScoreColumn("rmse", "RMSE m"), ScoreColumn("delta1", "delta < 1.25"))
    abs_rel: float | None
    rmse: float | None = None
    delta1: float | None = None


@dataclass(frozen=True, eq=False)
class DepthPredictions(PredictionRecords):
    """Errors of each image.

    Attributes:
        images: File names, `N` of them.
        abs_rel: `(N,)` float64.
        rmse: `(N,)` float64, in metres.
        delta1: `(N,)` float64, 0..1.
    """

    task = "depth"
    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {
        "abs_rel": ("float64", "N"),
        "rmse": ("float64", "N"),
        "delta1": ("float64", "N"),
    }
    images: tuple[str, ...]
    abs_rel: NDArray[np.float64]
    rmse: NDArray[np.float64]
    delta1: NDArray[np.float64]

    def __post_init__(self) -> None:
        for values in (self.abs_rel, self.rmse, self.delta1):
            require(bool(np.isfinite(values).all()), "a number is not finite")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns AbsRel, the only number that is asked for."""
        return mean_over_draws(self.abs_rel)


class DepthTask(Task[DepthMap]):
    """AbsRel, RMSE and the share within 25 % for models that give every pixel a depth.

    The truth is a folder of `NAME.png` of 16 bits, in units of which option `units_per_metre` go into a metre (1000;
    KITTI has 256), or `NAME.npy` in metres; 0 is unknown.
    """

    name = "depth"
    decoders: ClassVar[Mapping[str, str]] = {"depth": "edgeq.tasks.depth:decode"}
    score_type = DepthScore
    finding_type = DepthBand
    records_type = DepthPredictions

    def __init__(self, source: Path, items: Sequence[Item], names: Sequence[str], maps: Sequence[Path]) -> None:
        super().__init__(source, items, names)
        self._maps = maps

    @classmethod
    def from_files(cls, annotations: Path | None, images_dir: Path, engine: str) -> Self:
        """Returns the task on the images of a folder, whose maps are called as they are.

        Raises:
            InputError: there is no folder of maps, or no map.
        """
        if annotations is None or not annotations.is_dir():
            raise InputError(
                "depth is scored on a folder of depth maps (16-bit NAME.png, or NAME.npy in metres); give `annotations`"
            )
        paths = list_images(images_dir)
        stems = [annotations / path.relative_to(images_dir) for path in paths]
        arrays = [stem.with_suffix(".npy") for stem in stems]
        maps = [each if each.is_file() else each.with_suffix(".png") for each in arrays]
        if not any(path.is_file() for path in maps):
            raise InputError(f"{annotations}: holds none of {len(stems)} maps, such as {maps[0].name}")
        return cls(annotations, image_files(paths), relative_names(paths, images_dir), maps)

    @classmethod
    def from_split(cls, split: Split, engine: str) -> Self:
        """Returns the task on images with a depth map each.

        Raises:
            InputError: the data set has none.
        """
        known = [(image, image.depth_map) for image in split.images if image.depth_map is not None]
        if not known:
            raise InputError(
                f"{split.source}: is {split.format} without depth maps; wanted a folder `depth` next to `images`, with "
                "a 16-bit NAME.png or a NAME.npy in metres for each image"
            )
        items, names = [image.item for image, _ in known], [image.name for image, _ in known]
        return cls(split.source, items, names, [depth_map for _, depth_map in known])

    def check(self, artifact: Artifact) -> None:
        """Raises nothing: depth has no classes."""

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Raises `InputError` where an image has no depth map, or one of another size."""
        found = self._read(number)
        if found.shape != image.shape[:2]:
            raise InputError(
                f"{self.paths[number]}: has {image.shape[1]}x{image.shape[0]} pixels, its depth map "
                f"{'x'.join(map(str, found.shape[::-1]))}; wanted the images that the maps belong to"
            )

    @classmethod
    def to_arrays(cls, prediction: DepthMap) -> Mapping[str, np.ndarray]:
        """Returns the values, and the eight numbers of the placement."""
        return {"values": prediction.values, "placement": np.array(list(vars(prediction.placement).values()), float)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> DepthMap:
        """Returns the depth map.

        Raises:
            ValueError: an array is missing, of another dtype or shape, or places no image.
        """
        found = {name: (array.dtype.name, array.ndim) for name, array in arrays.items()}
        require(found == {"values": ("float32", 2), "placement": ("float64", 1)}, f"arrays {found}")
        numbers = arrays["placement"].tolist()
        require(len(numbers) == 8 and min(numbers[:6]) > 0 and arrays["values"].size > 0, "a placement of no image")
        sizes = [int(number) for number in numbers[:4]]
        return DepthMap(arrays["values"], Placement(sizes[0], sizes[1], sizes[2], sizes[3], *numbers[4:]))

    @classmethod
    def findings(cls, artifact: Artifact, prediction: DepthMap) -> tuple[DepthBand, ...]:
        """Returns eight bands of about as many pixels, the nearest first; only metres have a scale to be named by."""
        is_inverse = bool(pick_options(_postprocessing(artifact), _OPTIONS)["inverse"])
        values = prediction.of_image()
        return depth_bands(-values if is_inverse else values, in_metres=not is_inverse)

    def true_findings(self, number: int, artifact: Artifact) -> tuple[DepthBand, ...]:
        """Returns the bands of the true depths; pixels without one are in none."""
        return depth_bands(self._true_metres(number, pick_options(_postprocessing(artifact), _OPTIONS)), in_metres=True)

    @classmethod
    def compare(
        cls, reference: Sequence[Finding], other: Sequence[Finding], truth: Sequence[Finding] | None
    ) -> tuple[Sequence[Finding], Sequence[Finding]]:
        """Returns the bands of both files as they are: a depth is neither found nor missed."""
        return reference, other

    def score(
        self, artifact: Artifact, predictions: Mapping[int, DepthMap], reference: Mapping[int, DepthMap]
    ) -> DepthScore:
        """Returns the means over the images."""
        records = self.per_image(artifact, predictions, reference)
        means = {name: float(getattr(records, name).mean()) for name in records.arrays}
        return DepthScore(**means)

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, DepthMap], reference: Mapping[int, DepthMap]
    ) -> DepthPredictions:
        """Returns the errors of each image."""
        options = pick_options(_postprocessing(artifact), _OPTIONS)
        numbers = sorted(predictions)
        errors = [self._errors(number, predictions[number], options) for number in numbers]
        return DepthPredictions(tuple(self.names[number] for number in numbers), *np.array(errors).T)

    def _errors(self, number: int, prediction: DepthMap, options: Mapping[str, float]) -> tuple[float, float, float]:
        truth = self._true_metres(number, options)
        known = np.isfinite(truth)
        if not known.any():
            raise InputError(f"{self._maps[number]}: has no pixel of known depth; wanted depths above 0")
        wanted, found = truth[known], prediction.of_image()[known].astype(np.float64)
        depth = np.maximum(_aligned(found, wanted) if options["inverse"] else found, _LEAST_M)
        error, ratio = depth - wanted, np.maximum(depth / wanted, wanted / depth)
        return float((np.abs(error) / wanted).mean()), float(np.sqrt((error**2).mean())), float((ratio < 1.25).mean())

    def _true_metres(self, number: int, options: Mapping[str, float]) -> NDArray[np.float64]:
        """Returns the true depths of an image, NaN where they are not known."""
        units = 1 if self._maps[number].suffix == ".npy" else options["units_per_metre"]
        truth = self._read(number).astype(np.float64) / units
        return np.where(np.isfinite(truth) & (truth > 0), truth, np.nan)

    def _read(self, number: int) -> NDArray[Any]:
        path = self._maps[number]
        if path.suffix == ".npy":
            found = read_array(path)
        else:
            with opened_map(path, "depth map") as image:
                found = np.asarray(image)
        if found.ndim != 2 or found.dtype.kind not in "iuf":
            raise InputError(f"{path}: is {found.dtype} {found.shape}; wanted one channel of depths")
        return found


def depth_bands(depth: NDArray[np.floating], *, in_metres: bool) -> tuple[DepthBand, ...]:
    """Returns bands of about as many pixels each, the nearest first; fewer if many pixels have one depth.

    Args:
        depth: `(H, W)`, the larger the further; NaN where it is not known.
        in_metres: Whether bands are named by their depths, and not by their numbers.
    """
    known = np.isfinite(depth)
    if not known.any():
        return ()
    ends = np.unique(np.quantile(depth[known], np.linspace(0, 1, _BANDS + 1)))
    numbers = np.clip(np.searchsorted(ends, depth, side="right") - 1, 0, max(len(ends) - 2, 0))
    bands = max(len(ends) - 1, 1)
    found = []
    for number in range(bands):
        pixels = known & (numbers == number)
        label = (
            f"{ends[number]:.3g} to {ends[min(number + 1, len(ends) - 1)]:.3g} m" if in_metres else f"band {number + 1}"
        )
        found.append(
            DepthBand(label, number, share=float(pixels.mean()), segmentation=PixelSet.of(pixels), bands=bands)
        )
    return tuple(found)


def _postprocessing(artifact: Artifact) -> Postprocessing:
    assert artifact.postprocessing is not None  # noqa: S101 - it names the decoder by which this task was chosen
    return artifact.postprocessing


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> DepthMap:
    """Returns the depth map of one image, as the model gives it.

    Args:
        outputs: Role `depth`: `(1, 1, h, w)` or `(1, h, w)`: metres, or with option `inverse` 1 inverse depth up to
            scale and shift, which are fitted to the truth ("Towards Robust Monocular Depth Estimation", Ranftl et al.,
            2020).
        post: Options `inverse` and `units_per_metre`, of which the second is about the truth.
        placement: Where the image lies in the input.

    Raises:
        ModelError: the output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or option.
    """
    pick_options(post, _OPTIONS)
    depth = pick_outputs(outputs, post, {"depth": "depth"})["depth"]
    if depth.ndim not in (3, 4) or depth.size != int(np.prod(depth.shape[-2:])) or not depth.size:
        raise ModelError(
            f"decoder {post.decoder}: wanted a depth map (1, 1, h, w) or (1, h, w), found {describe(outputs)}"
        )
    if not np.isfinite(depth).all():
        raise ModelError("computed depths that are not finite numbers; it is broken")
    return DepthMap(depth.reshape(depth.shape[-2:]), placement)


def _aligned(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns depths for inverse depths, with the scale and shift that fit the true inverse depths best."""
    terms = np.stack([found, np.ones_like(found)], axis=1)
    (scale, shift), *_ = np.linalg.lstsq(terms, 1 / wanted, rcond=None)
    inverse: NDArray[np.float64] = scale * found + shift
    # What would lie behind the camera lies as far as anything that is known.
    depth: NDArray[np.float64] = 1 / np.maximum(inverse, 1 / wanted.max())
    return depth
