"""Data sets that Hugging Face's `datasets` saved on the disk: Arrow files, or Parquet. Nothing is downloaded or run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeq.boundary import convert, read_json
from edgeq.errors import InputError, MissingDependencyError
from edgeq.tasks.language.questions import QuestionLine

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_KIND = "a data set of questions"


class _File(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    files: list[_File] = msgspec.field(name="_data_files")


class _Splits(msgspec.Struct):
    splits: list[str]


def read_arrow_folder(folder: Path) -> Iterator[tuple[QuestionLine, memoryview | None]]:
    """Yields the questions of a saved data set, each with the content of its image if that lies in the data set.

    Args:
        folder: What `save_to_disk` wrote of one split, or a folder with Parquet files. Columns are called as in files
            of JSON lines (`edgeq.tasks.language.questions.load_questions`), or `caption` and `captions`; without a
            column `id` rows are numbered from 0. Images are texts, or objects with `bytes` and `path`.

    Raises:
        InputError: the folder holds no data set, several splits, or a file that cannot be read.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet", "Reading a data set of Hugging Face's form") from error
    number = 0
    for path in _files(folder):
        try:
            for batch in _batches(path):
                for row in range(batch.num_rows):
                    yield _question({name: batch.column(name)[row] for name in batch.schema.names}, path, number)
                    number += 1
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise InputError(f"{path}: cannot be read ({error}); save the data set again") from error


def _files(folder: Path) -> list[Path]:
    if (folder / _SPLITS).is_file():
        splits = read_json(folder / _SPLITS, _Splits, kind="a list of splits").splits
        raise InputError(
            f"{folder}: holds the splits {', '.join(splits)}; name one, as {folder / (splits or ['test'])[0]}"
        )
    if (folder / _STATE).is_file():
        names = [each.filename for each in read_json(folder / _STATE, _State, kind="the state of a data set").files]
        if odd := [name for name in names if Path(name).name != name]:
            raise InputError(
                f"{folder / _STATE}: names {odd[0]!r}, which is not in its folder; save the data set again"
            )
        return [folder / name for name in names]
    if found := sorted(folder.glob("*.parquet")):
        return found
    raise InputError(
        f"{folder}: is not a data set; wanted a folder that `save_to_disk` wrote (with {_STATE}), one with .parquet "
        "files, or a file of JSON lines"
    )


def _batches(path: Path) -> Iterator[Any]:
    """Yields the record batches of a file, which stays mapped as long as something of them is in use."""
    import pyarrow

    if path.suffix == ".parquet":
        import pyarrow.parquet

        yield from pyarrow.parquet.ParquetFile(path).iter_batches()
        return
    with pyarrow.memory_map(str(path)) as source:
        yield from pyarrow.ipc.open_stream(source)


def _question(row: Mapping[str, Any], path: Path, number: int) -> tuple[QuestionLine, memoryview | None]:
    values = {name: value.as_py() for name, value in row.items() if name != "image"}
    found = {key: values[key] for key in ("id", "question_id", "prompt", "question", "answers") if values.get(key)}
    for key in ("answer", "label"):
        if isinstance(values.get(key), str):
            found[key] = values[key]
    captions = values.get("captions") or values.get("caption")
    if captions and "answers" not in found:
        found["answers"] = [captions] if isinstance(captions, str) else captions
    if "id" not in found and "question_id" not in found:
        found["id"] = number
    image, encoded = _image(row.get("image"))
    line = convert(found | {"image": image}, QuestionLine, source=path, kind=f"{_KIND}, row {number}")
    return line, encoded


def _image(value: Any) -> tuple[str, memoryview | None]:
    """Returns the path of an image, and its content if that is stored."""
    if value is None or not value.is_valid:
        return "", None
    if isinstance(value.as_py(), str):
        return value.as_py(), None
    path, content = value.get("path"), value.get("bytes")
    if content is not None and content.is_valid:
        return str(path), memoryview(content.as_buffer())
    return (path.as_py() if path is not None and path.is_valid else ""), None
