"""Copies tables of benchmarks/results/ into README.md and the pages beside this file, between the marks that name them.

`make docs` runs it after a benchmark was run anew; tests/test_docs.py fails if a page holds other figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeq.files import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Glance:
    """A row of the README's table: what INT8 costs and brings for one model in one engine.

    Attributes:
        model: What the table calls the model and its images.
        engine: What it calls the engine.
        result: File in benchmarks/results/ with both rows.
        fp32: Values by column that pick the FP32 file's row, the first that has them all.
        int8: The same for edgeq's INT8 file.
        score: Column of the score.
        unit: What the score is.
        time: Column of the time as a multiple of FP32's.
        peer: Column of the time as a multiple of NNCF's; empty if NNCF was not run.
    """

    model: str
    engine: str
    result: str
    fp32: Mapping[str, str]
    int8: Mapping[str, str]
    score: str = "AP"
    unit: str = "AP"
    time: str = "against FP32"
    peer: str = "against NNCF"


def _x86(model: str, result: str, runtime: str, engine: str, file: str) -> Glance:
    peer = "against NNCF" if runtime == "openvino" else ""
    return Glance(model, engine, result, _row("FP32", runtime), _row(file, runtime), peer=peer)


def _row(file: str, runtime: str) -> dict[str, str]:
    return {"file": file, "runtime": runtime}


def _vit(runtime: str, engine: str) -> Glance:
    rows = _row("edgeq's FP32 file", runtime), _row("edgeq x86, balanced", runtime)
    model, result = "ViT-B/16, random weights", "vit_speed_vit_b_16.md"
    return Glance(model, engine, result, *rows, score="cosine to FP32", unit="cosine")


_CENTERNET, _YOLOX, _FASTESTDET = "CenterNet-R18, bccd", "YOLOX-nano, COCO", "FastestDet, COCO"
GLANCES = (
    _x86(_CENTERNET, "x86_int8_centernet.md", "openvino", "OpenVINO", "edgeq x86"),
    _x86(_CENTERNET, "x86_int8_centernet.md", "onnxruntime", "ONNX Runtime", "edgeq x86-ort"),
    Glance(
        _CENTERNET,
        "LiteRT",
        "centernet_tflite_study.md",
        {"precision": "fp32", "engine": "ai-edge-litert"},
        {"precision": "int8", "engine": "ai-edge-litert"},
        time="over float32",
        peer="",
    ),
    _x86(_YOLOX, "x86_int8_yolox.md", "openvino", "OpenVINO", "edgeq x86"),
    _x86(_FASTESTDET, "x86_int8_fastestdet.md", "openvino", "OpenVINO", "edgeq x86"),
    _vit("openvino", "OpenVINO"),
    _vit("onnxruntime", "ONNX Runtime"),
)


_TIMES = "Latency, size and memory: m"


def at_a_glance() -> str:
    """Returns the README's table of what INT8 costs and brings, from the benchmarks' own tables."""
    head = "| model | engine | score | FP32 | INT8 | INT8 compared with FP32 | compared with NNCF's INT8 |"
    obtained: dict[str, dict[str, None]] = {}
    for glance in GLANCES:
        for line in _how_obtained(glance):
            obtained.setdefault(line, {})[f"{glance.model.partition(',')[0]} in {glance.engine}"] = None
    lines = [f"{', '.join(rows)}: {line}" for line, rows in obtained.items()]
    return "\n".join([head, "|---|---|---|---:|---:|---|---|", *map(_glance_row, GLANCES), "", *lines])


def _how_obtained(glance: Glance) -> list[str]:
    """Returns the result's sentences on how its figures were obtained in the row's engine."""
    engine = glance.int8.get("runtime") or glance.int8["engine"]
    lines = (RESULTS / glance.result).read_text(encoding="utf-8").splitlines()
    return [line.replace(_TIMES, "m") for line in lines if line.startswith(_TIMES) and f" {engine} " in line]


def _glance_row(glance: Glance) -> str:
    rows = _table_rows((RESULTS / glance.result).read_text(encoding="utf-8"))
    fp32, int8 = (next(row for row in rows if wanted.items() <= row.items()) for wanted in (glance.fp32, glance.int8))
    peer = _speedup(int8[glance.peer]) if glance.peer else "-"
    speedup = _speedup(int8[glance.time])
    cells = [glance.model, glance.engine, glance.unit, fp32[glance.score], int8[glance.score], speedup, peer]
    return f"| {' | '.join(cells)} |"


def _speedup(ratio: str) -> str:
    """Returns a time ratio, of two or three digits in the benchmarks' tables, in words with two: `3.2x faster`."""
    factor = 1 / float(ratio)
    if factor >= 10:
        return f"{factor:.0f}x faster"
    said = f"{max(factor, 1 / factor):.1f}x"
    return "as fast" if said == "1.0x" else f"{said} {'faster' if factor > 1 else 'slower'}"


def _table_rows(text: str) -> list[dict[str, str]]:
    """Returns the rows of all Markdown tables of a text as cells by column."""
    rows: list[dict[str, str]] = []
    columns: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not columns:
            columns = cells
        elif not cells:
            columns = []
        elif not set(line) <= set("|-: "):
            rows.append(dict(zip(columns, cells, strict=True)))
    return rows


def _result(name: str) -> Callable[[], str]:
    """Returns what gives a result file's text, less its title."""

    def body() -> str:
        text = (RESULTS / name).read_text(encoding="utf-8")
        return "\n".join(line for line in text.splitlines() if not line.startswith("# ")).strip()

    return body


def _first_tables(name: str) -> Callable[[], str]:
    """Returns what gives a result file's text before its first picture, less its title, and how it was obtained."""

    def body() -> str:
        text = (RESULTS / name).read_text(encoding="utf-8")
        before, _, behind = text.partition("![")
        _, _, tables = before.partition("\n")
        obtained = next(line for line in reversed(behind.splitlines()) if line.startswith("Measured in "))
        return f"{tables.strip()}\n\n{obtained}"

    return body


FIGURES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"demo": _result("demo.md"), "glance": at_a_glance},
    "docs/detectors.md": {"bccd": _result("x86_int8_centernet.md")},
    "docs/models.md": {"any_graph": _result("any_graph.md")},
    "docs/transformers.md": {"vit": _result("vit_accuracy.md"), "vit_speed": _result("vit_speed_vit_b_16.md")},
    "docs/tflite.md": {"tflite": _result("centernet_tflite_study.md")},
    "docs/jetson.md": {"jetson": _result("jetson_simulated.md")},
    "docs/saturation.md": {"networks": _result("saturation_networks.md")},
    "docs/compile.md": {"zoo": _result("compile_zoo.md")},
    "docs/rtx.md": {"precisions": _result("rtx_precisions.md")},
    "docs/calibration.md": {"cost": _result("calibration_cost.md")},
    "docs/tune.md": {"tuning": _first_tables("tuning.md")},
}
"""Page -> name of its marks -> what gives the text between them."""


def with_figures(page: str, text: str) -> str:
    """Returns the text of a page of FIGURES with every figure as its benchmark wrote it.

    Raises:
        ValueError: a mark is missing.
    """
    for mark, body in FIGURES[page].items():
        begin, end = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{page}: wanted one line {begin.strip()} and after it one line {end}")
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}{body()}\n{end}{after}"
    return text


def main() -> None:
    """Writes the pages."""
    for page in FIGURES:
        path = ROOT / page
        write_text(path, with_figures(page, path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
