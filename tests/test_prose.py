"""Plain English in what a user reads: documents, help texts and messages use none of the phrases listed here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.cli_reference import README, REFERENCE
from tests.test_order import ROOT

PHRASES = {
    r"\b(?:leave|leaves|left) (?:\S+ ){0,3}?away\b": "omit",
    r"\bbeside\b": "next to, compared with, together with",
    r"\btells\b|\b(?:is|are|was|were) told\b": "reports, shows",
    r"\bof its own\b": "separate, its own X",
    r"\bstands? (?:in|behind|before|beside|for|there|between|only|next|around|below|above)\b": "is in, follows",
    r"\bgo(?:es)? on\b": "continue",
    r"\bgo(?:es)? together\b|\bgo(?:es)? with\b": "be combined, require",
    r"\banew\b": "again",
    r"\b(?:a|one) (?:file|line|page|module|time|scale|tensor|path|label|row|folder|physical core) an? [a-z]": "per",
    r"\b(?:seconds?|ms|times?|files?) an? (?:image|file|layer|tensor)\b": "per",
    r"\bis no (?!faster\b|longer\b|more\b)": "is not a",
    r"\bexit code 1 where\b|\bwhere (?:it|one) (?:is|was|does|has)\b": "if",
    r", for \w+ (?:cannot|can|is|are|has|have|does)\b": "because",
    r"\bwork for nothing\b": "wasted work",
    r"\bwhatever is lacking\b|\bthe whole story\b": "name the thing",
    r"\bnot \w+, but [^.;]*, too\b": "also",
    r", too\b": "also",
    r"\bwants\b": "needs, expects",
    r"\btold by\b": "identified by, recognised by",
    r"\bbut for\b": "except for",
    r"\b[Nn]othing of (?:it|th\w+)\b(?! same)": "none of",
    r"\ban own\b|\bof (?:your|their|our|one's) own\b": "their own X, separate",
    r"\btrials? (?:is |are |that are )?of (?:no )?use\b": "useful, useless",
    r"\bin whole\b(?! rows)": "in full",
    r"\bin no steady state\b": "never reached a steady state",
    r"\bfigures (?:\S+ ){0,4}say nothing\b": "are meaningless",
    r"\b(?:does|do) not tell\b|\bcannot tell\b": "does not report, cannot distinguish",
    r"\bwhoever\b": "a reader who",
    r"\b(?:files?|folders?|images|masks|weights|copies|what) (?:lies?|lay)\b": "is in, are in",
}
"""What reads as translated -> what to write instead."""

_ALLOWED = {
    # ssh's own words, shown as they are.
    "No module named pip",
}

_OPTION = re.compile(r"(?<![\w(-])--[a-z][\w-]*")
_COMMAND = re.compile(r"`edgeq [^`]*`|^edgeq \S.*|pip install [^;]*")
_OPTIONS_OF_OTHERS = {"--system-site-packages"}
"""Options of other programs, which messages may tell a user to give."""
_PASS_OPTIONS = {
    "edgeq/devices/environment.py", "edgeq/devices/on_device/venv.py", "edgeq/sensors/nvidia_gpu.py",
    "edgeq/studying/commands.py", "edgeq/verbs/quickstart.py",
}  # fmt: skip
"""Modules that give options to other programs."""
_COMMAND_LINES = ("edgeq/cli/", "edgeq/deploying/", "edgeq/models/train_shapes.py")
"""Modules of command lines, and of scripts and pages that hold some."""
_NAME_OPTIONS_STILL = ("edgeq/exporting/planning/attention_products.py",)
"""Modules whose texts name options: the reasons of layers stand in manifests, whose bytes would change."""

_GENERATED = re.compile(r"<!-- (?!cli)\w+:begin -->.*?<!-- \w+:end -->", re.DOTALL)
_MARKUP = re.compile(r"<style.*?</style>|<script.*?</script>|{#.*?#}|{%.*?%}|<[^>]*>", re.DOTALL)
_CODE = re.compile(r"^```.*?^```|^    [^\n]*|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def phrases_in(text: str) -> list[str]:
    """Returns every listed phrase of a text, with what to write instead."""
    return [
        f"{found.group()!r}: write {instead}"
        for pattern, instead in PHRASES.items()
        for found in re.finditer(pattern, text)
    ]


def _documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("document", _documents(), ids=lambda document: str(document.relative_to(ROOT)))
def test_documents_are_in_plain_english(document):
    text = _GENERATED.sub("", document.read_text(encoding="utf-8"))
    # One blank for each line break, so that a phrase is found across lines.
    assert phrases_in(re.sub(r"\s*\n(?!\n)", " ", _CODE.sub("", text))) == []


_PAGES = sorted((ROOT / "edgeq/reporting/template").glob("*.html"))


@pytest.mark.parametrize("template", _PAGES, ids=lambda file: file.name)
def test_pages_are_in_plain_english(template):
    text = _MARKUP.sub(" ", template.read_text(encoding="utf-8"))
    assert text.strip()
    assert phrases_in(" ".join(text.split())) == []


def test_the_documents_that_hold_the_help_texts_are_among_them():
    assert {README, REFERENCE} <= set(_documents())


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Yields line and text of all strings of a module but docstrings; values in f-strings are `{}`."""
    tree = ast.parse(source)
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    alone = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if node in parts or node in alone:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        yield node.lineno, text


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Yields line and text of those strings of a module that hold a sentence."""
    yield from ((line, text) for line, text in strings(source) if text.count(" ") > 1 and text not in _ALLOWED)


def test_messages_are_in_plain_english():
    found = {
        f"{path.relative_to(ROOT)}:{line}: {phrase}"
        for path in sorted((ROOT / "edgeq").rglob("*.py"))
        for line, text in messages(path.read_text(encoding="utf-8"))
        for phrase in phrases_in(text)
    }
    assert sorted(found) == []


@pytest.mark.parametrize(
    "text",
    [
        "the model is fixed; leave --size away",
        "has no manifest beside it",
        "seconds an image",
        "a text file with one a line, or one path a line",
        "3 layers in FP32, for FP16 cannot compute them",
        "exit code 1 where one is exceeded",
        "a function stands behind it",
        "the same command goes on from there",
        "older versions read it, too",
        "a format of your own",
        "looks at what lies in the folder",
        "on the front are trials of no use",
    ],
)
def test_a_phrase_is_found(text):
    assert phrases_in(text)


def test_messages_are_found_in_raises_logs_and_f_strings_but_not_docstrings():
    source = '"""A b c."""\ndef f(x):\n    """D e f."""\n    log("g h i")\n    raise E(f"j {x} k l")\n'
    assert [text for _, text in messages(source)] == ["g h i", "j {} k l"]


def options_in(text: str) -> list[str]:
    """Returns the options that a message names, but for those of whole commands."""
    return [option for option in _OPTION.findall(_COMMAND.sub("", text)) if option not in _OPTIONS_OF_OTHERS]


def test_messages_below_the_command_line_name_parameters_instead_of_options():
    """A user of the Python API gives `keep`; edgeq/cli/words.py makes --keep of it for a user of the command line."""
    found = [
        f"{path}:{line}: {', '.join(options)}"
        for path in (str(each.relative_to(ROOT)) for each in sorted((ROOT / "edgeq").rglob("*.py")))
        if not path.startswith((*_COMMAND_LINES, *_NAME_OPTIONS_STILL))
        for line, text in strings((ROOT / path).read_text(encoding="utf-8"))
        if (" " in text or path not in _PASS_OPTIONS) and (options := options_in(text))
    ]
    assert found == []


@pytest.mark.parametrize("module", _NAME_OPTIONS_STILL)
def test_modules_that_name_options_still_are_listed_no_longer_than_they_do(module):
    place = ROOT / module
    files = [place] if place.is_file() else place.rglob("*.py")
    assert any(options_in(text) for file in files for _, text in strings(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("--keep {}: matches no node", ["--keep"]),
        ("--size", ["--size"]),
        ("run `edgeq calibrate` or give --calib and --images", ["--calib", "--images"]),
        ("run `edgeq calibrate MODEL IMAGES --method best`", []),
        ("edgeq doctor --device-test", []),
        ("pip install --upgrade {}; or give --threads", ["--threads"]),
        ("a virtual environment needs --system-site-packages", []),
        ("var(--ink)", []),
        ("vit_plan, x--y and `vit_plan`", []),
    ],
)
def test_options_are_found_outside_whole_commands(text, options):
    assert options_in(text) == options
