"""`python -m tests.gpu`: all that needs an NVIDIA GPU, in one table, within eight minutes.

Each step is skipped with its reason where the machine lacks what it needs. Exit status 1 if one fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgeq.errors import EngineError
from edgeq.runtimes.cuda import driver_problem, open_cuda
from edgeq.runtimes.tensorrt.gpus import gpu_of, known_gpus
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX
from tests.gpu.steps import ON_ANY_GPU, ON_RTX
from tests.gpu.table import Row, judged, lines

LIMIT_S = 450.0
"""After which nothing more is begun, and what runs is ended."""

_STEP_S = 240.0
_ANSWER = "rows: "


def main() -> int:
    """Prints the table, and returns the exit status."""
    begun, seconds = time.monotonic(), dict[str, float]()
    rows, why_none, why_no_rtx = machine()
    with tempfile.TemporaryDirectory(prefix="edgeq-gpu-") as name:
        for step in (*ON_ANY_GPU, *ON_RTX):
            left = LIMIT_S - (time.monotonic() - begun)
            reason = why_none or (why_no_rtx if step in ON_RTX else None) or (None if left > 5 else "no time is left")
            if reason is not None:
                rows.append(Row(step, "", "skipped", reason))
                continue
            started = time.monotonic()
            rows += in_child(step, Path(name), min(left, _STEP_S))
            seconds[step] = time.monotonic() - started
    print("\n".join(lines(rows, seconds)))
    counts = {state: sum(row.state == state for row in rows) for state in ("passed", "FAILED", "skipped")}
    print(", ".join(f"{count} {state}" for state, count in counts.items()), f"in {time.monotonic() - begun:.0f} s")
    return 1 if counts["FAILED"] else 0


def machine() -> tuple[list[Row], str | None, str | None]:
    """Returns what this machine is, why nothing can run on it, and why TensorRT for RTX cannot."""
    if (problem := driver_problem()) is not None:
        reason = f"no GPU: {problem}"
        return [Row("machine", "NVIDIA driver", "skipped", problem)], reason, reason
    try:
        cuda = open_cuda()
        facts = cuda.facts()
    except EngineError as error:
        return [judged("machine", "CUDA from Python", False, str(error))], str(error), str(error)
    found = f"{facts.gpu}, compute capability {facts.compute_capability}, CUDA {facts.cuda} through {cuda.name}"
    rows = [judged("machine", "GPU", True, found)]
    if importlib.util.find_spec(TENSORRT_RTX.module) is None:
        return rows, None, f"{TENSORRT_RTX.module} is not installed; {TENSORRT_RTX.install}"
    trt = TENSORRT_RTX.load()
    known, here = known_gpus(trt), gpu_of(facts.compute_capability)
    rows.append(judged("machine", TENSORRT_RTX.title, True, f"{trt.__version__} for {', '.join(known)}"))
    return rows, None, None if here in known else f"{TENSORRT_RTX.title} {trt.__version__} does not know {here}"


def in_child(step: str, folder: Path, limit_s: float) -> list[Row]:
    """Returns the rows of a step that runs in a process of its own."""
    command = [sys.executable, "-m", "tests.gpu", step, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return [judged(step, "", False, f"no answer in {limit_s:.0f} s")]
    with contextlib.suppress(StopIteration):
        answer = next(line for line in reversed(done.stdout.splitlines()) if line.startswith(_ANSWER))
        return [Row(**each) for each in json.loads(answer.removeprefix(_ANSWER))]
    told = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
    return [judged(step, "", False, f"its process ended with {done.returncode}: {told}")]


def child(step: str, folder: Path) -> None:
    """Runs a step, and prints its rows."""
    rows = (ON_ANY_GPU | ON_RTX)[step](folder)
    print(_ANSWER + json.dumps([row.to_json() for row in rows]), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1], Path(sys.argv[2]))
    else:
        sys.exit(main())
