"""What does `make demo` print? Runs the demo in a fresh folder and keeps its table for the README."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.cases import RESULTS
from edgeq.files import write_text
from edgeq.results.table import to_markdown
from edgeq.verbs.demo import run_demo


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = "# make demo\n\n" + to_markdown(run_demo(Path(folder), say=print))
    write_text(RESULTS / "demo.md", text)
    print(text)


if __name__ == "__main__":
    main()
