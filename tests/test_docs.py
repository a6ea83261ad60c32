"""The documents: every command has help and is in the README, generated parts are in step, links lead somewhere."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer

from docs import cli_reference
from docs.cli_reference import BEGIN, END, Command, overview, read_commands, reference, with_overview
from docs.figures import FIGURES, GLANCES, RESULTS, at_a_glance, with_figures
from edgeq.cli.app import app
from tests.test_order import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = ROOT / "docs" / "decisions"


@pytest.fixture(scope="module")
def commands() -> list[Command]:
    return read_commands(app)


def _without_help(commands: list[Command]) -> list[str]:
    bare = [command.name for command in commands if not command.help]
    return bare + [
        f"{command.name} {each.spelling}" for command in commands for each in command.parameters if not each.help
    ]


def test_every_command_and_every_parameter_has_help(commands):
    assert commands
    assert _without_help(commands) == []


def test_readme_names_every_command_in_its_generated_table(commands):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_overview(readme, commands) == readme, "run: make docs"
    words = [command.name for command in commands if " " in command.name]
    assert [name for name in words if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("page", FIGURES)
def test_pages_hold_the_figures_that_the_benchmarks_wrote(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert with_figures(page, text) == text, "run: make docs"


def test_the_readmes_rows_are_those_of_the_benchmarks():
    rows = at_a_glance().splitlines()[2 : 2 + len(GLANCES)]
    for glance, row in zip(GLANCES, rows, strict=True):
        int8 = row.split("|")[5].strip()
        result = (RESULTS / glance.result).read_text(encoding="utf-8").splitlines()
        assert any(int8 in line and all(f"| {value} |" in line for value in glance.int8.values()) for line in result)


def test_command_reference_is_what_the_commands_say(commands):
    assert cli_reference.REFERENCE.read_text(encoding="utf-8") == reference(commands), "run: make docs"


def test_decisions_are_numbered_and_listed():
    pages = sorted(DECISIONS.glob("0*.md"))
    titles = [page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for page in pages]
    assert [title[:6] for title in titles] == [f"{number:04}. " for number in range(1, len(pages) + 1)]
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    rows = [f"| [{title[:4]}]({page.name}) | {title[6:]} |" for title, page in zip(titles, pages, strict=True)]
    assert [line for line in index.splitlines() if line.startswith("| [")] == rows


@pytest.mark.parametrize("page", sorted(DECISIONS.glob("0*.md")), ids=lambda page: page.name[:4])
def test_a_decision_says_why_what_and_what_follows(page):
    headings = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document):
    assert _broken_links(document) == []


def _broken_links(document: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|mailto:", link)]
    broken = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    return broken


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# A heading, plain\n")
    document = tmp_path / "page.md"
    document.write_text(
        "[a](other.md#a-heading-plain) [b](#none) [c](missing.md) [d](https://example.org)\n# here\n[e](#here)"
    )
    assert _broken_links(document) == ["#none", "missing.md"]


class Method(Enum):
    ENTROPY = "entropy"
    MSE = "mse"


@pytest.fixture
def toy_commands() -> list[Command]:
    toy = typer.Typer()

    @toy.command()
    def calibrate(
        model: Annotated[str, typer.Argument(help="A model.")],
        images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Folders\nof images.")],
        out: Annotated[Path, typer.Option("--out", "-o", help="The file.")],
        method: Annotated[Method, typer.Option(help="How.")] = Method.MSE,
        runtime: Annotated[Literal["openvino", "onnxruntime"] | None, typer.Option(help="Where.")] = None,
        keep: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="What | stays.")] = None,
        split: Annotated[bool, typer.Option("--split/--no-split", help="Whether.")] = True,
        secret: Annotated[int, typer.Option(hidden=True)] = 0,
    ) -> None:
        """Collects ranges
        of tensors.

        And more.
        """

    @toy.command()
    def doctor(verbose: Annotated[bool, typer.Option("--verbose")] = False) -> None: ...

    @toy.command(hidden=True)
    def internal() -> None: ...

    return read_commands(toy)


def test_reference_shows_usage_values_and_defaults(toy_commands):
    text = reference(toy_commands)
    assert "    edgeq calibrate MODEL IMAGES... --out -o PATH [OPTIONS]\n" in text
    for row in (
        "| `MODEL` | A model. |",
        "| `IMAGES...` | Folders of images. |",
        r"| `--method entropy\|mse` | How. Default: `mse`. |",
        r"| `--runtime openvino\|onnxruntime` | Where. |",
        r"| `--keep PATTERN` | What \| stays. |",
        "| `--split / --no-split` | Whether. |",
    ):
        assert row in text.splitlines()
    assert "And more." in text
    assert "secret" not in text
    assert "internal" not in text


def test_missing_help_is_found(toy_commands):
    assert _without_help(toy_commands) == ["edgeq doctor", "edgeq doctor --verbose"]


def test_overview_replaces_what_stands_between_the_markers(toy_commands):
    readme = with_overview(f"before\n{BEGIN}\nold\n{END}\nafter\n", toy_commands)
    assert readme == f"before\n{BEGIN}\n{overview(toy_commands)}\n{END}\nafter\n"
    assert "| [`edgeq calibrate`](docs/cli.md#edgeq-calibrate) | Collects ranges of tensors. |" in readme
    assert with_overview(readme, toy_commands) == readme


@pytest.mark.parametrize("readme", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"])
def test_a_readme_without_its_two_markers_is_refused(readme):
    with pytest.raises(ValueError, match="wanted one line"):
        with_overview(readme, [])
