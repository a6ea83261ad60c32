"""An index page over a folder of reports: their dates, models and verdicts, and a link to each."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from edgeq.boundary import parse_json
from edgeq.errors import InputError
from edgeq.files import write_text

META = "edgeq-report"
"""Name of the element of a report's head that says what it is about."""

NAME = "index.html"
_HEAD_CHARACTERS = 1 << 18
_TEMPLATE = Path(__file__).parent / "template"


@dataclass(frozen=True)
class ReportFacts:
    """What a report says of itself.

    Attributes:
        title: Its models.
        summary: How many results, models, engines and devices.
        written: Date, ISO 8601.
        verdicts: Its verdicts, in sentences, each behind the model's name.
    """

    title: str
    summary: str = ""
    written: str = ""
    verdicts: tuple[str, ...] = ()


class _Head(HTMLParser):
    """Finds what a report says of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.content: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps the content of the element that reports have."""
        found = dict(attrs)
        if tag == "meta" and found.get("name") == META:
            self.content = found.get("content")


def facts_of(page: Path) -> ReportFacts | None:
    """Returns what a page says of itself; `None` if it is no report of edgeq, or an older one.

    Raises:
        InputError: it cannot be read, or what it says has another form.
    """
    try:
        with page.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_HEAD_CHARACTERS)
    except OSError as error:
        raise InputError(f"{page}: cannot be read ({error.strerror})") from error
    head = _Head()
    head.feed(text)
    if head.content is None:
        return None
    return parse_json(head.content.encode(), ReportFacts, source=page, kind="a report of edgeq", place=META)


def write_index(folder: Path) -> tuple[Path, int]:
    """Writes `index.html` into a folder of reports; returns its path and how many reports it lists, the newest first.

    Raises:
        InputError: there is no such folder, or no report in it, or a file cannot be read or written.
        MissingDependencyError: a package for pages is not installed.
    """
    from edgeq.reporting.page import require_packages

    require_packages()
    if not folder.is_dir():
        raise InputError(f"`index` {folder}: no such folder; wanted one with reports that `edgeq report` wrote")
    pages = [page for page in sorted(folder.glob("*.html")) if page.name != NAME]
    reports = [(page.name, facts) for page in pages if (facts := facts_of(page)) is not None]
    if not reports:
        raise InputError(f"`index` {folder}: holds no report; write some with `edgeq report` and `out` in this folder")
    reports.sort(key=lambda report: report[1].written, reverse=True)
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    style = (_TEMPLATE / "report.css").read_text(encoding="utf-8")
    out = folder / NAME
    write_text(out, environment.get_template("index.html").render(reports=reports, style=style))
    return out, len(reports)
