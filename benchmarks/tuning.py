"""What does `edgeq tune` find for a budget, and how does it compare with NNCF's accuracy control?

`python -m benchmarks.tuning` tunes each model for a loss of 0.3 points, for half of the default file's time, and for
three quarters of its size, which takes weights of 4 bits. It scores these files and those of the front together with
FP32, the default INT8 file and what NNCF's `quantize_with_accuracy_control` makes on the same data in the same engine.
All that is no time is kept in `--work`, and not done again. Then it times the files of each model in turns;
`--times-only` does that anew, for what `--work` has. `--nncf none` omits NNCF, which takes most of the time; a later
run adds its files.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import kept_result, read_subjects, subjects_parser, write_result
from benchmarks.scored_models import TUNED
from benchmarks.sensitivity import SCREENED, Case
from benchmarks.tuned_files import NNCF, THREADS, TunedFile, described, nncf_files, timed
from benchmarks.tuning_cases import FACES, open_tuned
from benchmarks.tuning_page import HALF, LITERT, Section, page, save_fronts
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.onnx.writer import write_fp32
from edgeq.files import write_json
from edgeq.results.tuning import TuningResult
from edgeq.tuning.search_budget import Budget, Limit
from edgeq.tuning.search_choice import SearchOptions
from edgeq.tuning.search_costs import kept_by_cost, layer_costs
from edgeq.tuning.store import Store
from edgeq.verbs.export_costs import default_measuring
from edgeq.verbs.tune import default_candidate, tune_subject

NAMES = ("resnet20", "fastestdet", "yolox", "centernet", "vit", "vit_d64", *FACES)
TARGETS = {"openvino": "x86-openvino", "onnxruntime": "x86-ort", LITERT: "arm"}
NO_NNCF = "none"
DROP = 0.3
"""Points that a tuned file may lose, by the estimate: so few images prove no such loss of AP."""

SIZE_SHARE = 0.75
"""Of the default file's size: less than any file of INT8 has."""

NNCF_MINUTES = 20.0
"""How long NNCF may compute for its file, several times as long as a search takes."""


STORE = "trials.sqlite"


def measure(name: str, engine: str, data: Path, work: Path, num: int, nncf: str) -> dict[str, Any]:
    """Returns all files of a model in an engine with what is known of them but their times."""
    case, images = open_tuned(name, engine, TARGETS[engine], data, work, num)
    folder = work / engine
    model, files = case.subject.model, case.subject.files
    fp32 = write_fp32(model, case.subject.target, folder) if files is None else files.write((), None, folder)
    try:
        found, kept = _searched(case, folder)
    except InputError as error:
        found, kept = [TunedFile(f"tuned for {DROP} points", None, {"why": str(error)})], []
    peers = []
    if engine != LITERT:
        peers = [TunedFile(NNCF, None, {"why": "not run"})]
        if nncf != NO_NNCF:
            peers = nncf_files(name, engine, fp32, images, folder, num, DROP, NNCF_MINUTES, nncf)
    rows = described([TunedFile("FP32", fp32), *found, *peers], engine, images, work)
    return {"name": name, "engine": engine, "calibrated": num, "rows": rows, "kept": kept}


def _searched(case: Case, folder: Path) -> tuple[list[TunedFile], list[str]]:
    """Returns the files of all budgets, written to a folder, and why layers of the first stay in float.

    Raises:
        InputError: no layer runs in INT8, or no file keeps the budget of a loss.
    """
    is_resumed = (folder / STORE).is_file()
    loss, tuned, minutes = _tuned(case, folder / "loss", Budget(max_drop=DROP), front=True)
    files = [
        TunedFile("default INT8", _default_file(case, folder / "default")),
        TunedFile(f"tuned for {DROP} points", tuned, _facts(loss, None if is_resumed else minutes)),
    ]
    default = next((each for each in loss.files if each.name == "default"), loss.chosen)
    half = Limit(default.latency.ratio / 2, is_ratio=True, text=f"{default.latency.ratio / 2:.3f}x")
    bytes_allowed = int(SIZE_SHARE * default.size_bytes)
    smaller = Limit(bytes_allowed, is_ratio=False, text=f"{bytes_allowed}B")
    for title, part, budget in (
        (HALF, "half", Budget(latency=half)),
        (f"tuned for {SIZE_SHARE:g} of default's size", "smaller", Budget(size=smaller)),
    ):
        try:
            other, found, minutes = _tuned(case, folder / part, budget)
            files.append(TunedFile(title, found, _facts(other, minutes)))
        except InputError as error:
            files.append(TunedFile(title, None, {"why": str(error)}))
    return files + _front(loss, folder / "loss"), _kept(loss)


def _tuned(case: Case, out: Path, budget: Budget, *, front: bool = False) -> tuple[TuningResult, Artifact, float]:
    """Returns what a search found, its file, and the CPU's minutes; later ones know the trials of the first."""
    begin = _cpu_seconds()
    options = SearchOptions(threads=THREADS, budget=budget, unproved=True)
    with Store(out.with_name(STORE)) as store:
        result, artifact = tune_subject(
            case.subject, case.task, case.inputs(SCREENED), out, options, store, front=front
        )
    return result, artifact, (_cpu_seconds() - begin) / 60


def _cpu_seconds() -> float:
    """Returns what this process and those that it has waited for took of the CPU."""
    return sum(os.times()[:4])


def _default_file(case: Case, out: Path) -> Artifact:
    """Returns the default INT8 file, which the search has tried, written."""
    costs = layer_costs(case.subject, THREADS, measure=default_measuring(None))
    return case.subject.write(default_candidate(case.subject, kept_by_cost(case.subject, costs, by_cost=True)), out)


def _front(result: TuningResult, folder: Path) -> list[TunedFile]:
    """Returns the files of the front but FP32, the one with the least time first."""
    layers = sum(len(group.layers) for group in result.groups)
    return [
        TunedFile(
            f"front: {each.name}", Artifact.load(folder / each.file), {"layers": f"{each.int8_layers} of {layers}"}
        )
        for each in result.files
        if each.on_front and each.file and each.int8_layers
    ]


def _facts(result: TuningResult, minutes: float | None) -> dict[str, Any]:
    """Returns what a table says of a search; of a resumed one nobody knows the minutes."""
    layers = sum(len(group.layers) for group in result.groups)
    chosen = result.chosen
    narrow = f", {chosen.w4a8_layers} with 4 bits" if chosen.w4a8_layers else ""
    facts = {"layers": f"{chosen.int8_layers} of {layers}{narrow}", "trials": str(result.trials)}
    return facts if minutes is None else {**facts, "minutes": minutes}


def _kept(result: TuningResult) -> list[str]:
    """Returns the reasons of the layers that the file tuned for a loss keeps in float, those that cost most first."""
    kept = [group for group in result.groups if group.precision == "float"]
    return [f"{group.name}: {group.reason}" for group in sorted(kept, key=lambda group: -group.points)[:5]]


def run(
    names: Sequence[str],
    engines: Sequence[str],
    data: Path,
    images: int,
    nncf: str,
    work: Path,
    out: Path,
    *,
    times_only: bool = False,
) -> Path:
    """Returns the result file.

    Args:
        names: Models.
        engines: Engines: two of x86, and LiteRT.
        data: The shared data.
        images: How many images to calibrate on.
        nncf: Python of an environment with NNCF, or `none`.
        work: Folder for files and figures, none of which is found anew.
        out: Folder of the result file and the pictures.
        times_only: Whether times alone are taken, anew, of what `work` has.
    """
    sections = []
    for name in names:
        for engine in engines:
            folder = work / name
            kept, times = folder / engine / "files.json", folder / engine / "times.json"
            if not kept.is_file() and (times_only or nncf == NO_NNCF):
                kept, times = kept.with_name("own files.json"), kept.with_name("own times.json")
            if times_only and not kept.is_file():
                continue
            kept.parent.mkdir(parents=True, exist_ok=True)
            is_timed = kept.is_file() and times.is_file() and not times_only
            found = kept_result(kept, measure, name, engine, data, folder, images, nncf)
            if not is_timed:
                write_json(times, timed(found["rows"], engine, folder))
            sections.append(Section.of(found, kept_result(times, dict)))
            print("\n".join(sections[-1].lines()), flush=True)
    save_fronts(sections, out / "tuning.svg")
    missing = [
        f"{TUNED[name].subject.title} in {engine}"
        for name in NAMES
        for engine in TARGETS
        if (name, engine) not in {(each.name, each.engine) for each in sections}
    ]
    return write_result(out, "tuning.md", page(sections, missing))


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, NAMES, NAMES, 64, Path("artifacts/tuning"))
    parser.add_argument(
        "--engines",
        nargs="+",
        choices=tuple(TARGETS),
        default=list(TARGETS),
        help="engines; litert runs here, not on ARM",
    )
    parser.add_argument(
        "--nncf", default=sys.executable, help="Python of an environment with nncf, openvino and edgeq; or none"
    )
    parser.add_argument("--times-only", action="store_true", help="take all times anew, and do nothing else")
    return parser


def main() -> None:
    os.environ["EDGEQ_MEASURE"] = "0"  # plan by the shipped costs of kernels: the same files on a busy machine
    given = read_subjects(make_parser(), NAMES)
    run(
        given.names, given.engines, given.data, given.images, given.nncf, given.work, given.out,
        times_only=given.times_only,
    )  # fmt: skip


if __name__ == "__main__":
    main()
