"""`edgeq.study` and `edgeq.study_bundle`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeq.api.arguments import FilePath, Listener, optional_path, path, reporting, require_positive, scored_data
from edgeq.api.model import Model, require_model
from edgeq.errors import InputError
from edgeq.results.study import StudyResult
from edgeq.studying.model import TARGET
from edgeq.studying.space import Sample, read_space, with_axes
from edgeq.tuning.workers import executing
from edgeq.verbs.export_weights import MOST_IMAGES
from edgeq.verbs.sensitivity import calibration_of
from edgeq.verbs.study import StudyOptions, study_model
from edgeq.verbs.study_bundle import BundleSubject
from edgeq.verbs.study_bundle import study_bundle as study_parts


def study(
    model: Model,
    data: FilePath,
    *,
    space: FilePath | None = None,
    template: str | None = None,
    axis: Mapping[str, Sequence[str | int]] | None = None,
    blocks: int | None = None,
    mixed: bool = False,
    sample: Sample = "grid",
    trials: int | None = None,
    max_drop: float = StudyOptions.max_drop,
    margin: float | None = None,
    useful_drop: float | None = None,
    images: int | None = None,
    calib: FilePath | None = None,
    num: int = MOST_IMAGES,
    split: str | None = None,
    allow_outside: bool = False,
    map: Mapping[str, str] | None = None,
    seed: int = 0,
    out: FilePath = "study",
    store: FilePath | None = None,
    threads: int | None = None,
    measure: bool = True,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Listener = None,
) -> StudyResult:
    """Returns what weights of few bits cost the score of a model, over a space of choices.

    The page, the table of trials and the figures are written to `out`. What the store and `out` hold is not computed
    again, so the same call resumes a study that was cut.

    Args:
        model: What `edgeq.load` returned, with a preset that names a decoder.
        data: A data set of any format that `edgeq data` knows.
        space: A TOML file with the axes.
        template: Instead of it, a study that ships with edgeq: `weights-bits` or `vit-layers`.
        axis: Name of an axis -> its values, instead of those of `space` or `template`: `bits`, `granularity`, `method`,
            `calibration`, `activation`, `component`, `block`, `layer`.
        blocks: Number of groups of blocks; 3 are `front`, `middle` and `end`.
        mixed: Whether each component, group of blocks and kind of layer has its own bits.
        sample: Whether all choices are tried (`grid`), or some: drawn (`random`), spread evenly (`sobol`), or chosen
            where the front is in doubt (`adaptive`).
        trials: How many to try, for all but `grid`.
        max_drop: Points of the score that a recommended trial may lose.
        margin: Points within which it must hold on the other half of the images; by default what so many can confirm.
        useful_drop: A trial that loses as many points is useless; by default a tenth of FP32's score.
        images: Maximum number of images to score on, evenly spaced; by default all.
        calib: Images that methods go by; by default those of `data` that are for calibration.
        num: Maximum number of calibration images.
        split: Split of `data` to score on; by default `val`, or else `test`.
        allow_outside: Whether files may be read that `data` names outside its own folder.
        map: Class name of the model -> name of the same class in `data`.
        seed: Draws trials, halves of the images and forests.
        out: Folder for the report and the weights.
        store: File that trials are kept in, which several runs may share; by default `trials.sqlite` in `out`.
        threads: CPU threads of the engine; by default one per physical core, and one per worker.
        measure: Whether the files of the front's points are written and timed in turns with FP32.
        workers: Number of processes on this machine that predict images; by default this process alone.
        scheduler: Address of the scheduler of a Dask cluster whose workers predict images, as `tcp://host:8786`.
        progress: Called for each job, returns an `edgeq.Progress`.

    Raises:
        InputError: an argument cannot be used, the axes name nothing that the model has, or there is nothing to score.
        ModelError: the model cannot be opened.
        MissingDependencyError: a package for the report is not installed.
        EngineError: an engine refuses or fails to run a file.
    """
    require_model(model)
    for name, value in {"images": images, "num": num, "threads": threads, "trials": trials}.items():
        require_positive(value, name)
    asked = with_axes(read_space(optional_path(space, "space"), template), axis or {}, blocks, mixed or None)
    folder = path(data, "data")
    scored = scored_data(folder, split, allow_outside, map, others=())
    if scored is None:
        raise InputError("`data`: wanted a data set to score on")
    source = calibration_of(folder, optional_path(calib, "calib"), num, allow_outside=allow_outside)
    with reporting(progress), executing(workers, scheduler) as executor:
        return study_model(
            model.request(TARGET),
            scored,
            source,
            asked,
            path(out, "out"),
            options=StudyOptions(sample, trials, images, max_drop, margin, useful_drop, seed, threads, measure),
            store=optional_path(store, "store"),
            executor=executor,
        ).result


def study_bundle(
    bundle: FilePath,
    task: str,
    data: FilePath,
    *,
    space: FilePath | None = None,
    template: str | None = None,
    axis: Mapping[str, Sequence[str | int]] | None = None,
    blocks: int | None = None,
    mixed: bool = False,
    sample: Sample = "grid",
    trials: int | None = None,
    max_drop: float = StudyOptions.max_drop,
    margin: float | None = None,
    useful_drop: float | None = None,
    images: int | None = None,
    calib: FilePath | None = None,
    num: int = MOST_IMAGES,
    prompt: str = "",
    max_tokens: int = 32,
    seed: int = 0,
    out: FilePath = "study",
    store: FilePath | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
) -> StudyResult:
    """Returns what weights of few bits cost the answers of a model in parts, over a space of choices.

    Args:
        bundle: Folder of `edgeq.export_bundle`, in FP32.
        task: `transcription`, `vqa`, `captioning` or `object-presence`.
        data: The questions, as `edgeq.evaluate_bundles` reads them; images lie in its folder.
        space: A TOML file with the axes.
        template: Instead of it, a study that ships with edgeq: `vlm-components`.
        axis: Name of an axis -> its values, instead of those of `space` or `template`.
        blocks: Number of groups of blocks of each part; 3 are `front`, `middle` and `end`.
        mixed: Whether each part, group of blocks and kind of layer has its own bits.
        sample: Whether all choices are tried (`grid`), or some: drawn (`random`), spread evenly (`sobol`), or chosen
            where the front is in doubt (`adaptive`).
        trials: How many to try, for all but `grid`.
        max_drop: Points of the score that a recommended trial may lose.
        margin: Points within which it must hold on the other half of the images; by default what so many can confirm.
        useful_drop: A trial that loses as many points is useless; by default a tenth of FP32's score.
        images: Maximum number of questions to score on, evenly spaced; by default all.
        calib: Questions with the answers that methods go by.
        num: Maximum number of them.
        prompt: Prompt with `{question}` and `<image>` in their places; by default the image, then the question.
        max_tokens: Maximum tokens of an answer.
        seed: Draws trials, halves of the questions and forests.
        out: Folder for the report and the weights.
        store: File that trials are kept in, which several runs may share; by default `trials.sqlite` in `out`.
        threads: CPU threads of the engine; by default one per physical core, and one per worker.
        workers: Number of processes on this machine that answer; by default this process alone.
        scheduler: Address of the scheduler of a Dask cluster whose workers answer, as `tcp://host:8786`.

    Raises:
        InputError: an argument cannot be used, the axes name nothing that the model has, or it is not in FP32.
        MissingDependencyError: a package for the report is not installed.
        EngineError: the engine refuses or fails to run a file.
    """
    for name, value in {"images": images, "num": num, "threads": threads, "trials": trials}.items():
        require_positive(value, name)
    asked = with_axes(read_space(optional_path(space, "space"), template), axis or {}, blocks, mixed or None)
    questions = optional_path(calib, "calib")
    subject = BundleSubject(path(bundle, "bundle"), task, path(data, "data"), questions, num, prompt, max_tokens)
    with executing(workers, scheduler) as executor:
        return study_parts(
            subject,
            asked,
            path(out, "out"),
            options=StudyOptions(sample, trials, images, max_drop, margin, useful_drop, seed, threads),
            store=optional_path(store, "store"),
            executor=executor,
        ).result
