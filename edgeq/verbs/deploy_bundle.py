"""`edgeq deploy` of a bundle: the folder that a program for generating text opens."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import edgeq
from edgeq.bundles.manifest import Bundle
from edgeq.deploying.bundles import BUNDLE_DEPLOYMENTS, BundleDeployment, get_bundle_deployment
from edgeq.deploying.folder import MARKER, SUMS, write_folder
from edgeq.deploying.packed import Content
from edgeq.deploying.quoting import one_line
from edgeq.errors import InputError
from edgeq.verbs.deploy import README, DeployResult


def deploy_bundle(path: Path, target: str | None, out: Path) -> DeployResult:
    """Writes the folder of a bundle, whole or not at all, and returns what is in it.

    Args:
        path: The bundle.
        target: `onnxruntime-genai` or `openvino-genai`.
        out: The folder: absent, empty, or an earlier deployment, which is replaced.

    Raises:
        InputError: no such target is named, it cannot run such a model, or the folder cannot be written.
        MismatchError: a file is not the one that the manifest describes.
        MissingDependencyError: a package is missing that writes the files.
    """
    if target is None:
        known = " or ".join(BUNDLE_DEPLOYMENTS)
        raise InputError(f"{path}: a bundle does not say which program opens it; name the `target`, {known}")
    deployment = get_bundle_deployment(target)
    bundle = Bundle.load(path)
    with tempfile.TemporaryDirectory() as temporary:
        contents = deployment.contents(bundle, Path(temporary))
        models = tuple(name for name in contents if name.endswith((".onnx", ".xml")))
        marker = {
            "kind": "edgeq deploy", "edgeq": edgeq.__version__, "target": target, "model": bundle.name,
            "source": bundle.source_digest, "parts": {part.name: part.precision for part in bundle.parts},
        }  # fmt: skip
        contents |= {README: _readme(bundle, deployment), MARKER: json.dumps(marker, indent=2) + "\n"}
        changed = write_folder(out, contents)
    return DeployResult(out, target, models, tuple(sorted({*contents, SUMS})), changed, 0)


def _readme(bundle: Bundle, deployment: BundleDeployment) -> Content:
    rows = [
        f"| {part.name} | {part.precision} | {part.method or '-'} | {part.size_bytes / 1e6:.2f} |"
        for part in bundle.parts
    ]
    lines = [
        f"# {one_line(bundle.name)} for {deployment.title}", "",
        f"Written by `edgeq deploy`; context of {bundle.memory.context:,} tokens.", "",
        "| part | precision | method | MB |", "|---|---|---|---:|", *rows, "",
        "## Use", "", "```python", deployment.use, "```", "",
        "## Check what arrived", "", "    sha256sum -c SHA256SUMS",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
