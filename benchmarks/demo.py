"""What does `make demo` print?

`python -m benchmarks.demo` runs the demo in a fresh folder and keeps its table for the README.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.cases import result_parser, write_result
from edgeq.verbs.demo import run_demo
from edgeq.verbs.report import to_markdown


def run(out: Path, *, images: int = 100, seconds: float = 3.0) -> Path:
    """Returns the result file of a demo that scores so many images and times each file for so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        rows = run_demo(Path(folder), images=images, seconds=seconds, say=print)
    return write_result(out, "demo.md", "# make demo\n\n" + to_markdown(rows))


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    run(make_parser().parse_args().out)


if __name__ == "__main__":
    main()
