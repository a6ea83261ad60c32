"""`edgeq deploy`: the folder that an engineer carries to a device: models, scripts, configurations, figures."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeq
from edgeq.deploying import Deployment, get_deployment
from edgeq.deploying.base import DeployJob, GateLimits
from edgeq.deploying.folder import MARKER, SUMS, write_folder
from edgeq.deploying.packed import Content, Packed, pack
from edgeq.deploying.readme import readme
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.reporting.runs import read_runs
from edgeq.results.rows import Row
from edgeq.results.serialization import RESULTS_VERSION

README = "README.md"


@dataclass(frozen=True)
class DeployResult:
    """A deployment folder.

    Attributes:
        folder: Where it lies.
        target: Name of the target.
        models: Paths of the models within it.
        files: Paths of all files within it, sorted.
        changed: Whether anything was written; a second run with the same files changes nothing.
        expected: How many results about its files the README states.
    """

    folder: Path
    target: str
    models: tuple[str, ...]
    files: tuple[str, ...]
    changed: bool
    expected: int

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a JSON file."""
        return {"results_version": RESULTS_VERSION, **dataclasses.asdict(self), "folder": str(self.folder)}


def deploy_files(
    paths: Sequence[Path],
    target: str | None,
    out: Path,
    *,
    results: Sequence[Path] = (),
    limits: GateLimits | None = None,
) -> DeployResult:
    """Writes the deployment folder of exported files, whole or not at all, and returns what is in it.

    Args:
        paths: Files that `edgeq export` wrote for the target.
        target: A target with a deployment, see `edgeq.deploying.DEPLOYMENTS`; `None` for the one that the files were
            exported for.
        out: The folder: absent, empty, or an earlier deployment, which is replaced.
        results: Results of `edgeq bench` and `edgeq eval` about the files, or folders of them.
        limits: What `run.sh` allows on the device.

    Raises:
        InputError: the target has no deployment, a file is not for it or named twice, files are for several targets
            and none is named, no result is about the files, a limit is not a positive number, or the folder cannot be
            written.
        MismatchError: a file is not the one that its manifest describes.
    """
    chosen = limits or GateLimits()
    _check_limits(chosen)
    if not paths:
        raise InputError("no file to deploy; name at least one that `edgeq export` wrote")
    if target is not None:
        get_deployment(target)  # tells of a wrong name before files are read
    artifacts = [Artifact.load(path) for path in paths]
    target = target or _common_target(artifacts)
    deployment = get_deployment(target)
    models = tuple(_packed(artifact, deployment, target) for artifact in artifacts)
    _require_names(models)
    job = DeployJob(target, models, _rows(models, results), chosen)
    contents: dict[str, Content] = {}
    for model in models:
        contents |= model.contents()
    contents |= deployment.texts(job)
    contents |= {README: readme(job, deployment), MARKER: _marker(job)}
    changed = write_folder(out, contents)
    files = tuple(sorted({*contents, SUMS}))
    return DeployResult(out, target, tuple(model.path for model in models), files, changed, len(job.rows))


def _common_target(artifacts: Sequence[Artifact]) -> str:
    """Returns the target that all files were exported for."""
    found = sorted({artifact.target for artifact in artifacts})
    if len(found) > 1:
        raise InputError(f"the files were exported for {' and '.join(found)}; name the `target` of the folder")
    return found[0]


def _packed(artifact: Artifact, deployment: Deployment, target: str) -> Packed:
    if artifact.target not in deployment.targets:
        raise InputError(
            f"{artifact.path}: was exported for {artifact.target or 'no target'}, wanted "
            f"{' or '.join(sorted(deployment.targets))}; export it with `target` {target}"
        )
    runtime = deployment.runtime_of(artifact.format, artifact.target)
    if runtime is None:
        formats = sorted({key.partition(":")[0] for key in deployment.runtimes})
        raise InputError(f"{artifact.path}: is of the format {artifact.format}, wanted {' or '.join(formats)}")
    return pack(artifact, runtime)


def _require_names(models: Sequence[Packed]) -> None:
    twice = [name for name, count in Counter(model.name for model in models).items() if count > 1]
    if twice:
        files = ", ".join(str(model.artifact.path) for model in models if model.name == twice[0])
        raise InputError(f"{files}: have one name in the folder, {twice[0]}; name each file once, or rename one")


def _check_limits(limits: GateLimits) -> None:
    if not 0 <= limits.max_drop <= 100:
        raise InputError(f"`max_drop` {limits.max_drop}: wanted points from 0 to 100")
    if not 0 < limits.latency_ratio < float("inf"):
        raise InputError(f"`latency_ratio` {limits.latency_ratio}: wanted a number above 0")


def _rows(models: Sequence[Packed], results: Sequence[Path]) -> tuple[Row, ...]:
    if not results:
        return ()
    known = {model.artifact.digest for model in models}
    rows = tuple(row for row in read_runs(results).rows if row.digest in known)
    if not rows:
        raise InputError(
            f"{', '.join(map(str, results))}: no result is about the deployed files (by their SHA-256); measure these "
            "files, or omit `results`"
        )
    return rows


def _marker(job: DeployJob) -> str:
    document = {
        "kind": "edgeq deploy",
        "edgeq": edgeq.__version__,
        "target": job.target,
        "models": list(_stated(job.models)),
        "limits": dataclasses.asdict(job.limits),
    }
    return json.dumps(document, indent=2) + "\n"


def _stated(models: Sequence[Packed]) -> Iterator[dict[str, str]]:
    for model in models:
        yield {
            "file": model.path,
            "exported_as": model.artifact.name,
            "sha256": model.artifact.digest,
            "source": model.artifact.source_digest,
            "precision": model.artifact.precision,
            "runtime": model.runtime,
        }
