"""AIMET's AdaRound on an FP32 file of edgeq; its files get manifests, so that edgeq can score them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeq.exporting.artifact import Artifact
from edgeq.files import write_json

KINDS = ("nearest", "learned")
_BATCH = 32
"""Inputs that one iteration learns on; AIMET takes no more."""

_PROCESS = Path(__file__).with_name("aimet_process.py")


class AimetJob(NamedTuple):
    """What AIMET is asked for.

    Attributes:
        fp32: The FP32 file.
        iterations: How many per layer; AIMET's default is 10,000.
        folder: Where its files go.
    """

    fp32: Artifact
    iterations: int
    folder: Path


def adaround(job: AimetJob, inputs: Sequence[np.ndarray], python: Path) -> tuple[list[Artifact], dict[str, Any]]:
    """Returns AIMET's files of `KINDS`, and what AdaRound took: `aimet` (version), `wall_s`, `cpu_s`.

    Args:
        job: The model.
        inputs: What it calibrates and learns on, each `(1, C, H, W)`.
        python: Python of an environment with aimet-onnx, which may lack edgeq.
    """
    paths = {kind: job.folder / f"{job.fp32.path.stem}.aimet-{kind}.onnx" for kind in KINDS}
    stored, asked = job.folder / "inputs.npy", job.folder / "job.json"
    np.save(stored, np.concatenate(inputs))
    given = {"model": str(job.fp32.path.resolve()), "inputs": str(stored.resolve()), "batch": _BATCH}
    files = {kind: str(path.resolve()) for kind, path in paths.items()}
    write_json(asked, {**given, "iterations": job.iterations, **files})
    command = [str(python), str(_PROCESS), str(asked.resolve())]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=job.folder)
    if done.returncode:
        sys.exit(f"aimet-onnx failed:\n{done.stderr[-2000:]}")
    taken: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    artifacts = [dataclasses.replace(job.fp32, path=path, precision="w4a8").save() for path in paths.values()]
    return artifacts, taken
