"""`edgeq eval`: scores of detectors, classifiers and embeddings, each in the engine that is to run it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeq.datasets import Split
from edgeq.errors import EngineError, InputError
from edgeq.evaluation.dataset import Dataset, dataset_of, load_dataset
from edgeq.evaluation.execution_site import HERE, Place
from edgeq.evaluation.inference import Job
from edgeq.evaluation.preset_proof import AnnotatedImages, open_recognised
from edgeq.evaluation.saturation_warning import warn_of_saturation
from edgeq.exporting.artifact import Artifact, manifest_path
from edgeq.inputs.presets import Labels, preset_advice
from edgeq.machine import read_machine
from edgeq.notes import log_of
from edgeq.results.environment import parse_environment
from edgeq.results.evaluation import EvalResult, ReferenceModel, Score
from edgeq.runtimes import SIMULATED, get_runtime, simulation_of
from edgeq.tasks import Task
from edgeq.tasks.prediction_records import PredictionRecords, pack_predictions

# Share of the values of pre-processing that an integer input may cut off without a warning.
_MAX_CLIPPED = 0.1
# An 8-bit input has 255 steps; one that pre-processing uses fewer of is made for other values.
_MIN_STEPS = 64

_log = log_of(__name__)


def evaluate_artifacts(
    paths: Sequence[Path],
    annotations: Path | None = None,
    images_dir: Path | None = None,
    *,
    data: Split | None = None,
    runtimes: Sequence[str] = (),
    simulate: str | None = None,
    compute_precisions: Sequence[str] = (),
    threads: int | None = None,
    engine: str = "pycocotools",
    preset: str | None = None,
    labels: Labels | None = None,
    reference: Path | None = None,
    place: Place = HERE,
) -> list[EvalResult[Score]]:
    """Returns one result for each artifact, runtime and compute precision, in this order.

    The decoder that the manifest or preset names decides the task, and with it the type of the score.

    Args:
        paths: Model files, or their manifests.
        annotations: The truth, as the task reads it: a COCO annotation file, a classifier's labels (see
            `edgeq.tasks.labelled_images.load_labelled_images`), masks, ...; `None` where `images_dir` has one
            sub-folder a class, and for embeddings of images without classes.
        images_dir: Folder of its images.
        data: Instead of these two, a part of a data set of any format (`edgeq.datasets.open_split`).
        runtimes: Runtimes to run each in; by default the first of its target that is installed.
        simulate: A target whose engine is simulated on the CPU, instead of runtimes.
        compute_precisions: What float layers are computed in (`f32`, `bf16`, `f16`); by default f32 for an `fp32` file
            and the engine's choice for every other.
        threads: CPU threads of the engine; `None` leaves it to the engine.
        engine: COCO evaluator, see `edgeq.tasks.detection.coco.evaluate`.
        preset: How files without a manifest are fed and decoded: a name or a TOML file; by default it is recognised.
        labels: Class names for files without a manifest, see `edgeq.inputs.presets.parse_labels`.
        reference: The float model that embeddings are compared with, run once, in the first file's runtime if that
            reads it; by default the `fp32` file among `paths` that was made from the same model, in the same runtime
            if it is run there.
        place: Where the files are run; scores are computed here.

    Raises:
        InputError: a file, runtime or evaluator cannot be used, an artifact names no decoder or knows other classes
            than the annotations, its input is not described, there is no float model to compare with, or more than
            5 % of the images cannot be read.
        MismatchError: a file is not the one that its manifest describes.
        ModelError: the decoder does not know the model's outputs.
        MissingDependencyError: the engine or evaluator is not installed.
        EngineError: the engine refuses or fails to run a file.
    """
    known = AnnotatedImages.of(annotations, images_dir, data)
    artifacts = [open_recognised(path, preset, labels, known) for path in paths]
    float_model = None if reference is None else open_reference(reference, preset, labels)
    scoring = _Scoring.of(artifacts, float_model, runtimes, simulate, compute_precisions, place)
    if data is not None:
        dataset = dataset_of(scoring.task.name, data, engine=engine, cache_bytes=0)
    elif images_dir is not None:
        dataset = load_dataset(scoring.task.name, annotations, images_dir, engine=engine, cache_bytes=0)
    else:
        raise InputError("nothing to score on; give `data`, or `images` with `annotations`")
    return scoring.results(dataset, threads, place)


def evaluate(
    artifacts: Sequence[Artifact],
    dataset: Dataset,
    *,
    runtimes: Sequence[str] = (),
    simulate: str | None = None,
    compute_precisions: Sequence[str] = (),
    threads: int | None = None,
    reference: Artifact | None = None,
    place: Place = HERE,
) -> list[EvalResult[Score]]:
    """Returns what `evaluate_artifacts` does, on a data set that is open already and may be scored on again.

    Args:
        artifacts: Open artifacts with pre-processing and a decoder.
        dataset: See `edgeq.evaluation.dataset.load_dataset`.
        runtimes: See `evaluate_artifacts`.
        simulate: See `evaluate_artifacts`.
        compute_precisions: See `evaluate_artifacts`.
        threads: See `evaluate_artifacts`.
        reference: See `evaluate_artifacts`.
        place: See `evaluate_artifacts`.

    Raises:
        EdgeqError: see `evaluate_artifacts`; the data set is for another task than the artifacts.
    """
    scoring = _Scoring.of(artifacts, reference, runtimes, simulate, compute_precisions, place)
    return scoring.results(dataset, threads, place)


@dataclass(frozen=True)
class _Scoring:
    """What is scored, checked as far as possible without the data set.

    Attributes:
        jobs: One for each result.
        references: For each of them the job that it is compared with, if its task wants one.
        task: The task of all.
    """

    jobs: list[Job]
    references: list[Job | None]
    task: type[Task[Any]]

    @classmethod
    def of(
        cls,
        artifacts: Sequence[Artifact],
        reference: Artifact | None,
        runtimes: Sequence[str],
        simulate: str | None,
        compute_precisions: Sequence[str],
        place: Place,
    ) -> _Scoring:
        if not artifacts:
            raise InputError("no artifact to score; name at least one file that `edgeq export` wrote")
        if simulate is not None:
            if runtimes:
                raise InputError(
                    f"`simulate` {simulate} cannot be combined with `runtime`: the simulation is a runtime"
                )
            runtimes = (simulation_of(simulate),)
        for runtime in runtimes:
            get_runtime(runtime)
        jobs = [
            make_job(artifact, runtime, compute)
            for artifact in artifacts
            for runtime in place.choose_runtimes(artifact, runtimes)
            for compute in (compute_precisions or (None,))
        ]
        given = None if reference is None else _float_job(reference, jobs[0].runtime, place)
        task = common_task(_each([*jobs, given]))
        return cls(jobs, _references(jobs, task, given), task)

    def results(self, dataset: Dataset, threads: int | None, place: Place) -> list[EvalResult[Score]]:
        """Returns one result for each job."""
        task, everyone = dataset.task, _each([*self.jobs, *self.references])
        if task.name != self.task.name:
            raise InputError(
                f"{everyone[0].artifact.name} is for {self.task.name} and the data set for {task.name}; load the data "
                "set for the task of the artifacts"
            )
        for job in everyone:
            task.check(job.artifact)
        for job, compared in zip(self.jobs, self.references, strict=True):
            if compared is not None:
                task.check_reference(job.artifact, compared.artifact)
        if place.is_here:
            for job in self.jobs:
                warn_of_saturation(job.artifact, job.runtime, read_machine())
        place.predict(everyone, task, threads, dataset.inputs)
        return [_result(job, task, compared) for job, compared in zip(self.jobs, self.references, strict=True)]


def make_job(artifact: Artifact, runtime: str, compute: str | None) -> Job:
    """Returns a job that was checked as far as possible without the data set."""
    if artifact.preprocessing is None:
        raise InputError(
            f"{artifact.path}: has no manifest next to it ({artifact.manifest_path.name}) that says how images are "
            f"prepared and outputs are read; give `preset`, {preset_advice()}"
        )
    if artifact.postprocessing is None:
        raise InputError(
            f"{artifact.path}: its manifest or preset names no decoder, so it cannot be scored; export it with a "
            "`preset` that has one"
        )
    if len(artifact.inputs) != 1:
        names = ", ".join(spec.name for spec in artifact.inputs)
        raise InputError(f"{artifact.path}: takes {len(artifact.inputs)} inputs ({names}), wanted a single image")
    job = Job(artifact, artifact.preprocessing, artifact.postprocessing, runtime, compute)
    _check_input(job)
    return job


def _check_input(job: Job) -> None:
    """Refuses integer inputs that nothing is known about, and warns of those that cannot hold the input's values."""
    spec = job.input
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        return
    if spec.scale is None:
        raise InputError(
            f"{job.artifact.path}: its input {spec.name!r} is {spec.dtype} without a scale, but pre-processing gives "
            "real numbers; wanted scale and zero_point in its manifest, or a float input"
        )
    limits = spec.decode(np.array([np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max]))
    least, most = job.preprocessing.value_range
    if (
        max(limits[0] - least, most - limits[1]) > _MAX_CLIPPED * (most - least)
        or most - least < _MIN_STEPS * spec.scale
    ):
        _log.warning(
            "%s: its input holds %.3g to %.3g in steps of %.3g, but pre-processing gives %.3g to %.3g; is it the "
            "right one?",
            *(job.artifact.name, *limits, spec.scale, least, most),
        )


def common_task(jobs: Sequence[Job]) -> type[Task[Any]]:
    """Returns the task of all jobs, which share one data set."""
    first = jobs[0].decoder.task
    for job in jobs:
        other = job.decoder.task
        if other is not first:
            raise InputError(
                f"{jobs[0].artifact.name} is for {first.name} and {job.artifact.name} for {other.name}; score them in "
                "two commands, each with its own data"
            )
    return first


def open_reference(path: Path, preset: str | None, labels: Labels | None) -> Artifact:
    """Returns the artifact of `reference`; preset and labels count if the file has no manifest."""
    described = path.suffix == ".json" or manifest_path(path).is_file()
    return open_recognised(path, *((None, None) if described else (preset, labels)), None)


def _float_job(artifact: Artifact, runtime: str, place: Place) -> Job:
    """Returns the job of the float model that others are compared with, in that runtime if it reads the file."""
    reads = artifact.format in get_runtime(runtime).formats
    return make_job(artifact, runtime if reads else place.choose_runtimes(artifact, ())[0], None)


def _references(jobs: Sequence[Job], task: type[Task[Any]], given: Job | None) -> list[Job | None]:
    """Returns the job that each is compared with: the given one, or the FP32 file of the same model among them."""
    if not task.needs_reference:
        if given is not None:
            raise InputError(
                f"`reference` {given.artifact.name}: only embeddings are compared with one, and these files are for "
                f"{task.name}"
            )
        return [None] * len(jobs)
    if given is not None:
        key = (given.artifact.digest, given.runtime)
        same = (job for job in jobs if job.is_float and (job.artifact.digest, job.runtime) == key)
        return [next(same, given)] * len(jobs)
    return [_float_sibling(job, jobs) for job in jobs]


def _float_sibling(job: Job, jobs: Sequence[Job]) -> Job:
    origin = job.artifact.source_digest
    found = [other for other in jobs if other.is_float and origin and other.artifact.source_digest == origin]
    if not found:
        raise InputError(
            f"{job.artifact.name}: its embeddings are scored against the float model's; name the fp32 file of the same "
            "model too, or give `reference` FILE"
        )
    return next((other for other in found if other.runtime == job.runtime), found[0])


def _each(jobs: Sequence[Job | None]) -> list[Job]:
    """Returns every job once, in order."""
    return list(dict.fromkeys(job for job in jobs if job is not None))


def _result(job: Job, task: Task[Any], reference: Job | None) -> EvalResult[Score]:
    images = len(job.predictions)
    obtained = obtained_by(job.runtime, job.environment)
    timed = images - job.reused if obtained == "measured" else 0
    compared = reference.predictions if reference else {}
    score = task.score(job.artifact, job.predictions, compared)
    suspicions = tuple(task.suspicions(job.artifact, job.predictions, score))
    for suspicion in suspicions:
        _log.warning("%s in %s: %s", job.artifact.name, job.runtime, suspicion.text)
    return EvalResult(
        artifact=job.artifact.name,
        digest=job.artifact.digest,
        source_digest=job.artifact.source_digest,
        target=job.artifact.target,
        runtime=job.runtime,
        precision=job.artifact.precision,
        task=task.name,
        images=images,
        score=score,
        suspicions=suspicions,
        reference=_name(reference) if reference else None,
        skipped_images=tuple(job.skipped),
        inference_images_per_s=timed / job.inference_s if timed else None,
        eval_images_per_s=timed / job.total_s if timed else None,
        annotations=task.source.name,
        environment=parse_environment(job.environment, source=job.artifact.name, error=EngineError),
        signal=job.artifact.quantization_facts.signal_course,
        obtained=obtained,
        predictions=pack_predictions(_records(job, task, compared)),
    )


def _records(job: Job, task: Task[Any], compared: dict[int, Any]) -> PredictionRecords:
    """Returns what reports and gates need of each image, and what pictures show of some."""
    records = task.per_image(job.artifact, job.predictions, compared)
    shown = task.shown(job.artifact, job.predictions)
    return dataclasses.replace(records, shown=shown) if shown else records


def obtained_by(runtime: str, environment: Mapping[str, Any]) -> Literal["measured", "simulated", "emulated"]:
    """Returns how scores were obtained.

    Args:
        runtime: Name of the runtime.
        environment: What its session says (`edgeq.runtimes.Session.environment`).
    """
    if runtime in SIMULATED:
        return "simulated"
    return "emulated" if environment.get("emulated") else "measured"


def _name(job: Job) -> ReferenceModel:
    return ReferenceModel(artifact=job.artifact.name, digest=job.artifact.digest, runtime=job.runtime)
