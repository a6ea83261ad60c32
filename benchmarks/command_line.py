"""How long does `edgeq --help` take, as a whole process, beside a bare Python that starts and ends?

`python -m benchmarks.command_line` runs both in turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.cases import RESULTS
from edgeq.files import write_text
from edgeq.machine import read_machine

RUNS = 15


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    taken: dict[str, list[float]] = {"python -c pass": [], "edgeq --help": []}
    commands = (["-c", "pass"], ["-m", "edgeq", "--help"])
    for _ in range(RUNS):
        for results, arguments in zip(taken.values(), commands, strict=True):
            results.append(seconds(arguments))
    lines = ["| command | median s | worst s |", "|---|---:|---:|"]
    lines += [f"| {name} | {statistics.median(found):.3f} | {max(found):.3f} |" for name, found in taken.items()]
    machine = read_machine()
    how = f"Measured over {RUNS} runs in turns on {machine.cpu}, {machine.usable_cpus} CPUs, Python {machine.python}."
    text = "\n".join(["# Start-up", "", *lines, "", how]) + "\n"
    write_text(RESULTS / "command_line.md", text)
    print(text)


if __name__ == "__main__":
    main()
