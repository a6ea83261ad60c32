"""What do hostile devices and bad links do to the host?

`python -m benchmarks.device_faults` lets processes play the runner of `edgeq bench` from answers that a real one gave.
Hostile ones send garbage, bombs and streams without end. Of the others, a link in between cuts, delays, doubles, drops,
corrupts or inserts bytes at a random place, or one value of an answer is replaced. The host has to end with results
that can be written and read again, or with one printable line that names the device; in bounded time and memory, and
without a process left behind. A few minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.cases import cpu_and_threads, write_result
from edgeq.cli.words import said_of
from edgeq.devices.remote import named_errors
from edgeq.errors import EdgeqError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.machine import peak_rss_bytes, read_machine, restart_peak_rss
from edgeq.measurement import benchmark, telemetry
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.results.reading import parse_results
from edgeq.results.serialization import to_json
from edgeq.runtimes.child import RunnerProcess
from edgeq.tasks import score_types

LINKS, VALUES = 400, 800
"""Conversations over bad links, and conversations with one value replaced."""

TIMEOUT_S = 3.0
MAX_S, MAX_GROWTH_BYTES = 20.0, 400 << 20
"""What a conversation may take of the host. The longest answer that is read has 64 MiB."""

SAMPLING = Sampling(1, 0.0, 3, 0.0, 1.0, 3, 0.0, TIMEOUT_S, 0.0)
MAX_LINE = 2500
DEVICE = "board"

# Command -> answer, as `edgeq.runtimes.runner` gives them on a board with all sensors.
ANSWERS: dict[str, dict[str, Any]] = {
    "sense": {
        "sensors": {"cpu_clock": {"policy0": {"mhz": 1500.0, "governor": "ondemand"}}, "temperature_c": {"cpu": 51.5}},
        "load_average": [0.4, 0.5, 0.6],
    },
    "power": {"kind": "rails", "source": "INA3221", "watts": 2.5, "gpu_source": "NVML", "gpu_watts": 9.0},
    "open": {
        "cold_start_ms": {"start": 239.5, "import": 21.2, "load": 11.1, "first": 0.4},
        "environment": {
            "engine": "onnxruntime 1.32.0",
            "threads": 1,
            "compute_precision": "f32",
            "cpu": "Cortex-A76",
            "cpu_features": ["asimd"],
            "usable_cpus": 4,
            "architecture": "aarch64",
            "system": "Linux 6.6",
            "board": None,
            "python": "3.11.2",
            "emulated": False,
        },
    },
    "run": {
        "samples_ns": [106478, 100211, 99000],
        "window_ns": [24002529075786, 24002529191137],
        "clock_mhz": [1500.0, 1500.0],
        "energy_j": 0.25,
        "gpu_j": 0.5,
        "device_ns": {"compute": [90000, 90000, 90000], "enqueue": [5000, 5000, 5000]},
    },
    "watch": {},
    "unwatch": {
        "entries": [{"t_s": 0.0, "cpu_clock": {"policy0": 1500.0}}],
        "power": [[24002529075786, 24002529191137, 5.0]],
        "cpu_share": 0.1,
        "troubles": [],
        "gpu_troubles": [],
    },
    "report": {"baseline_rss_bytes": 62492672, "peak_rss_bytes": 73314304},
    "call": {"result": {"preprocess_ms": None, "postprocess_ms": None, "problem": None}},
}

_PLAYER = """
import json, os, sys, time
answers, fault, offset, length = json.loads(sys.argv[1])
sent = 0
def send(data):
    global sent
    begin, sent = sent, sent + len(data)
    at = offset - begin
    if fault and 0 <= at < len(data):
        part = data[at:at + length]
        if fault == "cut":
            os.write(1, data[:at]); os._exit(0)
        if fault == "closed":
            os.write(1, data[:at]); os.close(1); time.sleep(60)
        if fault == "stalled":
            os.write(1, data[:at]); time.sleep(60)
        if fault == "delayed":
            os.write(1, data[:at]); time.sleep(0.3); data = data[at:]
        data = {"doubled": data[:at] + part + data[at:], "dropped": data[:at] + data[at + length:],
                "corrupted": data[:at] + bytes(each ^ 0x15 for each in part) + data[at + length:],
                "inserted": data[:at] + os.urandom(length) + data[at:]}.get(fault, data)
    while data:
        data = data[os.write(1, data):]
for line in sys.stdin.buffer:
    send(answers[json.loads(line)["command"]].encode() + b"\\n")
"""
LINK_FAULTS = ("cut", "closed", "delayed", "doubled", "dropped", "corrupted", "inserted", "stalled")

_FLOOD = "import os\nblock = {block}\nfor _ in range({count}):\n    os.write({to}, block)\n"
_STAY = "import sys; sys.stdin.read()\n"
HOSTILE: dict[str, str] = {
    "10 GB of zeros without a line's end": _FLOOD.format(block="bytes(1 << 20)", count=10_000, to=1),
    "answers that nobody asked for, without end": _FLOOD.format(block="b'{\"ok\": true}\\n' * 5000", count=10**9, to=1),
    "300 MB of errors without a line's end": _FLOOD.format(block="b'E' * (1 << 20)", count=300, to=2),
    "300 MB of errors in lines": _FLOOD.format(block="b'an error\\n' * 100000", count=330, to=2),
    "20 million lists in an answer": 'import os\nos.write(1, b\'{"ok": true, "a": [\')\n'
    + _FLOOD.format(block="b'[],' * (1 << 19)", count=40, to=1)
    + "os.write(1, b'[]]}\\n')\n"
    + _STAY,
    "20 million numbers in an answer": 'import os\nos.write(1, b\'{"ok": true, "samples_ns": [\')\n'
    + _FLOOD.format(block="b'7.5,' * (1 << 19)", count=40, to=1)
    + "os.write(1, b'1]}\\n')\n"
    + _STAY,
    "a million brackets": "import os\nos.write(1, b'[' * 1000000 + b'\\n')\n" + _STAY,
    "an integer of a million digits": "import os\nos.write(1, b'{\"ok\": true, \"n\": ' + b'9' * 1000000 + b'}\\n')\n"
    + _STAY,
    "an error of 60 MB": "import os\nos.write(1, b'{\"ok\": false, \"message\": \"' + b'm' * 60000000 + b'\"}\\n')\n"
    + _STAY,
    "escape sequences": 'import os\nos.write(1, b\'{"ok": false, "message": \'\n'
    "    b'\"\\\\u001b]0;title\\\\u0007\\\\u009b2J\\\\u202e\"}\\n')\nos.write(2, b'\\x1b[2J\\x1b]52;c;aGk=\\x07')\n"
    + _STAY,
    "random bytes": "import os\nfor _ in range(1000):\n    os.write(1, os.urandom(4096))\n",
    "nothing, for ever": _STAY,
    "the end at once": "",
    "deaf and dumb, ignoring the end": "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "time.sleep(60)\n",
}

VALUE_TEXTS = ("1e999", "-1e999", "NaN", "1e308", "-1", "0", "null", "true", '"text"', "[]", "{}", "9" * 30, "[[1]]")


class Case(NamedTuple):
    """A conversation: what kind of fault, what exactly, and the arguments that start the runner."""

    kind: str
    name: str
    command: list[str]


@dataclass
class Tried:
    """What came of the conversations of a kind."""

    tried: int = 0
    results: int = 0
    refused: int = 0
    longest_s: float = 0.0
    growth_bytes: int = 0


def player(answers: dict[str, str], fault: str = "", offset: int = 0, length: int = 0) -> list[str]:
    """Returns the command of a runner that answers so, with a fault at a byte of all that it sends."""
    return _python(_PLAYER, json.dumps([answers, fault, offset, length]))


def texts(**changed: str) -> dict[str, str]:
    """Returns the answers as JSON; `changed` are texts that take the place of whole answers."""
    return {name: json.dumps({"ok": True, **answer}) for name, answer in ANSWERS.items()} | changed


def hostile_cases() -> Iterator[Case]:
    """Yields each hostile runner once."""
    for name, script in HOSTILE.items():
        yield Case("hostile runner", name, _python(script))


def link_cases(count: int, seed: int) -> Iterator[Case]:
    """Yields conversations with a fault of the link at a random byte."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret
    size = sum(len(each) + 1 for each in texts().values()) + 600
    for number in range(count):
        # A stalled one takes the host's whole patience.
        fault = LINK_FAULTS[number % (len(LINK_FAULTS) - (number % 40 != 7))]
        offset, length = rng.randrange(size), rng.choice((1, 2, 7, 100))
        yield Case(f"link: {fault}", f"byte {offset}, {length} long", player(texts(), fault, offset, length))


def value_cases(count: int, seed: int) -> Iterator[Case]:
    """Yields conversations with one value replaced or left out."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret
    places = [(command, path) for command, answer in ANSWERS.items() for path in _paths(answer)]
    for _ in range(count):
        command, path = rng.choice(places)
        text = rng.choice((*VALUE_TEXTS, None))
        changed = _changed({"ok": True, **ANSWERS[command]}, path, text)
        yield Case("a changed value", f"{command} {list(path)}: {text}", player(texts(**{command: changed})))


def try_case(case: Case, artifact: Artifact, tried: Tried) -> str | None:
    """Returns what is wrong with how the host takes a conversation, or `None`; counts it."""
    begun, before = time.monotonic(), restart_peak_rss() or 0
    processes: list[RunnerProcess] = []

    class Noted(RunnerProcess):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            processes.append(self)

    problem = None
    with (
        mock.patch.object(benchmark, "RunnerProcess", Noted),
        mock.patch.object(telemetry, "RunnerProcess", Noted),
        mock.patch.object(telemetry, "_TIMEOUT_S", TIMEOUT_S),
    ):
        try:
            jobs = [Job(artifact, "onnxruntime")]
            with named_errors(DEVICE):
                results = benchmark.bench_jobs(jobs, threads=1, sampling=SAMPLING, runner=case.command, locate=str)
            document = json.dumps([to_json(result) for result in results], allow_nan=False)
            parse_results(json.loads(document), "results", score_types())
            tried.results += 1
        except EdgeqError as error:
            tried.refused += 1
            said = said_of(error)
            if not said.startswith(f"{DEVICE}: ") or len(said) > MAX_LINE or not said.isprintable():
                problem = f"says {said[:200]!r} ({len(said)} characters)"
        except Exception as error:
            problem = f"raises {error!r:.200}"
    took_s, growth = time.monotonic() - begun, (peak_rss_bytes() or 0) - before
    tried.tried += 1
    tried.longest_s, tried.growth_bytes = max(tried.longest_s, took_s), max(tried.growth_bytes, growth)
    if took_s > MAX_S:
        problem = f"takes {took_s:.0f} s"
    if growth > MAX_GROWTH_BYTES:
        problem = f"takes {growth >> 20} MB"
    if any(Path(f"/proc/{each.pid}").exists() for each in processes):
        problem = "leaves a process behind"
    return problem


def run(
    out: Path, links: int = LINKS, values: int = VALUES, hostile: Sequence[Case] | None = None, seed: int = 1
) -> Path:
    """Tries all conversations and writes `device_faults.md`; returns its path."""
    kinds: dict[str, Tried] = {}
    faults: list[str] = []
    cases = [*(hostile_cases() if hostile is None else hostile), *link_cases(links, seed), *value_cases(values, seed)]
    with tempfile.TemporaryDirectory() as folder:
        artifact = _artifact(Path(folder))
        for case in cases:
            problem = try_case(case, artifact, kinds.setdefault(case.kind, Tried()))
            if problem:
                faults.append(f"{case.kind}, {case.name}: {problem}")
    return write_result(out, "device_faults.md", _page(kinds, faults))


def _page(kinds: dict[str, Tried], faults: Sequence[str]) -> str:
    rows = [
        f"| {kind} | {each.tried:,} | {each.results:,} | {each.refused:,} | {each.longest_s:.1f} s | "
        f"{each.growth_bytes / 1e6:.0f} MB | {sum(fault.startswith(f'{kind},') for fault in faults)} |"
        for kind, each in kinds.items()
    ]
    lines = [
        "# Hostile devices and bad links",
        "",
        f"`python -m benchmarks.device_faults` on {cpu_and_threads(read_machine(), 1)}, measured. Processes play the "
        "runner of `edgeq bench` from the answers of a real one; a conversation ends with results that can be written "
        "and read again, or with one printable line that names the device.",
        "",
        "| Kind | Tried | Results | One line | Longest | Memory of the host | Faults left |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *rows,
        "",
        f"The host waits {TIMEOUT_S:g} s for an answer here. A digit that the link changes can be taken for another "
        "figure; ssh, which checks every byte, ends the connection instead.",
        "",
        "## Hostile runners",
        "",
        *(f"- {name}" for name in HOSTILE),
        "",
        *(["## Faults", "", *(f"- {fault}" for fault in faults), ""] if faults else []),
    ]
    return "\n".join(lines)


def _artifact(folder: Path) -> Artifact:
    (folder / "net.onnx").write_bytes(b"not read by the host")
    spec = TensorSpec("x", "float32", (1, 3, 8, 8))
    return Artifact(folder / "net.onnx", "onnx", "fp32", "arm", (spec,), (spec,), None)


def _python(script: str, *arguments: str) -> list[str]:
    # Isolated and without site-packages: it starts in a hundredth of a second.
    return [sys.executable, "-I", "-S", "-c", script, *arguments]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _paths(entry, (*path, key))


def _changed(answer: dict[str, Any], path: tuple[Any, ...], text: str | None) -> str:
    """Returns an answer as JSON with a text in place of a value, or without the value."""
    copy = json.loads(json.dumps(answer))
    parent = copy
    for step in path[:-1]:
        parent = parent[step]
    if text is None:
        del parent[path[-1]]
        return json.dumps(copy)
    parent[path[-1]] = "@@"
    return json.dumps(copy).replace('"@@"', text)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def main() -> None:
    """Reads the arguments and runs."""
    arguments = make_parser().parse_args()
    print(run(arguments.out, seed=arguments.seed))


if __name__ == "__main__":
    main()
