"""`edgeq quickstart`: which commands would make, time and score an INT8 file of what lies in a folder."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeq.datasets import find_dataset
from edgeq.datasets.images import TITLE as UNLABELLED
from edgeq.devices.config import read_devices
from edgeq.errors import InputError
from edgeq.exporting.artifact import manifest_path
from edgeq.project import Project, read_project
from edgeq.registry import registered
from edgeq.runtimes import RUNTIMES, is_installed
from edgeq.targets import get_target
from edgeq.wording import and_others

_SUFFIXES = (".onnx", ".tflite")
_MODEL_FOLDERS = (".", "models", "weights", "model")
_OUT = "artifacts"
_OWN_FOLDERS = {_OUT, "deploy", "demo", "worst", "drawn", "answers"}
_ARM = {"aarch64", "arm64"}
# Of a folder with more entries only the first are looked at.
_MAX_ENTRIES = 100


@dataclass(frozen=True)
class FoundData:
    """A data set in the folder.

    Attributes:
        path: The file or folder.
        format: As people call it.
        labelled: Whether it says anything about its images, so that a model can be scored on it.
    """

    path: Path
    format: str
    labelled: bool


@dataclass(frozen=True)
class Surroundings:
    """What lies in a folder, and what this machine has.

    Attributes:
        models: Float models, or what `edgeq.toml` names, the first of which is proposed.
        data: Data sets, those with labels first.
        devices: Names in `devices.toml`.
        engines: Installed runtimes.
        project: What `edgeq.toml` says.
    """

    models: tuple[str, ...]
    data: tuple[FoundData, ...]
    devices: tuple[str, ...]
    engines: tuple[str, ...]
    project: Project

    @property
    def lines(self) -> Iterator[str]:
        """What was found, for people."""
        yield f"models: {_first(self.models) or 'none; wanted an .onnx or float .tflite file here or in models/'}"
        found = [f"{each.path.as_posix()} ({each.format})" for each in self.data]
        yield f"data: {_first(found) or 'none; wanted a folder with images, better with labels'}"
        yield f"engines: {', '.join(self.engines) or 'none'}"
        if self.devices:
            yield f"devices: {', '.join(self.devices)}; bench and eval take them as `device`"
        if self.project.described:
            yield f"edgeq.toml: {self.project.described}"


@dataclass(frozen=True)
class Quickstart:
    """What `edgeq quickstart` proposes.

    Attributes:
        surroundings: What was found.
        commands: Words of each command, behind `edgeq`.
        missing: Why there are no commands; `None` if there are.
    """

    surroundings: Surroundings
    commands: tuple[tuple[str, ...], ...]
    missing: str | None = None


def has_model(folder: Path) -> bool:
    """Returns whether a folder has a model to start from, or says of which project it is."""
    return bool(_models(folder)) or (folder / "edgeq.toml").is_file()


def look_around(folder: Path = Path()) -> Quickstart:
    """Returns what to do with what lies in a folder, the working folder, for which the commands are.

    Raises:
        InputError: `edgeq.toml` or `devices.toml` cannot be read.
    """
    project = read_project(folder / "edgeq.toml")
    models = tuple(each.relative_to(folder).as_posix() for each in _models(folder))
    named = (project.model,) if project.model else ()
    found = Surroundings(
        models=(*named, *(each for each in models if each not in named)),
        data=_data_sets(folder, project),
        devices=tuple(read_devices()),
        engines=tuple(each for each in registered("runtime", RUNTIMES) if is_installed(each)),
        project=project,
    )
    if not found.models:
        return Quickstart(found, (), "found no model here; `edgeq demo` shows every step on a model that ships")
    if not found.data:
        return Quickstart(found, (), "INT8 needs images: some hundred as the model will see them; no labels are needed")
    return Quickstart(found, tuple(_commands(found)))


def _models(folder: Path) -> list[Path]:
    """Returns the model files of a folder, without those that edgeq has exported."""
    found = [
        path
        for name in _MODEL_FOLDERS
        for suffix in _SUFFIXES
        for path in sorted((folder / name).glob(f"*{suffix}"))[:_MAX_ENTRIES]
    ]
    return [path for path in found if path.is_file() and not manifest_path(path).exists()]


def _data_sets(folder: Path, project: Project) -> tuple[FoundData, ...]:
    named = [folder / project.data] if project.data else []
    entries = sorted(
        each
        for each in [*folder.iterdir()][:_MAX_ENTRIES]
        if each.is_dir() and not each.name.startswith((".", "_")) and each.name not in _OWN_FOLDERS
    )
    found = [_data_set(each, folder) for each in dict.fromkeys([*named, *entries])]
    known = [each for each in found if each is not None]
    # Sorting keeps the order of equals: what the project names comes first.
    return tuple(known[: len(named)] + sorted(known[len(named) :], key=lambda each: not each.labelled))


def _data_set(path: Path, folder: Path) -> FoundData | None:
    try:
        dataset = find_dataset(path)
    except InputError:
        return None
    return FoundData(path.relative_to(folder), dataset.format, dataset.format != UNLABELLED)


def _commands(found: Surroundings) -> Iterator[tuple[str, ...]]:
    """Yields export, bench and eval; of targets that run elsewhere the folder to carry there."""
    model, data = found.models[0], found.data[0]
    precisions = ",".join(found.project.precisions) or "fp32,int8"
    for name in found.project.targets or (_own_target(found.engines),):
        target = get_target(name)
        files = f"{_OUT}/{Path(model).stem}.{name}.*.{target.formats[0]}"
        yield "export", model, "--data", str(data.path), "--target", name, "--precision", precisions, "--out", _OUT
        if not {*target.runtimes} & {*found.engines} or "tensorrt" in target.runtimes[0]:
            yield "deploy", files, "--target", name, "--out", f"deploy/{name}"
            continue
        results = f"{name}.json" if len(found.project.targets) > 1 else "json"
        yield "bench", files, "--json", f"bench.{results}"
        if data.labelled:
            yield "eval", files, "--data", str(data.path), "--json", f"eval.{results}"
        else:
            int8, fp32 = (files.replace("*", precision) for precision in ("int8", "fp32"))
            yield "predict", int8, str(data.path), "--compare", fp32, "--out", "drawn"


def _own_target(engines: tuple[str, ...]) -> str:
    """Returns the target that this machine is."""
    if platform.machine().lower() in _ARM:
        return "arm"
    return "x86" if "openvino" in engines else "x86-ort"


def _first(names: tuple[str, ...] | list[str]) -> str:
    return f"{names[0]}{and_others(names)}" if names else ""
