"""What a report is made of: results of bench, eval and NVIDIA's compiler, and the ranges of INT8 files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeq.boundary import read_json
from edgeq.calibrators.ranges import FORMAT as RANGES_FORMAT
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.quantization_facts import QuantizationFacts
from edgeq.files import sha256_file
from edgeq.results.compilation import CompiledFile
from edgeq.results.compiled_files import may_hold_compiled, read_compiled, require_compiled
from edgeq.results.reading import KIND, Result, read_results
from edgeq.results.rows import Row, merge
from edgeq.tasks import score_types

# Where a file says what it is; an annotation file of gigabytes in a folder is not read to the end.
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Source:
    """A file that was read.

    Attributes:
        name: File name.
        digest: SHA-256 of its bytes.
    """

    name: str
    digest: str


@dataclass(frozen=True, eq=False)
class NamedRanges:
    """A ranges file.

    Attributes:
        name: File name.
        ranges: Its content.
    """

    name: str
    ranges: Ranges


@dataclass(frozen=True, eq=False)
class Runs:
    """Everything that a report is made of.

    Attributes:
        rows: One for each artifact, engine and device.
        ranges: The ranges files, each content once.
        sources: All files that were read.
        compiled: What NVIDIA's compiler made of files, once for each file and compute capability.
    """

    rows: tuple[Row, ...]
    ranges: tuple[NamedRanges, ...]
    sources: tuple[Source, ...]
    compiled: tuple[CompiledFile, ...] = ()


class _Manifest(msgspec.Struct):
    quantization: QuantizationFacts


def read_runs(paths: Sequence[Path], further: Sequence[Result] = ()) -> Runs:
    """Returns what files and folders hold.

    Args:
        paths: Results of `edgeq bench --json`, `edgeq eval --json`, `edgeq check --compile --json` and
            `edgeq export --verify compile --json`, ranges files, manifests (for the ranges beside them), and folders:
            of these all results and ranges at any depth; other files in them are passed over.
        further: Results in memory.

    Raises:
        InputError: a named file is none of these or damaged, or there is no result.
    """
    results, ranges, compilations = [], [], []
    compiled: dict[tuple[str, str, str], CompiledFile] = {}
    for path in dict.fromkeys(file for each in paths for file in _files(each)):
        head = _head(path)
        if f'"{RANGES_FORMAT}"' in head:
            ranges.append(path)
        elif may_hold_compiled(head):
            compilations.append(path)
            compiled |= {(each.name, each.digest, each.compiled.sm): each for each in require_compiled(path)}
        elif '"artifact"' not in head and (beside := _beside_manifest(path)) is not None:
            ranges += beside
        else:
            results.append(path)
    if not (results or further or compiled):
        raise InputError(
            f"{', '.join(map(str, paths)) or 'nothing given'}: no results; wanted what `edgeq bench --json`, "
            "`edgeq eval --json` or `edgeq check --compile --json` write"
        )
    rows = merge([*(read_results(results, score_types()) if results else ()), *further])
    unique: dict[str, NamedRanges] = {}
    for path in dict.fromkeys(ranges):
        loaded = Ranges.load(path)
        unique.setdefault(loaded.digest, NamedRanges(path.name, loaded))
    read = dict.fromkeys([*results, *ranges, *compilations])
    sources = tuple(Source(path.name, sha256_file(path)) for path in read)
    return Runs(tuple(rows), tuple(unique.values()), sources, tuple(compiled.values()))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for file in sorted(each for each in path.rglob("*.json") if not each.name.startswith(".")):
        head = _head(file)
        is_result = '"artifact"' in head and '"runtime"' in head and '"precision"' in head
        if is_result or f'"{RANGES_FORMAT}"' in head or (may_hold_compiled(head) and _was_compiled(file)):
            yield file


def _was_compiled(path: Path) -> bool:
    """Returns whether a result of check or export tells of the compiler; what is damaged is somebody else's file."""
    with contextlib.suppress(InputError):
        return bool(read_compiled(path))
    return False


def _head(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return stream.read(_HEAD_BYTES).decode("utf-8", "replace")
    return ""  # what is missing or unreadable is told by whoever reads it whole


def _beside_manifest(path: Path) -> list[Path] | None:
    """Returns the ranges files in a manifest's folder that its file was made with; `None` if it is no manifest."""
    try:
        facts = read_json(path, _Manifest, kind=KIND).quantization
    except InputError:
        return None  # whoever reads it as a result says what is wrong
    digest = facts.ranges_digest
    if digest is None:
        return []
    found = [file for file in sorted(path.parent.glob("*.json")) if f'"{RANGES_FORMAT}"' in _head(file)]
    return [file for file in found if Ranges.load(file).has_given(digest, facts.method)]
