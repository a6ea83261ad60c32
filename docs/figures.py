"""Copies tables of benchmarks/results/ into README.md, between the marks that name them.

`make docs` runs it after a benchmark was run anew; tests/test_docs.py fails where README.md holds other figures.
"""

from __future__ import annotations

from pathlib import Path

from edgeq.files import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = {
    "demo": "demo.md",
    "bccd": "x86_int8_centernet.md",
    "vit": "vit_accuracy.md",
    "vit_speed": "vit_speed_vit_b_16.md",
    "cost": "calibration_cost.md",
    "tflite": "centernet_tflite_study.md",
    "jetson": "jetson_simulated.md",
}
"""Name of the marks in README.md -> file whose text, less its title, stands between them."""


def with_figures(readme: str) -> str:
    """Returns the README with every figure as its benchmark wrote it.

    Raises:
        ValueError: a mark is missing.
    """
    for mark, name in FIGURES.items():
        begin, end = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->"
        if readme.count(begin) != 1 or readme.count(end) != 1:
            raise ValueError(f"README.md: wanted one line {begin.strip()} and after it one line {end}")
        before, _, rest = readme.partition(begin)
        _, _, after = rest.partition(end)
        text = (RESULTS / name).read_text(encoding="utf-8")
        body = "\n".join(line for line in text.splitlines() if not line.startswith("# ")).strip()
        readme = f"{before}{begin}{body}\n{end}{after}"
    return readme


def main() -> None:
    """Writes README.md."""
    readme = ROOT / "README.md"
    write_text(readme, with_figures(readme.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
