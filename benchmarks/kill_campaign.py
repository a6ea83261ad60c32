"""What is left when a command is killed at a random moment?

`python -m benchmarks.kill_campaign --kills 200` starts calibrate, export, eval, bench, tune and study on a tiny
network, sends SIGKILL, SIGTERM, SIGINT or SIGHUP at a random moment, and looks: every file whole or absent, no file
that is taken for another one's, no traceback, no process of the command after five seconds; and the same command, run
again, ends well with the files of an undisturbed run. A kill takes 10 to 20 s of one core.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from benchmarks.cases import cpu_and_threads, write_result
from edgeq.cli.app import main as main_of_edgeq
from edgeq.errors import EdgeqError, MismatchError
from edgeq.exporting.artifact import Artifact, manifest_path
from edgeq.files import sha256_file, write_text
from edgeq.machine import read_machine

KILLS = 200
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
END_S = 5.0
"""How long processes of a command may live after its end."""

_IMAGES, _CLASSES, _SIDE = 24, 4, 32
_MARK = "EDGEQ_KILLED_BY"
_NAME = "kill_campaign.md"
_PATIENCE_S = 300.0
_IMPORTED = ("onnxruntime", "onnxscript.optimizer", "PIL.Image", "scipy.optimize", "scipy.stats", "matplotlib.pyplot")
"""What commands import that takes time; nothing of it starts a thread."""
_SEARCHES = ("tune",)
"""Commands that stop after a time, with what they have found by then."""

# Command -> arguments; `made` holds the files of an undisturbed export.
COMMANDS: dict[str, list[str]] = {
    "calibrate": ["calibrate", "net.onnx", "images", "--preset", "net.toml", "--out", "out/net.ranges.json"],
    "export": [
        *("export", "net.onnx", "--preset", "net.toml", "--target", "x86-ort", "--precision", "fp32,int8"),
        *("--calib", "images", "--plan", "rules", "--out", "out"),
    ],
    "eval": [
        "eval",
        "--json",
        "out/e.json",
        "made/net.x86-ort.fp32.onnx",
        "made/net.x86-ort.int8.onnx",
        "--data",
        "labels.csv",
    ],
    "bench": ["bench", "made/net.x86-ort.fp32.onnx", "--seconds", "0.3", "--json", "out/b.json"],
    "tune": [
        *("tune", "net.onnx", "--preset", "net.toml", "--target", "x86-ort", "--data", "labels.csv", "--unproved"),
        *("--store", "out/trials.sqlite", "--out", "out", "--time", "2s", "--max-drop", "50"),
    ],
    "study": [
        *("study", "net.onnx", "--preset", "net.toml", "--data", "labels.csv"),
        *("--axis", "bits=4,8", "--axis", "layer=first,last", "--store", "out/study.sqlite", "--out", "out"),
    ],
}


@dataclass
class Tried:
    """What came of the kills of a command.

    Attributes:
        alone_s: How long the command takes undisturbed.
        files: Name -> SHA-256 of the files that it writes then and that state no times.
        kills: How often it was killed.
        late: How often it had ended before.
        faults: What was wrong.
    """

    alone_s: float
    files: dict[str, str]
    kills: int = 0
    late: int = 0
    faults: list[str] = field(default_factory=list)


def prepare(folder: Path) -> None:
    """Writes a network of two layers, its preset, and images in four classes."""
    import onnx
    from PIL import Image

    rng = np.random.default_rng(0)
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[1,3,{_SIDE},{_SIDE}] image) => (float[1,{_CLASSES}] scores) {{
    a = Conv<pads = [1,1,1,1], strides = [2,2]>(image, w0)  b = Relu(a)
    c = Conv<pads = [1,1,1,1], strides = [2,2]>(b, w1)  d = GlobalAveragePool(c)  scores = Flatten(d) }}"""
    model = onnx.parser.parse_model(text)
    for name, shape in (("w0", (8, 3, 3, 3)), ("w1", (_CLASSES, 8, 3, 3))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name))
    onnx.save(model, folder / "net.onnx")
    labels = ", ".join(f'"class{number}"' for number in range(_CLASSES))
    (folder / "net.toml").write_text(
        f'labels = [{labels}]\n[preprocessing]\nresize = "stretch"\n[postprocessing]\ndecoder = "classification"\n'
    )
    (folder / "images").mkdir()
    lines = ["path,label"]
    for number in range(_IMAGES):
        Image.fromarray(rng.integers(0, 255, (_SIDE, _SIDE, 3), np.uint8)).save(folder / "images" / f"{number}.png")
        lines.append(f"images/{number}.png,class{number % _CLASSES}")
    (folder / "labels.csv").write_text("\n".join([*lines, ""]))


class _Command:
    """A command in a fork of this process, which has imported what takes seconds to import.

    Attributes:
        pid: Of the fork, which is the first of a session.
        mark: What the processes that it starts inherit.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.mark = uuid.uuid4().hex
        self._said = folder / "said.txt"
        self._code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(name, folder)

    def wait(self, within_s: float) -> int | None:
        """Returns the exit code, negative for a signal; `None` if it still runs."""
        until = time.monotonic() + within_s
        while self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= until:
                break
            else:
                time.sleep(0.002)
        return self._code

    def said(self) -> str:
        """Returns what it wrote to stdout and stderr."""
        return self._said.read_text(errors="replace")

    def _become(self, name: str, folder: Path) -> NoReturn:
        code = 1
        try:
            os.setsid()
            os.chdir(folder)
            os.environ |= {_MARK: self.mark, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
            output = os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(output, stream)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.argv = ["edgeq", *COMMANDS[name]]
            main_of_edgeq()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except KeyboardInterrupt:  # before the command line has begun
            code = 130
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


class Scene:
    """A folder in which commands run, and are killed.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        prepare(folder)

    def alone(self, name: str) -> Tried:
        """Returns what an undisturbed run takes and writes; raises `AssertionError` if it fails."""
        if any(argument.startswith("made/") for argument in COMMANDS[name]) and not (self.folder / "made").exists():
            self._run("export")
            (self.folder / "out").rename(self.folder / "made")
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        begun = time.monotonic()
        self._run(name)
        return Tried(time.monotonic() - begun, {} if name in _SEARCHES else self._files())

    def kill(self, name: str, tried: Tried, rng: random.Random) -> None:
        """Kills a command at a random moment, looks at what is left, and runs it again."""
        if rng.random() < 0.5:  # else the files of the run before are written over
            shutil.rmtree(self.folder / "out", ignore_errors=True)
        number = rng.choice(SIGNALS)
        moment_s = rng.uniform(0, tried.alone_s)
        process = _Command(name, self.folder)
        if process.wait(moment_s) is None:
            os.kill(process.pid, number)
        else:
            tried.late += 1
        code = process.wait(60)
        if code is None:
            os.kill(process.pid, signal.SIGKILL)
            tried.faults.append(f"{name}, {number.name} after {moment_s:.2f} s: does not end")
        tried.kills += 1
        found = [*self._alive(process.mark), *self._damaged()]
        before, found_one, trace = process.said().partition("Traceback")
        if found_one:
            found.append(f"says {before[-200:] + found_one + trace[:1500]!r}")
        if code in (-signal.SIGSEGV, -signal.SIGABRT):
            found.append(f"ends by signal {-code}")
        again = _Command(name, self.folder)
        if again.wait(_PATIENCE_S):
            found.append(f"run again: {again.said()[-300:]!r}")
        else:
            files = self._files()
            found += [f"run again: another {each}" for each, digest in tried.files.items() if files.get(each) != digest]
            found += self._damaged()
        tried.faults += [f"{name}, {number.name} after {moment_s:.2f} s: {each}" for each in found]

    def _run(self, name: str) -> None:
        process = _Command(name, self.folder)
        assert process.wait(_PATIENCE_S) == 0, f"{name}: {process.said()}"

    def _alive(self, mark: str) -> list[str]:
        """Returns the processes of a command that outlive it."""
        until = time.monotonic() + END_S
        while (left := _marked(mark)) and time.monotonic() < until:
            time.sleep(0.05)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return [f"{len(left)} processes live on"] if left else []

    def _files(self) -> dict[str, str]:
        """Returns name -> SHA-256 of the files that state no times."""
        files = (path for path in sorted((self.folder / "out").rglob("*")) if path.suffix == ".onnx")
        return {path.name: sha256_file(path) for path in files}

    def _damaged(self) -> list[str]:
        """Returns what is wrong with the files that others would read."""
        found = []
        for path in sorted((self.folder / "out").rglob("*")):
            if path.name.startswith(".") or not path.is_file():
                continue
            if path.suffix == ".json":
                try:
                    json.loads(path.read_text())
                except ValueError as error:
                    found.append(f"{path.name} is damaged ({error})")
            elif path.suffix == ".onnx" and not manifest_path(path).is_file():
                found.append(f"{path.name} has no manifest")
            elif path.suffix == ".onnx":
                try:
                    Artifact.load(path)
                except MismatchError as error:
                    found.append(f"{error}")
                except EdgeqError:  # it says that it is unfinished
                    continue
        return found


def run(out: Path, kills: int = KILLS, commands: Sequence[str] = tuple(COMMANDS), seed: int = 1) -> Path:
    """Kills commands in turns and writes `kill_campaign.md`; returns its path."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret
    for name in _IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        tried = {name: scene.alone(name) for name in commands}
        for number in range(kills):
            name = commands[number % len(commands)]
            scene.kill(name, tried[name], rng)
            faults = sum(len(each.faults) for each in tried.values())
            print(f"{number + 1} of {kills}: {name}, {faults} faults", flush=True)
            write_text(out / _NAME, _page(tried))  # a run that is stopped leaves what it found
    return write_result(out, _NAME, _page(tried))


def _page(tried: dict[str, Tried]) -> str:
    faults = [fault for each in tried.values() for fault in each.faults]
    lines = [
        "# Killed commands",
        "",
        f"`python -m benchmarks.kill_campaign` on {cpu_and_threads(read_machine(), 1)}, measured: SIGKILL, SIGTERM, "
        f"SIGINT and SIGHUP at random moments, on a network of two layers and {_IMAGES} images. Afterwards every file "
        "is whole, absent or refused, nothing of the command runs five seconds later, and the same command ends well "
        "with the files of an undisturbed run.",
        "",
        "| Command | Undisturbed | Kills | Ended before | Faults left |",
        "|---|--:|--:|--:|--:|",
        *(
            f"| {name} | {each.alone_s:.1f} s | {each.kills - each.late} | {each.late} | {len(each.faults)} |"
            for name, each in tried.items()
        ),
        "",
        *(["## Faults", "", *(f"- {fault}" for fault in faults), ""] if faults else []),
    ]
    return "\n".join(lines)


def _marked(mark: str) -> list[int]:
    """Returns the processes that have inherited a mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{_MARK}={mark}".encode() in path.read_bytes():  # that of a zombie is empty
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=1)
    return parser


def main() -> None:
    """Reads the arguments and runs."""
    arguments = make_parser().parse_args()
    print(run(arguments.out, arguments.kills, seed=arguments.seed))


if __name__ == "__main__":
    main()
