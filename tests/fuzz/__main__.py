"""Draws models and exports them until the time is up: `python -m tests.fuzz --minutes 10 [--seed 0] [--out DIR]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.hunt import hunt, summary


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="how long")
    parser.add_argument("--seed", type=int, default=0, help="of the first model")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="folder for the smallest failing models")
    return parser


def main() -> int:
    """Returns 1 if something was found."""
    given = make_parser().parse_args()
    one = hunt(given.minutes, given.seed, given.out, say=lambda line: print(line, flush=True))
    print(summary(one))
    return int(bool(one.found))


if __name__ == "__main__":
    sys.exit(main())
