"""Deployment folders: what an engineer carries to a board or a server, with all that its own tools read there.

Each kind of file has a module here: TensorRT's and edgeq's build scripts, DeepStream, Triton, OpenVINO Model Server,
the README. A deployment names the ones that a target needs; it is a file in this folder and a line in `DEPLOYMENTS`.
"""

from __future__ import annotations

from edgeq.deploying.base import Deployment
from edgeq.errors import InputError
from edgeq.registry import load_entry, registered
from edgeq.wording import did_you_mean

__all__ = ["DEPLOYMENTS", "Deployment", "get_deployment"]

DEPLOYMENTS: dict[str, str] = {
    "arm": "edgeq.deploying.arm:ARM",
    "jetson-orin": "edgeq.deploying.jetson:JETSON_ORIN",
    "jetson-orin-trt11": "edgeq.deploying.jetson:JETSON_ORIN_TRT11",
    "x86": "edgeq.deploying.x86:X86",
    "x86-openvino": "edgeq.deploying.x86:X86",
    "x86-ort": "edgeq.deploying.x86:X86",
}
"""Name of a target -> the deployment of its files."""


def get_deployment(target: str) -> Deployment:
    """Returns the deployment for a target.

    Raises:
        InputError: there is none.
    """
    known = registered("deployment", DEPLOYMENTS)
    if target not in known:
        raise InputError(
            f"`target` {target}: has no deployment folder; {did_you_mean(target, known)}there is one for "
            f"{', '.join(known)}"
        )
    found = load_entry("deployment", DEPLOYMENTS, target)
    if not isinstance(found, Deployment):
        raise InputError(
            f"deployment {target!r}: its entry is {type(found).__name__}, wanted edgeq.deploying.Deployment"
        )
    return found
