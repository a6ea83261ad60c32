"""`edgeq study` of a bundle: what weights of few bits cost the answers of a model in parts."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgeq.bundles.manifest import Bundle
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.generation.answers import AnswerOptions
from edgeq.generation.model import Prompt
from edgeq.generation.parts import artifact_of
from edgeq.generation.prompts import PromptMaker
from edgeq.generation.samples import answered_prompts
from edgeq.generation.tokenizer import tokenizer_of
from edgeq.quantizers.recipes import get_recipe
from edgeq.studying.assembly import Assembler
from edgeq.studying.bundle_layers import find_bundle_layers, in_part
from edgeq.studying.bundle_model import BundleModel
from edgeq.studying.bundle_weights import gather_feeds
from edgeq.studying.commands import bundle_command
from edgeq.studying.costs import StudyCost
from edgeq.studying.model import in_pieces
from edgeq.studying.run import StudyRun
from edgeq.studying.space import LEFT_ALONE, Space
from edgeq.studying.trials import Planned, plan_trials
from edgeq.studying.weights import WeightBank
from edgeq.tasks import get_task
from edgeq.tasks.language.answers_task import AnswersTask
from edgeq.tuning.executors import Executor
from edgeq.tuning.workers_dask import DaskCluster
from edgeq.verbs.study import (
    WEIGHTS,
    OpenedStudy,
    StudyFiles,
    StudyOptions,
    cost_of,
    finish_study,
    opened_folder,
    require_report,
)

BATCH = 50
"""Questions that are answered together."""


@dataclass(frozen=True)
class BundleSubject:
    """A model in parts, and what it is asked.

    Attributes:
        folder: Folder of a bundle in FP32.
        task: Name of a task of answers.
        questions: See `edgeq.tasks.language.questions.load_questions`; images lie in its folder.
        calib: Such questions, with the answers that methods go by; `None` without any.
        num: Most questions to calibrate on, evenly spaced.
        template: The prompt, with `{question}` and `<image>`; by default the image, then the question.
        max_tokens: Most tokens of an answer.
    """

    folder: Path
    task: str
    questions: Path
    calib: Path | None = None
    num: int = 256
    template: str = ""
    max_tokens: int = 32


def study_bundle(
    subject: BundleSubject,
    space: Space,
    out: Path,
    *,
    options: StudyOptions | None = None,
    store: Path | None = None,
    executor: Executor | None = None,
) -> StudyFiles:
    """Returns what the trials of a study cost the answers of a model in parts, with a report in a folder.

    The same call resumes a study that was cut, with the same result.

    Args:
        subject: The model, and what it is asked.
        space: The choices.
        out: Folder for the report and the weights.
        options: How it is run.
        store: File that trials are kept in; by default `trials.sqlite` in `out`.
        executor: Who answers; by default this process.

    Raises:
        InputError: the bundle is not in FP32, the task is not one of answers, the axes name nothing that the model has,
            or a method needs questions that are not there.
        MissingDependencyError: a package for the report is not installed.
        EngineError: the engine refuses or fails to run a file.
    """
    require_report(out)
    options = options or StudyOptions()
    with open_bundle_study(subject, space, out, options=options, store=store, executor=executor) as opened:
        return finish_study(opened, dataclasses.replace(options, measure=False), out)


def bundle_study_cost(
    subject: BundleSubject, space: Space, out: Path, *, options: StudyOptions, store: Path | None = None
) -> tuple[Planned, StudyCost]:
    """Returns the trials of a study and what they will take, measured here; arguments as of `study_bundle`.

    Raises:
        EdgeqError: see `study_bundle`.
    """
    with open_bundle_study(subject, space, out, options=options, store=store) as opened:
        return opened.planned, cost_of(opened)


@contextlib.contextmanager
def open_bundle_study(
    subject: BundleSubject,
    space: Space,
    out: Path,
    *,
    options: StudyOptions,
    store: Path | None = None,
    executor: Executor | None = None,
) -> Iterator[OpenedStudy]:
    """Yields a study that is ready to run; arguments as of `study_bundle`.

    Raises:
        EdgeqError: see `study_bundle`.
    """
    bundle = Bundle.load(subject.folder)
    _require_float(bundle)
    task = _task(subject.task, subject.questions)
    maker = PromptMaker.of(bundle, tokenizer_of(bundle), subject.template)
    graphs = {str(part.name): read_onnx(bundle.path(part.name)) for part in bundle.parts}
    layers = find_bundle_layers(graphs, space.blocks)
    planned = plan_trials(space, layers, options.sample, options.trials, options.seed)
    if any(each.activation != (LEFT_ALONE,) for each in (space, *space.further)):
        raise InputError("the axis activation: a bundle answers in batches, which would share a range; omit it")
    _require_inputs(subject, space)
    changed = dict.fromkeys(each.component for each in layers)
    with opened_folder(out, store) as (kept, _):
        most = space.most_images(subject.num)
        prompts = _calibration(subject, maker, space, most)
        feeds = gather_feeds(bundle, prompts, options.threads) if prompts else {}
        assemblers = {}
        for part in changed:
            own = tuple(dataclasses.replace(each, name=name) for each in layers if (name := in_part(each.name, part)))
            names = tuple(each.name for each in own)
            bank = WeightBank(graphs[part], names, feeds.get(part, []), out / WEIGHTS, options.threads, len(prompts))
            float_file = artifact_of(bundle, bundle.require_part(part))
            whole = isinstance(executor, DaskCluster)
            assemblers[part] = Assembler(float_file, bank, own, out, whole=whole)
        answer = AnswerOptions(max_tokens=subject.max_tokens, batch=BATCH)
        pieces = in_pieces(len(task.items), options.images)
        threads = 1 if executor is not None and options.threads is None else options.threads
        model = BundleModel(bundle, assemblers, layers, task, maker, answer, pieces, threads, executor)
        run = StudyRun(model, task, kept, options.max_drop, options.useful_drop, options.seed)
        command = partial(bundle_command, layers=layers, folder=bundle.name)
        yield OpenedStudy(run, planned, space, command)


def _require_float(bundle: Bundle) -> None:
    for part in bundle.parts:
        if part.precision != "fp32":
            raise InputError(
                f"{bundle.folder}: its {part.name} is {part.precision}; a study starts from FP32, export the model "
                "without `part` and `preset`"
            )
        if part.weights is not None:
            raise InputError(f"{bundle.folder}: its {part.name} is too large; studies take parts below 2 GB")


def _task(name: str, questions: Path) -> AnswersTask:
    kind: Any = get_task(name)
    if not issubclass(kind, AnswersTask) or kind.asks_for != "text":
        raise InputError(f"`task` {name}: a study of a model in parts scores answers in words; wanted transcription, "
                         "vqa, captioning or object-presence")  # fmt: skip
    folder = questions if questions.is_dir() else questions.parent
    found: AnswersTask = kind.from_files(questions, folder, "")
    return found


def _require_inputs(subject: BundleSubject, space: Space) -> None:
    if subject.calib is None and _reads_inputs(space):
        raise InputError(
            "`calib`: a method goes by what layers read; give questions with answers, or take rtn and hqq alone"
        )


def _reads_inputs(space: Space) -> bool:
    return any(get_recipe(method).reads_inputs for each in (space, *space.further) for method in each.method)


def _calibration(subject: BundleSubject, maker: PromptMaker, space: Space, most: int) -> Sequence[Prompt]:
    """Returns prompts with their answers, which methods go by; none if no method does."""
    if subject.calib is None or not _reads_inputs(space):
        return ()
    return answered_prompts(_task(subject.task, subject.calib), maker, most)
