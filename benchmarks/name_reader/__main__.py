"""Which part of a vision-language model do low bits break, and what does reconstruction buy back?

`python -m benchmarks.name_reader` quantizes the parts of two small LLaVAs to 8, 4, 3 and 2 bits and scores what they
still read: the reader of surnames, whose weights are in this folder, and the reader of hex digits if `--data` has it.
Figures are kept below `--work`, so that a second call continues where one was interrupted. Fifteen minutes of a core.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import DATA, result_parser, write_result
from benchmarks.name_reader.page import page
from benchmarks.name_reader.study import read_all
from benchmarks.name_reader.subjects import WEIGHTS, Subject, hex_reader, name_reader
from edgeq.cli.progress import terminal_progress
from edgeq.progress import reporting_to


def run(subjects: Sequence[Subject], work: Path, out: Path) -> Path:
    """Returns the result file.

    Args:
        subjects: Models with their images.
        work: Folder for the figures.
        out: Folder of the result file.
    """
    return write_result(out, "name_reader.md", page([read_all(subject, work) for subject in subjects]))


def main() -> None:
    """Runs the study on the command line."""
    parser = result_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--work", type=Path, default=Path("name_reader"), help="folder for the figures")
    parser.add_argument("--images", type=int, default=1000, help="images to score on")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the reader of surnames")
    given = parser.parse_args()
    subjects = [name_reader(given.images, given.weights)]
    if (given.data / "vlm").is_dir():
        subjects.append(hex_reader(given.images, given.data))
    with reporting_to(terminal_progress):
        run(subjects, given.work, given.out)


if __name__ == "__main__":
    main()
