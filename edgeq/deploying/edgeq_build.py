"""`build_edgeq.sh`: engines by `edgeq build`, which keeps to the manifest and checks what TensorRT made of it."""

from __future__ import annotations

from pathlib import PurePosixPath

from edgeq.deploying.base import DeployJob, is_float
from edgeq.deploying.packed import Packed
from edgeq.deploying.shell import Script, in_folder
from edgeq.deploying.triton import PLAN


def engine_path(model: Packed) -> str:
    """Returns where `edgeq build` writes the engine of a model."""
    return str(PurePosixPath(model.path).with_suffix(".engine"))


def build_script(job: DeployJob) -> str:
    """Returns the script. Engines of a fixed batch are copied to `model.plan`, where Triton and DeepStream look."""
    script = Script(
        "Builds the engines with edgeq, on this board; it needs edgeq's wheel and JetPack's TensorRT, not torch.",
        [
            "./build_edgeq.sh",
            "ROUTE=both ./build_edgeq.sh      INT8 by Q/DQ nodes and by the cache: the better of both",
        ],
    )
    advice = "in a venv with --system-site-packages: pip install edgeq-VERSION-py3-none-any.whl"
    script.require_program("edgeq", advice, "", "EDGEQ")
    script.add(
        "build() {",
        '    "$edgeq" build --timing-cache "$here/timing.cache" "$@"',
        "}",
        "publish() {",
        '    cp -- "$1" "$2.part"',
        '    mv -- "$2.part" "$2"',
        "}",
        "",
    )
    for model in job.models:
        route = "" if is_float(model) else '${ROUTE:+--route "$ROUTE"} '
        script.add(f"build {route}-- {in_folder(model.path)}")
        if not model.batch_is_free:
            # Of a free batch axis `edgeq build` makes one size, and servers are configured for a range.
            script.add(f"publish {in_folder(engine_path(model))} {in_folder(f'{model.folder}/{PLAN}')}")
    return script.text()
