"""`edgeq doctor`: what this machine can run, and the pip command for whatever is missing.

Engines and torch are tried in processes of their own, because a broken one may crash on import.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

import edgeq
from edgeq.boundary import Count, parse_json
from edgeq.errors import InputError
from edgeq.machine import Machine, read_machine
from edgeq.project import FILE, read_project
from edgeq.results.environment import Environment
from edgeq.results.serialization import RESULTS_VERSION, to_json
from edgeq.runtimes import RUNTIMES, get_runtime, is_installed
from edgeq.runtimes.child import safe_environment
from edgeq.runtimes.cuda import driver_problem
from edgeq.runtimes.tensorrt.library import TENSORRT, TENSORRT_RTX
from edgeq.runtimes.tensorrt.selftest import CONVOLUTIONS
from edgeq.sensors import rapl, read_sensors

T = TypeVar("T")

# Extras that bring packages for a user's work; `dev` and `benchmarks` are for working on edgeq.
_EXTRAS = ("onnx", "export", "openvino", "tflite", "litert", "faster")
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:>=(?P<version>[\d.]+))?")
_EXTRA_MARKER = re.compile(r"extra == ['\"](?P<extra>\w+)['\"]")
_TIMEOUT_S = 120
# Kernels are timed one by one while an engine is built; an Orin Nano takes about a minute for three layers.
_DEVICE_TIMEOUT_S = 600
# Half of what saturated sums are off by, and many steps more than rounding is.
_MAX_RELATIVE_ERROR = 0.1
# FP16 sums and rounding at the borders of steps; a wrong layer is off by tens of percents.
_MAX_DEVICE_ERROR = 0.05

# Instruction sets that multiply and add INT8, the strongest first.
_INT8_INSTRUCTIONS = {
    "amx_int8": "AMX",
    "avx_vnni_int8": "AVX-VNNI-INT8",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "i8mm": "Arm I8MM",
    "asimddp": "Arm dot product",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        state: `ok`, `missing` (something optional), `warning` (works, with a drawback), `broken`.
        found: What was found.
        remedy: What to do about it; `None` where nothing has to be done.
    """

    name: str
    state: Literal["ok", "missing", "warning", "broken"]
    found: str
    remedy: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What `edgeq doctor` found.

    Attributes:
        edgeq: Version of edgeq.
        machine: Facts about the machine.
        checks: What was looked at.
    """

    edgeq: str
    machine: Machine
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken; packages that are only missing do not count."""
        return all(check.state != "broken" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Returns the same as JSON values."""
        return {"results_version": RESULTS_VERSION, **to_json(self)}


def examine(*, device_test: bool = False) -> Diagnosis:
    """Returns what this machine can run.

    Args:
        device_test: Whether to build and run a small INT8 engine of TensorRT, which takes a minute on a Jetson.
    """
    machine = read_machine()
    here = (*_check_project(), *_check_cpu(machine), _check_sensors())
    checks = (*here, *_check_packages(), *_check_torch(), *_check_engines())
    return Diagnosis(
        edgeq=edgeq.__version__,
        machine=machine,
        checks=(*checks, _check_device()) if device_test else checks,
    )


def _check_project() -> Iterator[Check]:
    """Reads the defaults of the project in the working folder, if it has some."""
    if FILE.is_file():
        try:
            yield Check(str(FILE), "ok", read_project().described or "says nothing")
        except InputError as error:
            yield Check(str(FILE), "broken", str(error))


def _check_cpu(machine: Machine) -> Iterator[Check]:
    found = [label for name, label in _INT8_INSTRUCTIONS.items() if name in machine.cpu_features]
    if found:
        yield Check("INT8 instructions", "ok", ", ".join(found))
    elif machine.cpu_features:
        yield Check(
            "INT8 instructions",
            "warning",
            f"none, only {', '.join(machine.cpu_features)}",
            "expect little speed from INT8 on this CPU; it saves size and memory",
        )
    if machine.emulated:
        yield Check(
            "emulation",
            "warning",
            f"an {machine.architecture} process on an x86 CPU",
            "scores hold, times do not: edgeq bench gives none here",
        )


def _check_sensors(root: Path = Path("/")) -> Check:
    """Looks for what `edgeq bench` can tell beside latencies."""
    name = "sensors"
    readings = read_sensors(root)
    found = [kind.removesuffix("_c").replace("_", " ") for kind, reading in readings.items() if reading is not None]
    if rapl.is_locked(root):
        locked = "rapl, which root alone may read"
        remedy = "for J per image: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
        return Check(name, "warning", ", ".join([*found, locked]), remedy)
    if not found:
        return Check(name, "missing", "none; latencies come without clocks, temperatures and energy here")
    return Check(name, "ok", ", ".join(found))


def _check_packages() -> Iterator[Check]:
    """Looks for every package that edgeq and its extras require, as its own metadata lists them."""
    try:
        requirements = importlib.metadata.requires("edgeq") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder on a device: it holds what it needs
        return
    seen: set[str] = set()
    for requirement in requirements:
        package, _, marker = requirement.partition(";")
        in_extra = _EXTRA_MARKER.search(marker)
        # The remaining markers are those of packages for old Pythons, which pip has dealt with.
        wanted = (in_extra and in_extra["extra"] in _EXTRAS) or not marker
        if wanted and package not in seen:  # an extra lists those of the extras that it includes, too
            seen.add(package)
            yield _check_package(package.strip(), in_extra["extra"] if in_extra else None)


def _check_package(requirement: str, extra: str | None) -> Check:
    parsed = _REQUIREMENT.match(requirement)
    name, wanted = (parsed["name"], parsed["version"]) if parsed else (requirement, None)
    target = f"'edgeq[{extra}]'" if extra else "edgeq"
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if extra:
            return Check(name, "missing", f"not installed, part of the extra {extra}", f"pip install {target}")
        return Check(name, "broken", "not installed, though edgeq requires it", f"pip install '{requirement}'")
    if wanted and _release(found) < _release(wanted):
        return Check(name, "broken", f"{found}, wanted {wanted} or newer", f"pip install --upgrade {target}")
    return Check(name, "ok", found)


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in numbers[0].split(".")) if numbers else ()


def _check_torch() -> Iterator[Check]:
    """Imports torch and torchvision together: builds that do not belong together fail only there."""
    try:
        torch, torchvision = (importlib.metadata.version(name) for name in ("torch", "torchvision"))
    except importlib.metadata.PackageNotFoundError:
        return
    pair = f"torch {torch}, torchvision {torchvision}"
    done = _run_python("-c", "import torch, torchvision; torch.ops.torchvision.nms")
    if done.returncode == 0:
        yield Check("torch with torchvision", "ok", pair)
        return
    requirements = importlib.metadata.requires("torchvision") or []
    wanted = "".join(f"; torchvision needs {line}" for line in requirements if line.startswith("torch="))
    yield Check(
        "torch with torchvision",
        "broken",
        f"{pair}: they cannot be imported together ({_reason(done)}){wanted}",
        "pip install --upgrade --force-reinstall torch torchvision (both in one command, so that pip picks a pair)",
    )


def _check_engines() -> Iterator[Check]:
    """Runs one INT8 convolution with a known result in every engine that is installed and runs model files."""
    for runtime in RUNTIMES:
        if not is_installed(runtime):
            continue
        if get_runtime(runtime).formats == (TENSORRT.engines,):
            found, remedy = "installed; it runs engines that are built on this device", "edgeq doctor --device-test"
            yield Check(f"inference in {runtime}", "ok", found, remedy)
        elif get_runtime(runtime).formats == (TENSORRT_RTX.engines,):
            yield _check_rtx(runtime)
        else:
            yield _check_engine(runtime)


def _check_rtx(runtime: str) -> Check:
    """Looks whether engines of TensorRT for RTX can run here; building them needs no GPU."""
    problem = driver_problem()
    found = "installed; it builds engines for GPUs named by `edgeq build --sm`"
    if problem is None:
        return Check(f"inference in {runtime}", "ok", f"{found}, and runs them here")
    return Check(f"inference in {runtime}", "ok", f"{found}; it runs none here, because {problem}")


def _check_device() -> Check:
    """Builds three INT8 convolutions in TensorRT, looks which kernels they got, and compares their output."""
    name = "INT8 in TensorRT"
    done = _run_python("-m", "edgeq.runtimes.tensorrt.selftest", timeout_s=_DEVICE_TIMEOUT_S)
    answer = _last_line(done, _DeviceAnswer)
    if answer is None:
        return Check(name, "broken", f"its process ended with {_reason(done)}", "EDGEQ_DEBUG=1 shows its log")
    if not answer.ok:
        return Check(name, "broken", answer.message)
    device = f"TensorRT {answer.tensorrt}, CUDA {answer.cuda}, {answer.gpu} ({answer.compute_capability})"
    layers = f"{answer.int8_layers} of {CONVOLUTIONS} convolutions in INT8"
    error = answer.relative_error
    compared = (
        "not compared, ONNX Runtime is not installed" if error is None else f"{100 * error:.2f} % off ONNX Runtime"
    )
    found = f"{device}: {layers}, {compared}"
    if error is not None and not error <= _MAX_DEVICE_ERROR:
        return Check(name, "broken", found, "engines compute wrong numbers here; update JetPack before using them")
    if answer.int8_layers < CONVOLUTIONS:
        return Check(name, "warning", found, "INT8 engines may be no faster than FP16 here; see edgeq inspect ENGINE")
    return Check(name, "ok", found)


class _EngineAnswer(msgspec.Struct):
    """What `edgeq.runtimes.probe` prints."""

    ok: bool
    message: str = ""
    relative_error: float = math.inf
    environment: Environment = msgspec.field(default_factory=Environment)


class _DeviceAnswer(msgspec.Struct):
    """What `edgeq.runtimes.tensorrt.selftest` prints."""

    ok: bool
    message: str = ""
    tensorrt: str = ""
    cuda: str = ""
    gpu: str = ""
    compute_capability: str = ""
    int8_layers: Count = 0
    relative_error: float | None = None


def _last_line(done: subprocess.CompletedProcess[str], wanted: type[T]) -> T | None:
    """Returns the answer of a process, which stands behind what an engine prints; `None` where there is none."""
    try:
        return parse_json(done.stdout.splitlines()[-1].encode(), wanted, source="a process", kind="an answer")
    except (IndexError, InputError):
        return None


def _check_engine(runtime: str) -> Check:
    name = f"inference in {runtime}"
    done = _run_python("-m", "edgeq.runtimes.probe", runtime)
    answer = _last_line(done, _EngineAnswer)
    if answer is None:
        return Check(name, "broken", f"its process ended with {_reason(done)}", f"install {runtime} again")
    if not answer.ok:
        return Check(name, "broken", answer.message, f"install {runtime} again")
    engine = answer.environment.engine or runtime
    error = answer.relative_error
    if error > _MAX_RELATIVE_ERROR:
        return Check(
            name,
            "warning",
            f"{engine} ran an INT8 convolution, {100 * error:.0f} % off: its 16-bit sums saturate without VNNI",
            "files that edgeq export writes here, or with `isa` any, avoid it; for others see edgeq check with `isa`",
        )
    return Check(name, "ok", f"{engine} ran an INT8 convolution, its sums are exact")


def _run_python(*arguments: str, timeout_s: float = _TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=safe_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 1, "", f"no answer within {timeout_s:g} s")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the last line of stderr, where Python writes the error, or how the process ended."""
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
