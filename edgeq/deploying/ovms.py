"""OpenVINO Model Server: the list of models, `ovms.json`, and the `docker run` that serves them."""

from __future__ import annotations

import json

from edgeq.deploying.base import DeployJob
from edgeq.deploying.packed import Packed
from edgeq.deploying.shell import Script

CONFIG = "ovms.json"


def served(job: DeployJob) -> tuple[Packed, ...]:
    """Returns the models whose files are planned for OpenVINO."""
    return tuple(model for model in job.models if model.runtime == "openvino")


def config(job: DeployJob) -> str:
    """Returns the server's configuration, its paths relative to it; a free batch axis stays free there."""
    entries = [{"config": {"name": model.name, "base_path": f"models/{model.name}"}} for model in served(job)]
    return json.dumps({"model_config_list": entries}, indent=2) + "\n"


def serve_script() -> str:
    """Returns `serve_ovms.sh`; ports answer on this machine alone."""
    script = Script(
        "Serves the models with OpenVINO Model Server: gRPC on 9000, REST on 8000.",
        ["./serve_ovms.sh [IMAGE]      IMAGE: by default openvino/model_server:latest"],
    )
    script.require_program("docker", "install Docker", "")
    script.add(
        "exec docker run --rm -p 127.0.0.1:9000:9000 -p 127.0.0.1:8000:8000 \\",
        '    -v "$here:/deploy:ro" "${1:-openvino/model_server:latest}" \\',
        f"    --config_path /deploy/{CONFIG} --port 9000 --rest_port 8000",
    )
    return script.text()
