"""The engines on another CPU, at native speed: copies of their libraries in which `cpuid` is a trap.

Engines choose their kernels by CPUID, and no setting of ONNX Runtime changes what it finds there. In copies of the
libraries each `cpuid` becomes an illegal instruction of the same length; the preloaded trap.c answers it. torch is left
as it is, but its own variables ask it to use AVX2. Needs a C compiler and binutils.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from edgeq.files import sha256_json
from edgeq.machine import read_machine
from edgeq.runtimes import get_runtime
from tests.packages import EmulatorUnavailableError, run
from tests.x86.cpu import CACHE, write_cpuinfo

_ENGINES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert"}
_SOURCE = Path(__file__).with_name("trap.c")
_NO_KERNELS = re.compile("gpu|npu|frontend|vendors", re.IGNORECASE)  # large, and none for the CPU
_CPUID, _ILLEGAL = b"\x0f\xa2", b"\x0f\x0b"


def set_up() -> Path:
    """Returns a Python whose engines find the other CPU; the libraries are copied where they are not here yet.

    Raises:
        EmulatorUnavailableError: this CPU has no AVX2, or there is no compiler.
    """
    if "avx2" not in read_machine().cpu_features:
        raise EmulatorUnavailableError("this CPU has no AVX2")
    for tool in ("cc", "objdump", "readelf"):
        if shutil.which(tool) is None:
            raise EmulatorUnavailableError(f"{tool} not found; wanted a C compiler and binutils")
    versions = {
        name: importlib.metadata.version(package)
        for name, package in _ENGINES.items()
        if get_runtime(name).is_installed()
    }
    folder = CACHE / f"trap-{sha256_json({'engines': versions, 'source': _SOURCE.read_text()})[:16]}"
    if not folder.is_dir():
        _build(folder, [get_runtime(name).package for name in versions])
    write_cpuinfo(folder / "cpuinfo")
    return _write_python(folder)


def _build(folder: Path, packages: list[str]) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".trap-", dir=CACHE) as name:
        made = Path(name) / "made"
        for package in packages:
            spec = importlib.util.find_spec(package)
            assert spec is not None and spec.origin is not None
            shutil.copytree(Path(spec.origin).parent, made / "site" / package)
        for library in (made / "site").rglob("*.so*"):
            if not _NO_KERNELS.search(str(library.relative_to(made))) and _CPUID in library.read_bytes():
                _set_traps(library)
        cpuinfo = f'-DCPUINFO="{folder / "cpuinfo"}"'
        run(["cc", "-O1", "-shared", "-fPIC", cpuinfo, "-o", made / "trap.so", _SOURCE, "-ldl"])
        made.replace(folder)


def _set_traps(library: Path) -> None:
    """Replaces the instruction in a library; the same bytes inside of others stay."""
    segments = [
        tuple(int(number, 16) for number in found)
        for found in re.findall(r"LOAD\s+(0x\w+)\s+(0x\w+)\s+0x\w+\s+(0x\w+)", run(["readelf", "-lW", library]))
    ]
    content = bytearray(library.read_bytes())
    command = ["objdump", "-d", "--no-show-raw-insn", str(library)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as disassembly:
        assert disassembly.stdout is not None
        addresses = [
            int(line.partition(":")[0], 16) for line in disassembly.stdout if line.rstrip().endswith("\tcpuid")
        ]
    for address in addresses:
        (at,) = (address - start + offset for offset, start, size in segments if start <= address < start + size)
        assert content[at : at + 2] == _CPUID
        content[at : at + 2] = _ILLEGAL
    library.write_bytes(content)


def _write_python(folder: Path) -> Path:
    script = folder / "python"
    variables = {"LD_PRELOAD": folder / "trap.so", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    settings = shlex.join(f"{name}={value}" for name, value in variables.items())
    path = f'PYTHONPATH={shlex.quote(str(folder / "site"))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
    script.write_text(f'#!/bin/sh\nexec env {settings} {path} {shlex.quote(sys.executable)} "$@"\n')
    script.chmod(0o755)
    return script
