"""`edgeq doctor` on this machine, and on installations that are broken in known ways."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import edgeq
from edgeq.cli.console import print_diagnosis
from edgeq.machine import read_machine
from edgeq.runtimes import RUNTIMES, is_installed
from edgeq.verbs import doctor
from edgeq.verbs.doctor import Check, Diagnosis, examine
from tests import exact
from tests.boards import x86_laptop


def install(folder: Path, name: str, version: str, code: str, requires: str | None = None) -> None:
    """Makes a package that is found before the real one of that name."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *([f"Requires-Dist: {requires}"] if requires else []),
    ]
    (metadata / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that goes before site-packages, here and in child processes."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return folder


@pytest.fixture
def only(monkeypatch):
    """Returns a function that examines with some parts only."""

    def examine_only(*parts: str) -> list[Check]:
        for part in ("_check_cpu", "_check_packages", "_check_torch", "_check_engines"):
            if part not in parts:
                monkeypatch.setattr(doctor, part, lambda *_machine: ())
        return [check for check in examine().checks if check.name != "sensors"]

    return examine_only


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def absent(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real: Callable[[str], str] = importlib.metadata.version

    def version(name: str) -> str:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.kernels
def test_this_machine_runs_what_is_installed():
    diagnosis = examine()
    assert diagnosis.edgeq == edgeq.__version__
    assert diagnosis.machine == read_machine()
    checks = by_name(list(diagnosis.checks))
    saturating = exact.saturates(diagnosis.machine)
    for runtime in RUNTIMES:
        if is_installed(runtime) and runtime != "tensorrt-rtx":
            check = checks[f"inference in {runtime}"]
            assert check.state == ("warning" if saturating and runtime in ("onnxruntime", "openvino") else "ok")
            assert importlib.metadata.version({"litert": "ai-edge-litert"}.get(runtime, runtime)) in check.found
    assert checks["numpy"] == Check("numpy", "ok", importlib.metadata.version("numpy"))
    assert diagnosis.healthy
    document = diagnosis.to_json()
    assert json.loads(json.dumps(document))["checks"][0]["name"] == diagnosis.checks[0].name


@pytest.mark.skipif(not is_installed("tensorrt-rtx"), reason="tensorrt_rtx is not installed")
def test_a_library_that_only_builds_here_is_no_fault(only, monkeypatch):
    monkeypatch.setattr("edgeq.verbs.doctor.driver_problem", lambda: "there is no driver")
    monkeypatch.setattr("edgeq.verbs.doctor.RUNTIMES", {"tensorrt-rtx": ""})
    (check,) = only("_check_engines")
    assert (check.name, check.state) == ("inference in tensorrt-rtx", "ok")
    assert "edgeq build --sm`; it runs none here, because there is no driver" in check.found


def test_every_requirement_of_the_users_extras_is_looked_for(only):
    found = by_name(only("_check_packages")).keys()
    assert {
        "numpy",
        "onnxruntime",
        "pycocotools",
        "torch",
        "torchvision",
        "onnx",
        "openvino",
        "faster-coco-eval",
    } <= found
    assert not {"pytest", "ruff", "nncf", "tomli"} & found


def test_a_missing_extra_is_named_with_its_pip_line_and_is_no_fault(only, monkeypatch):
    absent(monkeypatch, "openvino", "torch")
    checks = by_name(only("_check_packages"))
    assert (checks["openvino"].state, checks["openvino"].remedy) == ("missing", "pip install 'edgeq[openvino]'")
    assert (checks["torch"].state, checks["torch"].remedy) == ("missing", "pip install 'edgeq[export]'")
    assert examine().healthy


def test_a_missing_base_package_is_a_fault(only, monkeypatch):
    absent(monkeypatch, "pycocotools")
    check = by_name(only("_check_packages"))["pycocotools"]
    assert check.state == "broken"
    assert check.remedy and check.remedy.startswith("pip install 'pycocotools>=")
    assert not examine().healthy


def test_a_package_that_is_too_old_is_a_fault(only, site):
    install(site, "openvino", "2023.1.0", "")
    check = by_name(only("_check_packages"))["openvino"]
    assert (check.state, check.remedy) == ("broken", "pip install --upgrade 'edgeq[openvino]'")
    assert check.found == "2023.1.0, wanted 2024.6 or newer"


def test_a_torch_that_does_not_go_with_torchvision_is_named_with_the_way_out(only, site):
    install(site, "torch", "2.13.0+cpu", "")
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    install(site, "torchvision", "0.29.2", code, requires="torch==2.15.0")
    (check,) = only("_check_torch")
    assert check.state == "broken"
    assert "torch 2.13.0+cpu, torchvision 0.29.2: they cannot be imported together" in check.found
    assert "operator torchvision::nms does not exist" in check.found
    assert "torchvision needs torch==2.15.0" in check.found
    assert check.remedy and "pip install --upgrade --force-reinstall torch torchvision" in check.remedy


def test_without_torch_there_is_nothing_to_match(only, monkeypatch):
    absent(monkeypatch, "torch")
    assert only("_check_torch") == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import os; os.abort()", "its process ended with signal 6"),
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "cannot be imported (libgomp.so.1"),
        ("", "module 'onnxruntime' has no attribute"),
    ],
)
def test_an_engine_that_does_not_run_is_a_fault(only, site, code, found):
    install(site, "onnxruntime", "1.30.0", code)
    check = by_name(only("_check_engines"))["inference in onnxruntime"]
    assert check.state == "broken"
    assert found in check.found
    assert "\n" not in check.found


@pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")
@pytest.mark.skipif("avx2" not in read_machine().cpu_features, reason="an x86 CPU is needed")
def test_saturating_int8_sums_are_a_warning(only, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    check = by_name(only("_check_engines"))["inference in openvino"]
    assert check.state == "warning"
    assert "16-bit sums saturate without VNNI" in check.found


@pytest.mark.parametrize(
    ("features", "state", "found"),
    [
        (("avx2", "avx512_vnni", "amx_int8"), "ok", "AMX, AVX-512 VNNI"),
        (("asimd", "asimddp"), "ok", "Arm dot product"),
        (("avx2",), "warning", "none, only avx2"),
    ],
)
def test_the_instructions_that_int8_runs_on(only, monkeypatch, features, state, found):
    machine = dataclasses.replace(read_machine(), cpu_features=features)
    monkeypatch.setattr(doctor, "read_machine", lambda: machine)
    (check,) = only("_check_cpu")
    assert (check.state, check.found) == (state, found)


def test_an_emulated_machine_is_named(only, monkeypatch):
    machine = dataclasses.replace(read_machine(), emulated=True, architecture="aarch64")
    monkeypatch.setattr(doctor, "read_machine", lambda: machine)
    check = by_name(only("_check_cpu"))["emulation"]
    assert check.state == "warning"
    assert "aarch64 process on an x86 CPU" in check.found


def test_a_folder_on_a_device_has_no_metadata(only, monkeypatch):
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert only("_check_packages") == []
    assert isinstance(examine(), Diagnosis)


def test_the_pip_line_is_printed_with_its_extra(capsys):
    """rich would take the brackets of an extra for markup."""
    check = Check("openvino", "missing", "not installed", "pip install 'edgeq[openvino]'")
    print_diagnosis(Diagnosis("1", read_machine(), (check,)))
    assert "pip install 'edgeq[openvino]'" in capsys.readouterr().out


def test_a_package_of_several_extras_is_listed_once(monkeypatch):
    lines = ['onnx; extra == "export"', 'onnx; extra == "tflite"', 'ai-edge-litert; extra == "litert"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: lines)
    assert [check.name for check in doctor._check_packages()] == ["onnx", "ai-edge-litert"]


def test_the_sensors_that_are_found(tmp_path):
    found = doctor._check_sensors(tmp_path)
    assert (found.state, found.remedy) == ("missing", None)
    assert found.found.startswith("none; latencies come without")

    x86_laptop(tmp_path)
    found = doctor._check_sensors(tmp_path)
    assert (found.state, found.found) == ("ok", "cpu clock, temperature, cooling, x86 throttle, rapl")

    for counter in (tmp_path / "sys/class/powercap").glob("*/energy_uj"):
        counter.unlink()
        counter.mkdir()  # fails to be read for root, too
    found = doctor._check_sensors(tmp_path)
    assert found.state == "warning"
    assert found.found.endswith("x86 throttle, rapl, which root alone may read")
    assert found.remedy and "chmod" in found.remedy
