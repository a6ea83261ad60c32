"""The study `detector-edge`: what FP32, FP16 and INT8 of detectors score and take in each engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import Case, code_state, write_result
from edgeq.datasets import open_split
from edgeq.machine import read_machine
from edgeq.measurement.timed_file import Sampling
from edgeq.reporting.document import Entry
from edgeq.results.table import markdown_table
from edgeq.verbs.study_engines import ENGINES, EngineStudy, study_engines

DETECTORS = ("centernet", "yolox")

_THREADS = 1
_SCORES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100", "AR_small",
           "AR_medium", "AR_large")  # fmt: skip


def run_detectors(
    cases: Sequence[Case],
    images: int,
    work: Path,
    out: Path,
    *,
    engines: Sequence[str] = tuple(ENGINES),
    sampling: Sampling | None = None,
) -> Path:
    """Returns the page of the study.

    Args:
        cases: Detectors with their images.
        images: The most images to score on.
        work: Folder for files and reports.
        out: Folder of the page.
        engines: Which are studied, of those that are installed.
        sampling: How long files are timed.
    """
    found = {}
    for each in cases:
        data = open_split(each.validation, "evaluation")
        found[each] = study_engines(
            each.request, data, each.source, work / each.name, engines=engines, images=images, threads=_THREADS,
            sampling=sampling,
        )  # fmt: skip
    return write_result(out, "study_detector_edge.md", _page(found))


def _page(found: dict[Case, EngineStudy]) -> str:
    lines = [
        "# `edgeq study --template detector-edge`: detectors in every engine of this machine",
        "",
        "Each precision is written for the engine that runs it: `fp32`, `fp16`, `int8` (ranges calibrated once) and "
        "`dynamic` (INT8 with ranges measured at every run). Scores are COCO's, by IoU and by size of the boxes; "
        "intervals are 95 %, paired bootstraps over the images. Times are medians of one image, measured in turns; `~` "
        "marks those that were not steady, and the ratio to FP32, a median over the turns, is what holds.",
        "",
    ]
    for case, study in found.items():
        entries = study.entries
        lines += [f"## {case.title}", "", *_answers(entries), "", *_table(study), ""]
        lines += [*(f"- {note}" for note in study.notes), *([""] if study.notes else [])]
    engines = dict.fromkeys(entry.engine for study in found.values() for entry in study.entries)
    lines += [f"{', '.join(engines)}; {read_machine().cpu}, {_THREADS} thread; {code_state()}. "
              "Repeat it: `python -m benchmarks.study detector-edge`."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _answers(entries: Sequence[Entry]) -> list[str]:
    """Returns what static and dynamic INT8 take of FP32's time in each engine, in a sentence each."""
    lines = []
    for runtime in dict.fromkeys(each.runtime for each in entries):
        ratios = {each.precision: each.ratio_to_fp32 for each in entries if each.runtime == runtime}
        said = [
            f"{name} INT8 takes {ratios[precision]:.2f} of FP32's time"
            for name, precision in (("static", "int8"), ("dynamic", "dynamic"))
            if ratios.get(precision) is not None
        ]
        lines.append(f"- {runtime}: {', '.join(said) or 'nothing was timed'}.")
    return lines


def _table(study: EngineStudy) -> list[str]:
    titles, *rows = study.cells()
    chosen = [index for index, title in enumerate(titles) if title in _SCORES or title not in study.scores]
    cells = [[row[index] for index in chosen] for row in rows]
    return markdown_table([titles[index] for index in chosen], cells, len(chosen) - 2).splitlines()
