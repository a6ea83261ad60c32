"""Do deployment folders work in a clean environment, by their own scripts?

`python -m benchmarks.deploy_folders` exports three models for three targets, writes the folder of each, and calls its
scripts with nothing on the path but an environment that holds edgeq's wheel and the engine: no torch, no checkout. What
is finished is kept in `--work`; run it again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import case, code_state, kept_result, read_subjects, states_of, subjects_parser, write_result
from benchmarks.image_sets import unpack_fashionmnist
from edgeq.boundary import Plain, read_json
from edgeq.calibration.source import CalibrationSource
from edgeq.machine import read_machine
from edgeq.reporting.runs import read_runs
from edgeq.results.rows import Row
from edgeq.sources.model import ModelRequest
from edgeq.verbs.deploy import deploy_files
from edgeq.verbs.export import export_model

NAMES = ("vit", "centernet", "yolox")
TARGETS = ("x86", "arm", "jetson-orin")
IMAGES = 64
WORK = Path("artifacts/deploy_folders")
PRECISIONS = ("fp32", "int8")

# Target -> the format that is exported; arm's other one, ONNX, is what x86 has shown already.
_FORMATS = {"arm": ("tflite",)}
_EXTRAS = {"x86": "[openvino]", "arm": "[litert]"}
_TOOLS = os.pathsep.join(("/usr/bin", "/bin"))
# Every 50th of the 10,000 test images.
_VIT_EVERY = 50


@dataclass(frozen=True)
class Deployed:
    """A model with images to calibrate on and to score on.

    Attributes:
        name: What its folders are called.
        title: What the table calls it.
        request: The model.
        calibration: The images to calibrate on.
        truth: Annotations of the images to score on.
        images: Folder of these images.
    """

    name: str
    title: str
    request: ModelRequest
    calibration: CalibrationSource
    truth: Path
    images: Path


def deployed(name: str, data: Path, work: Path, num: int) -> Deployed:
    """Returns one of `NAMES` with its real images."""
    if name != "vit":
        found = case(name)
        calibration = CalibrationSource(found.calibration, found.calibration_images, num=num)
        return Deployed(name, found.model_title, found.request, calibration, found.validation, found.validation_images)
    train, test = work / "vit_train", work / "vit_test"
    unpack_fashionmnist(data, "fashionmnist_train2k_calib", train, every=20)
    labels = unpack_fashionmnist(data, "fashionmnist_test10k", test, every=_VIT_EVERY)
    request = ModelRequest("vit_fashionmnist", data / "weights" / "vit_d128_l6_fashionmnist.safetensors")
    return Deployed(name, "ViT-d128", request, CalibrationSource(train, num=num), labels, test)


def environment(target: str, work: Path) -> Path:
    """Returns the folder of programs of an environment with edgeq's wheel and the target's engine, made once."""
    folder = work / "environments" / target
    programs = folder / "bin"
    if (programs / "edgeq").is_file():
        return programs
    root = Path(__file__).parents[1]
    wheels = work / "wheel"
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)], cwd=root, check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    wanted = f"{wheel}{_EXTRAS.get(target, '')}"
    subprocess.run([str(programs / "python"), "-m", "pip", "install", "--quiet", wanted], check=True)
    return programs


@dataclass(frozen=True)
class Script:
    """What a script of a folder did.

    Attributes:
        name: Its file name.
        code: Its exit code.
        said: Its only line, or that of its end.
    """

    name: str
    code: int
    said: str


def call(script: Path, programs: Path, folder: Path, *arguments: Path) -> Script:
    """Returns what a script does in an environment, called from `folder`, or did when it was called before.

    What it prints is kept in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = kept_result(folder / f"{script.name}.json", _call, script, programs, folder, *arguments)
    return Script(script.name, int(found["code"]), str(found["said"]))


def _call(script: Path, programs: Path, folder: Path, *arguments: Path) -> dict[str, Any]:
    # The machine's own variables, such as those of threads, hold in the environment too; its Python's do not.
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        ["/bin/sh", str(script), *map(str, arguments)],
        env={**kept, "PATH": f"{programs}{os.pathsep}{_TOOLS}"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / f"{script.name}.log").write_text(f"{done.stdout}\n{done.stderr}")
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return {"code": done.returncode, "said": lines[-1] if lines else "", "state": code_state()}


def has_torch(programs: Path) -> bool:
    """Returns whether the Python of an environment finds torch."""
    python = programs / "python"
    if not python.is_file():
        return False
    return subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False).returncode == 0


def try_folder(subject: Deployed, target: str, work: Path, programs: Path) -> str:
    """Returns the rows of a folder's scripts, after exporting, deploying and calling them."""
    files = _exported(subject, target, work / "exported" / subject.name)
    out, ran = work / "folders" / f"{subject.name}.{target}", work / "ran" / f"{subject.name}.{target}"
    written = deploy_files(files, target, out)
    repeated = deploy_files(files, target, out)
    sums = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=out, capture_output=True, check=False)
    intact = sums.returncode == 0 and not repeated.changed
    state = f"{len(written.files)} files, {'intact, the same twice' if intact else 'NOT INTACT'}"
    if target.startswith("jetson"):
        scripts = [call(out / name, programs, ran) for name in ("build.sh", "build_edgeq.sh")]
        return "".join(_row(subject, target, state, script, script.said) for script in scripts)
    script = call(out / "run.sh", programs, ran, subject.truth.resolve(), subject.images.resolve())
    results = sorted((ran / "results").glob("*_*.json"))
    if not results:
        return _row(subject, target, state, script, script.said)
    rows = read_runs(results).rows
    # What the board found is what the next engineer should expect.
    stated = deploy_files(files, target, work / "stated" / out.name, results=results).expected
    found = "; ".join(_figures(row) for row in rows)
    return _row(
        subject, target, state, script, f"{found}; {_verdicts(ran / 'results' / 'gate.json')}; README: {stated}"
    )


def run(
    subjects: Sequence[Deployed], targets: Sequence[str], work: Path, out: Path, programs: Callable[[str, Path], Path]
) -> Path:
    """Returns the result file of what the folders' scripts did.

    Args:
        subjects: The models.
        targets: The targets.
        work: Folder for files, environments and folders.
        out: Folder for the result.
        programs: Target and `work` -> the folder of programs of its environment.
    """
    where = {target: programs(target, work) for target in targets}
    rows = "".join(try_folder(subject, target, work, where[target]) for subject in subjects for target in targets)
    results = sorted((work / "ran").rglob("results/*_*.json"))
    engines = sorted({row.engine for row in read_runs(results).rows}) if results else ["no engine"]
    torch = [target for target in targets if has_torch(where[target])]
    called = [read_json(path, Plain, kind="a script's end") for path in (work / "ran").glob("*/*.sh.json")]
    machine = read_machine()
    text = (
        "# Deployment folders, run by their own scripts\n\n"
        "Each folder of `edgeq deploy` in an environment that holds edgeq's wheel and the engine alone. `run.sh` is "
        "called with images: it times, scores and ends with `edgeq gate`, whose figures follow with 95 % intervals: "
        "points below FP32, and time over FP32's. Without a Jetson its build scripts can only say what is missing.\n\n"
        "| model | target | folder | script | exit code | what came of it |\n|---|---|---|---|---:|---|\n"
        f"{rows}\n"
        f"torch in these environments: {', '.join(torch) or 'none'}. LiteRT ran on x86 in place of ARM. Exports that "
        "an earlier run kept in `--work` were taken as they were.\n"
        f"Measured on {machine.cpu} ({', '.join(machine.cpu_features)}), {machine.system}, Python {machine.python}, "
        f"with {', '.join(engines)}, {states_of(called)}; other work ran at the same time, so the ratios of "
        "times are rough.\n"
    )
    return write_result(out, "deploy_folders.md", text)


def _exported(subject: Deployed, target: str, folder: Path) -> list[Path]:
    kept = sorted(folder.glob(f"*.{target}.*.onnx")) + sorted(folder.glob(f"*.{target}.*.tflite"))
    if kept:
        return kept
    formats = _FORMATS.get(target, ())
    found = export_model(
        subject.request, target, PRECISIONS, folder, calibration=subject.calibration, formats=formats, threads=1
    )
    return sorted(found.paths)


def _row(subject: Deployed, target: str, state: str, script: Script, said: str) -> str:
    cells = (subject.title, target, state, f"`{script.name}`", str(script.code), said.replace("|", "\\|"))
    return f"| {' | '.join(cells)} |\n"


def _figures(row: Row) -> str:
    score = row.score
    scored = "not scored" if score is None else f"{score.columns[0].title} {score.numbers[score.main]:.4f}"
    compute = f" ({row.compute})" if row.compute not in ("", "f32") else ""
    return f"{row.precision}{compute} {scored}"


def _verdicts(path: Path) -> str:
    if not path.is_file():
        return "no gate"
    document: Mapping[str, list[dict[str, Any]]] = read_json(path, dict, kind="a result of `edgeq gate --json`")
    found = []
    for each in document["verdicts"]:
        figure, low, high = (_number(each[key]) for key in ("figure", "low", "high"))
        found.append(f"{each['limit']} {figure} ({low} to {high}) {each['verdict']}")
    return f"gate: {', '.join(found)}"


def _number(figure: float | None) -> str:
    return "?" if figure is None else f"{figure:.2f}"


def make_parser() -> argparse.ArgumentParser:
    return subjects_parser(__doc__, NAMES, NAMES, IMAGES, WORK)


def main() -> None:
    arguments = read_subjects(make_parser(), NAMES)
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    subjects = [deployed(name, arguments.data, work, arguments.images) for name in arguments.names]
    run(subjects, TARGETS, work, arguments.out, environment)


if __name__ == "__main__":
    main()
