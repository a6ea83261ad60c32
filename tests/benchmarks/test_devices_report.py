"""The report over several devices: its command lines are those of edgeq, and its table comes out of real results."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import typer.main
from PIL import Image

from docs import devices_report, report_screenshots
from docs.browser import find_browser
from docs.devices_report import SUBJECTS, Steps
from edgeq.cli.app import app
from tests.reporting.made import make_detections, make_ground_truth, make_score, make_timing

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


class Recorder(Steps):
    """Keeps the commands instead of running them."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []

    def once(self, *arguments: str) -> None:
        self.commands.append(arguments)


@pytest.fixture(scope="module")
def commands() -> list[tuple[str, ...]]:
    recorder = Recorder()
    devices_report.export(recorder, SUBJECTS)
    devices_report.measure(recorder, SUBJECTS, 0.5)
    return recorder.commands


def test_every_command_is_one_that_edgeq_takes(commands):
    group = typer.main.get_command(app)
    for command, *arguments in commands:
        assert command in group.commands  # type: ignore[attr-defined]
        group.commands[command].make_context(command, arguments)  # type: ignore[attr-defined]


def test_everything_that_is_measured_was_exported(commands):
    exported = set()
    for command, model, *arguments in commands:
        options = dict(itertools.pairwise(arguments))
        if command == "export":
            stem = Path(options.get("--weights", model)).stem
            suffix = options.get("--format", "onnx")
            exported |= {
                f"artifacts/{stem}.{options['--target']}.{precision}.{suffix}"
                for precision in options["--precision"].split(",")
            }
    measured = {word for command, *words in commands if command in ("bench", "eval") for word in words
                if word.startswith("artifacts/")}  # fmt: skip
    assert measured
    assert measured <= exported


def save_results(work: Path) -> None:
    """Writes what `measure` leaves: results of two files on two devices."""
    (work / "runs").mkdir()
    (work / "artifacts").mkdir()
    (work / "images").mkdir()
    truth = make_ground_truth(4, seed=5)
    for record in truth.images:
        Image.new("RGB", (200, 200)).save(work / "images" / record.file_name)
    found = make_detections(truth, 1, 1.0)
    for device in ("local", devices_report.LOOPBACK):
        where = {} if device == "local" else {"device": device}
        results = [make_timing("fp32", 8.0, **where), make_timing("int8", 3.0, **where)]
        scores = [make_score(truth, found, precision, **where) for precision in ("fp32", "int8")]
        (work / "runs" / f"{device}-bench.json").write_text(json.dumps(results))
        (work / "runs" / f"{device}-eval.json").write_text(json.dumps(scores))


def test_the_table_is_written_from_the_results(tmp_path):
    save_results(tmp_path)
    result = devices_report.write(tmp_path, Steps(tmp_path, tmp_path), ["images"], tmp_path / "out")
    text = result.read_text(encoding="utf-8")
    assert text.startswith(f"{devices_report.TITLE}\n\n{devices_report.HOW}\n\n")
    assert "\n\n| artifact | runtime | AP |" in text
    assert sum(f"on {devices_report.LOOPBACK} |" in line for line in text.splitlines()) == 2
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_finished_step_is_not_run_again(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(Steps, "run", lambda self, *arguments: ran.append(arguments))
    for _ in range(2):
        steps = Steps(tmp_path, tmp_path)
        steps.once("doctor")
        steps.once("doctor", "--json")
    assert ran == [("doctor",), ("doctor", "--json")]


def test_a_failed_step_ends_the_run_and_is_not_taken_for_finished(tmp_path):
    steps = Steps(tmp_path, tmp_path)
    for _ in range(2):
        with pytest.raises(SystemExit, match="exit code 2: edgeq nothing"):
            steps.once("nothing")


def test_pictures_of_the_page(tmp_path):
    if find_browser() is None:
        pytest.skip("no Chromium found; install it, or set EDGEQ_CHROMIUM to what docs/fetch_chromium.sh prints")
    save_results(tmp_path)
    wide, phone = report_screenshots.take([tmp_path / "runs"], [tmp_path / "images"], tmp_path)
    with Image.open(wide) as picture:
        assert picture.width == report_screenshots.WIDE_PX
    with Image.open(phone) as picture:
        assert picture.width > 3 * report_screenshots.PHONE_PX


def test_pictures_stand_side_by_side(tmp_path):
    for name, color in (("a.png", (255, 0, 0)), ("b.png", (0, 0, 255))):
        Image.new("RGB", (30, 20), color).save(tmp_path / name)
    report_screenshots.place_side_by_side([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "both.png")
    with Image.open(tmp_path / "both.png") as picture:
        both = picture.convert("RGB")
    assert both.size == (72, 20)
    assert both.getpixel((5, 5)) == (255, 0, 0)
    assert both.getpixel((65, 5)) == (0, 0, 255)
