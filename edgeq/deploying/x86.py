"""x86 servers and PCs: OpenVINO and ONNX Runtime, alone or behind Triton and OpenVINO Model Server."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.deploying import ovms, triton
from edgeq.deploying.base import DeployJob, Deployment, Section
from edgeq.deploying.runner import RUN_LINES, run_script
from edgeq.deploying.serving import ovms_section, triton_section

_IMAGE = "NVIDIA's tritonserver image (`YY.MM-py3`); it runs on the CPU without a GPU."


def _texts(job: DeployJob) -> dict[str, str]:
    runtimes = [model.runtime for model in job.models]
    extra = "[openvino]" if "openvino" in runtimes else ""
    found = {
        "run.sh": run_script(job, [model.path for model in job.models], runtimes, extra),
        "serve_triton.sh": triton.serve_script(job),
        **triton.configs(job),
    }
    if ovms.served(job):
        found |= {ovms.CONFIG: ovms.config(job), "serve_ovms.sh": ovms.serve_script()}
    return found


def _sections(job: DeployJob) -> Sequence[Section]:
    return (
        Section(
            "Measure",
            f"{RUN_LINES}\n\nIt needs edgeq's wheel and nothing that exports: no torch.",
        ),
        triton_section(job, _IMAGE),
        ovms_section(job),
    )


X86 = Deployment(
    title="Files for OpenVINO and ONNX Runtime on an x86 CPU.",
    targets=frozenset({"x86", "x86-openvino", "x86-ort"}),
    runtimes={"onnx": "openvino", "onnx:x86-ort": "onnxruntime", "openvino": "openvino"},
    texts=_texts,
    sections=_sections,
)
