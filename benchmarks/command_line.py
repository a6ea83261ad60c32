"""How long do `edgeq --help` and `import edgeq` take, as whole processes, compared with a bare Python?

`python -m benchmarks.command_line` runs all three in turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.cases import result_parser, write_result
from edgeq.machine import read_machine

RUNS = 15


def run(out: Path, *, runs: int = RUNS) -> Path:
    """Returns the result file: each command's time over so many runs."""
    taken: dict[str, list[float]] = {"python -c pass": [], "edgeq --help": [], "import edgeq": []}
    commands = (["-c", "pass"], ["-m", "edgeq", "--help"], ["-c", "import edgeq"])
    for _ in range(runs):
        for results, arguments in zip(taken.values(), commands, strict=True):
            results.append(seconds(arguments))
    lines = ["| command | median s | worst s |", "|---|---:|---:|"]
    lines += [f"| {name} | {statistics.median(found):.3f} | {max(found):.3f} |" for name, found in taken.items()]
    machine = read_machine()
    how = f"Measured over {runs} runs in turns on {machine.cpu}, {machine.usable_cpus} CPUs, Python {machine.python}."
    return write_result(out, "command_line.md", "\n".join(["# Start-up", "", *lines, "", how]) + "\n")


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    run(make_parser().parse_args().out)


if __name__ == "__main__":
    main()
