"""mkdocs hooks: README.md is the site's first page, and links out of docs/ lead to the repository."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
# GitHub takes an indented block or a list right behind a paragraph; Python-Markdown wants a blank line between.
_LIST = re.compile(r"(?m)^(?P<above>(?![-|>#\s]).+:)\n(?=- )")


def on_config(config: Any) -> Any:
    """Has headings named as GitHub names them, so that links hold in both places."""
    config["mdx_configs"]["toc"]["slugify"] = github_slug
    return config


def github_slug(heading: str, separator: str) -> str:
    """Returns the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", separator)


def on_files(files: Any, config: Any) -> Any:
    """Adds the first page."""
    from mkdocs.structure.files import File

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=from_root(readme, config["repo_url"])))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Returns a page whose links out of docs/ lead to the repository."""
    if page.file.src_uri == "index.md":
        return markdown
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))
    return for_site(markdown, folder, config["repo_url"])


def from_root(markdown: str, repository: str) -> str:
    """Returns the README as a page of the site: its links begin in the repository's root."""
    return for_site(markdown, "", repository, lambda path: path.removeprefix("docs/"))


def for_site(markdown: str, folder: str, repository: str, inside: Callable[[str], str] = lambda path: path) -> str:
    """Returns a page with links that the site has.

    Args:
        markdown: The page.
        folder: Where it lies, from the repository's root.
        repository: Address of the repository.
        inside: Makes of a path in docs/, from the root, the link of a page in docs/.
    """

    def moved(found: re.Match[str]) -> str:
        path, anchor = found["path"], found["anchor"] or ""
        from_repository = posixpath.normpath(posixpath.join(folder, path))
        if from_repository == "README.md":
            return f"{posixpath.relpath('docs/index.md', folder or 'docs')}{anchor}"
        if from_repository.startswith("docs/"):
            return (inside(from_repository) if folder == "" else path) + anchor
        kind = "tree" if (ROOT / from_repository).is_dir() else "blob"
        return f"{repository}/{kind}/main/{from_repository}{anchor}"

    return _LIST.sub(r"\g<above>\n\n", _LINK.sub(moved, markdown))
