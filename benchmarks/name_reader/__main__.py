"""Which part of a vision-language model do low bits break, and what does reconstruction buy back?

`python -m benchmarks.name_reader` quantizes the parts of two small LLaVAs to 8, 4, 3 and 2 bits and scores what they
still read: the reader of surnames (`surnames`), and the reader of hex digits (`digits`) if `--data` has it. Figures are
kept below `--work`, so that a second call continues where one was interrupted. Ten minutes of a core. `--speed` also
writes the files of the first one for ONNX Runtime, and measures their tokens per second: three minutes more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cases import DATA, result_parser, write_result
from benchmarks.name_reader.files import FILES, Files, measure_files
from benchmarks.name_reader.page import page
from benchmarks.name_reader.study import kept_in, read_all
from benchmarks.name_reader.subjects import WEIGHTS, Subject, hex_reader, name_reader
from edgeq.boundary import Plain, read_json
from edgeq.cli.progress import terminal_progress
from edgeq.files import write_json
from edgeq.progress import reporting_to


def run(subjects: Sequence[Subject], work: Path, out: Path, timed: Timed | None = None) -> Path:
    """Returns the result file.

    Args:
        subjects: Models with their images.
        work: Folder for the figures.
        out: Folder of the result file.
        timed: Which files of the first subject are written and timed; by default its page has those of an earlier call.
    """
    readings = [read_all(subject, work) for subject in subjects]
    first = subjects[0]
    kept = kept_in(first, work) / "files.json"
    if timed is not None:
        bundles = kept.parent / "bundles"
        write_json(kept, measure_files(first, bundles, timed.files, timed.threads, timed.seconds))
    files: dict[str, dict[str, Any]] = {}
    if kept.is_file():
        files[first.title] = read_json(kept, Plain, kind="speeds of this benchmark")
    return write_result(out, "name_reader.md", page(readings, files))


class Timed(NamedTuple):
    """What is timed.

    Attributes:
        files: Ways to write the subject.
        threads: CPU threads of ONNX Runtime.
        seconds: Least time of each, over all turns.
    """

    files: Sequence[Files] = FILES
    threads: int = 1
    seconds: float = 10.0


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = result_parser(__doc__)
    parser.add_argument("names", nargs="*", help="of surnames, digits; by default all whose data are here")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--work", type=Path, default=Path("name_reader"), help="folder for the figures")
    parser.add_argument("--images", type=int, default=1000, help="images to score on")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the reader of surnames")
    parser.add_argument("--speed", action="store_true", help="write its files for ONNX Runtime, and time them anew")
    return parser


def main() -> None:
    """Runs the study on the command line."""
    parser = make_parser()
    given = parser.parse_args()
    opened = {
        "surnames": lambda: name_reader(given.images, given.weights),
        "digits": lambda: hex_reader(given.images, given.data),
    }
    if unknown := [name for name in given.names if name not in opened]:
        parser.error(f"{', '.join(unknown)}: known are {', '.join(opened)}")
    chosen = given.names or ["surnames", *(["digits"] if (given.data / "vlm").is_dir() else [])]
    subjects = [opened[name]() for name in chosen]
    with reporting_to(terminal_progress):
        run(subjects, given.work, given.out, Timed() if given.speed else None)


if __name__ == "__main__":
    main()
