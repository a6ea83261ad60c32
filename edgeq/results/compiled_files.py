"""What `edgeq check --compile --json` and `edgeq export --verify compile --json` wrote of NVIDIA's compiler."""

from __future__ import annotations

from pathlib import Path, PurePath

import msgspec

from edgeq.boundary import Positive, read_json
from edgeq.errors import InputError
from edgeq.results.compilation import Compilation, CompiledFile
from edgeq.results.serialization import RESULTS_VERSION, require_version

_KIND = "a result of `edgeq check --compile --json` or `edgeq export --verify compile --json`"


class _File(msgspec.Struct):
    file: str
    target: str
    digest: str = ""
    compiled: Compilation | None = None
    results_version: Positive = RESULTS_VERSION


class _Export(msgspec.Struct):
    files: list[_File]


def may_hold_compiled(head: str) -> bool:
    """Returns whether a file that begins so is the JSON of check or export; these write such keys first."""
    return '"artifact"' not in head and ('"tensorrt"' in head or ('"manifest"' in head and '"comparison"' in head))


def read_compiled(path: Path) -> tuple[CompiledFile, ...]:
    """Returns the compiled files of which a result tells; none if it is one of a run without the compiler.

    Raises:
        InputError: the file is not of that form, or a newer edgeq wrote it.
    """
    content = read_json(path, dict[str, msgspec.Raw], kind=_KIND)
    files = read_json(path, _Export, kind=_KIND).files if "files" in content else [read_json(path, _File, kind=_KIND)]
    for each in files:
        require_version(path, each.results_version)
    return tuple(
        CompiledFile(PurePath(each.file).name, each.digest, each.target, each.compiled)
        for each in files
        if each.compiled is not None
    )


def require_compiled(path: Path) -> tuple[CompiledFile, ...]:
    """Returns the compiled files of which a result tells.

    Raises:
        InputError: it tells of none, is not of that form, or a newer edgeq wrote it.
    """
    found = read_compiled(path)
    if not found:
        raise InputError(
            f"{path}: no file was compiled; wanted {_KIND}. Check again with `compile`, or export with `verify` compile"
        )
    return found
