"""Jetson Orin: engines are built on the board, from the ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edgeq.deploying import deepstream, edgeq_build, jetpack, triton, trtexec
from edgeq.deploying.base import DeployJob, Deployment, Section
from edgeq.deploying.packed import MAX_BATCH
from edgeq.deploying.runner import RUN_LINES, run_script
from edgeq.deploying.serving import triton_section

_IMAGE = (
    "NVIDIA's tritonserver image for Jetson (its tag ends in `igpu`) with the TensorRT of your JetPack. An engine runs "
    "only in the TensorRT that built it: build inside that image, or take one of the same version."
)


def _texts(job: DeployJob, *, strongly_typed: bool) -> dict[str, str]:
    engines = [edgeq_build.engine_path(model) for model in job.models]
    return {
        "build.sh": trtexec.build_script(job, strongly_typed=strongly_typed),
        "build_edgeq.sh": edgeq_build.build_script(job),
        "run.sh": run_script(job, engines, ["tensorrt"] * len(engines), ""),
        "serve_triton.sh": triton.serve_script(job),
        **triton.configs(job),
        **{deepstream.config_path(model): deepstream.config(model) for model in job.models},
    }


def _sections(job: DeployJob, *, strongly_typed: bool) -> Sequence[Section]:
    return (
        Section("Which JetPack", _matrix(job, strongly_typed=strongly_typed)),
        Section("Build", _build(job)),
        Section(
            "Measure",
            f"{RUN_LINES}\n\nIt runs the engines of `./build_edgeq.sh`. Fix the clocks first: `sudo nvpmodel -m 0 && "
            "sudo jetson_clocks`.",
        ),
        Section("DeepStream", _deepstream(job)),
        triton_section(job, _IMAGE),
    )


def _matrix(job: DeployJob, *, strongly_typed: bool) -> str:
    table = jetpack.matrix(job.models, strongly_typed=strongly_typed)
    return f"{table}\n\nBy NVIDIA's release notes and the rules of `edgeq check`; none of it was run on a board."


def _build(job: DeployJob) -> str:
    lines = [
        "    ./build.sh            # by TensorRT's trtexec: needs JetPack alone",
        "    ./build_edgeq.sh      # by edgeq's wheel, without torch: checks what TensorRT made of the file",
        "",
        "Either leaves `models/*/1/model.plan`; `build_edgeq.sh` also leaves an engine with a manifest, which `run.sh` "
        "measures. Engines run only on the GPU, TensorRT and JetPack that built them.",
    ]
    if any(model.cache for model in job.models):
        lines += [
            "",
            "`ROUTE=implicit ./build.sh` takes the calibration cache and the float file instead of Q/DQ nodes, and "
            "writes the installed TensorRT's version into the cache's header. DLA of TensorRT up to 10.7 needs this "
            "route; transformers lose their fused attention by it.",
        ]
    for model in job.models:
        if model.batch_is_free:
            lines += ["", f"{model.name} has a free batch axis: `build.sh` builds an engine for 1 to {MAX_BATCH} "
                      "images, which servers take, `build_edgeq.sh` one for 1 image, to measure."]  # fmt: skip
        if trtexec.fp16_is_left_out(model):
            lines += ["", f"`build.sh` builds {model.name} without FP16: layers that overflow have names that trtexec "
                      "cannot be given. `build_edgeq.sh` has no such limit."]  # fmt: skip
    return "\n".join(lines)


def _deepstream(job: DeployJob) -> str:
    listed = "\n".join(f"- `{deepstream.config_path(model)}`" for model in job.models)
    return (
        "Configurations of Gst-nvinfer (`config-file-path`), for the engines that a build script leaves:\n\n"
        f"{listed}\n\nThey hand out raw output tensors (`output-tensor-meta`), which a probe decodes as the manifest "
        "states. What DeepStream cannot express of a pre-processing is said in the file and below."
    )


JETSON_ORIN = Deployment(
    title="Files for TensorRT 8.5 to 10 on a Jetson Orin.",
    targets=frozenset({"jetson-orin"}),
    runtimes={"onnx": "tensorrt"},
    texts=partial(_texts, strongly_typed=False),
    sections=partial(_sections, strongly_typed=False),
)

JETSON_ORIN_TRT11 = Deployment(
    title="Files for TensorRT 11 on a Jetson Orin.",
    targets=frozenset({"jetson-orin-trt11"}),
    runtimes={"onnx": "tensorrt"},
    texts=partial(_texts, strongly_typed=True),
    sections=partial(_sections, strongly_typed=True),
)
