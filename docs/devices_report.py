"""What does one report over several devices look like?

`python -m docs.devices_report --work FOLDER` exports two detectors and a vision transformer, scores and times
them on this machine, on this machine again behind ssh, and on an emulated aarch64 one behind ssh, writes one report of
all results, benchmarks/results/devices_report.md, and the pictures in docs/. A second call goes on where one was
interrupted. Needs sshd, a Chromium (`docs.browser`), and for the first set-up of the emulator apt and a network.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import DATA, RESULTS
from benchmarks.image_sets import unpack_fashionmnist
from docs.browser import find_browser
from docs.report_screenshots import FOLDER as PICTURES
from docs.report_screenshots import take
from edgeq.files import sha256_bytes, write_text
from tests.arm import emulator
from tests.arm.subjects import first_images
from tests.devices.sshd import Sshd, find_sshd, plain_python

LOOPBACK, EMULATED = "loopback", "aarch64-qemu"
CPU = "neoverse-n1"
# Emulated, an image takes seconds; what is scored there says that all images were not.
EMULATED_DETECTION_IMAGES, EMULATED_EVERY = 24, 100
IMAGE_FOLDERS = ("data/bccd/images", "data/coco/val2017")
TITLE = "# One report over x86, x86 behind ssh and emulated aarch64"
HOW = (
    f"{LOOPBACK} is this machine behind an sshd on 127.0.0.1; {EMULATED} is QEMU in user mode (CPU {CPU}) behind the "
    "same, scored on fewer images, and its rows have no times. Rows of one engine, model and device were timed in "
    "turns: their ratios hold where single times do not."
)


@dataclass(frozen=True)
class Subject:
    """A model with its images; paths are as commands in the work folder name them.

    Attributes:
        name: File names of `edgeq export` begin with it.
        model: Arguments of `edgeq export` that name the model.
        calibration: Those that name the images to calibrate on.
        scored: Arguments of `edgeq eval` that name the images and their annotations.
        scored_emulated: The same on the emulated device; empty where the model is too slow there.
        arm_formats: Formats of its files for ARM.
        in_onnxruntime: Target of the INT8 file that ONNX Runtime runs on x86.
    """

    name: str
    model: tuple[str, ...]
    calibration: tuple[str, ...]
    scored: tuple[str, ...]
    scored_emulated: tuple[str, ...] = ()
    arm_formats: tuple[str, ...] = ()
    in_onnxruntime: str = "x86-ort"

    def files(self, target: str, int8_target: str, suffix: str = "onnx") -> list[str]:
        """Returns the FP32 and the INT8 file that were exported for these targets."""
        return [f"artifacts/{self.name}.{name}.{suffix}" for name in (f"{target}.fp32", f"{int8_target}.int8")]


SUBJECTS = (
    Subject(
        "centernet_r18_bccd",
        ("centernet_resnet18", "--weights", "data/weights/centernet_r18_bccd.safetensors", "--size", "320x416",
         "--labels", "data/bccd/instances_train.json"),
        ("--calib", "data/bccd/instances_train.json", "--images", "data/bccd/images", "--num", "64"),
        ("--annotations", "data/bccd/instances_val.json", "--images", "data/bccd/images"),
    ),
    Subject(
        "yolox_nano_coco_416",
        ("data/weights/yolox_nano_coco_416.onnx", "--preset", "yolox"),
        ("--calib", "data/coco/instances_train.json", "--images", "data/coco/train2017", "--num", "166"),
        ("--annotations", "data/coco/instances_val.json", "--images", "data/coco/val2017"),
        ("--annotations", f"instances_val_{EMULATED_DETECTION_IMAGES}.json", "--images", "data/coco/val2017"),
        # Behind its SiLU, rules other than those of x86 leave all of the ONNX file in float.
        ("tflite",),
        "x86",
    ),
    Subject(
        "vit_d128_l6_fashionmnist",
        ("vit_fashionmnist", "--weights", "data/weights/vit_d128_l6_fashionmnist.safetensors"),
        ("--calib", "fashionmnist_train", "--num", "512"),
        ("--annotations", "fashionmnist_test/labels.csv", "--images", "fashionmnist_test"),
        ("--annotations", "fashionmnist_test_part/labels.csv", "--images", "fashionmnist_test_part"),
        ("onnx", "tflite"),
    ),
)  # fmt: skip


class Steps:
    """Commands of edgeq in a work folder, each run once: a later call passes over those that ended well.

    Args:
        work: The folder.
        path: What stands first on the commands' `PATH`.
    """

    def __init__(self, work: Path, path: Path) -> None:
        self._work = work
        self._stamps = work / "done"
        self._stamps.mkdir(exist_ok=True)
        self._environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"}

    def once(self, *arguments: str) -> None:
        """Runs a command to its end, unless an earlier call did."""
        stamp = self._stamps / sha256_bytes(shlex.join(arguments).encode())[:16]
        if not stamp.is_file():
            self.run(*arguments)
            stamp.touch()

    def run(self, *arguments: str) -> None:
        """Runs a command to its end."""
        command = shlex.join(["edgeq", *arguments])
        print(f"\n$ {command}", flush=True)
        program = [sys.executable, "-m", "edgeq", *arguments]
        done = subprocess.run(program, cwd=self._work, env=self._environment, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise SystemExit(f"failed with exit code {done.returncode}: {command}")


def prepare(work: Path) -> None:
    """Writes the images and annotations that are not there as files, and links the others."""
    for name in ("runs", "artifacts"):
        (work / name).mkdir(exist_ok=True)
    if not (work / "data").is_symlink():
        (work / "data").symlink_to(DATA.resolve())
    sets = (("train", "train2k_calib", 1), ("test", "test10k", 1), ("test_part", "test10k", EMULATED_EVERY))
    for name, source, every in sets:
        folder = work / f"fashionmnist_{name}"
        if not (folder / "labels.csv").is_file():
            unpack_fashionmnist(DATA, f"fashionmnist_{source}", folder, every=every)
    part = first_images(DATA / "coco/instances_val.json", EMULATED_DETECTION_IMAGES, work)
    part.replace(work / f"instances_val_{EMULATED_DETECTION_IMAGES}.json")


def export(steps: Steps, subjects: Sequence[Subject]) -> None:
    """Writes the files: for x86, and for ARM those that an emulated one runs in reasonable time."""
    for subject in subjects:
        out = ("--precision", "fp32,int8", "--out", "artifacts")
        steps.once("export", *subject.model, "--target", "x86", *subject.calibration, *out)
        if subject.in_onnxruntime != "x86":
            ranges = ("--calib", f"artifacts/{subject.name}.ranges.json", "--precision", "int8", "--out", "artifacts")
            steps.once("export", *subject.model, "--target", subject.in_onnxruntime, *ranges)
        for each in subject.arm_formats:
            steps.once("export", *subject.model, "--target", "arm", "--format", each, *subject.calibration, *out)


def measure(steps: Steps, subjects: Sequence[Subject], seconds: float) -> None:
    """Scores and times the files, model by model, on one device after the other."""
    for place, subject in enumerate(subjects, start=1):
        rows = [
            ("local", "onnxruntime", subject.files("x86", subject.in_onnxruntime), subject.scored),
            ("local", "openvino", subject.files("x86", "x86"), subject.scored),
            (LOOPBACK, "openvino", subject.files("x86", "x86"), subject.scored),
        ]
        for each in subject.arm_formats:
            runtime = {"onnx": "onnxruntime", "tflite": "litert"}[each]
            rows.append((EMULATED, runtime, subject.files("arm", "arm", each), subject.scored_emulated))
        for number, (device, runtime, files, scored) in enumerate(rows, start=1):
            where = (*files, "--runtime", runtime, "--device", device)
            # A report takes the files of a folder by name, so that names decide the order of its rows.
            out = f"runs/{place}.{number}-{subject.name}-{device}-{runtime}"
            steps.once("bench", *where, "--seconds", f"{seconds:g}", "--json", f"{out}-bench.json")
            steps.once("eval", *where, *scored, "--json", f"{out}-eval.json")


@contextlib.contextmanager
def devices(work: Path) -> Iterator[Path]:
    """Starts an sshd, describes both devices behind it in a devices.toml, and gives the folder of the `ssh` to use."""
    found = emulator.set_up()
    root = found.folder / CPU
    (work / "emulated").mkdir(exist_ok=True)
    # The path of packages is what edgeq gives it, hence not `write_python`; -S as there.
    qemu = [found.qemu, "-cpu", CPU, "-L", root, "-E", f"PYTHONPYCACHEPREFIX={work}/emulated/bytecode"]
    python = work / "emulated/python"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, [*qemu, root / "usr/bin/python3", "-S"]))} "$@"\n')
    python.chmod(0o755)
    with tempfile.TemporaryDirectory() as folder:
        sshd = Sshd(Path(folder))
        table = "".join(
            f'[{name}]\nhost = "{sshd.address}"\npython = "{interpreter}"\ncache = "{work}/device-{name}"\n{extra}'
            for name, interpreter, extra in (
                (LOOPBACK, plain_python(), ""),
                (EMULATED, python, "threads = 1\n"),
            )
        )
        write_text(work / "devices.toml", table)
        sshd.start()
        try:
            yield sshd.bin
        finally:
            sshd.stop()


def write(work: Path, steps: Steps, images: Sequence[str], out: Path) -> Path:
    """Writes the report as a page in the work folder and as a table; returns the table's file in the folder `out`."""
    shown = [word for folder in images for word in ("--images", folder)]
    steps.run("report", "runs", "artifacts", *shown, "--out", "report.html")
    steps.run("report", "runs", "--out", "report.md")
    table = (work / "report.md").read_text(encoding="utf-8")
    path = out / "devices_report.md"
    write_text(path, f"{TITLE}\n\n{HOW}\n\n{table}")
    return path


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("devices_report"), help="folder for files and results")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured seconds of each file, at least")
    return parser


def main() -> None:
    """Runs the steps that an earlier call has not finished, and writes the table and the pictures."""
    arguments = make_parser().parse_args()
    if find_sshd() is None or shutil.which("ssh") is None or find_browser() is None:
        sys.exit("wanted ssh, sshd and a Chromium; install them, or set EDGEQ_CHROMIUM (docs/fetch_chromium.sh)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sshd ends, too
    work: Path = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    prepare(work)
    with devices(work) as path:
        steps = Steps(work, path)
        export(steps, SUBJECTS)
        measure(steps, SUBJECTS, arguments.seconds)
        write(work, steps, IMAGE_FOLDERS, RESULTS)
    images = [work / folder for folder in IMAGE_FOLDERS]
    for picture in take([work / "runs", work / "artifacts"], images, PICTURES):
        print(f"{picture.name}  {picture.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
