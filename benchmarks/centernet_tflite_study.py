"""What do TFLite's precisions cost a CenterNet in AP, time and size, on today's runtime and on the one of 2023?

`python -m benchmarks.centernet_tflite_study` redoes a study that many have read: CenterNet as TFLite in float32,
float16 and int8, scored with the COCO metrics, in which int8 took twice the time of float32. It writes every precision
of the trained CenterNet-R18, scores and times it in ai-edge-litert and in tflite-runtime 2.14, and times CenterNet-R50
at 512x512. The old runtime has its own environment because it needs numpy 1 and Python 3.11 or older.

Results are kept in `--work`, and a second call goes on where the first was interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, case, random_centernet, result_parser, write_result
from benchmarks.json_results import bench_jobs, evaluate_artifacts, merge
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.options import ExportOptions
from edgeq.files import atomic_path, write_json
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.results.rows import provenance
from edgeq.runtimes.child import LOCAL_RUNNER
from edgeq.sources.formats import TFLITE
from edgeq.sources.model import ModelRequest
from edgeq.verbs.export import export_model

THREADS = 2
PRECISIONS = tuple(each for each in TFLITE.precisions if each != "w4")
NEW, OLD = "ai-edge-litert", "tflite-runtime"
LEGACY_PACKAGES = ("tflite-runtime==2.14.0", "numpy<2")
SCORES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100", "AR_small", "AR_medium", "AR_large")
# int16x8 takes seconds per image, and every round waits for it: few rounds, each long for the others.
SAMPLING = Sampling(min_s=5.0, max_s=20.0, min_runs=30, warmup_runs=1, round_runs=1, round_s=1.0)

Results = dict[str, Any]


def legacy_python(work: Path) -> str:
    """Returns the interpreter of an environment with tflite-runtime, made on the first call."""
    python = work / "legacy" / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        root = str(Path(__file__).parents[1])
        subprocess.run([python, "-m", "pip", "install", "--quiet", *LEGACY_PACKAGES, "-e", root], check=True)
    return str(python)


def once(path: Path, work: Callable[[], Any]) -> Any:
    """Returns what `work` returned, now or on an earlier call."""
    if not path.is_file():
        write_json(path, work())
    return json.loads(path.read_text(encoding="utf-8"))


def export(request: ModelRequest, calibration: CalibrationSource, folder: Path, precisions: Sequence[str]) -> None:
    """Writes every precision for the new engine, and those that the old one cannot run again for it."""
    for engine, compat, wanted in ((NEW, None, precisions), (OLD, OLD, ("int8", "dynamic"))):
        if not (folder / engine).is_dir():
            options = ExportOptions(compat=compat)
            export_model(
                request, "arm", wanted, folder / engine, calibration=calibration, formats=("tflite",), options=options
            )


def artifacts(folder: Path, engine: str, precisions: Sequence[str]) -> list[Artifact]:
    found = []
    for precision in precisions:
        own = list((folder / engine).glob(f"*.arm.{precision}.tflite"))
        found.append(Artifact.load((own or list((folder / NEW).glob(f"*.arm.{precision}.tflite")))[0]))
    return found


def time_them(found: Sequence[Artifact], python: str | None, sampling: Sampling) -> list[Results]:
    runner = LOCAL_RUNNER if python is None else (python, *LOCAL_RUNNER[1:])
    results = bench_jobs([Job(each, "litert") for each in found], threads=THREADS, sampling=sampling, runner=runner)
    return [{key: value for key, value in result.items() if key != "samples_ns"} for result in results]


def score_them(found: Sequence[Artifact], subject: Case, python: str | None, work: Path) -> list[Results]:
    paths = [each.path for each in found]
    if python is None:
        return evaluate_artifacts(paths, subject.validation, subject.validation_images, threads=THREADS)
    out = work / "legacy_eval.json"
    out.unlink(missing_ok=True)
    done = subprocess.run(
        [python, "-m", "edgeq", "eval", *paths, "--runtime", "litert", "--threads", str(THREADS), "--json", out,
         "--annotations", subject.validation, "--images", subject.validation_images],
        check=False,
    )  # fmt: skip
    if not out.is_file():  # with it, an exit code of 1 says that the figures are odd, which the table shows
        done.check_returncode()
    return list(json.loads(out.read_text(encoding="utf-8")))


def accuracy_table(scores: dict[str, list[Results]], timings: dict[str, list[Results]]) -> list[str]:
    titles = ["AP", "AP50", "AP75", "AP S / M / L", "AR", "AR S / M / L", "s / image", "over float32", "MB", "XNNPACK"]
    lines = [f"| precision | engine | {' | '.join(titles)} |", "|---|---|" + "---:|" * len(titles)]
    for engine, rows in scores.items():
        for score, timing in zip(rows, timings[engine], strict=True):
            numbers = {name: f"{score[name]:.4f}" for name in SCORES}
            cells = [
                *(numbers[name] for name in ("AP", "AP50", "AP75")),
                " / ".join(numbers[f"AP_{size}"] for size in ("small", "medium", "large")),
                numbers["AR_100"],
                " / ".join(numbers[f"AR_{size}"] for size in ("small", "medium", "large")),
                *speed_cells(timing),
            ]
            lines.append(f"| {score['precision']} | {engine} | {' | '.join(cells)} |")
    return lines


def speed_table(timings: dict[str, list[Results]]) -> list[str]:
    lines = ["| precision | engine | s / image | over float32 | MB | XNNPACK |", "|---|---|---:|---:|---:|---:|"]
    for engine, rows in timings.items():
        lines += [f"| {row['precision']} | {engine} | {' | '.join(speed_cells(row))} |" for row in rows]
    return lines


def speed_cells(timing: Results) -> list[str]:
    coverage = timing["environment"]["xnnpack"]
    return [
        f"{'' if timing['stable'] else '~'}{timing['latency_ms']['p50'] / 1e3:.4f}",
        f"{timing['ratio_to_first']:.2f}",
        f"{timing['size_bytes'] / 1e6:.2f}",
        f"{coverage['delegated']} of {coverage['operators']}",
    ]


def draw(scores: dict[str, list[Results]], timings: dict[str, list[Results]], path: Path) -> None:
    """Writes AP against time, and time over float32, as one picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "edgeq"
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
    for (engine, rows), marker, color in zip(scores.items(), "os", ("#2a6fbb", "#c0562b"), strict=True):
        seconds = [timing["latency_ms"]["p50"] / 1e3 for timing in timings[engine]]
        left.scatter(seconds, [row["AP"] for row in rows], marker=marker, color=color, label=engine, zorder=3)
        for x, row in zip(seconds, rows, strict=True):
            # fp16 lies on fp32, and int16x8 at the right edge: their names stand to the left.
            side, across = ("right", -5) if row["precision"] in ("fp16", "int16x8") else ("left", 5)
            place = (across, 6 if engine == NEW else -14)
            left.annotate(
                row["precision"], (x, row["AP"]), textcoords="offset points", xytext=place, fontsize=8, ha=side
            )
        places = [index + (0.2 if engine == OLD else -0.2) for index in range(len(rows))]
        ratios = [timing["ratio_to_first"] for timing in timings[engine]]
        right.bar(places, ratios, width=0.4, color=color, label=engine)
        for x, ratio in zip(places, ratios, strict=True):
            right.annotate(f"{ratio:.2f}", (x, ratio), ha="center", va="bottom", fontsize=8)
    first = next(iter(scores.values()))
    reference, images = first[0]["AP"], first[0]["images"]
    left.axhspan(reference - 0.005, reference + 0.005, color="gray", alpha=0.12, label="within 0.005 of float32")
    left.set_ylim(reference - 0.01, reference + 0.01)
    left.set(xscale="log", xlabel="seconds per image (log)", ylabel=f"AP ({images} images)", title="Accuracy and time")
    right.set_xticks(range(len(first)), [row["precision"] for row in first])
    right.set(yscale="log", ylabel="time over float32 (log)", title="Below 1 is faster than float32")
    right.axhline(1, color="gray", linewidth=0.8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None})


def score_all(subject: Case, engines: Mapping[str, str | None], work: Path) -> dict[str, list[Results]]:
    """Returns engine -> the scores of every precision of a detector; `engines` names the interpreter of each."""
    folder = work / "small"
    export(subject.request, subject.source, folder, PRECISIONS)
    scores = {}
    for engine, python in engines.items():
        scoring = partial(score_them, artifacts(folder, engine, PRECISIONS), subject, python, work)
        scores[engine] = once(work / f"scores-{engine}.json", scoring)
    return scores


def run(
    subject: Case,
    large: Case,
    engines: Mapping[str, str | None],
    work: Path,
    out: Path,
    *,
    sampling: Sampling = SAMPLING,
) -> Path:
    """Returns the result file, with the picture beside it.

    Args:
        subject: The detector that is scored and timed.
        large: The model that is only timed.
        engines: `NEW` and `OLD` -> the interpreter that has it; `None` is this one.
        work: Folder for files and results.
        out: Folder of the result file.
        sampling: How long each file is timed.
    """
    scores = score_all(subject, engines, work)
    few = [precision for precision in PRECISIONS if precision != "int16x8"]
    export(large.request, large.source, work / "large", few)
    timings: dict[str, list[Results]] = {}
    speeds: dict[str, list[Results]] = {}
    for engine, python in engines.items():
        for name, kept, precisions in (("small", timings, PRECISIONS), ("large", speeds, few)):
            timing = partial(time_them, artifacts(work / name, engine, precisions), python, sampling)
            kept[engine] = once(work / f"timings-{name}-{engine}.json", timing)
    draw(scores, timings, out / "centernet_tflite_study.svg")
    text = [
        f"# {subject.title}", "", *accuracy_table(scores, timings), "",
        "Ratios are medians over interleaved rounds, within one engine. For tflite-runtime, int8 and dynamic were "
        "written with `--compat tflite-runtime`: its plain dynamic file does not load there.",
        *facts(scores, timings), "", f"{large.title} (speed and size only):", "",
        *speed_table(speeds), "", *facts(speeds),
    ]  # fmt: skip
    return write_result(out, "centernet_tflite_study.md", "\n".join(text) + "\n")


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    work = Path("centernet_tflite_study")
    parser.add_argument("--work", type=Path, default=work, help="folder for files and results")
    parser.add_argument("--only", choices=("scores",), help="score only, for a machine that is busy otherwise")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    work: Path = arguments.work.resolve()
    engines = {NEW: None, OLD: legacy_python(work)}
    if arguments.only:
        score_all(case("centernet"), engines, work)
    else:
        subject = case("centernet")
        large = dataclasses.replace(random_centernet(subject), calibration_num=32)
        run(subject, large, engines, work, arguments.out)


def facts(*tables: dict[str, list[Results]]) -> list[str]:
    """Returns how the figures were obtained, engine by engine."""
    return [sentence for engine in tables[0] for table in tables for sentence in provenance(merge(table[engine]))]


if __name__ == "__main__":
    main()
