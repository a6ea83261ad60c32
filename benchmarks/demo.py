"""What does `make demo` print?

`python -m benchmarks.demo` runs the demo in a fresh folder and keeps its table for the README.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import result_parser, write_result
from edgeq.results.rows import Row
from edgeq.results.table import to_markdown
from edgeq.verbs.demo import run_demo


def run(rows: Sequence[Row], out: Path) -> Path:
    """Returns the result file of what a demo found."""
    return write_result(out, "demo.md", "# make demo\n\n" + to_markdown(rows))


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    arguments = make_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(run_demo(Path(folder), say=print), arguments.out)


if __name__ == "__main__":
    main()
