"""`--progress json`: one object per line on stderr, of kinds and keys that are promised."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Union

import msgspec
import pytest
import typer

from docs.results_reference import schema
from edgeq.cli.events import writing_events
from edgeq.cli.log import configure_logging
from edgeq.errors import InputError
from edgeq.events import KINDS, CommandEnded, CommandStarted, Event, JobAdvanced, JobEnded, JobStarted, Message
from edgeq.progress import progress_bar
from tests.tuning.nets import save_classifier

READER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Union[KINDS])  # noqa: UP007 - made of a tuple
PROMISED = json.loads((Path(__file__).parents[1] / "data" / "results_v1" / "events.json").read_text())


def read(text: str) -> list[Event]:
    """Returns the event of each line, every one of which has to be one."""
    return [READER.decode(line) for line in text.splitlines()]


def ended(text: str) -> CommandEnded:
    last = read(text)[-1]
    assert isinstance(last, CommandEnded)
    return last


def test_a_command_writes_nothing_but_events(edgeq, tmp_path):
    file, preset, _, images = save_classifier(tmp_path, images=3, calibration=3)
    calibrated = ["calibrate", file, images, "--preset", preset, "--out", tmp_path / "ranges.json"]
    done = edgeq(*calibrated, "--progress", "json")
    first, *events = read(done.err)
    assert isinstance(first, CommandStarted)
    assert (first.kind, first.command) == ("command-started", f"edgeq {' '.join(map(str, calibrated))} --progress json")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.started)
    job = next(event for event in events if isinstance(event, JobStarted))
    assert (job.label, job.unit) == ("calibrate", "images")
    moved = [event.done for event in events if isinstance(event, JobAdvanced) and event.job == job.job]
    assert moved == sorted(moved)
    assert [event.done for event in events if isinstance(event, JobEnded) and event.job == job.job] == [3]
    (warned,) = [event.text for event in events if isinstance(event, Message)]
    assert warned.startswith("warning: calibrated on 3 images only")
    assert ended(done.err) == CommandEnded(exit_code=0, error=None)
    times = [json.loads(line)["time_s"] for line in done.err.splitlines()]
    assert times == sorted(times)
    assert "tensors by" in done.out, "what a command prints stays where it was"
    assert edgeq(*calibrated).err == f"{warned}\n", "without the option jobs are silent where no terminal is"


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["calibrate", "no.onnx", "nowhere"], 1, "nowhere"),
        (["calibrate"], 2, "give MODEL and --data or IMAGES, or --from FILE"),
        (["bench", "no.onnx", "--runtime", "abacus"], 1, "no.onnx"),
    ],
)
def test_the_last_event_says_what_went_wrong(edgeq, arguments, code, error):
    done = edgeq(*arguments, "--progress", "json")
    assert done.code == code
    assert error in (ended(done.err).error or "")
    assert ended(done.err).exit_code == code


@pytest.mark.parametrize(
    ("raised", "code", "error"),
    [
        (InputError("`vit_plan` odd:\nwanted fast"), 1, "--vit-plan odd: wanted fast"),
        (ZeroDivisionError("x"), 1, "unexpected ZeroDivisionError: x (EDGEQ_DEBUG=1 shows where)"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Exit(1), 1, None),
    ],
)
def test_whatever_ends_a_command_ends_the_stream(monkeypatch, raised, code, error):
    monkeypatch.delenv("EDGEQ_DEBUG", raising=False)
    file = io.StringIO()
    with pytest.raises(typer.Exit) as end, writing_events(file):
        raise raised
    assert end.value.exit_code == code
    assert ended(file.getvalue()) == CommandEnded(exit_code=code, error=error)


def test_what_people_would_read_becomes_messages(monkeypatch):
    logger = logging.getLogger("edgeq")
    monkeypatch.setattr(logger, "handlers", [])
    configure_logging()
    file = io.StringIO()
    with writing_events(file):
        print("a line\nand one with \x1b[31m colours", file=sys.stderr)
        print("half", end="", file=sys.stderr)
        print(" a line", file=sys.stderr)
        logger.warning("give `vit_plan`")
        typer.echo("error: a device failed", err=True)
    texts = [event.text for event in read(file.getvalue()) if isinstance(event, Message)]
    assert texts == [
        "a line", "and one with \x1b[31m colours", "half a line", "warning: give --vit-plan", "error: a device failed"
    ]  # fmt: skip
    assert "\x1b" not in file.getvalue(), "control characters are escaped"


def test_a_reader_that_goes_away_does_not_end_the_command():
    reading, writing = os.pipe()
    os.close(reading)
    program = (
        "import sys\nfrom edgeq.cli.events import writing_events\nwith writing_events(sys.stderr):\n    "
        "print('nobody reads this', file=sys.stderr)\nprint('done', flush=True)\nprint('nor this', file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writing, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_jobs_are_throttled_and_say_how_far_they_came():
    file = io.StringIO()
    with pytest.raises(typer.Exit), writing_events(file), progress_bar(100_000, "long") as advance:
        for _ in range(50_000):
            advance(1)
        raise InputError("cut")
    events = read(file.getvalue())
    assert len(events) < 1000
    assert events[-2] == JobEnded(job=1, done=50_000)


def test_no_promised_key_is_gone_or_of_another_type():
    found = {title: keys for title, keys in schema().items() if title.startswith("`--progress json`")}
    assert {title: {key: found[title].get(key) for key in keys} for title, keys in PROMISED.items()} == PROMISED
    assert len(found) == len(KINDS)


def test_a_killed_command_leaves_whole_lines(tmp_path):
    program = (
        "import io, os, signal, sys\nfrom edgeq.cli.events import writing_events\nfrom edgeq.progress import "
        "progress_bar\nwith writing_events(sys.stderr), progress_bar(9, 'cut') as advance:\n    advance(1)\n    "
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert [event.kind for event in read(done.stderr)] == ["command-started", "job-started", "job-advanced"]
