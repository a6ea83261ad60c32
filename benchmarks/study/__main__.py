"""What do the studies that ship with edgeq find on real models, and how long do they take?

`python -m benchmarks.study vit-layers weights-bits` runs them on the Fashion-MNIST ViT, `vlm-components` on the reader
of surnames and `detector-edge` on CenterNet-R18 and YOLOX-nano, each with one thread. `--images` says how many are
scored. Times of trials are CPU seconds of this process, because other work runs on the machine. Trials are kept below
`--work`, so that a second call resumes. `vlm-components vit-layers --workers 2` times a few trials with one worker and
with two instead, and writes one page of both.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.cases import DATA, case, result_parser, write_result
from benchmarks.name_reader.subjects import name_reader
from benchmarks.study import page
from benchmarks.study.cases import Case, reader_case, vit_case
from benchmarks.study.detectors import DETECTORS, run_detectors
from benchmarks.study.sharing import reader_speeds, resumed, vit_speeds
from benchmarks.study.workers import Scaled, reader_scaled, vit_scaled
from benchmarks.study.workers import page as page_of_workers
from edgeq.cli.progress import terminal_progress
from edgeq.datasets import open_split
from edgeq.progress import reporting_to
from edgeq.studying.space import Space, read_space
from edgeq.verbs.study import StudyOptions, study_model
from edgeq.verbs.study_bundle import BundleSubject, study_bundle

_VIT_TIMED = Space(bits=(2, 3), granularity=("row",), method=("rtn", "gptq"))
_SCALED = Space(bits=(2, 4), granularity=("tensor",), component=("each",), mixed=True)
"""Trials of the reader that are timed with workers; they need no images to calibrate on."""

STUDIES = ("vit-layers", "weights-bits", "vlm-components", "detector-edge")
SCALED_STUDIES = ("vit-layers", "vlm-components")
IMAGES: Mapping[str, int] = {"vit-layers": 10_000, "weights-bits": 10_000, "vlm-components": 1000, "detector-edge": 88}
"""Name of a study -> images that are scored by default."""

_TIMED_IMAGES = 100
_KILLED_AXES = ("--axis", "bits=2,4", "--axis", "granularity=16", "--axis", "component=subsets")
_KILLED_AFTER = (3, 8)
"""Trials after which a study is killed."""


def run_vit(name: str, case: Case, space: Space, timed: Space, options: StudyOptions, work: Path, out: Path) -> Path:
    """Returns the page of a study of a model in one file.

    Args:
        name: Name of the study.
        case: The model with its images.
        space: The choices.
        timed: Those of the trials that are timed.
        options: How the study is run.
        work: Folder for weights, trials and the report.
        out: Folder of the page.
    """
    data = open_split(case.labels, "evaluation")
    result = study_model(case.request, data, case.source, space, work / name, options=options).result
    speeds = vit_speeds(case, timed, StudyOptions(images=min(_TIMED_IMAGES, result.images), threads=1))
    text = page.page(
        f"`edgeq study --template {name}`: {case.title}",
        f"python -m benchmarks.study {name} --images {result.images}",
        result,
        page.speed_section(speeds, None, result),
    )
    return write_result(out, f"study_{name.replace('-', '_')}.md", text)


def run_reader(
    subject: BundleSubject, space: Space, timed: Space, options: StudyOptions, work: Path, out: Path
) -> Path:
    """Returns the page of a study of a model in parts; arguments as of `run_vit`."""
    result = study_bundle(subject, space, work / "study", options=options).result
    few = min(_TIMED_IMAGES, result.images)
    speeds = reader_speeds(subject, timed, StudyOptions(images=few, threads=1))
    killed = [
        *(str(subject.folder), "--task", subject.task, "--data", str(subject.questions), "--images", str(few)),
        *("--max-tokens", str(subject.max_tokens), "--threads", "1", *_KILLED_AXES),
    ]
    again = resumed(killed, work, [count * few for count in _KILLED_AFTER])
    text = page.page(
        "`edgeq study --template vlm-components`: a reader of surnames",
        f"python -m benchmarks.study vlm-components --images {result.images}",
        result,
        [*page.beside_published(result), *page.speed_section(speeds, again, result)],
    )
    return write_result(out, "study_vlm_components.md", text)


def run(names: Sequence[str], images: int | None, data: Path, work: Path, out: Path) -> list[Path]:
    """Returns the pages of studies.

    Args:
        names: Of `STUDIES`.
        images: Images to score on; by default those of `IMAGES`.
        data: Folder of the real data.
        work: Folder for files, weights and trials.
        out: Folder of the pages.
    """

    def vit(name: str) -> Path:
        space = read_space(None, name)
        return run_vit(name, vit_case(data, work / "vit"), space, _VIT_TIMED, _options(name, images), work / "vit", out)

    def reader(name: str) -> Path:
        subject = reader_case(name_reader(IMAGES[name]), work / "vlm")
        timed = Space(bits=(2, 3, 4), method=("rtn", "gptq", "awq"), component=("each",), mixed=True)
        return run_reader(subject, read_space(None, name), timed, _options(name, images), work / "vlm", out)

    def detectors(name: str) -> Path:
        cases = [case(each) for each in DETECTORS]
        return run_detectors(cases, images or IMAGES[name], work / "detectors", out)

    makers: Mapping[str, Callable[[str], Path]] = {
        "vit-layers": vit, "weights-bits": vit, "vlm-components": reader, "detector-edge": detectors
    }  # fmt: skip
    return [makers[name](name) for name in names]


def run_workers(
    names: Sequence[str], workers: int, images: int | None, data: Path, work: Path, out: Path
) -> list[Path]:
    """Returns the page that says what workers save; arguments as of `run`."""
    options = StudyOptions(images=images or _TIMED_IMAGES, threads=1)
    makers: Mapping[str, Callable[[], Scaled]] = {
        "vit-layers": lambda: vit_scaled(vit_case(data, work / "vit"), _VIT_TIMED, options, workers),
        "vlm-components": lambda: reader_scaled(
            reader_case(name_reader(IMAGES["vlm-components"]), work / "vlm"), _SCALED, options, workers
        ),
    }
    found = [makers[name]() for name in names]
    command = f"python -m benchmarks.study {' '.join(names)} --workers {workers} --images {options.images}"
    return [write_result(out, "study_workers.md", page_of_workers(found, command))]


def _options(name: str, images: int | None) -> StudyOptions:
    return StudyOptions(images=images or IMAGES[name], threads=1)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = result_parser(__doc__)
    parser.add_argument("names", nargs="*", default=list(STUDIES), help=f"of {', '.join(STUDIES)}; by default all")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--work", type=Path, default=Path("study"), help="folder for files, weights and trials")
    parser.add_argument("--images", type=int, help="images to score on; by default all")
    parser.add_argument("--workers", type=int, help="time a few trials with one worker and with so many instead")
    return parser


def main() -> None:
    """Runs studies on the command line."""
    parser = make_parser()
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in STUDIES]:
        parser.error(f"{', '.join(unknown)}: known are {', '.join(STUDIES)}")
    if given.workers is not None and (unknown := [name for name in given.names if name not in SCALED_STUDIES]):
        parser.error(f"--workers: {', '.join(unknown)} is not timed so; name {' or '.join(SCALED_STUDIES)}")
    with reporting_to(terminal_progress):
        if given.workers is not None:
            work = given.work.resolve()
            for path in run_workers(given.names, given.workers, given.images, given.data, work, given.out):
                print(path)
            return
        for path in run(given.names, given.images, given.data, given.work.resolve(), given.out):
            print(path)


if __name__ == "__main__":
    main()
