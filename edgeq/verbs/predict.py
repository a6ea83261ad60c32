"""`edgeq predict`: what a file finds in images, as pictures and as files for other programs."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.datasets import Split
from edgeq.devices.config import LOCAL, find_devices
from edgeq.devices.remote import RemoteDevice, named_errors
from edgeq.errors import InputError
from edgeq.evaluation.device_site import DevicePlace
from edgeq.evaluation.evaluate import common_task, make_job, open_reference
from edgeq.evaluation.execution_site import HERE, Place
from edgeq.evaluation.findings import (
    ComparedFindings,
    ImagePrediction,
    caption,
    draw_picture,
    save_picture,
)
from edgeq.evaluation.inference import Job
from edgeq.evaluation.prediction_codec import pack_prediction, unpack_prediction
from edgeq.evaluation.prediction_stream import streamed
from edgeq.evaluation.preset_proof import AnnotatedImages, open_recognised
from edgeq.evaluation.shown_images import Files, Part, Video, find_images
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_file
from edgeq.inputs import InputCache
from edgeq.inputs.presets import Labels
from edgeq.notes import log_of
from edgeq.progress import labelled
from edgeq.resume import JobLog
from edgeq.tasks import Task
from edgeq.tasks.agreement import from_threshold
from edgeq.tasks.evidence import Finding
from edgeq.tasks.labelled_images import relative_names

OnPrediction = Callable[[int, ImagePrediction], None]
"""Told the position of an image and what was found in it; after an interruption the finished ones come first."""

_log = log_of(__name__)


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What is run, and what is made of it.

    Attributes:
        preset: How a file without a manifest is fed and decoded: a name or a TOML file.
        labels: Class names of a file without a manifest.
        runtime: Runtime; by default the first of the file's target that is installed.
        compute: Precision that float layers are computed in.
        threads: CPU threads of the engine.
        device: Name of the device that runs the files.
        threshold: Score from which findings are shown; by default the task's.
        compare: Another file, shown next to the first.
        annotations: The truth about the images of one folder, shown too.
        data: A part of a data set with its truth, instead of other images.
        formats: Further files to write, by the names of `Task.result_files`.
        every: Of a video, every so many-th frame is taken.
    """

    preset: str | None = None
    labels: Labels | None = None
    runtime: str | None = None
    compute: str | None = None
    threads: int | None = None
    device: str = LOCAL
    threshold: float | None = None
    compare: Path | None = None
    annotations: Path | None = None
    data: Split | None = None
    formats: tuple[str, ...] = ()
    every: int | None = None


@dataclass(frozen=True)
class PredictResult:
    """What `predict` has done.

    Attributes:
        images: How many images were run.
        shown: How many findings are shown in them.
        threshold: Score from which findings are shown.
        resumed: How many of the images an interrupted run had finished.
        out: Folder of what was written; `None` if nothing was.
    """

    images: int
    shown: int
    threshold: float
    resumed: int
    out: Path | None


def predict(
    model: Path,
    sources: Sequence[Path],
    out: Path | None,
    options: PredictOptions,
    on_prediction: OnPrediction = lambda _number, _prediction: None,
) -> PredictResult:
    """Runs a file on images, and writes a picture of each with what it finds.

    Pictures have the images' names and appear whole. The same call after an interruption goes on where that was cut.

    Args:
        model: A model file, or its manifest.
        sources: Image files, folders and text files of paths; or one video; nothing with `data`.
        out: Folder for pictures and files; `None` writes nothing.
        options: What is run, and what is made of it.
        on_prediction: Told what was found in each image.

    Raises:
        InputError: a file, an image or an option cannot be used, no image can be read, or the folder cannot be written.
        MismatchError: a file is not the one that its manifest describes.
        ModelError: the decoder does not know the model's outputs.
        MissingDependencyError: an engine, or PyAV for a video, is not installed.
        EngineError: the engine refuses or fails to run a file.
        DeviceError: the device cannot be reached.
    """
    if options.data is not None and options.every is not None:
        raise InputError("`every`: is for the frames of a video, and `data` holds images; omit `every`")
    known = None if options.data is None else AnnotatedImages.of(None, None, options.data)
    artifacts = [open_recognised(model, options.preset, options.labels, known)]
    if options.compare is not None:
        artifacts.append(open_reference(options.compare, options.preset, options.labels))
    with _place(options.device) as place:
        wished = [options.runtime] if options.runtime else []
        jobs = [make_job(each, place.choose_runtimes(each, wished)[0], options.compute) for each in artifacts]
        task = common_task(jobs)
        if task.finding_type is None:
            raise InputError(f"{artifacts[0].name} is for {task.name}, of which there is nothing to show")
        images = _images(task, sources, options)
        if isinstance(images, Video):
            _check_video(jobs, options)
        shower = _Shower(task, artifacts, images, out, options, on_prediction)
        resumed = shower.resume(_log_of(jobs, out, options)) if place is HERE and out is not None else 0
        rest = shower.rest()
        if rest is not None:
            place.predict(streamed(jobs, shower.take), rest, options.threads, InputCache(0))
        if isinstance(place, DevicePlace):
            place.forget()
    return shower.close(resumed)


class _Shower:
    """Takes what files say about images, and makes pictures and files of it."""

    def __init__(
        self,
        task: type[Task[Any]],
        artifacts: Sequence[Artifact],
        images: Files | Video,
        out: Path | None,
        options: PredictOptions,
        on_prediction: OnPrediction,
    ) -> None:
        self._task = task
        self._artifacts = artifacts
        self._images = images
        self._out = out
        self._on_prediction = on_prediction
        self._threshold = task.show_from if options.threshold is None else options.threshold
        self._dataset = images.dataset if isinstance(images, Files) else None
        if self._dataset is not None:
            for artifact in artifacts:
                self._dataset.check(artifact)
        self._files = [self._open_format(name) for name in options.formats]
        if out is not None and isinstance(images, Files):
            _keep_apart(images, out)
        self._log: JobLog | None = None
        self._digests: dict[int, str] = {}
        self._rest: list[int] | None = None
        self._count = self._shown = 0

    def resume(self, log: JobLog) -> int:
        """Takes what an interrupted run has finished, has the rest noted as it comes, and returns how many that was."""
        if not isinstance(self._images, Files):
            return 0
        self._log = log
        known = {str(part.get("image")): part for part in log.parts()}
        self._rest = []
        for number, item in enumerate(self._images.items):
            with contextlib.suppress(InputError):  # what cannot be read is for the run to say
                self._digests[number] = item.digest()
            done = known.get(self._digests.get(number, ""))
            if done is None or not self._take_again(number, done):
                self._rest.append(number)
        return len(self._images.paths) - len(self._rest)

    def rest(self) -> Files | Part | Video | None:
        """Returns the images that are left to run; `None` if all are done."""
        if self._rest is None or not isinstance(self._images, Files):
            return self._images
        return Part(self._images, self._rest) if self._rest else None

    def take(self, position: int, predictions: list[Any]) -> None:
        """Takes what the files say about an image, by its position in `rest`."""
        number = position if self._rest is None else self._rest[position]
        self._show(number, predictions, draw=True)
        if self._log is not None and number in self._digests:
            packed = [pack_prediction(self._task, prediction) for prediction in predictions]
            size = list(self._images.size_px(number))
            self._log.add({"image": self._digests[number], "size_px": size, "predictions": packed})

    def close(self, resumed: int) -> PredictResult:
        """Writes what is about all images, and returns what was done.

        Raises:
            InputError: no image could be read.
        """
        if not self._count:
            raise InputError("none of the images can be read; the warnings above say why")
        for file in self._files:
            file.close()
        if self._log is not None:
            self._log.remove()
        if not self._shown:
            _log.warning(
                "nothing reaches a score of %.2g in any of the %d images; lower `threshold`, or check that the preset "
                "is that of the model",
                *(self._threshold, self._count),
            )
        return PredictResult(self._count, self._shown, self._threshold, resumed, self._out)

    def _open_format(self, name: str) -> Any:
        kinds = self._task.result_files()
        if name not in kinds:
            wanted = f"wanted {' or '.join(kinds)}" if kinds else "it has none; omit `format`"
            raise InputError(f"`format` {name!r}: is not a format for {self._task.name}; {wanted}")
        if self._out is None:
            raise InputError(f"`format` {name}: needs a folder to write to; give `out`")
        return kinds[name](self._artifacts[0], self._dataset, self._out)

    def _take_again(self, number: int, part: dict[str, Any]) -> bool:
        """Returns whether what an earlier run noted of an image can be used, and takes it."""
        try:
            width, height = part["size_px"]
            predictions = [unpack_prediction(self._task, packed) for packed in part["predictions"]]
        except (InputError, KeyError, TypeError, ValueError):
            return False
        if len(predictions) != len(self._artifacts) or not isinstance(self._images, Files):
            return False
        self._images.note_size(number, (width, height))
        self._show(number, predictions, draw=not self._picture_path(number).is_file())
        return True

    def _show(self, number: int, predictions: Sequence[Any], *, draw: bool) -> None:
        findings = [
            tuple(self._task.findings(artifact, prediction))
            for artifact, prediction in zip(self._artifacts, predictions, strict=True)
        ]
        shown: list[Sequence[Finding]] = [from_threshold(each, self._threshold) for each in findings]
        truth = None if self._dataset is None else self._dataset.true_findings(number, self._artifacts[0])
        compared = None
        if len(shown) == 2:
            shown = list(self._task.compare(shown[0], shown[1], truth))
            compared = ComparedFindings(reference=tuple(shown[0]), other=tuple(shown[1]))
        name, (width, height) = self._images.name(number), self._images.size_px(number)
        if draw and self._out is not None:
            panels = [(caption(each.name, seen), seen) for each, seen in zip(self._artifacts, shown, strict=True)]
            panels += [] if truth is None else [(caption("annotated", truth), truth)]
            picture = draw_picture(self._task, self._images.pixels(number), panels)
            save_picture(self._picture_path(number), picture)
        elif isinstance(self._images, Video):
            self._images.pixels(number)  # lets the frame go
        for file in self._files:
            file.add(number, name, (width, height), findings[0])
        self._count += 1
        self._shown += len(shown[0])
        prediction = ImagePrediction(
            image=name, width_px=width, height_px=height, threshold=self._threshold, findings=findings[0],
            compared=compared,
        )  # fmt: skip
        self._on_prediction(number, prediction)

    def _picture_path(self, number: int) -> Path:
        assert self._out is not None  # noqa: S101 - pictures are only asked for with a folder
        return self._out / self._images.name(number)


def _images(task: type[Task[Any]], sources: Sequence[Path], options: PredictOptions) -> Files | Video:
    if options.data is not None:
        dataset = task.from_split(options.data, "pycocotools")
        return Files(dataset.items, dataset.names, dataset)
    if options.annotations is None:
        return find_images(sources, options.every)
    if len(sources) != 1 or not sources[0].is_dir():
        raise InputError(f"`annotations` {options.annotations}: names images of one folder; give that folder alone")
    dataset = task.from_files(options.annotations, sources[0], "pycocotools")
    return Files(dataset.items, relative_names(dataset.paths, sources[0]), dataset)


def _check_video(jobs: Sequence[Job], options: PredictOptions) -> None:
    if options.device != LOCAL:
        raise InputError(f"`device` {options.device}: videos are read on this machine only; give image files")
    if len({job.preprocessing for job in jobs}) > 1:
        names = " and ".join(job.artifact.name for job in jobs)
        raise InputError(
            f"{names} prepare images differently, so a video would have to be read twice; give image files"
        )


def _keep_apart(images: Files, out: Path) -> None:
    """Refuses to write pictures over the images."""
    sources = {path.resolve() for path in images.paths}
    for number, _ in enumerate(images.paths):
        if (out / images.name(number)).resolve() in sources:
            raise InputError(f"`out` {out}: would write pictures over the images; choose another folder")


def _log_of(jobs: Sequence[Job], out: Path, options: PredictOptions) -> JobLog:
    """Returns the log of what was predicted and drawn so far with the same files and options."""
    key = {
        "out": str(out.resolve()),
        "jobs": [[job.artifact.to_json(), job.runtime, job.compute_precision] for job in jobs],
        "threads": options.threads,
        "threshold": options.threshold,
        "annotations": _truth_digest(options),
        "formats": list(options.formats),
    }
    return JobLog.in_cache("predict", key)


def _truth_digest(options: PredictOptions) -> str | None:
    """Returns what tells one truth about the images from another; `None` without any."""
    if options.data is not None:
        known = repr((options.data.source, options.data.name, options.data.class_map, options.data.images))
        return hashlib.sha256(known.encode()).hexdigest()
    if options.annotations is None:
        return None
    files = sorted(options.annotations.rglob("*")) if options.annotations.is_dir() else [options.annotations]
    digests = [sha256_file(path) for path in files if path.is_file()]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@contextlib.contextmanager
def _place(name: str) -> Iterator[Place]:
    """Yields the place of that name, connected."""
    (device,) = find_devices([name])
    if device.name == LOCAL:
        yield HERE
        return
    remote = RemoteDevice(device)
    with labelled(device.name), named_errors(device.name), remote:
        yield DevicePlace(device, remote)
