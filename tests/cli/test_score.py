"""`edgeq score`, and its results in `edgeq gate` and `edgeq report`."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from edgeq.cli.app import app
from tests.tasks.language.written import write_lines


def test_answers_are_scored_compared_gated_and_reported(tmp_path):
    names = [f"{number:03}" for number in range(200)]
    truth = write_lines(tmp_path / "truth.jsonl", ({"id": name, "answer": f"name {name}"} for name in names))
    files = []
    for precision, wrong in (("fp32", 10), ("asymmetric", 12), ("uniform-4", 90)):
        head = {"model": "reader", "precision": precision, "runtime": "onnxruntime"}
        answers = [
            {"id": name, "answer": f"name {name}" if number >= wrong else "?"} for number, name in enumerate(names)
        ]
        files.append(write_lines(tmp_path / f"{precision}.jsonl", [head, *answers]))
    results = tmp_path / "scored.json"
    arguments = ["score", *map(str, files), "--task", "transcription", "--truth", str(truth), "--json", str(results)]
    printed = CliRunner().invoke(app, arguments)
    assert printed.exit_code == 0, printed.output
    rows = {line.split()[0]: line.split() for line in printed.output.splitlines()}
    assert rows["fp32.jsonl"][1:4] == ["0.9500", "0.4000", "0.9500"]
    assert rows["asymmetric.jsonl"][7] == "-0.0100"
    # 40 points of 200 answers: the interval of the difference is far from none.
    assert rows["uniform-4.jsonl"][7] == "-0.4000"
    low, high = float(rows["uniform-4.jsonl"][8]), float(rows["uniform-4.jsonl"][10])
    assert -0.48 < low < -0.45
    assert -0.35 < high < -0.32
    assert "over 200 questions of truth.jsonl; intervals by a paired bootstrap" in printed.output
    assert [each["task"] for each in json.loads(results.read_text())] == ["transcription"] * 3

    gated = CliRunner().invoke(app, ["gate", str(results), "--max-drop", "5"])
    assert gated.exit_code == 1
    verdicts = {line.split()[1]: line.split()[0] for line in gated.output.splitlines() if "jsonl" in line}
    assert verdicts == {"asymmetric.jsonl": "passed", "uniform-4.jsonl": "failed"}

    reported = CliRunner().invoke(app, ["report", str(results)])
    assert "exact match" in reported.output
    assert "Exact match and edit distance over 200 images of truth.jsonl" in reported.output
