"""How far x86 and emulated aarch64 agree: one file of edgeq, in one engine, on one set of images, on both."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.exporting.artifact import Artifact
from edgeq.results.reading import read_results
from edgeq.results.serialization import to_json
from edgeq.tasks import score_types

ROOT = Path(__file__).parents[2]

_SCRIPT = Path(__file__).with_name("either_side.py")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Machine:
    """A Python that has edgeq: this one, or an emulated one.

    Attributes:
        python: The interpreter.
    """

    python: Path

    def run(self, *arguments: object) -> str:
        """Returns what a Python program printed; `arguments` are those of the interpreter."""
        done = subprocess.run(
            [self.python, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def outputs(self, artifact: Artifact, runtime: str, images: Path, count: int) -> dict[str, np.ndarray]:
        """Returns `<file name>/<output>` -> real numbers for the first images of a folder."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "outputs.npz"
            self.run(_SCRIPT, "outputs", artifact.path, runtime, images, count, out)
            with np.load(out, allow_pickle=False) as arrays:
                return dict(arrays)

    def score(self, artifact: Artifact, runtime: str, annotations: Path, images: Path) -> dict[str, Any]:
        """Returns the result of `edgeq eval`."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "eval.json"
            command = ["eval", artifact.path, "--runtime", runtime, "--threads", 1]
            self.run(_SCRIPT, *command, "--annotations", annotations, "--images", images, "--json", out)
            (result,) = read_results([out], score_types())
            found: dict[str, Any] = to_json(result)
            return found


def on_both(x86: Machine, arm: Machine, method: str, *arguments: Any) -> tuple[Any, Any]:
    """Returns what a method of `Machine` gives on each of two, which run it at the same time."""
    with ThreadPoolExecutor(1) as pool:
        emulated = pool.submit(getattr(arm, method), *arguments)
        return getattr(x86, method)(*arguments), emulated.result()


@dataclass(frozen=True)
class Difference:
    """How far two sets of outputs are from each other.

    Attributes:
        largest: Largest absolute difference, over the range of the first set's output.
        mean: Mean absolute difference, likewise; both are the worst of all outputs.
        share: Share of the values that differ at all.
    """

    largest: float
    mean: float
    share: float

    @property
    def is_none(self) -> bool:
        """Whether the sets are equal bit for bit."""
        return self.share == 0


def compare(these: Mapping[str, np.ndarray], those: Mapping[str, np.ndarray]) -> Difference:
    """Returns how far `those` are from `these`, which have the same keys."""
    assert these.keys() == those.keys() and these
    apart = {key: np.abs(array.astype(np.float64) - those[key]) for key, array in these.items()}
    spans = {key: float(np.ptp(array)) for key, array in these.items()}
    return Difference(
        largest=max(float(found.max()) / spans[key] for key, found in apart.items()),
        mean=max(float(found.mean()) / spans[key] for key, found in apart.items()),
        share=sum(int((found > 0).sum()) for found in apart.values()) / sum(found.size for found in apart.values()),
    )


def install_edgeq(folder: Path) -> Path:
    """Returns a folder with this edgeq as its wheel installs it."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheel")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "wheel").iterdir()
    shutil.unpack_archive(wheel, folder / "edgeq", "zip")
    return folder / "edgeq"
