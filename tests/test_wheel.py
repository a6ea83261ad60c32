"""What is shipped: the wheel and the source archive, built here without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import edgeq
from tests.test_order import ROOT, ROOT_LINKS


def _build(kind: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


def _wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return _build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel's contents as they lie in site-packages."""
    folder: Path = tmp_path_factory.mktemp("site-packages")
    shutil.unpack_archive(wheel, folder, "zip")
    return folder


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("unpacked")
    # Python 3.12 warns where no filter is named; the first releases of 3.10 and 3.11 know none.
    arguments: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    shutil.unpack_archive(_build("sdist", ROOT, tmp_path_factory.mktemp("sdist")), folder, **arguments)
    (root,) = folder.iterdir()
    return root


def test_one_top_level_name(wheel):
    tops = {name.partition("/")[0] for name in _wheel_files(wheel)}
    assert tops == {"edgeq", f"edgeq-{edgeq.__version__}.dist-info"}


def test_wheel_holds_what_git_holds(wheel):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "edgeq"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    wanted = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert {name for name in _wheel_files(wheel) if name.startswith("edgeq/")} == wanted


def test_wheel_holds_licence_type_marker_and_weights(wheel):
    files = _wheel_files(wheel)
    assert f"edgeq-{edgeq.__version__}.dist-info/licenses/LICENSE" in files
    assert "edgeq/py.typed" in files
    assert [name for name in files if name.startswith("edgeq/models/weights/") and name.endswith(".safetensors")]


def test_wheel_declares_its_command(installed):
    entries = next(installed.glob("*.dist-info")) / "entry_points.txt"
    assert "edgeq = edgeq.cli.app:main" in entries.read_text(encoding="utf-8").splitlines()


def test_metadata_is_valid_and_claims_the_python_that_is_tested(installed):
    from packaging.metadata import Metadata

    folder = next(installed.glob("*.dist-info"))
    metadata = Metadata.from_email((folder / "METADATA").read_bytes(), validate=True)
    assert (metadata.name, str(metadata.version)) == ("edgeq", edgeq.__version__)
    assert metadata.description_content_type == "text/markdown"
    claimed = [line.rpartition(" ")[2] for line in metadata.classifiers or [] if "Python :: 3." in line]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [f"tested on Python {version}" in readme for version in claimed] == [True]


@pytest.mark.parametrize("arguments", [["-c", "import edgeq; print(edgeq.__file__)"], ["-m", "edgeq", "--help"]])
def test_installed_wheel_works_away_from_the_repository(installed, tmp_path, arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout or "edgeq" in done.stdout


def test_source_archive_packs_no_folder_twice(unpacked_sdist):
    tops = {path.name for path in unpacked_sdist.iterdir()}
    assert tops.isdisjoint(ROOT_LINKS)
    assert {"edgeq", "tests", "LICENSE", "README.md", "pyproject.toml", "Makefile"} <= tops


def test_source_archive_builds_the_same_wheel(wheel, unpacked_sdist, tmp_path):
    assert _wheel_files(_build("wheel", unpacked_sdist, tmp_path)) == _wheel_files(wheel)
