"""NVIDIA's own Python bindings against the contract, and our classes against NVIDIA's bindings.

`EDGEQ_TRT_BINDINGS` names a folder of their wheels (`pip download --no-deps tensorrt-cu12-bindings==10.3.0`; version 8
is called `tensorrt-bindings`). The native libraries come as empty stand-ins, made here with a C compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_order import ROOT
from tests.trt_double import VERSIONS
from tests.trt_rtx_contract import derive, recorded

# What the bindings of all four versions look for when they are loaded.
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin", "libnvparsers")


@pytest.fixture(params=VERSIONS)
def bindings(request, tmp_path):
    """Version, and the environment of a process that finds its bindings and stand-ins."""
    version = request.param
    folder = os.environ.get("EDGEQ_TRT_BINDINGS")
    if folder is None:
        pytest.skip(f"no bindings of TensorRT {version}: EDGEQ_TRT_BINDINGS names no folder of wheels")
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheels = sorted(Path(folder).rglob(f"tensorrt*_bindings-{version}-{python}-*.whl"))
    compiler = shutil.which("cc")
    if not wheels or compiler is None:
        pytest.skip(f"no bindings of TensorRT {version} for {python} in {folder}, or no C compiler")
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "empty.c").write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    major = version.partition(".")[0]
    (tmp_path / "lib").mkdir()
    for name in LIBRARIES:
        library = tmp_path / "lib" / f"{name}.so.{major}"
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, tmp_path / "empty.c"],
            check=True,
        )
    paths = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    return version, os.environ | {"PYTHONPATH": paths, "LD_LIBRARY_PATH": str(tmp_path / "lib")}


def test_the_contract_and_our_classes_fit_nvidias_bindings(bindings):
    version, environment = bindings
    command = [sys.executable, "-m", "tests.trt_bindings", version]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == []


def test_the_contract_of_tensorrt_for_rtx_is_that_of_its_bindings():
    pytest.importorskip("tensorrt_rtx")
    assert derive() == recorded()
