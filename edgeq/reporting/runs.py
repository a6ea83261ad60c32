"""What a report is made of: results of bench and eval, and the ranges that INT8 files were made with."""

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
    """

    rows: tuple[Row, ...]
    ranges: tuple[NamedRanges, ...]
    sources: tuple[Source, ...]


class _Manifest(msgspec.Struct):
    quantization: QuantizationFacts


def read_runs(paths: Sequence[Path], further: Sequence[Result] = ()) -> Runs:
    """Returns what files and folders hold.

    Args:
        paths: Results of `edgeq bench --json` and `edgeq eval --json`, ranges files, manifests (for the ranges beside
            them), and folders: of these all results and ranges at any depth; other files in them are passed over.
        further: Results in memory.

    Raises:
        InputError: a named file is none of these or damaged, or there is no result.
    """
    results, ranges = [], []
    for path in dict.fromkeys(file for each in paths for file in _files(each)):
        head = _head(path)
        if f'"{RANGES_FORMAT}"' in head:
            ranges.append(path)
        elif '"artifact"' not in head and (beside := _beside_manifest(path)) is not None:
            ranges += beside
        else:
            results.append(path)
    if not results and not further:
        raise InputError(
            f"{', '.join(map(str, paths)) or 'nothing given'}: no results; wanted what `edgeq bench --json` and "
            "`edgeq eval --json` write"
        )
    rows = merge([*(read_results(results, score_types()) if results else ()), *further])
    unique: dict[str, NamedRanges] = {}
    for path in dict.fromkeys(ranges):
        loaded = Ranges.load(path)
        unique.setdefault(loaded.digest, NamedRanges(path.name, loaded))
    sources = tuple(Source(path.name, sha256_file(path)) for path in dict.fromkeys([*results, *ranges]))
    return Runs(tuple(rows), tuple(unique.values()), sources)


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*.json")):
        head = _head(file)
        is_result = '"artifact"' in head and '"runtime"' in head and '"precision"' in head
        if is_result or f'"{RANGES_FORMAT}"' in head:
            yield file


def _head(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return stream.read(_HEAD_BYTES).decode("utf-8", "replace")
    return ""  # what is missing or unreadable is told by whoever reads it whole


def _beside_manifest(path: Path) -> list[Path] | None:
    """Returns the ranges files in a manifest's folder that its file was made with; `None` if it is no manifest."""
    try:
        wanted = read_json(path, _Manifest, kind=KIND).quantization.ranges_digest
    except InputError:
        return None  # whoever reads it as a result says what is wrong
    found = [file for file in sorted(path.parent.glob("*.json")) if f'"{RANGES_FORMAT}"' in _head(file)]
    return [file for file in found if Ranges.load(file).digest == wanted]
