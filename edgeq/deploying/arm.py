"""64-bit ARM boards: TFLite files for LiteRT, ONNX files for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.deploying import litert, triton
from edgeq.deploying.base import DeployJob, Deployment, Section
from edgeq.deploying.runner import RUN_LINES, run_script
from edgeq.deploying.serving import triton_section

_IMAGE = "NVIDIA's tritonserver image (`YY.MM-py3`), which is also built for arm64 servers."


def _texts(job: DeployJob) -> dict[str, str]:
    runtimes = [model.runtime for model in job.models]
    extra = "[litert]" if "litert" in runtimes else ""
    found = {"run.sh": run_script(job, [model.path for model in job.models], runtimes, extra)}
    if litert.measured(job):
        found["benchmark.sh"] = litert.benchmark_script(job)
    if triton.served(job):
        found |= {"serve_triton.sh": triton.serve_script(job), **triton.configs(job)}
    return found


def _sections(job: DeployJob) -> Sequence[Section]:
    lines = [RUN_LINES]
    if litert.measured(job):
        lines.append("    THREADS=4 ./benchmark.sh           # LiteRT's own benchmark_model")
    lines += ["", "`run.sh` needs edgeq's wheel and nothing that exports: no torch."]
    return Section("Measure", "\n".join(lines)), triton_section(job, _IMAGE)


ARM = Deployment(
    title="Files for LiteRT and ONNX Runtime on a 64-bit ARM CPU.",
    targets=frozenset({"arm"}),
    runtimes={"tflite": "litert", "onnx": "onnxruntime"},
    texts=_texts,
    sections=_sections,
)
