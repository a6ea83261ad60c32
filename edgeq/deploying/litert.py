"""`benchmark.sh`: LiteRT's own `benchmark_model` on every TFLite file, for a figure that does not come from edgeq."""

from __future__ import annotations

from edgeq.deploying.base import DeployJob
from edgeq.deploying.packed import Packed
from edgeq.deploying.shell import Script, in_folder


def measured(job: DeployJob) -> tuple[Packed, ...]:
    """Returns the models that `benchmark_model` runs."""
    return tuple(model for model in job.models if model.runtime == "litert")


def benchmark_script(job: DeployJob) -> str:
    """Returns the script; XNNPACK is on, as in edgeq's session."""
    script = Script(
        "Times every TFLite file with LiteRT's benchmark_model.",
        [
            "./benchmark.sh",
            "THREADS=4 BENCHMARK_MODEL=/path/to/benchmark_model ./benchmark.sh",
        ],
    )
    advice = "LiteRT publishes it for linux_arm64; name it: BENCHMARK_MODEL=/path/to/benchmark_model ./benchmark.sh"
    script.require_program("benchmark_model", advice, "", "BENCHMARK_MODEL")
    for model in measured(job):
        script.add(
            f'"$benchmark_model" --graph={in_folder(model.path)} --num_threads="${{THREADS:-1}}" --use_xnnpack=true '
            "--warmup_runs=10 --num_runs=100"
        )
    return script.text()
