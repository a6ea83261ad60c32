"""Has a change made edgeq slower? Commands of two checkouts as whole processes, in turns.

`python -m benchmarks.before_and_after CHECKOUT` compares the checkout of an earlier commit with this one: calibration,
a benchmark of fixed length, whose rest is start-up and bookkeeping, and `edgeq --help`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import result_parser, write_result
from edgeq.machine import read_machine
from edgeq.tasks.detection.shapes import draw_shapes_dataset

HERE = Path(__file__).parents[1]
ROUNDS = 7
IMAGES = 64
MODEL = ("centernet_shapes",)


def run(
    before: Path,
    out: Path,
    *,
    model: Sequence[str] = MODEL,
    rounds: int = ROUNDS,
    images: int = IMAGES,
    bench_s: float = 1.0,
) -> Path:
    """Returns the result file: how long each command takes here, as a share of its time in the other checkout.

    Args:
        before: Root of the other checkout.
        out: Folder of the result file.
        model: What is calibrated and timed: MODEL, and options that both `export` and `calibrate` take.
        rounds: How often each pair is run; which of the two begins alternates.
        images: How many images are drawn to calibrate on.
        bench_s: How long the benchmark times its file, in seconds.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_shapes_dataset(folder / "images", images=images, seed=1)
        edgeq = [sys.executable, "-m", "edgeq"]
        seconds([*edgeq, "export", *model, "--precision", "fp32", "--out", str(folder)], HERE)
        (file,) = map(str, folder.glob("*.fp32.onnx"))
        ranges = str(folder / "ranges.json")
        commands = {
            "calibrate": ["calibrate", model[0], str(folder / "images"), *model[1:], "--out", ranges],
            "bench": ["bench", file, "--runtime", "onnxruntime", "--seconds", str(bench_s)],
            "--help": ["--help"],
        }
        lines = ["| command | before, s | after, s | after / before | quartiles |", "|---|---:|---:|---:|---:|"]
        for command, arguments in commands.items():
            pairs = [pair([*edgeq, *arguments], before, number) for number in range(rounds)]
            ratios = sorted(after / earlier for earlier, after in pairs)
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            earlier, after = (statistics.median(each) for each in zip(*pairs, strict=True))
            lines.append(
                f"| `edgeq {command}` | {earlier:.2f} | {after:.2f} | {middle:.2f} | {low:.2f} to {high:.2f} |"
            )
    machine = read_machine()
    how = (
        f"Measured as whole processes over {rounds} pairs in turns, {images} drawn images, on {machine.cpu}, "
        f"{machine.usable_cpus} CPUs, Python {machine.python}; medians, ratios within a pair."
    )
    return write_result(out, "before_and_after.md", "\n".join(["# Before and after", "", *lines, "", how]) + "\n")


def pair(command: list[str], before: Path, number: int) -> tuple[float, float]:
    """Returns the seconds that a command takes in the other checkout and in this one."""
    if number % 2:
        after = seconds(command, HERE)
        return seconds(command, before), after
    return seconds(command, before), seconds(command, HERE)


def seconds(command: list[str], checkout: Path) -> float:
    """Returns how long a command takes with the edgeq of a checkout."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=tempfile.gettempdir())
    return time.perf_counter() - start


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument("checkout", type=Path, help="root of a checkout of the earlier commit")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of runs per command")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    run(arguments.checkout.resolve(), arguments.out, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
