"""What a README says of the servers."""

from __future__ import annotations

from edgeq.deploying import ovms, triton
from edgeq.deploying.base import DeployJob, Section

_NO_PREPARATION = (
    "The server prepares no images: a request carries the input as it is described below, which the parameters "
    "`edgeq_preprocessing` and `edgeq_postprocessing` of the configuration state as JSON."
)


def triton_section(job: DeployJob, image: str) -> Section:
    """Returns what there is to know of Triton.

    Args:
        job: The models.
        image: Which of NVIDIA's images to take.
    """
    models = triton.served(job)
    if not models:
        return Section("Triton", "Triton has no backend for these files.")
    batching = (
        "requests are collected into batches"
        if any(model.batch_is_free for model in models)
        else ("the batch axis is fixed, so requests are not collected; export with `--dynamic-batch` for that")
    )
    return Section(
        "Triton",
        f"    ./serve_triton.sh IMAGE\n\n`models/` is a model repository. IMAGE: {image} {_NO_PREPARATION} Batches: "
        f"{batching}.",
    )


def ovms_section(job: DeployJob) -> Section:
    """Returns what there is to know of OpenVINO Model Server; no text if no file is planned for OpenVINO."""
    if not ovms.served(job):
        return Section("OpenVINO Model Server", "")
    return Section(
        "OpenVINO Model Server",
        "    ./serve_ovms.sh\n\n`ovms.json` lists the files that are planned for OpenVINO, in the same `models/`. A "
        "client prepares the images here too.",
    )
