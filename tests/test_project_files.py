"""What lies around the package: workflows, containers, templates, citation; parsed, and in step with the package."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import edgeq
from docs.site_hooks import for_site, from_root, github_slug
from tests.test_order import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
_INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "RUN", "USER", "WORKDIR"}

if not WORKFLOWS:
    pytest.skip("the source archive has no .github", allow_module_level=True)


def _yaml(path: Path) -> dict[Any, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict), path
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_exists(path):
    workflow = _yaml(path)
    assert workflow[True]  # "on" is a truth value to YAML 1.1
    assert workflow["permissions"] == {"contents": "read"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for job in workflow["jobs"].values():
        assert {*[job.get("needs")]} - {None} <= workflow["jobs"].keys()
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            for target in re.findall(r"\bmake (\S+)", step.get("run", "")):
                assert f"\n{target}:" in makefile
            for script in re.findall(r"(?:^|\s)(\.ci/\S+)", step.get("run", "")):
                assert (ROOT / script).is_file()
            assert "${{ github.event" not in step.get("run", ""), "what others write reaches a shell"


def test_the_tests_run_on_every_python_that_can_install_edgeq():
    jobs = _yaml(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]
    (setup,) = [step["with"] for step in jobs["checks"]["steps"] if "setup-python" in step.get("uses", "")]
    pythons = {setup["python-version"], *jobs["pythons"]["strategy"]["matrix"]["python-version"]}
    assert pythons == {"3.10", "3.11", "3.12", "3.13"}
    assert 'requires-python = ">=3.10"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_is_one(path):
    template = _yaml(path)
    if path.stem == "config":
        assert template == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= template.keys()
    assert all(each["attributes"]["label"] and each["type"] in ("textarea", "input") for each in template["body"])


def instructions(text: str) -> list[tuple[str, str]]:
    """Returns the instructions of a Dockerfile, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [tuple(each.split(" ", 1)) for each in "\n".join(lines).replace("\\\n", " ").splitlines()]  # type: ignore[misc]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_is_one_and_copies_what_exists(path):
    found = instructions(path.read_text(encoding="utf-8"))
    words = [word for word, _ in found]
    assert {*words} <= _INSTRUCTIONS
    assert next(word for word in words if word != "ARG") == "FROM"
    stages = {rest.rpartition(" AS ")[2] for word, rest in found if word == "FROM" and " AS " in rest}
    for word, rest in found:
        if word in ("CMD", "ENTRYPOINT"):
            assert isinstance(yaml.safe_load(rest), list), rest
        elif word == "RUN":
            assert shlex.split(rest)
        elif word == "COPY" and not rest.startswith("--from="):
            *sources, _ = rest.split()
            assert [name for name in sources if not (ROOT / name).exists()] == []
        elif word == "COPY":
            assert rest.split()[0].removeprefix("--from=") in stages
    extras = re.findall(r"\[([\w,]+)\]'", path.read_text(encoding="utf-8"))
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"\n{name} = [" in pyproject for each in extras for name in each.split(","))


def test_compose_names_files_that_exist_or_that_it_says_how_to_make():
    compose = _yaml(ROOT / "docker" / "compose.yaml")
    assert compose["services"].keys() == {"host", "runner"}
    for service in compose["services"].values():
        build = service["build"]
        assert ((ROOT / "docker" / build["context"]) / build["dockerfile"]).is_file()
    mounted = [each.split(":")[0] for each in compose["services"]["host"]["volumes"]]
    made = (ROOT / "docker" / ".gitignore").read_text(encoding="utf-8").split()
    for name in [*mounted, compose["secrets"]["key"]["file"]]:
        assert (ROOT / "docker" / name).exists() or Path(name).name in made


def test_citation_and_changelog_are_of_this_version():
    citation = _yaml(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (edgeq.__version__, "Apache-2.0")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{edgeq.__version__}] - {citation['date-released']}" in changelog


def test_the_site_has_every_page():
    site = _yaml(ROOT / "mkdocs.yml")
    listed = [page for part in site["nav"] for pages in part.values() for page in pages]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(listed) == sorted([*pages, "index.md", "decisions/README.md"])
    assert all((ROOT / hook).is_file() for hook in site["hooks"])


def test_links_of_the_site_lead_to_pages_or_to_the_repository():
    page = "[a](data.md#b) [c](../README.md) [d](../benchmarks/results/demo.md) [e](decisions/README.md) [f](#g)"
    assert for_site(page, "docs", "R") == (
        "[a](data.md#b) [c](index.md) [d](R/blob/main/benchmarks/results/demo.md) [e](decisions/README.md) [f](#g)"
    )
    deeper = "[a](../jetson.md) [b](../../README.md)\nSuch:\n- h"
    assert for_site(deeper, "docs/decisions", "R") == "[a](../jetson.md) [b](../index.md)\nSuch:\n\n- h"
    assert from_root("![a](docs/a.png) [b](docs) [c](LICENSE) [d](https://x.y/z)", "R") == (
        "![a](a.png) [b](R/tree/main/docs) [c](R/blob/main/LICENSE) [d](https://x.y/z)"
    )
    assert github_slug("edgeq tune --json", "-") == "edgeq-tune---json"


def test_set_up_with_uv_takes_further_indexes_and_says_if_pytorchs_own_cannot_be_used(tmp_path):
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in (".venv/bin/python", "pyproject.toml"):
        (tmp_path / name).touch()
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\necho "$UV_EXTRA_INDEX_URL: $*" >> calls\ncase "$*" in *torch-backend*) exit 2; esac\n')
    uv.chmod(0o755)
    indexes = "https://one.example/simple https://two.example/simple"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PIP_EXTRA_INDEX_URL": indexes}
    for name in ("UV_EXTRA_INDEX_URL", "MAKEFLAGS", "MAKELEVEL"):
        environment.pop(name, None)
    command = ["make", "-f", str(ROOT / "Makefile"), ".venv/.demo"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "PyTorch's own index cannot be used; taking PyTorch from the package index" in done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert ["--torch-backend auto" in call for call in calls] == [True, False]
    assert all(call.startswith(f"{indexes}: pip install") for call in calls)
