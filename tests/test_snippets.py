"""Every code block of README.md and docs/ is run, in a folder with the files that it names, or marked with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docs.cli_reference import REFERENCE
from edgeq.cli import app
from edgeq.measurement.timed_file import Sampling
from edgeq.runtimes import child
from tests.markdown import Block, code_blocks, shell_commands
from tests.test_order import ROOT

PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page != REFERENCE)]
"""The command reference holds usage lines, which are generated."""

AFTER = {"docs/reports.md": "README.md"}
"""Page -> the page whose commands write the files that it starts from."""

SLOW = {
    "README.md", "docs/calibration.md", "docs/data.md", "docs/detectors.md", "docs/python.md", "docs/tflite.md",
    "docs/transformers.md",
}  # fmt: skip
"""Pages that export models, or convert them to TFLite."""


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _blocks(page: Path) -> list[Block]:
    return list(code_blocks(page.read_text(encoding="utf-8")))


def _to_run(page: Path) -> list[Block]:
    return [block for block in _blocks(page) if not block.not_run]


def _cases() -> list[object]:
    pages = [page for page in PAGES if _to_run(page)]
    return [pytest.param(page, id=_name(page), marks=[pytest.mark.slow] * (_name(page) in SLOW)) for page in pages]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_block_is_of_a_kind_that_can_be_run_or_is_marked(page):
    wrong = [
        f"{_name(page)}:{block.line}: {command.words[0]} is not run here: mark the block <!-- not run: REASON -->"
        for block in _to_run(page)
        if block.language == "sh"
        for command in shell_commands(block.text)
        if command.words[0] != "edgeq"
    ]
    languages = {block.language for block in _to_run(page)} - {"sh", "python", "toml"}
    assert wrong == []
    assert languages == set()


@pytest.fixture(scope="module", autouse=True)
def brief_measurements_in_warm_processes(warm_python) -> Iterator[None]:
    """Has a page's benchmarks take few samples, in long rounds, in forks of a process that has imported the engines.

    A page measures as long as figures need; whether its command works takes less.
    """
    given = Sampling(warmup_runs=1, warmup_s=0.0, min_runs=4, min_s=0.0, round_s=0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampling.__init__, "__defaults__", dataclasses.astuple(given))
        patch.setattr(child, "subprocess", warm_python)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    pytest.importorskip("torch")
    from tests import workspace

    return workspace.prepare(tmp_path_factory.mktemp("prepared") / "folder")


@pytest.fixture(scope="module")
def folders() -> Iterator[dict[str, Path]]:
    """Page that others go on from -> the folder in which its blocks were run."""
    kept: dict[str, Path] = {}
    yield kept
    for folder in kept.values():
        shutil.rmtree(folder)


@pytest.mark.parametrize("page", _cases())
def test_every_block_runs(page, folders, prepared, tmp_path_factory):
    _run_page(page, folders, prepared, tmp_path_factory)


def _run_page(page: Path, folders: dict[str, Path], prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    start = prepared
    if (earlier := AFTER.get(_name(page))) is not None:
        if earlier not in folders:
            _run_page(ROOT / earlier, folders, prepared, tmp_path_factory)
        start = folders[earlier]
    folder = tmp_path_factory.mktemp("page") / "folder"
    shutil.copytree(start, folder)
    names: dict[str, object] = {"__name__": "__main__"}  # the Python blocks of a page go on from each other
    runners = _RUNNERS | {"python": functools.partial(_run_python, names=names)}
    for block in _to_run(page):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.delenv("EDGEQ_DEBUG", raising=False)
            runners[block.language](block, patch)
    if _name(page) in AFTER.values():
        folders[_name(page)] = folder
    else:
        shutil.rmtree(folder)


def _run_shell(block: Block, patch: pytest.MonkeyPatch) -> None:
    for command in shell_commands(block.text):
        for name, value in command.environment.items():
            patch.setenv(name, value)
            if name == "PYTHONPATH":
                patch.syspath_prepend(str(Path(value).resolve()))
        words = command.expanded(Path.cwd())
        code, output = _edgeq(words, patch)
        # A gate's verdict is about figures of this machine; that there is one is what the page promises.
        assert code == 0 or (words[1] == "gate" and code == 1 and "gate: failed" in output), (words, output)


def _edgeq(words: list[str], patch: pytest.MonkeyPatch) -> tuple[int, str]:
    short = ["--seconds", "0"] if words[1] == "bench" and "--seconds" not in words else []
    patch.setattr("sys.argv", [*words, *short])
    patch.setattr(logging.getLogger("edgeq"), "handlers", [])
    written = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
        try:
            app.main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, written.getvalue()


def _run_python(block: Block, patch: pytest.MonkeyPatch, names: dict[str, object]) -> None:
    patch.syspath_prepend(str(Path.cwd()))
    exec(compile(block.text, f"line {block.line}", "exec"), names)  # noqa: S102 - our own pages


def _read_toml(block: Block, patch: pytest.MonkeyPatch) -> None:
    from edgeq.devices.config import find_devices
    from edgeq.project import read_project
    from edgeq.studying.space import read_space

    if "[limits]" in block.text:
        Path("edgeq.toml").write_text(block.text)
        assert read_project().described
        Path("edgeq.toml").unlink()  # the other blocks say all themselves
        return
    if "[axes]" in block.text:
        Path("space.toml").write_text(block.text)
        assert read_space(Path("space.toml"), None).question
        return
    Path("devices.toml").write_text(block.text)
    names = [line.strip("[]") for line in block.text.splitlines() if line.startswith("[")]
    assert [device.name for device in find_devices(names)] == names


_RUNNERS: dict[str, Callable[[Block, pytest.MonkeyPatch], None]] = {"sh": _run_shell, "toml": _read_toml}


def test_blocks_are_found_with_their_marks():
    text = (
        "Text:\n\n    edgeq a \\\n        b*  # c\n\n    edgeq d\n\n- a list\n    goes on\n\n"
        "<!-- not run: no board -->\n\n```python\nx = 1\n```\n"
    )
    first, second = code_blocks(text)
    assert (first.language, first.not_run, first.line) == ("sh", None, 3)
    assert [command.words for command in shell_commands(first.text)] == [["edgeq", "a", "b*"], ["edgeq", "d"]]
    assert (second.language, second.text, second.not_run) == ("python", "x = 1\n", "no board")


def test_a_shell_line_keeps_its_variables_and_expands_patterns(tmp_path):
    for name in ("b.onnx", "a.onnx"):
        (tmp_path / name).touch()
    (command,) = shell_commands("X=1 edgeq eval *.onnx 'c d'\n")
    assert command.environment == {"X": "1"}
    assert command.expanded(tmp_path) == ["edgeq", "eval", "a.onnx", "b.onnx", "c d"]
    with pytest.raises(FileNotFoundError, match="matches nothing"):
        next(shell_commands("edgeq eval *.tflite")).expanded(tmp_path)
