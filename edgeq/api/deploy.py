"""`edgeq.deploy`: the folder that is carried to a device."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.api.arguments import FilePath, path, paths
from edgeq.deploying.base import GateLimits
from edgeq.verbs.deploy import DeployResult, deploy_files


def deploy(
    files: FilePath | Sequence[FilePath],
    target: str | None = None,
    out: FilePath = "deploy",
    *,
    results: FilePath | Sequence[FilePath] = (),
    max_drop: float = 1.0,
    latency_ratio: float = 1.0,
) -> DeployResult:
    """Returns what is in the deployment folder `out`, after writing it whole or not at all.

    Args:
        files: Files that `export` wrote for the target.
        target: `jetson-orin`, `jetson-orin-trt11`, `x86`, `x86-openvino`, `x86-ort` or `arm`; by default the one that
            the files were exported for.
        out: The folder: absent, empty, or an earlier deployment, which is replaced.
        results: JSON files of `edgeq bench` and `edgeq eval` about the files, or folders of them, for the README.
        max_drop: Points below FP32's score that `run.sh` allows on the device.
        latency_ratio: Latency that it allows, as a multiple of FP32's.

    Raises:
        InputError: the target has no deployment, a file is not for it, files are for several targets and none is
            named, no result is about the files, or the folder cannot be written.
        MismatchError: a file is not the one that its manifest describes.
    """
    limits = GateLimits(max_drop, latency_ratio)
    return deploy_files(
        paths(files, "files"), target, path(out, "out"), results=paths(results, "results"), limits=limits
    )
